"""Layer by layer: a file is near itself, a quantised one parts where its weights were spoilt, other networks are told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compress.cli import main
from export import child, flatbuffer, quantise, runtime
from export.explain import APART_DB, explain, first_apart
from tests.test_export import write_net, write_photos
from tests.test_quantise import float_file, samples, tflite, weight  # noqa: F401  (a fixture)


def spoilt(payload: bytes, layer: int, scale: float) -> bytes:
    """The file with the weights of one layer noisy."""
    model = flatbuffer.unpack(payload)
    ops = [op for op in flatbuffer.Graph.of_model(model).ops if op.kind in quantise.WEIGHTED]
    tensor = model.subgraphs[0].tensors[ops[layer].inputs[1]]
    values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.float32)
    noise = np.random.default_rng(0).standard_normal(values.size).astype(np.float32) * scale
    model.buffers[tensor.buffer].data = (values + noise).view(np.uint8)
    return flatbuffer.pack(model)


def test_a_file_parts_nowhere_from_itself(float_file: Path) -> None:  # noqa: F811
    gaps = explain(float_file, float_file, samples(2), 120)
    assert [(gap.number, gap.kind) for gap in gaps] == [
        (0, "CONV_2D"), (1, "DEPTHWISE_CONV_2D"), (2, "CONV_2D"), (3, "CONV_2D"),
    ]  # fmt: skip
    assert {gap.db for gap in gaps} == {150.0}
    assert first_apart(gaps) is None


def test_the_layer_that_was_spoilt_is_found(float_file: Path, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "spoilt.tflite"
    other.write_bytes(spoilt(float_file.read_bytes(), 2, 0.5))
    gaps = explain(float_file, other, samples(2), 120)
    assert [gap.db for gap in gaps[:2]] == [150.0, 150.0]
    first = first_apart(gaps)
    assert first is not None
    assert (first.number, first.name) == (2, gaps[2].name)
    assert first.db < APART_DB


def test_integers_are_compared_as_the_numbers_they_stand_for(float_file: Path, tmp_path: Path) -> None:  # noqa: F811
    known = quantise.ranges(runtime.watch(float_file, samples()))
    other = tmp_path / "int8.tflite"
    other.write_bytes(quantise.static(float_file.read_bytes(), known))
    gaps = explain(float_file, other, samples(2), 120)
    assert all(25 < gap.db < 70 for gap in gaps)


def test_another_network_is_told_apart(float_file: Path, tmp_path: Path) -> None:  # noqa: F811
    other = tmp_path / "other.tflite"
    other.write_bytes(tflite(lambda tf, x: tf.nn.conv2d(x, weight(3, 3, 3, 5), 1, "SAME")))
    with pytest.raises(child.ChildError, match="the files have other layers: 4 and 1"):
        explain(float_file, other, samples(1), 120)


def test_the_command_shows_where_variants_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, photos = write_net(tmp_path / "tiny.safetensors"), write_photos(tmp_path / "photos")
    command = ["export", net, "-o", tmp_path / "out", "--calibration", photos, "--variants", "dynamic,int8", "--explain"]
    with pytest.raises(SystemExit) as end:
        main([*map(str, command), "--quiet"])
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "40x36: how near the output of each layer is to the float file's, in dB" in said
    rows = [line.split() for line in said.splitlines() if "CONV_2D" in line and ":" in line]
    assert [row[0] for row in rows] == [f"{number}:" for number in range(8)]
    assert all(float(dynamic) > float(int8) for *_, dynamic, int8 in rows[1:])
    assert "dynamic at 40x36 parts nowhere, at 30 dB" in said
