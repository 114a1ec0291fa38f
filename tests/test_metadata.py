"""What a file says of itself: it comes back out, the file computes the same, and damage is an error of ours."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.cli.common import Talk
from compress.cli.export import _source
from compress.errors import ArtifactError
from compress.image_format import PRESETS
from compress.networks.load import NetOptions
from export import metadata, runtime
from export.artifact import card_path
from export.metadata import Essentials
from tests.test_runtime import PICTURES, onnx_file

SAID = Essentials(
    "int8", (6, 7), (("image", PRESETS["caffe"]), ("mask", None)), (("styled", PRESETS["0..1"]),), "ab" * 32, (6, 7)
)


def small_tflite() -> bytes:
    """y = x + 1, with a buffer of an odd length before the constant, so that nothing lies at a round place by accident."""
    import tensorflow as tf

    function = tf.function(lambda x: {"y": x + tf.constant(np.arange(7, dtype=np.float32))})
    concrete = function.get_concrete_function(tf.TensorSpec((1, 7), tf.float32, "x"))
    payload: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module()).convert()
    return payload


@functools.cache
def embedded() -> bytes:
    return metadata.embed_tflite(small_tflite(), SAID)


@pytest.fixture(scope="module")
def tflite() -> bytes:
    return small_tflite()


def test_it_comes_back_out_of_a_tflite_file(tflite: bytes, tmp_path: Path) -> None:
    assert metadata.read_tflite(tflite) is None
    payload = metadata.embed_tflite(tflite, SAID)
    assert metadata.read_tflite(payload) == SAID
    path = tmp_path / "a.tflite"
    path.write_bytes(payload)
    assert metadata.read(path) == SAID
    found = runtime.load(path).run_tensors([np.ones((1, 7), np.float32)])
    assert np.array_equal(found[0], [np.arange(7, dtype=np.float32) + 1])


def test_embedding_is_deterministic_and_replaces_what_was_there(tflite: bytes) -> None:
    once = metadata.embed_tflite(tflite, SAID)
    assert once == metadata.embed_tflite(tflite, SAID)
    other = Essentials("fp32", None, SAID.inputs, SAID.outputs)
    assert metadata.read_tflite(metadata.embed_tflite(once, other)) == other
    assert metadata.embed_tflite(metadata.embed_tflite(once, other), SAID) == once


def test_weights_lie_at_multiples_of_16_bytes(tflite: bytes) -> None:
    from ai_edge_litert import schema_py_generated as schema

    payload = metadata.embed_tflite(tflite, SAID)
    model = schema.Model.GetRootAs(payload, 0)
    start = np.frombuffer(payload, np.uint8).__array_interface__["data"][0]
    filled = [model.Buffers(n).DataAsNumpy() for n in range(model.BuffersLength()) if model.Buffers(n).DataLength()]
    assert len(filled) > 2
    assert {(data.__array_interface__["data"][0] - start) % 16 for data in filled} == {0}


def test_it_comes_back_out_of_an_onnx_file(tmp_path: Path) -> None:
    path = onnx_file(tmp_path)
    assert metadata.read(path) is None
    graph = onnx.load(path)
    graph.metadata_props.add(key="author", value="somebody")
    once = metadata.embed_onnx(graph, SAID)
    assert metadata.read_onnx(once) == SAID
    assert {entry.key for entry in once.metadata_props} == {"author", metadata.NAME}
    assert metadata.embed_onnx(once, SAID).SerializeToString() == once.SerializeToString()


def test_a_file_that_lost_its_card_still_knows_its_pictures(tmp_path: Path) -> None:
    path = onnx_file(tmp_path)
    said = Essentials("fp32", None, (("image", PRESETS["0..1"]),), (("styled", PRESETS["0..1"]),))
    path.write_bytes(metadata.embed_onnx(onnx.load(path), said).SerializeToString())
    assert not card_path(path).exists()
    found = runtime.as_run(path)(PICTURES)
    assert np.allclose(found, np.minimum(PICTURES[..., ::-1] + 0.25 * 255, 255), atol=1e-3)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"version": 1}', SAID.to_text().replace("103.939", '"x"'), "[" * 100_000])
def test_a_damaged_text_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ArtifactError, match="metadata is not understood"):
        Essentials.from_text(text)


def test_another_version_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="metadata has version 9, this program reads 1"):
        Essentials.from_text(SAID.to_text().replace('"version": 1', '"version": 9'))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    """Any byte changed, or cut off: an answer or an error of ours, nothing else."""
    payload = bytearray(embedded())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(payload)), st.integers(0, len(payload))))
    try:
        metadata.read_tflite(bytes(payload[:cut]))
    except ArtifactError:
        pass


def test_an_onnx_file_of_ours_is_exported_at_its_own_size_and_format(tmp_path: Path) -> None:
    path = onnx_file(tmp_path)
    said = Essentials("fp32", None, (("image", PRESETS["0..1"]),), (("styled", PRESETS["0..1"]),), None, (40, 36))
    path.write_bytes(metadata.embed_onnx(onnx.load(path), said).SerializeToString())
    source = _source(Talk(), path, NetOptions(), (), True)
    assert source.sizes == ((40, 36),)
    assert source.formats == (PRESETS["0..1"],)
    assert _source(Talk(), path, NetOptions(), ((64, 48),), True).sizes == ((64, 48),)
