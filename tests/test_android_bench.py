"""`compress bench` on virtual phones: the real adb, a program that really runs the model, and everything that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from android_bench.answer import Question, compare
from android_bench.record import read_records
from compress.cli import main
from compress.errors import MeasurementError
from compress.image_format import PRESETS
from compress.photos import encode
from export import runtime
from export.artifact import Port, card_path, write_card
from tests.test_bench import onnx_file, tflite
from tests.virtual_phone.faults import Faults

QUICK = ("--rounds", "1", "--samples", "3", "--threads", "2")
TWICE = ("--rounds", "2")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Waiting for a phone to cool down, or for one that is gone, takes no minutes here."""
    monkeypatch.setattr("android_bench.thermal.LOOK_S", 0.1)
    monkeypatch.setattr("android_bench.thermal.LONGEST_S", 0.3)
    monkeypatch.setattr("android_bench.link.INSIST_S", 1.5)


@pytest.fixture
def model(tmp_path):
    return tflite(tmp_path / "net_20x28_fp32.tflite")


def bench(phones, *arguments, device=True):
    """With the quick settings, on the first phone."""
    where = ("--device", f"android:{phones.phones[0].serial}") if device else ()
    return CliRunner().invoke(main, ["bench", *QUICK, *where, "--benchmark-binary", str(phones.program()), *map(str, arguments)])


def error_of(result):
    return json.loads(result.stdout)["error"]


def test_a_phone(phones, model, tmp_path):
    system = phones.add().system
    out = tmp_path / "r.jsonl"
    result = bench(phones, model, "-o", out, "--json", "--cores", "big", *TWICE)
    assert result.exit_code == 0, result.output
    (shown,), (record,) = json.loads(result.stdout)["records"], read_records(out)
    assert (record.artifact, record.backend, record.device, record.threads) == (model.name, "android", "android", 2)
    assert record.inputs == ((1, 20, 28, 3),)
    assert [round_.index for round_ in record.rounds] == [0, 1]
    for round_ in record.rounds:
        told = round_.told
        assert len(round_.samples_ms) == 1
        assert told["min_ms"] <= told["median_ms"] == round_.samples_ms[0] <= told["max_ms"]
        assert round_.runs >= 3
        assert round_.init_ms > 0
        assert round_.cpu_per_wall is None
        assert round_.conditions["thermal"] == [0, 0]
        assert round_.conditions["settled"] is True
        assert round_.conditions["changed"] == {"stay_on_while_plugged_in": "7"}
    assert 10**7 < record.rounds[0].peak_bytes < 10**10
    assert record.rounds[1].peak_bytes is None
    executed = record.executed
    assert (executed["engine"], executed["requested"], executed["verdict"]) == (
        "benchmark_model (classic)",
        "xnnpack",
        "executed",
    )
    assert (executed["delegate"], executed["core_mask"]) == (["xnnpack"], "f0")
    assert (executed["nodes"], executed["delegated"], executed["partitions"]) == (1, 1, 1)
    assert record.host["name"] == "Acme Slab 7"
    assert phones.phones[0].serial not in out.read_text()
    assert record.versions["benchmark_model"].startswith("classic sha256:")
    assert shown["min_ms"] == min(round_.told["min_ms"] for round_ in record.rounds)
    assert set(system.state("masks").read_text().split()) == {"f0"}
    assert system.left_behind() == []
    assert system.setting("global.stay_on_while_plugged_in") == "0"


def test_the_table_has_a_row_a_delegate_and_ratios_of_one_phone(phones, model):
    phones.add()
    phones.phones[0].system.property("ro.product.model", "Pan 2")
    result = bench(
        phones, model, "--device", "cpu", *(w for d in ("none", "gpu", "gpu-fp32", "nnapi") for w in ("--delegate", d))
    )
    assert result.exit_code == 0, result.output
    for said in ("tflite_cpu", "Acme Pan 2 none", "Acme Pan 2 gpu ", "Acme Pan 2 gpu fp32", "Acme Pan 2 nnapi"):
        assert said in result.stdout
    assert sum(line.endswith(" 1") for line in result.stdout.splitlines()[1:]) == 2  # the first of each place


