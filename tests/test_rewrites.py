"""Each rewrite is proved in ONNX Runtime on graphs of its own: where only data moves the difference is exactly zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ParityError
from export import parity, rewrites, runtime

SHAPE = (1, 5, 12, 9)  # no two sizes equal


def graph(nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], shape: Sequence[Any] = SHAPE) -> onnx.ModelProto:
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, shape: Sequence[int] = SHAPE, offset: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal(shape, np.float32) + np.float32(offset)
    return runtime.load_graph(model.SerializeToString()).run_tensors([x])[0]


def rewrite(model: onnx.ModelProto, target: str = "cpu", shape: Sequence[int] = SHAPE) -> tuple[onnx.ModelProto, dict[str, int]]:
    return rewrites.rewrite(model, target, lambda a, b: parity.relative([[run(a, shape)]], [[run(b, shape)]]))


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def padded(mode: str, pads: Sequence[int], shape: Sequence[Any] = SHAPE) -> onnx.ModelProto:
    return graph([helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)], {"pads": np.array(pads, np.int64)}, shape)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize(
    "pads",
    [
        (0, 0, 1, 1, 0, 0, 1, 1),
        (0, 0, 4, 4, 0, 0, 4, 4),
        (0, 0, 7, 0, 0, 0, 2, 5),  # uneven, and one side of an axis without any
        (0, 0, 0, 3, 0, 0, 0, 0),  # one side of one axis
        (0, 2, 0, 0, 0, 1, 0, 0),  # channels
        (0, 0, 11, 8, 0, 0, 11, 8),  # the most that reflection allows
    ],
)
def test_pads_become_slices_and_small_concats_bit_for_bit(mode: str, pads: Sequence[int]) -> None:
    before = padded(mode, pads)
    after, applied = rewrite(before)
    assert list(applied.values()) == [1]
    assert np.array_equal(run(before), run(after))
    assert set(operators(after)) == {"Slice", "Concat"}
    assert max(len(node.input) for node in after.graph.node if node.op_type == "Concat") <= 4


def test_pads_with_named_and_negative_axes_are_understood() -> None:
    nodes = [helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode="reflect")]
    before = graph(nodes, {"pads": np.array([2, 1, 3, 4], np.int64), "axes": np.array([-1, 2], np.int64)})
    after, applied = rewrite(before)
    assert applied == {"reflect-pad": 1}
    assert np.array_equal(run(before), run(after))


@pytest.mark.parametrize(
    "model",
    [
        padded("constant", (0, 0, 1, 1, 0, 0, 1, 1)),
        padded("reflect", (0, 0, 1, 1, 0, 0, -1, 1)),
        padded("reflect", (0, 0, 1, 1, 0, 0, 1, 1), (1, 5, "height", 9)),
    ],
    ids=["zeros", "crop", "free"],
)
def test_what_is_no_known_border_stays(model: onnx.ModelProto) -> None:
    assert rewrite(model)[1] == {}


def test_a_gpu_keeps_its_mirror_pad() -> None:
    assert rewrite(padded("reflect", (0, 0, 1, 1, 0, 0, 1, 1)), "gpu")[1] == {}
    assert rewrite(padded("edge", (0, 0, 1, 1, 0, 0, 1, 1)), "gpu")[1] == {"replicate-pad": 1}


def upsampled(scale: int, kernel: int, border: str, pad: int | None = None, **changes: Any) -> onnx.ModelProto:
    """Resize -> (Pad) -> Conv, 5 channels to 7. `changes`: attributes of the Resize (`resize`) or the Conv (`conv`)."""
    random, pad = np.random.default_rng(1), kernel // 2 if pad is None else pad
    conv = {"kernel_shape": [kernel, kernel]} | changes.get("conv", {})
    rule = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} | changes.get(
        "resize", {}
    )
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["up"], **rule)]
    if border == "zeros in the convolution":
        conv["pads"] = [pad] * 4
        nodes.append(helper.make_node("Conv", ["up", "weight"], ["y"], **conv))
    else:
        nodes.append(helper.make_node("Pad", ["up", "pads"], ["bordered"], mode=border))
        nodes.append(helper.make_node("Conv", ["bordered", "weight", "bias"], ["y"], **conv))
    weights = {
        "scales": np.array([1, 1, scale, scale], np.float32),
        "weight": random.standard_normal((7, 5, kernel, kernel), np.float32),
        "bias": random.standard_normal(7, np.float32),
        "pads": np.array([0, 0, pad, pad, 0, 0, pad, pad], np.int64),
    }
    return graph(nodes, weights)


@pytest.mark.parametrize("border", ["zeros in the convolution", "constant", "edge", "reflect"])
@pytest.mark.parametrize(("scale", "kernel"), [(2, 3), (3, 3), (3, 5), (4, 7), (2, 5)])
def test_a_convolution_after_upsampling_runs_at_the_low_resolution(scale: int, kernel: int, border: str) -> None:
    before = upsampled(scale, kernel, border)
    after, applied = rewrite(before)
    if border == "reflect" and kernel // 2 > scale - 1:
        assert "subpixel-convolution" not in applied  # there reflection is more than replication
        return
    assert applied["subpixel-convolution"] == 1
    assert "Resize" not in operators(after)
    a, b = run(before), run(after)
    assert a.shape == b.shape == (1, 7, 12 * scale, 9 * scale)
    assert np.abs(a - b).max() < 2e-6 * np.ptp(a)


def test_a_pointwise_convolution_after_upsampling_runs_before_it() -> None:
    before = upsampled(2, 1, "zeros in the convolution")
    after, applied = rewrite(before)
    assert applied == {"subpixel-convolution": 1}
    assert np.abs(run(before) - run(after)).max() < 1e-5


def test_half_pixel_nearest_is_the_same_repetition() -> None:
    rule = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_floor"}
    before = upsampled(2, 3, "edge", resize=rule)
    after, applied = rewrite(before)
    assert applied["subpixel-convolution"] == 1
    assert np.abs(run(before) - run(after)).max() < 1e-4


@pytest.mark.parametrize(
    "model",
    [
        upsampled(2, 3, "edge", resize={"nearest_mode": "ceil"}),
        upsampled(2, 3, "edge", resize={"mode": "linear", "coordinate_transformation_mode": "half_pixel"}),
        upsampled(2, 3, "edge", conv={"strides": [2, 2]}),
        upsampled(2, 3, "edge", conv={"dilations": [2, 2]}),
        upsampled(2, 3, "edge", pad=2),
        upsampled(2, 3, "zeros in the convolution", pad=0),
    ],
    ids=["ceil", "linear", "strided", "dilated", "wide pad", "no pad"],
)
def test_what_is_no_plain_convolution_of_a_repeated_picture_stays(model: onnx.ModelProto) -> None:
    assert "subpixel-convolution" not in rewrite(model)[1]


def test_an_upsampled_picture_that_is_also_read_elsewhere_stays() -> None:
    model = upsampled(2, 3, "edge")
    model.graph.output.append(helper.make_tensor_value_info("up", TensorProto.FLOAT, None))
    assert "subpixel-convolution" not in rewrite(model)[1]


def normed(shape: Sequence[int] = SHAPE) -> onnx.ModelProto:
    random = np.random.default_rng(2)
    nodes = [helper.make_node("InstanceNormalization", ["x", "scale", "shift"], ["y"], epsilon=1e-4)]
    weights = {"scale": random.standard_normal(shape[1], np.float32), "shift": random.standard_normal(shape[1], np.float32)}
    return graph(nodes, weights, shape)


def test_a_norm_is_spelled_out_without_squared_difference() -> None:
    before = normed()
    after, applied = rewrite(before)
    assert applied == {"instance-norm": 1}
    assert operators(after) == Counter({"ReduceMean": 2, "Mul": 3, "Add": 2, "Sub": 1, "Sqrt": 1, "Reciprocal": 1})
    assert np.abs(run(before) - run(after)).max() < 1e-5


def test_a_norm_does_not_cancel_on_bright_pictures() -> None:
    """Around 240 with a spread of 1: E[x^2] - E[x]^2 would lose the variance in float32."""
    before = normed()
    x = np.random.default_rng(3).standard_normal(SHAPE, np.float32) + np.float32(240)
    exact = x.astype(np.float64)
    mean, variance = exact.mean((2, 3), keepdims=True), exact.var((2, 3), keepdims=True)
    scale, shift = (numpy_helper.to_array(tensor)[:, None, None].astype(np.float64) for tensor in before.graph.initializer)
    wanted = (exact - mean) / np.sqrt(variance + 1e-4) * scale + shift
    assert np.abs(run(rewrite(before)[0], offset=240) - wanted).max() < 1e-3


def test_norms_of_other_ranks_stay() -> None:
    assert rewrite(normed((1, 5, 12)), shape=(1, 5, 12))[1] == {}


def test_the_output_keeps_its_name_and_unused_weights_go() -> None:
    after, _ = rewrite(upsampled(2, 3, "reflect"))
    assert [value.name for value in after.graph.output] == ["y"]
    assert not {"scales", "weight", "pads"} & {tensor.name for tensor in after.graph.initializer}


def test_rewriting_twice_gives_the_same_bytes() -> None:
    first, second = (rewrite(upsampled(2, 3, "reflect"))[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_rewrite_that_moves_the_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(found: Any) -> int:
        found[0].attributes["mode"].value  # noqa: B018  # the pad is there
        found[0].attributes.pop("mode")  # a reflection becomes zeros
        return 1

    monkeypatch.setattr(
        rewrites, "REWRITES", (replace(next(row for row in rewrites.REWRITES if row.name == "reflect-pad"), apply=spoil),)
    )
    with pytest.raises(
        ParityError, match=r"the rewrite reflect-pad moved the output by .* of its range \(limit 0\.0e\+00\)"
    ) as error:
        rewrite(padded("reflect", (0, 0, 1, 1, 0, 0, 1, 1)))
    assert error.value.exit_code == 1


def test_every_target_has_rewrites_and_no_row_names_another() -> None:
    assert {target for row in rewrites.REWRITES for target in row.targets} == set(rewrites.TARGETS)
    assert len({row.name for row in rewrites.REWRITES}) == len(rewrites.REWRITES)


@pytest.mark.slow
def test_a_real_network_is_rewritten_whole(data: Path) -> None:
    import torch

    from compress.networks.load import open_network
    from export import onnx as graphs
    from export.source import graph_run

    module = open_network(data / "weights" / "johnson" / "candy.pth").module
    free = graphs.from_module(module, [torch.rand(1, 3, 64, 80)], free=True)
    before = graphs.specialised(free, {"x": (1, 3, 48, 80)})
    sample = {"x": np.random.default_rng(0).random((1, 3, 48, 80), np.float32) * np.float32(255)}
    after, applied = rewrites.rewrite(before, "cpu", lambda a, b: parity.relative([graph_run(a)(sample)], [graph_run(b)(sample)]))
    assert applied == {"subpixel-convolution": 2, "reflect-pad": 14, "replicate-pad": 2, "instance-norm": 15}
    assert not {"Pad", "Resize", "InstanceNormalization"} & set(operators(after))
