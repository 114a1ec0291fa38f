"""Records keep what was seen, and say where they are damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from android_bench.record import Record, Round, read_records, write_records
from compress.errors import MeasurementError


def record(**changes):
    rounds = (
        Round(0, 1, (3.0, 4.0, 5.0), (9.0,), 120.5, 1.9, 30_000_000),
        Round(1, 0, (6.0, 7.0), (), 110.0, 1.8, None),
    )
    made = Record(
        artifact="candy_256x192_fp32.tflite",
        sha256="ab" * 32,
        bytes=1234,
        backend="tflite_cpu",
        device="cpu",
        threads=2,
        inputs=((1, 256, 192, 3),),
        rounds=rounds,
        run="0123",
        seed=5,
        measured_at="2030-01-02T03:04:05+00:00",
        executed={"delegate": "XNNPACK", "partitions": 3},
        versions={"ai-edge-litert": "2.1.0"},
        host={"cores": 2},
    )
    return replace(made, **changes)


def test_a_record_survives_the_way_through_a_file(tmp_path):
    records = [record(), record(artifact="other.onnx", rounds=(record().rounds[1],))]
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl") == records
    first = json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])
    assert first["samples_ms"] == [3, 4, 5, 6, 7]
    assert [entry["samples"] for entry in first["rounds"]] == [3, 2]
    assert first["schema"] == 1
    assert "median_ms" not in first


def damaged(change):
    value = record().to_json()
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{half of a li", "Expecting"),
        ("[1, 2]", "not a record"),
        ("null", "not a record"),
        (damaged(lambda v: v.pop("sha256")), "sha256"),
        (damaged(lambda v: v.update(schema=2)), "schema version 2, this program reads 1"),
        (damaged(lambda v: v.update(bytes="12")), "bytes is '12'"),
        (damaged(lambda v: v["samples_ms"].pop()), "4 samples, but the rounds hold 5"),
        (damaged(lambda v: v["samples_ms"].append(1.0)), "6 samples, but the rounds hold 5"),
        (damaged(lambda v: v["samples_ms"].__setitem__(0, -1.0)), "times that are no times"),
        (damaged(lambda v: v["samples_ms"].__setitem__(0, float("nan"))), "times that are no times"),
        (damaged(lambda v: v.update(rounds=[], samples_ms=[])), "has no rounds"),
        (damaged(lambda v: v["rounds"][0].update(surprise=1)), "surprise"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, said):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(record().to_json()) + "\n\n" + line + "\n")
    with pytest.raises(MeasurementError) as caught:
        read_records(path)
    assert f"{path}:3 is damaged" in caught.value.message
    assert said in caught.value.message
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("payload", "said"),
    [(None, "no such file"), (b"", "holds no records"), (b"\n\n", "holds no records"), (b"\xff\xfe", "not text")],
)
def test_a_file_without_records_is_an_error(tmp_path, payload, said):
    path = tmp_path / "r.jsonl"
    if payload is not None:
        path.write_bytes(payload)
    with pytest.raises(MeasurementError, match=said):
        read_records(path)


def test_records_budgets_and_cards_are_read_without_any_framework():
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'tensorflow', 'onnx', 'onnxruntime', 'ai_edge_litert', 'safetensors'):\n"
        "            raise ImportError('blocked ' + name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import android_bench.record, android_bench.statistics, android_bench.evidence, android_bench.budget_file\n"
        "import android_bench.backends as b\n"
        "print([b.get(name).device for name in b._files])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['cpu', 'cpu', 'cpu', 'cuda', 'cuda', 'android']", done.stderr


def test_the_page_names_every_key_of_a_record():
    page = (Path(__file__).parent.parent / "docs" / "bench.md").read_text("utf-8")
    assert all(f"`{key}`" in page for key in record().to_json() if key != "schema")
    assert all(f"`{key}`" in page for key in record().to_json()["rounds"][0] if key not in ("index", "samples"))