def test_a_profile(phones, model):
    phones.add()
    result = bench(phones, model, "--profile")
    assert result.exit_code == 0, result.output
    assert "the 2 slowest of 2 ops" in result.stdout
    result = bench(phones, model, "--profile", "--json", *TWICE)
    first, second = json.loads(result.stdout)["records"][0]["rounds"]
    assert [(op["op"], op["calls"]) for op in first["profile"]] == [("ADD", 1), ("DELEGATE", 1)]
    assert all(op["avg_ms"] >= 0 for op in first["profile"])
    assert "profile" not in second


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 120, (37, 53, 3)).astype(np.uint8)
    encode(tmp_path / "photo.png", pixels)
    return tmp_path / "photo.png"


def test_a_photo_comes_out_as_here(phones, model, photo):
    phones.add()
    write_card(runtime.describe(model, PRESETS["0..1"]))
    result = bench(phones, model, "--photo", photo)
    assert result.exit_code == 0, result.output
    assert "the photo comes out exactly as here" in result.stdout
    phones.phones[0].system.misbehave(changes=20 * 28)  # a third of the picture is black
    card_path(model).unlink()
    result = bench(phones, model, "--photo", photo, "--image-format", "0..1", "--json", *TWICE)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)["records"][0]
    parity = record["rounds"][0]["parity"]
    assert 100 < parity["max_abs"] <= 238  # twice the brightest pixel
    assert 10 < parity["psnr_db"] < 20
    assert parity["mean_abs"] == pytest.approx(2 * 60 / 3, rel=0.15)
    assert "parity" not in record["rounds"][1]
    assert [doubt for doubt in record["doubts"] if "dB from this machine's" in doubt]


def test_a_photo_without_an_image_format_or_that_is_none(phones, model, photo, tmp_path):
    phones.add()
    result = bench(phones, model, "--photo", photo)
    assert (result.exit_code, "--image-format says" in result.stderr, "ms (" in result.stderr) == (1, True, False), result.output
    result = bench(phones, model, "--photo", tmp_path / "no.jpg")
    assert (result.exit_code, "no.jpg: no such file" in result.stderr) == (1, True), result.output
    assert "round 1" not in result.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "the phone's output has 0 bytes, this machine's 48"),
        (np.full(12, np.nan, np.float32).tobytes(), "makes NaN or infinite values"),
    ],
)
def test_an_answer_that_cannot_be_compared(answer, said):
    given = np.ones((1, 2, 2, 3), np.float32)
    asked = Question("image", given, (given,), (Port("styled", "float32", given.shape, PRESETS["0..1"]),), 0, "NHWC")
    assert compare(asked, given.tobytes(), "x") == {"max_abs": 0.0, "mean_abs": 0.0, "psnr_db": None}
    with pytest.raises(MeasurementError, match=said):
        compare(asked, answer, "x")


