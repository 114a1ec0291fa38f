"""The image format folded into a graph: held in ONNX Runtime against encoding, running and decoding by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.image_format import PRESETS, ImageFormat
from export import runtime
from export.rewrites import pixels

SIZE = (9, 14)
ODD = ImageFormat("BGR", (10.0, 120.0, 77.0), (20.0, 55.0, 130.0))


def weight(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.2


def model(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    shape = [1, 3, *SIZE]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("styled", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


def plain(first: list[onnx.NodeProto], last: str = "Conv", **constants: np.ndarray) -> onnx.ModelProto:
    """image -> `first` (which makes `features`, 5 channels) -> Relu -> a convolution to 3 channels, or one and a Tanh."""
    nodes = [*first, helper.make_node("Relu", ["features"], ["active"])]
    known = {"w0": weight(5, 3, 3, 3), "b0": weight(5, seed=1), "w1": weight(3, 5, 1, 1, seed=2), **constants}
    if last == "Conv":
        nodes.append(helper.make_node("Conv", ["active", "w1"], ["styled"]))
    else:
        nodes += [helper.make_node("Conv", ["active", "w1"], ["flat"]), helper.make_node("Tanh", ["flat"], ["styled"])]
    return model(nodes, known)


def conv(source: str = "image", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w0", "b0"], ["features"], **attributes)


def pad(mode: str) -> onnx.NodeProto:
    return helper.make_node("Pad", ["image", "pads"], ["padded"], mode=mode)


PADS = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
CASES = {
    "reflect pad": (plain([pad("reflect"), conv("padded")], **PADS), 0),
    "replicate pad": (plain([pad("edge"), conv("padded")], **PADS), 0),
    "zero pad in the convolution": (plain([conv(pads=[1, 1, 1, 1])]), 1),
    "zero pad before it": (plain([pad("constant"), conv("padded")], **PADS), 1),
    "same": (plain([conv(auto_pad="SAME_UPPER")]), 1),
    "no convolution at the end": (plain([conv(pads=[1, 1, 1, 1])], last="Tanh"), 1),
    "no convolution at the start": (
        plain([helper.make_node("Sigmoid", ["image"], ["bent"]), conv("bent", pads=[1, 1, 1, 1])]),
        0,
    ),
    "a grouped one at the start": (
        model(
            [
                helper.make_node("Conv", ["image", "g"], ["grouped"], group=3, pads=[1, 1, 1, 1]),
                helper.make_node("Conv", ["grouped", "w"], ["styled"]),
            ],
            {"g": weight(3, 1, 3, 3), "w": weight(3, 3, 1, 1, seed=4)},
        ),
        0,
    ),
    "two readers of the picture": (
        model(
            [
                helper.make_node("Conv", ["image", "w", "b"], ["change"], pads=[1, 1, 1, 1]),
                helper.make_node("Add", ["image", "change"], ["styled"]),
            ],
            {"w": weight(3, 3, 3, 3), "b": weight(3)},
        ),
        0,
    ),
    "an output that is read again": (
        model(
            [
                helper.make_node("Conv", ["image", "w"], ["one"], pads=[1, 1, 1, 1]),
                helper.make_node("Conv", ["one", "v"], ["two"]),
                helper.make_node("Mul", ["one", "two"], ["styled"]),
            ],
            {"w": weight(3, 3, 3, 3), "v": weight(3, 3, 1, 1, seed=3)},
        ),
        1,
    ),
    "a pad with a colour": (
        plain(
            [helper.make_node("Pad", ["image", "pads", "colour"], ["padded"]), conv("padded")],
            colour=np.array(0.7, np.float32),
            **PADS,
        ),
        0,
    ),
}


def run(graph: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return runtime.load_graph(graph.SerializeToString()).run_tensors([x])[0]


def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (1, *SIZE, 3)).astype(np.float32)


def nchw(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("form", [PRESETS["imagenet"], PRESETS["caffe"], PRESETS["-1..1"], ODD], ids=lambda f: f.name)
@pytest.mark.parametrize("case", CASES)
def test_pixels_in_and_out_are_the_same_network(case: str, form: ImageFormat) -> None:
    graph, subtractions = CASES[case]
    pixels_in = picture()
    wanted = form.decode(run(graph, nchw(form.encode(pixels_in))).transpose(0, 2, 3, 1))
    assert np.ptp(wanted) > 5
    folded = pixels.fold(graph, {"image": form}, {"styled": form})
    found = run(folded, nchw(pixels_in)).transpose(0, 2, 3, 1)
    assert np.abs(found - wanted).max() < 2e-3
    kinds = Counter(node.op_type for node in folded.graph.node) - Counter(node.op_type for node in graph.graph.node)
    assert kinds["Sub"] == subtractions
    onnx.checker.check_model(folded, full_check=True)


def test_zero_mean_needs_no_subtraction() -> None:
    graph, _ = CASES["zero pad in the convolution"]
    folded = pixels.fold(graph, {"image": PRESETS["0..1"]}, {"styled": PRESETS["0..1"]})
    assert [node.op_type for node in folded.graph.node] == ["Conv", "Relu", "Conv", "Clip"]


def test_bytes_are_rounded_to_the_nearest_pixel() -> None:
    graph, _ = CASES["reflect pad"]
    form = PRESETS["imagenet"]
    folded = pixels.fold(graph, {"image": form}, {"styled": form})
    exact = run(folded, nchw(picture()))
    whole = pixels.as_bytes(folded, frozenset({"image", "styled"}))
    found = run(whole, nchw(picture()).astype(np.uint8))
    assert found.dtype == np.uint8
    assert np.abs(found - exact).max() <= 0.5 + 1e-3
    assert (exact.min(), exact.max()) == (0, 255) or np.ptp(exact) > 20


def test_what_is_too_dark_or_too_bright_is_clamped() -> None:
    graph = model(
        [helper.make_node("Conv", ["image", "w", "b"], ["styled"])],
        {"w": np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1) * 3, "b": np.full(3, -1, np.float32)},
    )
    form = PRESETS["0..1"]
    found = run(pixels.fold(graph, {"image": form}, {"styled": form}), nchw(picture()))
    assert (found.min(), found.max()) == (0, 255)
    wanted = np.clip(3 * nchw(picture()) - 255, 0, 255)
    assert np.allclose(found, wanted, atol=1e-2)


def test_the_model_given_is_left_as_it_is() -> None:
    graph, _ = CASES["reflect pad"]
    before = graph.SerializeToString()
    pixels.as_bytes(pixels.fold(graph, {"image": ODD}, {"styled": ODD}), frozenset({"image"}))
    assert graph.SerializeToString() == before
