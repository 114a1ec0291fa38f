"""What a file says of itself: it comes back out, the file computes the same, and damage is an error of ours."""

from __future__ import annotations

import functools
from dataclasses import replace
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
from export import flatbuffer, metadata, runtime
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


class Read:
    """A table of a flatbuffer, read by the numbers of its fields."""

    def __init__(self, payload: bytes, place: int) -> None:
        from flatbuffers import table

        self._payload, self._table = payload, table.Table(payload, place)

    @classmethod
    def root(cls, payload: bytes) -> Read:
        return cls(payload, int.from_bytes(payload[:4], "little"))

    def _place(self, field: int) -> int:
        offset = self._table.Offset(4 + 2 * field)
        return offset and int(self._table.Pos + offset)

    def text(self, field: int) -> str:
        return str(self._table.String(self._place(field)).decode())

    def byte(self, field: int) -> int:
        return self._payload[self._place(field)] if self._place(field) else 0

    def table(self, field: int) -> Read:
        return Read(self._payload, self._table.Indirect(self._place(field)))

    def tables(self, field: int) -> list[Read]:
        offset = self._place(field) - self._table.Pos
        if offset < 0:
            return []
        start = self._table.Vector(offset)
        return [Read(self._payload, self._table.Indirect(start + 4 * n)) for n in range(self._table.VectorLen(offset))]

    def floats(self, field: int) -> list[float]:
        offset = self._place(field) - self._table.Pos
        return np.frombuffer(self._payload, np.float32, self._table.VectorLen(offset), self._table.Vector(offset)).tolist()


def support_metadata(payload: bytes) -> bytes:
    """What lies in the file for Android's tools."""
    model = flatbuffer.unpack(payload)
    found = [entry.buffer for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    assert len(found) == 1
    return bytes(model.buffers[found[0]].data)


def test_android_tools_read_the_normalisation(tflite: bytes) -> None:
    """Fields by their numbers in the TFLite Support library's schema; its own reader was shown a file of ours once."""
    said = replace(SAID, inputs=(("x", PRESETS["imagenet"]),), outputs=(("y", PRESETS["-1..1"]),))
    raw = support_metadata(metadata.embed_tflite(tflite, said))
    assert raw[4:8] == b"M001"
    model = Read.root(raw)
    assert (model.text(1), model.text(7)) == ("mobile-compress, int8", "1.0.0")
    (graph,) = model.tables(3)
    (taken,), (given,) = graph.tables(2), graph.tables(3)
    assert (taken.text(0), given.text(0)) == ("x", "y")
    for tensor in (taken, given):
        assert (tensor.table(3).byte(0), tensor.table(3).table(1).byte(0)) == (2, 1)  # an image, RGB
    (unit,) = taken.tables(4)
    form = PRESETS["imagenet"]
    assert unit.byte(0) == 1
    assert unit.table(1).floats(0) == pytest.approx(form.mean)
    assert unit.table(1).floats(1) == pytest.approx(form.std)
    assert taken.table(5).floats(0) == pytest.approx(form.encode(np.full(3, 255)).tolist())
    assert taken.table(5).floats(1) == pytest.approx(form.encode(np.zeros(3)).tolist())
    assert given.tables(4) == []  # how pixels come out cannot be said
    assert (given.table(5).floats(0), given.table(5).floats(1)) == ([1, 1, 1], [-1, -1, -1])


def test_android_tools_are_told_nothing_wrong(tflite: bytes) -> None:
    """BGR is no colour that they know; what is no picture has its name only."""
    said = replace(SAID, inputs=(("x", PRESETS["caffe"]),), outputs=(("y", None),))
    (graph,) = Read.root(support_metadata(metadata.embed_tflite(tflite, said))).tables(3)
    (taken,), (given,) = graph.tables(2), graph.tables(3)
    assert taken.table(3).table(1).byte(0) == 0
    assert taken.tables(4)[0].table(1).floats(0) == pytest.approx(PRESETS["caffe"].mean)
    assert given.text(0) == "y"
    assert given._place(3) == given._place(5) == 0


def test_a_graph_that_lies_is_an_error_of_ours(tflite: bytes) -> None:
    model = flatbuffer.unpack(tflite)
    model.signatureDefs = None
    assert [len(names) for names in flatbuffer.port_names(model)] == [1, 1]
    model.subgraphs[0].inputs = [99]
    with pytest.raises(ArtifactError, match="damaged: IndexError"):
        metadata.embed_tflite(flatbuffer.pack(model), SAID)


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