def test_an_external_delegate_is_brought(phones, model, tmp_path):
    phones.add()
    (tmp_path / "libAcme.so").write_bytes(b"delegate")
    result = bench(phones, model, "--delegate", tmp_path / "libAcme.so", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"][0]["executed"]["requested"] == "external"


def test_all_phones_at_once(phones, model):
    """Each has three files, and they run side by side; one is not fit, and is named."""
    for number in range(3):
        phones.add().system.property("ro.product.model", f"No {number}")
    phones.add().system.thermal(status=3)
    result = bench(phones, model, "--all-devices", "--json", *TWICE, device=False)
    assert result.exit_code == 1
    assert (error_of(result)["kind"], error_of(result)["reason"]) == ("device", "hot")
    for number in range(3):
        assert sum(f"{phones.phones[number].serial} xnnpack: " in line for line in result.stderr.splitlines()) == 2


def test_phones_of_one_name_are_told_apart(phones, model):
    phones.add()
    phones.add()
    result = bench(phones, model, "--all-devices", device=False)
    assert result.exit_code == 0, result.output
    for phone in phones.phones:
        assert f"Acme Slab 7 {phone.serial} xnnpack" in result.stdout


def test_a_folder_holds_what_phones_do_not_run(phones, tmp_path):
    phones.add()
    (tmp_path / "build").mkdir()
    tflite(tmp_path / "build" / "net.tflite")
    onnx_file(tmp_path / "build" / "net.onnx")
    result = bench(phones, tmp_path / "build", "--json")
    assert result.exit_code == 0, result.output
    assert [record["artifact"] for record in json.loads(result.stdout)["records"]] == ["net.tflite"]
    result = bench(phones, tmp_path / "build" / "net.onnx")
    assert result.exit_code == 2
    assert "net.onnx: nothing runs it on android" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--cores", "xyz"), 2, "--cores xyz: all, big, or a mask"),
        (("--cores", "f00"), 1, "has 8 cores, and --cores f00 does not fit them"),
        (("--delegate", "npu"), 2, "--delegate npu: neither one of"),
        (("--device", "android:-x"), 2, "'-x' is no serial number of a phone"),
        (("--device", "android:nowhere"), 1, "nowhere: adb sees no such phone"),
        (("--size", "32"), 2, "the file is fixed at 20x28, not 32x32"),
    ],
)
def test_what_is_asked_wrongly(phones, model, options, code, said):
    phones.add()
    result = bench(phones, model, *options)
    assert (result.exit_code, said in result.stderr) == (code, True), result.output


def test_which_phone_is_meant(phones, model, monkeypatch):
    result = bench(phones, model, "--device", "android", device=False)
    assert (result.exit_code, "adb sees no phone" in result.stderr) == (1, True)
    one, two = phones.add(), phones.add()
    result = bench(phones, model, "--device", "android", device=False)
    assert (result.exit_code, "--all-devices" in result.stderr) == (2, True)
    monkeypatch.setenv("ANDROID_SERIAL", two.serial)
    result = bench(phones, model, "--device", "android", device=False)
    assert result.exit_code == 0, result.output
    assert two.serial in result.stderr
    assert one.serial not in result.stderr


def test_a_phone_that_is_not_fit(phones, model):
    system = phones.add().system
    system.battery(level=9, charging=False)
    (system.root / "settings" / "global.low_power").write_text("1")
    result = bench(phones, model, "--json")
    assert result.exit_code == 1
    assert error_of(result)["reason"] == "battery"
    assert "its battery is at 9 %; it is saving power" in error_of(result)["message"]


def test_a_program_for_another_processor(phones, model, tmp_path):
    phones.add()
    (tmp_path / "x86").write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(40))
    where = ("--device", f"android:{phones.phones[0].serial}")
    result = CliRunner().invoke(main, ["bench", str(model), *where, "--benchmark-binary", str(tmp_path / "x86"), "--json"])
    assert (result.exit_code, error_of(result)["reason"]) == (1, "abi")


def test_another_program_is_recognised_as_none(phones, model, tmp_path):
    phones.add()
    (tmp_path / "other").write_text("#!/bin/sh\necho usage: other --model=x\n")
    where = ("--device", f"android:{phones.phones[0].serial}")
    result = CliRunner().invoke(main, ["bench", str(model), *where, "--benchmark-binary", str(tmp_path / "other")])
    assert result.exit_code == 1
    assert "this is no benchmark_model" in result.stderr


SAID = Path(__file__).parent / "data" / "benchmark_model"


