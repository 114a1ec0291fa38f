"""Budgets: limits kept and broken, and files that no typo can open."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from android_bench.budget import LIMITS, Budget, entry_of, limits_from
from android_bench.budget_file import parse_budget, parse_bytes, read_budget, update_budget
from android_bench.evidence import gather
from android_bench.record import write_records
from compress.errors import ArtifactError, BudgetFileError, MeasurementError
from export.artifact import Artifact, Card, Parity, Port, measure, write_card
from tests.test_record import record

DEFLATED = measure(b"x" * 1500)["deflate_bytes"]
BUDGET = """version = 1

# why this one: the photo editor's download page
[model.candy_256x192.dynamic]   # the one that ships
max_size = "1.80 kB"            # a word on this
max_abs_err = 8.0

[model."ca ndy.v2".fp32]
max_size = 7_000_000
"""


def card(payload=b"x" * 1500, name="candy_256x192", variant="dynamic", parity=(5.0, 0.5, 36.5)):
    stages = (Parity("onnx", 0.0, 0.0, None, 0.0), Parity(variant, *parity, 0.1)) if parity else ()
    port = Port("image", "float32", (1, 256, 192, 3))
    return Card(
        file=f"{name}_{variant}.tflite",
        **measure(payload),
        kind="tflite",
        layout="NHWC",
        variant=variant,
        size=(256, 192),
        inputs=(port,),
        outputs=(port,),
        parity=stages,
    )


def put(folder, payload=b"x" * 1500, **what):
    made = card(payload, **what)
    (folder / made.file).write_bytes(payload)
    write_card(Artifact(folder / made.file, made))
    return made


def budget(**limits):
    return Budget({("candy_256x192", "dynamic"): limits})


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"max_size": 1500}, None),
        ({"max_size": 1499}, "max_size is 1,500 bytes, the limit is 1,499 bytes"),
        ({"max_deflate_size": 10}, f"max_deflate_size is {DEFLATED} bytes, the limit is 10 bytes"),
        ({"min_psnr_db": 36.5}, None),
        ({"min_psnr_db": 36.6}, "min_psnr_db is 36.50 dB, the limit is 36.60 dB"),
        ({"max_abs_err": 5}, None),
        ({"max_abs_err": 4.9}, "max_abs_err is 5, the limit is 4.9"),
        ({"max_mean_err": 0.4}, "max_mean_err is 0.5, the limit is 0.4"),
        ({"max_partitions": 1}, "max_partitions was not measured, the limit is 1"),
    ],
)
def test_broken_by(limits, line):
    broken = budget(**limits).broken_by(card())
    assert [verdict.line for verdict in broken] == ([f"candy_256x192 dynamic: {line}"] if line else [])


def test_the_file_itself_is_judged_not_an_earlier_stage():
    assert budget(max_abs_err=4).broken_by(card())
    assert not budget(min_psnr_db=30).broken_by(card())


def test_records_are_joined_by_sha256():
    mine = record(sha256=card().sha256, executed={"partitions": 3})
    other = record(executed={"partitions": 99})
    assert not budget(max_partitions=3).broken_by(card(), [mine, other])
    (broken,) = budget(max_partitions=2).broken_by(card(), [mine, other])
    assert broken.measured == 3
    (broken,) = budget(max_partitions=200).broken_by(card(), [other])
    assert broken.measured is None


def test_what_parity_does_not_say_is_broken_and_identical_is_kept():
    assert budget(min_psnr_db=1).broken_by(card(parity=None))
    assert budget(min_psnr_db=1).broken_by(card(parity=(0.5, 0.1, None)))  # no picture
    assert not budget(min_psnr_db=120).broken_by(card(parity=(0.0, 0.0, None)))


def test_loose_limits_are_found():
    loose = {key for key, tight in (("max_size", 1550), ("max_abs_err", 6), ("min_psnr_db", 35))
             if budget(**{key: tight}).verdicts(card())[0].loose}  # fmt: skip
    assert loose == set()
    assert all(
        budget(**{key: limit}).verdicts(card())[0].loose
        for key, limit in (("max_size", 3000), ("max_deflate_size", 40), ("max_abs_err", 9), ("min_psnr_db", 30))
    )
    assert not budget(max_size=1000).verdicts(card())[0].loose


def test_removed_and_entries():
    assert entry_of(card()) == ("candy_256x192", "dynamic")
    assert entry_of(replace(card(), file="candy.onnx", kind="onnx", variant="fp32")) == ("candy", "onnx")
    both = Budget({("candy_256x192", "dynamic"): {}, ("candy_256x192", "int8"): {}})
    assert both.removed([card()]) == [("candy_256x192", "int8")]


@pytest.mark.parametrize("parity", [(5.0, 0.5, 36.5), (0.0, 0.0, None), (2e-4, 3e-6, 114.0), (0.5, 0.1, None), None])
def test_limits_from_a_file_are_kept_by_it_and_not_loose(parity):
    made = card(parity=parity)
    limits = limits_from(made, [record(sha256=made.sha256)])
    verdicts = budget(**limits).verdicts(made, [record(sha256=made.sha256)])
    assert {"max_size", "max_deflate_size", "max_partitions"} <= limits.keys() <= LIMITS.keys()
    assert all(verdict.kept and not verdict.loose for verdict in verdicts)
    assert all(math.isfinite(value) for value in limits.values())


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [(17, 17), ("17 B", 17), ("1.80 MB", 1_800_000), ("1.8MB", 1_800_000), ("2 kB", 2000), ("2 KiB", 2048), ("1 GB", 10**9)],
)
def test_sizes(text, bytes_):
    assert parse_bytes(text) == bytes_


@pytest.mark.parametrize("text", ["", "MB", "1.8", "1.8 mb", "-1 MB", -1, True, 1.5, "1e3 B", "1 MB or so", None])
def test_no_sizes(text):
    with pytest.raises(ValueError, match="a size is"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version = 1\n[modle.x.y]\n", "unknown 'modle' in the top"),
        ("version = 1\n[model.x.y]\nmax_sise = 3\n", "unknown 'max_sise' in model.x.y"),
        ("version = 1\n[model.x.y]\nlatency.pixel = 3\n", "unknown 'latency'"),
        ("version = 1\n[model.candy.v1.fp32]\nmax_size = 3\n", "unknown 'fp32' in model.candy.v1"),
        ("version = 2\n", "must say version = 1, got 2"),
        ("version = true\n", "must say version = 1"),
        ("[model.x.y]\nmax_size = 3\n", "must say version = 1, got None"),
        ("version = 1\nmodel = 3\n", "model must be a table"),
        ("version = 1\n[model]\nx = 3\n", "model.x must be a table"),
        ("version = 1\n[model.x]\nmax_size = 3\n", "model.x.max_size must be a table"),
        ("version = 1\n[model.x.y]\nmax_size = '3 elephants'\n", "model.x.y.max_size: a size is"),
        ("version = 1\n[model.x.y]\nmin_psnr_db = '32'\n", "min_psnr_db must be a number"),
        ("version = 1\n[model.x.y]\nmin_psnr_db = true\n", "min_psnr_db must be a number"),
        ("version = 1\n[model.x.y]\nmax_abs_err = nan\n", "max_abs_err must be a finite number"),
        ("version = 1\n[model.x.y]\nmin_psnr_db = -inf\n", "min_psnr_db must be a finite number"),
        ("version = 1\n[model.x.y\n", "is no TOML"),
    ],
)
def test_what_nobody_understands_is_an_error(tmp_path, text, said):
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(BudgetFileError) as caught:
        read_budget(path)
    assert said in caught.value.message
    assert caught.value.exit_code == 1


def test_a_budget_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BudgetFileError, match="is no text"):
        read_budget(tmp_path / "b.toml")
    with pytest.raises(BudgetFileError, match="no such file"):
        read_budget(tmp_path / "no.toml")
    with pytest.raises(BudgetFileError, match="cannot read"):
        read_budget(tmp_path)


def test_update_changes_values_and_nothing_else(tmp_path):
    path = tmp_path / "b.toml"
    path.write_text(BUDGET)
    update_budget(path, {("candy_256x192", "dynamic"): {"max_size": 1520.0, "max_abs_err": 5.5, "min_psnr_db": 36.0}})
    expected = BUDGET.replace('"1.80 kB"', '"1.52 kB"').replace("8.0", "5.5")
    assert path.read_text() == expected


def test_update_adds_what_is_new_and_is_stable(tmp_path):
    path = tmp_path / "b.toml"
    new = {("candy_256x192", "int8"): limits_from(card(variant="int8"))}
    path.write_text(BUDGET.rstrip("\n"))
    update_budget(path, new)
    once = path.read_text()
    assert once.startswith(BUDGET)
    budget = update_budget(path, new)
    assert path.read_text() == once
    assert budget == read_budget(path)
    assert budget.entries[("candy_256x192", "int8")] == new[("candy_256x192", "int8")]
    assert budget.entries[("ca ndy.v2", "fp32")] == {"max_size": 7_000_000}


def test_update_makes_a_budget(tmp_path):
    made = update_budget(tmp_path / "b.toml", {('we"ird [x]', "dynamic"): {"max_size": 12.0, "max_partitions": 3.0}})
    assert read_budget(tmp_path / "b.toml") == made
    assert made.entries == {('we"ird [x]', "dynamic"): {"max_size": 12, "max_partitions": 3}}


@pytest.mark.parametrize(
    "text",
    [
        "version = 1\nmodel.a.fp32 = { max_size = 12 }\n",
        "version = 1\n[model.a]\nfp32.max_size = 12\n",
        "version = 1\n[model]\na.fp32 = { max_size = 12 }\n",
        'version = 1\n[model.a.fp32]\n"max_size" = 12\n',
    ],
)
def test_update_refuses_a_style_that_it_cannot_edit(tmp_path, text):
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(BudgetFileError, match="cannot edit"):
        update_budget(path, {("a", "fp32"): {"max_size": 5.0}})
    assert path.read_text() == text


def test_crlf_and_comments_with_quotes_survive(tmp_path):
    path = tmp_path / "b.toml"
    text = 'version = 1\r\n[ model . "a" . fp32 ] # "x" = [1]\r\nmax_size=12 # "12"\r\n'
    path.write_bytes(text.encode())
    update_budget(path, {("a", "fp32"): {"max_size": 5.0}})
    assert path.read_bytes().decode() == text.replace("=12 ", '="5 B" ')


def test_gather(tmp_path):
    first, second = put(tmp_path), put(tmp_path, b"other", variant="int8")
    write_records(tmp_path / "r.jsonl", [record(sha256=first.sha256), record(artifact="net.safetensors")])
    for paths in ([tmp_path], [tmp_path / "r.jsonl"], [tmp_path, tmp_path / "r.jsonl"]):
        evidence = gather(paths)
        assert [c.sha256 for c in evidence.cards] == [first.sha256, second.sha256]
        assert [r.artifact for r in evidence.records] == ["candy_256x192_fp32.tflite", "net.safetensors"]
        assert evidence.stale == []
    write_records(tmp_path / "r.jsonl", [record(artifact=first.file, sha256="00" * 32)])
    assert [r.artifact for r in gather([tmp_path]).stale] == [first.file]


def test_what_does_not_belong_together_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="no such file or folder"):
        gather([tmp_path / "no"])
    with pytest.raises(ArtifactError, match="no exported files in"):
        gather([tmp_path])
    made = put(tmp_path)
    file = tmp_path / made.file
    for folder in ("twin",):
        (tmp_path / folder).mkdir()
        put(tmp_path / folder)
        with pytest.raises(ArtifactError, match="two files are candy_256x192 dynamic"):
            gather([tmp_path, tmp_path / folder])
    file.write_bytes(b"y" * 1500)
    with pytest.raises(ArtifactError, match="does not match"):
        gather([tmp_path])
    file.unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        gather([tmp_path])


def test_a_card_that_lies_about_its_size_is_an_error(tmp_path):
    made = put(tmp_path)
    path = tmp_path / f"{made.file}.json"
    path.write_text(path.read_text().replace('"bytes": 1500', '"bytes": 150'))
    with pytest.raises(ArtifactError, match="says bytes 150, the file has 1,500"):
        gather([tmp_path])
    put(tmp_path)
    (tmp_path / made.file).rename(tmp_path / "renamed.tflite")
    path.rename(tmp_path / "renamed.tflite.json")
    with pytest.raises(ArtifactError, match="is the card of candy_256x192_dynamic"):
        gather([tmp_path])


def test_damaged_records_are_named(tmp_path):
    put(tmp_path)
    (tmp_path / "r.jsonl").write_text("{}\n")
    with pytest.raises(MeasurementError, match=r"r.jsonl:1 is damaged"):
        gather([tmp_path])


def test_nothing_parses_to_no_entries():
    assert parse_budget("version = 1\n").entries == {}


def test_the_page_names_every_limit_and_its_example_is_read():
    page = (Path(__file__).parent.parent / "docs" / "budget.md").read_text("utf-8")
    assert all(f"`{key}`" in page for key in LIMITS)
    example = page.partition("```toml\n")[2].partition("```")[0]
    assert parse_budget(example).entries == {
        ("candy_256x256", "dynamic"): {"max_size": 1_800_000, "min_psnr_db": 32},
        ("candy", "onnx"): {"max_size": 7_000_000},
    }
