"""Quantising layer by layer: ranges, what is left alone, weights in eight bits; on small files made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress.errors import ArtifactError
from export import child, flatbuffer, metadata, mixed, quantise, runtime
from export.metadata import Essentials

SHAPE = (1, 12, 10, 3)


def tflite(function: Callable[..., object]) -> bytes:
    import tensorflow as tf

    owner = tf.Module()
    owner.run = tf.function(lambda x: {"y": function(tf, x)}, input_signature=[tf.TensorSpec(SHAPE, tf.float32, "x")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([owner.run.get_concrete_function()], owner)
    payload: bytes = converter.convert()
    return payload


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.3


def network(tf, x):  # type: ignore[no-untyped-def]
    """Conv to 5, depthwise, a norm by hand, conv to 7, conv to 2; the third convolution has a channel that is all zero."""
    x = tf.nn.relu(tf.nn.conv2d(x, weight(3, 3, 3, 5), 1, "SAME"))
    x = tf.nn.depthwise_conv2d(x, weight(3, 3, 5, 1), (1, 1, 1, 1), "SAME")
    x = x * 0.5 + tf.reduce_mean(x, (1, 2), keepdims=True)
    third = weight(1, 1, 5, 7)
    third[..., 4] = 0
    x = tf.nn.relu(tf.nn.conv2d(x, third, 1, "SAME"))
    x = tf.pad(x, ((0, 0), (2, 0), (0, 2), (0, 0)))
    return tf.nn.conv2d(x, weight(3, 3, 7, 6), 1, "VALID")


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantise") / mixed.FLOAT_FILE
    path.write_bytes(tflite(network))
    return path


def samples(count: int = 3) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"x": random.random(SHAPE, np.float32) * (index + 1)} for index in range(count)]


def outputs(path: Path) -> list[np.ndarray]:
    runner = runtime.load(path)
    return [runner.run_tensors([sample["x"]])[0] for sample in samples()]


def far(path: Path, other: Path) -> float:
    a, b = outputs(path), outputs(other)
    return max(float(np.abs(x - y).max() / np.ptp(x)) for x, y in zip(a, b, strict=True))


def test_layers_are_the_weighted_operators_with_the_pads_that_feed_them(float_file: Path) -> None:
    found = quantise.layers(float_file.read_bytes())
    assert [(len(layer.feeds), layer.narrow) for layer in found] == [(0, True), (0, False), (0, False), (1, False)]
    assert len({node for layer in found for node in layer.nodes}) == 5


def test_ranges_are_those_of_the_widest_sample(float_file: Path) -> None:
    seen = list(runtime.watch(float_file, samples()))
    found = quantise.ranges(seen)
    assert max(high for low, high in found.values()) == max(float(values.max()) for one in seen for values in one.values())
    name = next(name for name, values in seen[0].items() if np.array_equal(values, samples()[0]["x"]))
    assert found[name] == (0.0, float(samples()[2]["x"].max()))  # zero is always inside: it is what pads
    shorter = quantise.ranges(seen, 90)
    assert all(shorter[key][0] >= low and shorter[key][1] <= high for key, (low, high) in found.items())


def test_a_percentile_cuts_outliers_off() -> None:
    values = np.linspace(-1, 1, 100_001, dtype=np.float32)
    values[7] = 1e6
    assert quantise.ranges([{"a": values}])["a"][1] == 1e6
    low, high = quantise.ranges([{"a": values}], 99)["a"]
    assert (low, high) == (pytest.approx(-0.98, abs=0.01), pytest.approx(0.98, abs=0.01))


def test_what_is_left_alone_stays_float(float_file: Path, tmp_path: Path) -> None:
    """All eight-bit is far, all left alone is the file itself, one more layer left alone is between."""
    payload = float_file.read_bytes()
    known = quantise.ranges(runtime.watch(float_file, samples()))
    found = quantise.layers(payload)
    gaps = []
    for count in (0, 2, len(found)):
        path = tmp_path / f"{count}.tflite"
        left = [node for layer in found[:count] for node in layer.nodes]
        path.write_bytes(quantise.static(payload, known, left, quantise.FLOAT_OPS if count else ()))
        gaps.append(far(float_file, path))
    assert 0.5 > gaps[0] > gaps[1] > gaps[2] == 0
    assert runtime.load(path).inputs == runtime.load(float_file).inputs


def test_weights_in_eight_bits_have_a_scale_a_channel(float_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "dynamic.tflite"
    path.write_bytes(quantise.dynamic_weights(float_file.read_bytes()))
    assert 0 < far(float_file, path) < 0.02
    schema, model = flatbuffer.schema(), flatbuffer.unpack(path.read_bytes())
    tensors = model.subgraphs[0].tensors
    weights = {tuple(t.shape): t for t in tensors if t.type == schema.TensorType.INT8}
    assert {shape: len(t.quantization.scale) for shape, t in weights.items()} == {
        (5, 3, 3, 3): 5,
        (1, 3, 3, 5): 5,
        (7, 1, 1, 5): 7,
        (6, 3, 3, 7): 6,
    }
    zero = weights[7, 1, 1, 5]
    stored = np.frombuffer(bytes(model.buffers[zero.buffer].data), np.int8).reshape(7, 5)
    assert (stored[4] == 0).all()
    assert np.isfinite(zero.quantization.scale).all()
    expected = weight(1, 1, 5, 7)[0, 0].T
    expected[4] = 0
    assert np.abs(stored * np.asarray(zero.quantization.scale)[:, None] - expected).max() <= max(zero.quantization.scale) / 2
    assert path.stat().st_size < float_file.stat().st_size


def test_it_is_all_deterministic(float_file: Path) -> None:
    payload = float_file.read_bytes()
    known = quantise.ranges(runtime.watch(float_file, samples()))
    once, twice = (quantise.dynamic_weights(quantise.static(payload, known, (), quantise.FLOAT_OPS)) for _ in range(2))
    assert once == twice


def test_what_the_quantiser_refuses_is_said(float_file: Path) -> None:
    with pytest.raises(ArtifactError, match="no TFLite file"):
        quantise.static(b"nothing of the kind" * 9, {})
    with pytest.raises(ValueError, match="no layer could be made eight-bit"):
        quantise.static(float_file.read_bytes(), {})


def search(folder: Path, float_file: Path, least_db: float) -> mixed.Search:
    import json

    said = Essentials("fp32", SHAPE[1:3], (("x", None),), (("y", None),))
    (folder / mixed.FLOAT_FILE).write_bytes(metadata.embed_tflite(float_file.read_bytes(), said))
    known = quantise.ranges(runtime.watch(float_file, samples()))
    (folder / quantise.RANGES).write_text(json.dumps(known))
    return mixed.search(folder, samples(), least_db, 300)


def test_the_search_stops_at_the_first_mix_that_is_good_enough(float_file: Path, tmp_path: Path) -> None:
    easy = search(tmp_path, float_file, 5)
    assert easy.chosen.dynamic == 1  # the layer that reads pixels
    assert easy.dynamic == (quantise.layers(float_file.read_bytes())[0].name,)
    best = max(point.db for point in easy.points)
    hard = search(tmp_path, float_file, best - 0.01)
    assert hard.chosen.dynamic > 1
    assert hard.chosen.db >= best - 0.01
    assert set(hard.order) == set(easy.order)
    with pytest.raises(child.ChildError, match=r"no mix of layers reaches 99 dB: the best has \d+\.\d dB"):
        search(tmp_path, float_file, 99)