def test_the_program_of_litert(phones, model, tmp_path):
    """Told apart by its help; its libraries come with it; what it said on a phone is read."""
    phones.add()
    script = tmp_path / "litert" / "benchmark_model"
    script.parent.mkdir()
    (script.parent / "libLiteRt.so").write_bytes(b"library")
    help_, out, err = (SAID / name for name in ("help_litert.txt", "litert_stdout.txt", "litert_stderr.txt"))
    script.write_text(
        f'#!/bin/sh\n[ -f $LD_LIBRARY_PATH/libLiteRt.so ] || exit 7\necho "$@" >>$PHONE/state/flags\n'
        f"case $1 in --help) cat {help_} ;; *) cat {out}; cat {err} >&2 ;; esac\n"
    )
    result = bench(phones, model, "--benchmark-binary", script, "--delegate", "gpu", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)["records"][0]
    assert record["executed"]["engine"] == "benchmark_model (litert)"
    assert (record["executed"]["delegated"], record["executed"]["nodes"], record["executed"]["partitions"]) == (38, 41, 2)
    assert record["executed"]["others"][0]["nodes"] == 3
    assert record["executed"]["verdict"] == "partly delegated"
    assert record["median_ms"] == pytest.approx(24.999)
    assert record["rounds"][0]["peak_bytes"] == pytest.approx(70.12 * 2**20, rel=1e-3)
    assert "--use_gpu=true" in phones.phones[0].system.state("flags").read_text()
    result = bench(phones, model, "--benchmark-binary", script, "--delegate", "nnapi")
    assert (result.exit_code, "LiteRT's benchmark_model runs on the CPU (XNNPACK) or the GPU" in result.stderr) == (2, True)


FAILURES = [
    ({"die": "before", "code": 3}, "exit code 3"),
    ({"die": "before", "signal": 9}, "the system killed it: out of memory?"),
    ({"die": "mid", "signal": 11}, "it crashed (SIGSEGV)"),
    ({"die": "mid", "signal": 6}, "it aborted"),
    ({"die": "after", "signal": 11}, "it crashed (SIGSEGV)"),
    ({"garbage": 1}, "failed: "),
    ({"mute": 1}, "failed: "),
    ({"unconsumed": ["num_threads"]}, "the tool did not understand --num_threads=1"),
]


@pytest.mark.parametrize(("faults", "said"), FAILURES)
def test_a_program_that_fails(phones, model, faults, said):
    """Only after `--help` has worked: the phone is told to misbehave when the model arrives."""
    phones.add().system.misbehave(**faults)
    result = bench(phones, model)
    assert result.exit_code == 1
    assert f"error: {model.name} on android {phones.phones[0].serial} xnnpack: " in result.stderr, result.output
    assert said in result.stderr


def test_a_missing_library_is_named(phones, model):
    phones.add().system.misbehave(unlinked=1)
    result = bench(phones, model)
    assert result.exit_code == 1
    assert "a library that the binary needs is not beside it" in result.stderr


@pytest.mark.parametrize("when", ["before", "mid", "after"])
def test_a_program_that_hangs_is_stopped_on_the_phone_too(phones, model, when):
    phones.add().system.misbehave(hang=when)
    start = time.monotonic()
    result = bench(phones, model, "--timeout", "4", "--json")
    assert time.monotonic() - start < 20
    assert (result.exit_code, error_of(result)["hint"]) == (1, "--timeout gives it longer")
    assert "no answer within 4 s, stopped" in error_of(result)["message"]
    assert phones.phones[0].running() == []


@pytest.mark.parametrize("refusal", ["silent", "hard"])
@pytest.mark.parametrize("delegate", ["gpu", "nnapi"])
def test_a_delegate_that_is_refused_is_no_number(phones, model, tmp_path, refusal, delegate):
    phones.add().system.misbehave(refuse=refusal)
    result = bench(phones, model, "--delegate", delegate, "-o", tmp_path / "r.jsonl")
    assert result.exit_code == 1
    assert f"{delegate}: delegate refused: " in result.stderr, result.output
    assert not (tmp_path / "r.jsonl").exists()


