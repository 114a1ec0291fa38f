"""`compress bench --compare`: what may be compared, what is told of it, and what is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from android_bench.compare import compare
from android_bench.record import Round, write_records
from android_bench.statistics import unpaired_ratio
from compress.cli import main
from tests.test_record import record

HOST = {"cpu": "Some CPU", "machine": "x86_64", "cores": 2, "memory_bytes": 8_000_000_000, "os": "Linux 6.1", "python": "3.11.7"}
PHONE = {"id": "0a1b2c3d4e5f", "name": "Pixel 8", "cores": 9, "build": "a/b:14"}


def rounds(*medians, spread=0.01, samples=9):
    """One round a median, its samples around it."""
    around = np.linspace(1 - spread, 1 + spread, samples)
    return tuple(Round(index, 0, tuple(median * around), (), 1.0, 2.0) for index, median in enumerate(medians))


def measured(*medians, run="first", **changes):
    return record(rounds=rounds(*medians), run=run, host=HOST, **changes)


STEADY = (50.0, 50.5, 49.8, 50.2, 49.9, 50.1)
SLOWER = tuple(1.05 * time for time in STEADY)


def verdict(before, after):
    (pair,) = compare([before], [after]).pairs
    return pair.verdict


def test_what_became_slower_and_faster():
    before, after = measured(*STEADY), measured(*SLOWER, run="second")
    (pair,) = compare([before], [after]).pairs
    assert pair.verdict == "slower"
    assert pair.ratio.value == pytest.approx(1.05)
    assert 1 < pair.ratio.low <= 1.05 <= pair.ratio.high
    assert verdict(after, before) == "faster"
    assert pair.is_same_file
    assert "measured in two runs: what the machine did in between is in the ratio" in pair.notes


def test_what_cannot_be_told_apart_is_not_ranked():
    noisy = measured(50.0, 55.0, 47.0, 52.0, 49.0, 51.0, run="second")
    (pair,) = compare([measured(*STEADY)], [noisy]).pairs
    assert (pair.verdict, pair.why) == ("cannot tell", ("the interval holds 1",))
    (pair,) = compare([measured(*STEADY)], [measured(*SLOWER[:2], run="second")]).pairs
    assert (pair.verdict, pair.why) == ("cannot tell", ("2 rounds on one side: it takes 5",))
    (pair,) = compare([measured(*STEADY)], [measured(80.0, run="second")]).pairs
    assert pair.why == ("1 round on one side: it takes 5",)
    assert verdict(measured(*STEADY), measured(*STEADY)) == "cannot tell", "a record is neither faster nor slower than itself"


def test_a_busy_neighbour_in_one_run_is_no_slowdown():
    """The same file took longer while something else had a third of the processor: that is no news of the file."""
    before = measured(*STEADY)
    shared = tuple(replace(round_, cpu_per_wall=1.3) for round_ in rounds(*SLOWER))
    after = replace(before, run="second", rounds=shared)
    (pair,) = compare([before], [after]).pairs
    assert pair.verdict == "cannot tell"
    assert pair.why == ("the machine was loaded in one run: 2.00 and 1.30 of 2 threads were kept busy",)
    assert verdict(before, replace(after, sha256="cd" * 32)) == "slower", "another file may scale otherwise"
    assert verdict(replace(before, threads=1), replace(after, threads=1, sha256="cd" * 32)) == "cannot tell"
    assert verdict(before, replace(after, run="first")) == "slower", "in one run both had the neighbour"


def test_records_of_one_run_are_compared_round_by_round():
    """The machine drifts by far more than the difference, in both alike."""
    drift = (50.0, 70.0, 45.0, 90.0, 60.0, 52.0)
    before, after = measured(*drift), measured(*(1.03 * time for time in drift))
    (pair,) = compare([before], [after]).pairs
    assert (pair.verdict, pair.ratio.rounds) == ("slower", 6)
    assert pair.ratio.low == pytest.approx(1.03)
    assert verdict(before, replace(after, run="second")) == "cannot tell"


def test_two_runs_of_the_same_file_agree():
    """Luck of 2 % a round, five rounds: 19 of 20 times the interval holds the truth."""
    random = np.random.default_rng(7)
    held = 0
    for _ in range(100):
        one, other = (record(rounds=rounds(*(50 * np.exp(0.02 * random.normal(size=5)))), run=str(_)) for _ in range(2))
        ratio = unpaired_ratio(one, other)
        held += ratio.low <= 1 <= ratio.high
    assert held >= 93


def test_a_planted_slowdown_is_found():
    random = np.random.default_rng(11)
    found = 0
    for _ in range(40):
        one, other = (50 * np.exp(0.01 * random.normal(size=7)) for _ in range(2))
        found += verdict(measured(*one), measured(*(1.05 * other), run="second")) == "slower"
    assert found >= 36


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 4}, "differs in threads (2, there 4)"),
        ({"backend": "onnx_cpu"}, "differs in backend (tflite_cpu, there onnx_cpu)"),
        ({"inputs": ((1, 64, 48, 3),)}, "differs in inputs (1x256x192x3, there 1x64x48x3)"),
        ({"host": HOST | {"cpu": "Another CPU"}}, "differs in host cpu (Some CPU, there Another CPU)"),
        ({"host": HOST | {"cores": 16}}, "differs in host cores (2, there 16)"),
        ({"artifact": "other.tflite"}, "no record of that file"),
    ],
)
def test_what_is_not_the_same_work_is_not_compared(change, said):
    before = measured(*STEADY)
    found = compare([before], [replace(measured(*SLOWER, run="second"), **change)])
    assert found.pairs == ()
    assert [one.side for one in found.unmatched] == ["before", "after"]
    assert said in found.unmatched[0].why


def test_hosts_that_differ_a_little_are_compared_and_said():
    after = replace(measured(*SLOWER, run="second"), host=HOST | {"os": "Linux 6.8", "memory_bytes": 7_999_000_000})
    (pair,) = compare([measured(*STEADY)], [after]).pairs
    assert "host os (Linux 6.1, there Linux 6.8)" in pair.notes
    assert not any("memory" in note for note in pair.notes)


def test_a_file_and_versions_that_changed_are_said():
    after = measured(*SLOWER, run="second", sha256="cd" * 32, bytes=999, versions={"ai-edge-litert": "2.2.0"})
    (pair,) = compare([measured(*STEADY)], [after]).pairs
    assert not pair.is_same_file
    assert pair.notes[:2] == ("the file changed: 1,234 to 999 bytes", "ai-edge-litert 2.1.0 to 2.2.0")


def test_phones_are_told_apart_and_so_are_delegates():
    def on_phone(times, run, requested="gpu", delegate=("gpu",), host=PHONE):
        executed = {"requested": requested, "delegate": list(delegate), "fp32": False}
        return record(rounds=rounds(*times), run=run, host=host, device="android", backend="android", executed=executed)

    before = on_phone(STEADY, "first")
    assert compare([before], [on_phone(SLOWER, "second")]).pairs[0].verdict == "slower"
    twin = PHONE | {"id": "another"}
    assert "host id" in compare([before], [on_phone(SLOWER, "second", host=twin)]).unmatched[0].why
    other = on_phone(SLOWER, "second", requested="xnnpack", delegate=("xnnpack",))
    assert "requested (gpu, there xnnpack)" in compare([before], [other]).unmatched[0].why
    fallen_back = on_phone(SLOWER, "second", delegate=("gpu", "xnnpack"))
    assert compare([before], [fallen_back]).pairs[0].why == ("it was not executed by the same delegates",)


def test_the_last_of_several_records_counts():
    found = compare([measured(*SLOWER), measured(*STEADY, run="later")], [measured(*SLOWER, run="second")])
    assert found.pairs[0].before.run == "later"
    assert [(one.side, one.why) for one in found.unmatched] == [("before", "a later record of the same work counts")]


def test_runs_of_no_time_are_not_compared():
    nothing = record(rounds=(Round(0, 0, (0.0,), (), 0.0, 1.0),), host=HOST)
    found = compare([measured(*STEADY)], [nothing])
    assert found.pairs == ()
    assert [one.why for one in found.unmatched] == ["the other side has no record of that file", "some of its runs took 0 ms"]


# --- the command


def run(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    write_records(before, [measured(*STEADY), measured(*STEADY, artifact="gone.onnx")])
    write_records(after, [measured(*SLOWER, run="second")])
    return before, after


def test_the_table(files):
    result = run("--compare", *files)
    assert result.exit_code == 0, result.stderr
    assert "before ms" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("candy"))
    assert "50.05" in row
    assert "1.050" in row
    assert row.rstrip().endswith("slower")
    assert "not compared: gone.onnx on tflite_cpu (before): the other side has no record of that file" in result.stdout
    assert "measured in two runs" in result.stderr


def test_the_document(files):
    document = json.loads(run("--compare", *files, "--json").stdout)
    (pair,) = document["pairs"]
    assert (pair["artifact"], pair["verdict"], pair["same_file"]) == ("candy_256x192_fp32.tflite", "slower", True)
    assert pair["ratio"]["low"] < pair["ratio"]["value"] < pair["ratio"]["high"]
    assert pair["before"]["median_ms"] < pair["after"]["median_ms"]
    assert pair["before"]["round_medians_ms"] == pytest.approx(STEADY)
    assert pair["after"]["p95_ms"] > pair["after"]["median_ms"]
    assert document["unmatched"] == [
        {"side": "before", "artifact": "gone.onnx", "backend": "tflite_cpu", "device": "cpu", "threads": 2,
         "why": "the other side has no record of that file"}
    ]  # fmt: skip


def test_nothing_in_common(files, tmp_path):
    other = tmp_path / "other.jsonl"
    write_records(other, [measured(*STEADY, artifact="x.onnx")])
    result = run("--compare", files[1], other)
    assert result.exit_code == 0
    assert "nothing in common" in result.stderr


def test_a_damaged_record_is_named_with_its_line(files):
    with files[1].open("a") as file:
        file.write("{half\n")
    result = run("--compare", *files)
    assert result.exit_code == 1
    assert f"{files[1]}:2 is damaged" in result.stderr
    missing = files[0].with_name("missing.jsonl")
    result = run("--compare", missing, files[0], "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["kind"] == "measurement"
    assert f"{missing}: no such file" in json.loads(result.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (["net.onnx"], "FILE"),
        (["-o", "c.jsonl"], "-o"),
        (["--plot", "x.png"], "--plot"),
        (["--threads", "2", "--device", "cpu"], "--device, --threads"),
    ],
)
def test_a_comparison_takes_nothing_that_only_a_measurement_does(files, beside, named):
    result = run("--compare", *files, *beside)
    assert result.exit_code == 2
    assert f"--compare measures nothing, and takes no {named}" in result.stderr


def test_neither_files_nor_a_comparison():
    result = run()
    assert result.exit_code == 2
    assert "--compare BEFORE AFTER needs none" in result.stderr
