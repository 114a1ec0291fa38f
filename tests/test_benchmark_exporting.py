"""What measures exports: the floor is the network's convolutions alone, clock and memory are right, the table is by hand."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from android_bench.record import Round
from compress.networks.johnson import Johnson
from export import child, runtime
from export import onnx as graphs
from tests.test_record import record

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    """Import a script as `python benchmarks/NAME.py` would."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_the_floor_is_the_convolutions_with_zeros_inside_and_no_norms(script):
    torch.manual_seed(0)
    module = Johnson(widths=[5, 6, 7], hidden=9, blocks=1).eval()
    model = graphs.specialised(graphs.from_module(module, [torch.rand(1, 3, 40, 36)], free=False), {"x": (1, 3, 40, 36)})
    before = Counter(node.op_type for node in model.graph.node)
    floor = script("floor").floor_of(model)
    after = Counter(node.op_type for node in floor.graph.node)
    assert before["Conv"] == after["Conv"] == 8
    assert (before["Relu"], before["Add"]) == (after["Relu"], after["Add"])
    assert {"Pad", "InstanceNormalization", "Resize"} <= before.keys()
    assert not {"Pad", "InstanceNormalization", "Resize"} & after.keys()
    assert after["DepthToSpace"] == 2
    (found,) = runtime.load_graph(floor.SerializeToString()).run_tensors([np.random.rand(1, 3, 40, 36).astype(np.float32)])
    assert found.shape == (1, 3, 40, 36)
    convs = [node for node in floor.graph.node if node.op_type == "Conv"]
    assert sum(any(a.name == "auto_pad" for a in conv.attribute) for conv in convs) == 6  # all but the sub-pixel ones
    weights = {tuple(tensor.dims) for tensor in floor.graph.initializer if len(tensor.dims) == 4}
    assert weights >= {(5, 3, 9, 9), (6, 5, 3, 3), (24, 7, 2, 2), (3, 5, 9, 9)}
    onnx.checker.check_model(floor, full_check=True)


def test_a_process_is_watched_with_its_children(script):
    watched = script("exporting").watched
    hold = "x = bytearray(150_000_000); import time; time.sleep(0.7)"
    seconds, peak = watched([sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"])
    assert 0.7 <= seconds < 30
    assert 150_000_000 <= peak < 400_000_000
    loud = "import sys; sys.stderr.write('x' * 1_000_000)"
    assert watched([sys.executable, "-c", loud])[0] < 30  # a full pipe would never end


def test_a_process_that_fails_ends_the_measurement(script):
    watched = script("exporting").watched
    with pytest.raises(SystemExit, match=r"ended with 1:\n(.*\n)*.*no such thing"):
        watched([sys.executable, "-c", "raise ValueError('no such thing')"])
    assert watched([sys.executable, "-c", "exit(1)"], {0, 1})[0] > 0


def test_what_the_clock_leaves_out(script):
    timed = script("timed_export")
    with pytest.raises(child.ChildError, match="left out"):
        timed.run_apart(Path("folder/int16x8.tflite"), [], 1.0)
    with pytest.raises(child.ChildError, match="left out"):
        timed.leave_out("anything")


def test_the_table_by_hand(script, tmp_path):
    tables, lines = script("tables"), script("lines")
    context = {
        "schema": 1,
        "host": {"cpu": "Abacus"},
        "threads": 2,
        "network": "w.net",
        "measured_at": "2026-01-02T03:04:05+00:00",
    }

    def timed(size, role, *medians, partitions=1, memory=200_000_000):
        rounds = tuple(Round(i, 0, (m, m, m), (), 1.0, 2.0, peak_bytes=memory) for i, m in enumerate(medians))
        executed = {"nodes": 30, "partitions": partitions}
        one = replace(record(), artifact=f"{role}.tflite", bytes=7_000_000, rounds=rounds, executed=executed)
        return {**context, "size": size, "measure": "latency", "role": role, "record": one.to_json()}

    found = [
        timed(64, "stock_fp32", 100.0, 120.0, partitions=16, memory=400_000_000),
        timed(64, "ours_fp32", 50.0, 48.0),
        timed(64, "ours_dynamic", 25.0, 25.0, partitions=2),
        {**context, "size": 64, "measure": "distance", "role": "ours_dynamic", "psnr_db": 36.54},
        {**context, "size": 64, "measure": "making", "role": "ours", "seconds": [20.0, 30.0], "peak_bytes": [3, 3]},
        {**context, "size": 64, "measure": "making", "role": "onnx2tf", "seconds": [40.0, 40.0], "peak_bytes": [2, 4]},
    ]
    lines.write(tmp_path / "export.jsonl", found)
    said = tables.export_targets(tmp_path)
    assert "| what | target | 64x64 |" in said
    assert "| fp32: latency, x onnx2tf alone | <= 0.52 | 0.450 (0.400..0.500) |" in said
    assert "| fp32: latency, x litert-torch alone | <= 0.52 |  |" in said
    assert "| dynamic: PSNR to PyTorch, dB | >= 36 | 36.5 |" in said
    assert "| XNNPACK partitions of fp32, dynamic | 1 | 1, 2 |" in said
    assert "| all variants: time of the export, x onnx2tf alone for fp32 | <= 0.7 | 0.62 |" in said
    assert "| all variants: memory of the export, x onnx2tf alone for fp32 | <= 1 | 1.12 |" in said
    assert "| fp32: memory of a run, x onnx2tf alone | <= 1 | 0.50 |" in said
    assert "`w.net`, Abacus, 2 threads, 2026-01-02." in said
    files = tables.export_files(tmp_path)
    assert "| 64x64 | fp32, onnx2tf alone | 7.00 | 30 | 16 |  | 110.0 | 400 |" in files
    assert "| 64x64 | dynamic, `compress export` | 7.00 | 30 | 2 | 36.5 | 25.0 | 200 |" in files