def test_a_damaged_model_leaves_the_others_measured(phones, model, tmp_path):
    phones.add()
    system, bad = phones.phones[0].system, tmp_path / "bad.tflite"
    result = bench(phones, model, "-o", tmp_path / "r.jsonl")
    assert result.exit_code == 0
    bad.write_bytes(model.read_bytes()[:200])
    result = bench(phones, bad, model, "-o", tmp_path / "r2.jsonl")
    assert result.exit_code == 1
    assert "bad.tflite" in result.stderr
    assert [record.artifact for record in read_records(tmp_path / "r2.jsonl")] == [model.name]
    assert system.left_behind() == []


def test_a_program_that_pushes_badly(phones, model):
    phones.add(Faults(wrong_hash=True))
    result = bench(phones, model, "--json")
    assert (result.exit_code, error_of(result)["reason"]) == (1, "hash")


def test_a_phone_that_fills_up(phones, model):
    phones.add(Faults(full_after=2000))
    result = bench(phones, model, "--json")
    assert (result.exit_code, error_of(result)["reason"]) == (1, "full")
    phones.phones[0].system.space(10**6)
    result = bench(phones, model, "--json")
    assert "1 MB are free" in error_of(result)["message"]


@pytest.mark.parametrize(
    "faults",
    [Faults(cut_push_after=3000), Faults(cut_when_said=b"Initialized session"), Faults(cut_when_said=b"Inference timings")],
    ids=["push", "mid-run", "end"],
)
def test_a_phone_that_goes_away_is_named_with_what_is_left_on_it(phones, model, faults):
    phone = phones.add(faults)
    start = time.monotonic()
    result = bench(phones, model, "--json")
    assert time.monotonic() - start < 40
    assert result.exit_code == 1
    assert error_of(result)["reason"] in ("disconnected", "not-found", "offline"), result.output
    (folder,) = phone.system.left_behind()
    assert f"adb -s {phone.serial} shell rm -rf /data/local/tmp/{folder}" in result.stderr
    assert "shell settings put global stay_on_while_plugged_in 0" in result.stderr
    phones.adb("disconnect", phone.serial)
    subprocess.run(["rm", "-rf", phone.system.tmp / folder], check=True)


def test_a_folder_that_cannot_be_removed_is_named(phones, model):
    system = phones.add().system
    system.command("rm", "echo 'rm: Device or resource busy' >&2; exit 1")
    result = bench(phones, model, "--json")
    (folder,) = system.left_behind()
    error = error_of(result)
    assert (result.exit_code, error["reason"]) == (1, "left")
    assert error["message"].endswith(f"rm: Device or resource busy; /data/local/tmp/{folder} is left on it")
    shutil.rmtree(system.tmp / folder)


def test_a_phone_that_does_not_cool_down_is_doubted(phones, model):
    phones.add()
    system = phones.phones[0].system
    heat = 'sed -i "s/mValue=31.5/mValue=55.5/" "$PHONE/state/thermalservice"'
    system.command("dumpsys", f'cat "$PHONE/state/$1"; [ "$1" != thermalservice ] || {heat}')
    result = bench(phones, model, *TWICE)
    assert result.exit_code == 0, result.output
    assert "the phone had not cooled down before 2 of 2 rounds" in result.stderr


def test_ctrl_c_leaves_nothing_on_any_phone(phones, model, tmp_path):
    for _ in range(2):
        phones.add()
    phones.phones[1].system.misbehave(hang="mid")
    argv = [sys.executable, "-m", "compress", "bench", str(model), "--all-devices", "--benchmark-binary", str(phones.program()),
            *QUICK, *TWICE, "-o", "r.jsonl"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    assert child.stderr is not None
    line = ""
    while not line.startswith("round 2/2"):  # of the first phone
        line = child.stderr.readline()
        assert line
    while not any("benchmark_model" in command(pid) for pid in phones.phones[1].running()):
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert [len(record.rounds) for record in read_records(tmp_path / "r.jsonl")] == [2]
    assert phones.settle() == []
    assert phones.phones[1].system.setting("global.stay_on_while_plugged_in") == "0"


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""
