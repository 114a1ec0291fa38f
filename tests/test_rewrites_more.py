"""Rewrites of activations, shuffles and group norms: proved in ONNX Runtime, and where they must keep their hands off."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.test_rewrites import SHAPE, graph, operators, rewrite, run


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) * 0.3


def same(model, name: str, places: int = 1, tolerance: float = 1e-5):  # type: ignore[no-untyped-def]
    done, applied = rewrite(model)
    assert applied.get(name, 0) == places
    assert np.abs(run(done) - run(model)).max() <= tolerance * np.ptp(run(model))
    return operators(done)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("HardSigmoid", ["x"], ["y"]),
        helper.make_node("HardSigmoid", ["x"], ["y"], alpha=1 / 6, beta=0.5),
        helper.make_node("HardSigmoid", ["x"], ["y"], alpha=0.7, beta=0.0),
        helper.make_node("Clip", ["x", "zero", "one"], ["y"]),
    ],
    ids=["default", "torch", "steep", "clip"],
)
def test_what_saturates_at_one_saturates_at_six(node) -> None:  # type: ignore[no-untyped-def]
    constants = {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    kinds = same(graph([node], constants if node.op_type == "Clip" else {}), "saturation")
    assert kinds["HardSigmoid"] == 0
    assert kinds["Clip"] == 1


def test_other_clips_stay() -> None:
    node = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    model = graph([node], {"low": np.array(0, np.float32), "high": np.array(2, np.float32)})
    assert rewrite(model)[1] == {}


@pytest.mark.parametrize("between", [None, "Relu", "LeakyRelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_pixel_shuffle_takes_the_order_of_tflite(between: str | None, bias: bool) -> None:
    constants = {"w": weight(2 * 9, 5, 3, 3)} | ({"b": weight(18)} if bias else {})
    nodes = [helper.make_node("Conv", ["x", *constants], ["wide"], pads=[1, 1, 1, 1])]
    if between:
        nodes.append(helper.make_node(between, ["wide"], ["active"]))
    source = "active" if between else "wide"
    nodes.append(helper.make_node("DepthToSpace", [source], ["y"], blocksize=3, mode="CRD"))
    model = graph(nodes, constants)
    done, applied = rewrite(model)
    assert applied == {"pixel-shuffle": 1}
    assert np.allclose(run(done), run(model), atol=1e-5)
    shuffle = next(node for node in done.graph.node if node.op_type == "DepthToSpace")
    assert {a.name: a.s for a in shuffle.attribute}["mode"] == b"DCR"


def test_a_shuffle_stays_whose_channels_are_read_by_others_or_have_a_slope_each() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["wide"], pads=[1, 1, 1, 1])
    shuffle = helper.make_node("DepthToSpace", ["z"], ["y"], blocksize=2, mode="CRD")
    constants = {"w": weight(12, 5, 3, 3), "slope": np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(12, 1, 1)}
    sloped = [conv, helper.make_node("PRelu", ["wide", "slope"], ["z"]), shuffle]
    read_twice = [
        conv,
        helper.make_node("Relu", ["wide"], ["r"]),
        helper.make_node("Mul", ["r", "wide"], ["z"]),
        shuffle,
    ]
    for nodes in (sloped, read_twice):
        assert rewrite(graph(nodes, constants))[1] == {}


def group_norm(groups: int, back: tuple[int, ...] = (1, 6, 12, 9), own: bool = False):  # type: ignore[no-untyped-def]
    """1x1 convolution to 6 channels -> GroupNorm as torch exports it, with scale and shift of each channel behind it."""
    values = weight(2, groups) + 1 if own else np.stack([np.ones(groups, np.float32), np.zeros(groups, np.float32)])
    constants = {
        "w": weight(6, SHAPE[1], 1, 1),
        "split": np.array([1, groups, -1], np.int64),
        "back": np.array(back, np.int64),
        "one": values[0].astype(np.float32),
        "zero": values[1].astype(np.float32),
        "gamma": weight(6, 1, 1),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["six"]),
        helper.make_node("Reshape", ["six", "split"], ["grouped"]),
        helper.make_node("InstanceNormalization", ["grouped", "one", "zero"], ["normed"], epsilon=1e-3),
        helper.make_node("Reshape", ["normed", "back"], ["whole"]),
        helper.make_node("Mul", ["whole", "gamma"], ["y"]),
    ]
    return graph(nodes, constants)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("own", [True, False])
def test_a_group_norm_mixes_means_only(groups: int, own: bool) -> None:
    kinds = same(group_norm(groups, own=own), "group-norm", tolerance=1e-5)
    assert kinds["Reshape"] == kinds["InstanceNormalization"] == 0
    assert kinds["Conv"] == 3


def test_a_reshape_to_something_else_is_no_group_norm() -> None:
    model = group_norm(2, back=(1, 6, 9, 12))
    assert "group-norm" not in rewrite(model)[1]


@pytest.mark.parametrize("shape", [(5, 1, 1), (9,), (12, 1), (1, 1, 1)])
def test_constants_get_all_their_axes(shape: tuple[int, ...]) -> None:
    model = graph([helper.make_node("Mul", ["c", "x"], ["y"])], {"c": weight(*shape)})
    done, applied = rewrite(model)
    assert applied == {"full-rank-constants": 1}
    assert [len(tensor.dims) for tensor in done.graph.initializer if tensor.name in done.graph.node[0].input] == [4]
    assert np.array_equal(run(done), run(model))
    assert rewrite(done)[1] == {}
