"""A card says what its file is, survives a round trip, and is refused beside another file."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from compress.errors import ArtifactError, UsageError
from compress.image_format import PRESETS
from export.artifact import Artifact, Card, Parity, Port, Quantisation, card_path, measure, read_artifact, write_card

CARD = Card(
    file="a_48x80_int8.tflite",
    sha256="",
    bytes=0,
    deflate_bytes=0,
    kind="tflite",
    layout="NHWC",
    variant="int8",
    size=(48, 80),
    inputs=(Port("image", "uint8", (1, 48, 80, 3), PRESETS["imagenet"], Quantisation(0.5, 3)),),
    outputs=(Port("styled", "float32", (1, None, None, 3), PRESETS["0..1"]), Port("logits", "float32", (1, 7))),
    signature="serving_default",
    parent="f" * 64,
    target="cpu",
    rewrites={"reflect-pad": 5},
    parity=(Parity("onnx", 0.0, 0.0, None, 0.0), Parity("tflite int8", 31.5, 2.25, 27.1, 0.2)),
    pictures="8 of the calibration photos",
    ran="ai-edge-litert 2.1.0",
    toolchain={"onnx2tf": "1.29.24"},
)


def written(folder: Path, payload: bytes = b"a network" * 50) -> Artifact:
    path = folder / CARD.file
    path.write_bytes(payload)
    artifact = Artifact(path, replace(CARD, **measure(payload)))
    write_card(artifact)
    return artifact


def test_a_card_comes_back_as_it_was_written(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    assert read_artifact(artifact.path) == artifact
    assert artifact.card.own_parity == CARD.parity[-1]


def test_the_same_card_gives_the_same_bytes(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    before = card_path(artifact.path).read_bytes()
    reordered = replace(artifact.card, toolchain=dict(reversed(artifact.card.toolchain.items())))
    write_card(replace(artifact, card=reordered))
    assert card_path(artifact.path).read_bytes() == before


def test_bytes_are_measured_raw_and_deflated() -> None:
    payload = b"zeros" * 1000
    assert measure(payload)["bytes"] == 5000
    assert measure(payload)["deflate_bytes"] == len(zlib.compress(payload, 9)) < 100


def test_a_card_of_another_file_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    artifact.path.write_bytes(b"another network")
    with pytest.raises(
        ArtifactError, match=r"a_48x80_int8\.tflite\.json does not match a_48x80_int8\.tflite: its sha256 is"
    ) as error:
        read_artifact(artifact.path)
    assert error.value.exit_code == 1
    assert error.value.hint


def test_a_file_without_a_card_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    card_path(artifact.path).unlink()
    with pytest.raises(ArtifactError, match="has no card beside it"):
        read_artifact(artifact.path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        read_artifact(tmp_path / "none.tflite")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sha256", None),
        ("kind", "keras"),
        ("layout", "NCWH"),
        ("bytes", "many"),
        ("size", [256]),
        ("size", ["a", "b"]),
        ("inputs", [{"name": "image"}]),
        ("inputs", 3),
        ("outputs", [{"name": "y", "dtype": "float32", "shape": [1], "format": {"order": "XYZ"}, "quantisation": None}]),
        ("parity", [{"stage": "onnx"}]),
        ("rewrites", ["reflect-pad"]),
        ("toolchain", None),
    ],
)
def test_a_damaged_card_is_refused(tmp_path: Path, key: str, value: object) -> None:
    artifact = written(tmp_path)
    path = card_path(artifact.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ArtifactError, match="not a card"):
        read_artifact(artifact.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\x01", '{"version": 1}'])
def test_a_card_that_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    artifact = written(tmp_path)
    card_path(artifact.path).write_text(text)
    with pytest.raises(ArtifactError):
        read_artifact(artifact.path)


def test_a_card_of_another_version_is_refused(tmp_path: Path) -> None:
    artifact = written(tmp_path)
    path = card_path(artifact.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    with pytest.raises(ArtifactError, match="format version 9, this program reads 1"):
        read_artifact(artifact.path)


def test_nonsense_is_refused_when_built() -> None:
    with pytest.raises(UsageError):
        replace(CARD, layout="CHWN")


def test_reading_a_card_imports_nothing_heavy() -> None:
    code = (
        "import sys, export.artifact, export.variants, export.tools; "
        "print([m for m in ('torch', 'tensorflow', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
