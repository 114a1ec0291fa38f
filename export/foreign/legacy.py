"""Operators that were removed from the standard, or that meant something else in its older versions, in today's words.

onnx's own converter knows most operators' history. Those below it drops, refuses, or (Upsample and Resize with mode linear)
silently changes: it leaves out that they used to align pixels `asymmetric`. They are parked in a domain of their own while the
rest is raised, and come back in the words of opset 18. What cannot be said in them stays parked, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from export.rewrites.draft import Draft, constant

PARKED = "removed.from.onnx"  # the domain


@dataclass(frozen=True)
class Legacy:
    """`rebuild(draft, node)`: the same in opset 18, or None when it cannot be said. `below`: parked in older opsets."""

    rebuild: Callable[[Draft, ir.Node], ir.Value | None]
    below: int = 1 << 30


def park(model: ir.Model, opset: int, also: frozenset[str] = frozenset()) -> int:
    """Put every node that the converter must not touch into the parking domain, operators in `also` too; return how many."""
    parked = 0
    for node in model.graph:
        row = LEGACY.get(node.op_type)
        if node.domain in ("", "ai.onnx") and (node.op_type in also or (row is not None and opset < row.below)):
            node.domain = PARKED
            parked += 1
        if opset < 7:
            node.attributes.pop("consumed_inputs", None)
    if parked:
        model.opset_imports[PARKED] = 1
    return parked


def unpark(model: ir.Model) -> None:
    """Say every parked node in words of today; one that nobody has words for returns as it is, if it is standard now."""
    for node in list(model.graph):
        if node.domain != PARKED:
            continue
        row = LEGACY.get(node.op_type)
        if row is None:
            node.domain = ""
            continue
        draft = Draft(model.graph, node)
        try:
            made = row.rebuild(draft, node)
        except (TypeError, ValueError, KeyError, IndexError):
            continue  # its attributes are not what the operator asks for: it stays parked, and is refused by name
        if made is not None:
            draft.replace(made)
    if not any(node.domain == PARKED for node in model.graph):
        model.opset_imports.pop(PARKED, None)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return float(attribute.value) if attribute is not None else default


def _text(node: ir.Node, name: str, default: str) -> str:
    attribute = node.attributes.get(name)
    return attribute.as_string() if attribute is not None else default


def _list(node: ir.Node, name: str) -> list[Any]:
    attribute = node.attributes.get(name)
    return list(attribute.value) if attribute is not None else []


def _scalar(draft: Draft, number: float) -> ir.Value:
    return draft.constant(np.array(number, np.float32))


def _image_scaler(draft: Draft, node: ir.Node) -> ir.Value:
    bias = np.array(_list(node, "bias"), np.float32).reshape(1, -1, 1, 1)
    scaled = draft.node("Mul", node.inputs[0], _scalar(draft, _number(node, "scale", 1.0)))
    return draft.node("Add", scaled, draft.constant(bias)) if bias.size else scaled


def _affine(draft: Draft, node: ir.Node) -> ir.Value:
    scaled = draft.node("Mul", node.inputs[0], _scalar(draft, _number(node, "alpha", 1.0)))
    return draft.node("Add", scaled, _scalar(draft, _number(node, "beta", 0.0)))


def _scale(draft: Draft, node: ir.Node) -> ir.Value:
    return draft.node("Mul", node.inputs[0], _scalar(draft, _number(node, "scale", 1.0)))


def _crop(draft: Draft, node: ir.Node) -> ir.Value | None:
    """`border`: left, top, right, bottom; with `scale` (height, width) the size is given instead of right and bottom."""
    left, top, right, bottom = (int(n) for n in _list(node, "border")) if len(_list(node, "border")) == 4 else (-1,) * 4
    if min(left, top, right, bottom) < 0 or node.inputs[0] is None:
        return None
    last = np.iinfo(np.int64).max
    size = [int(n) for n in _list(node, "scale")]
    ends = (top + size[0], left + size[1]) if size else (-bottom or last, -right or last)
    rows = draft.slice(node.inputs[0], 2, top, ends[0])
    return draft.slice(rows, 3, left, ends[1])


def _scaled_tanh(draft: Draft, node: ir.Node) -> ir.Value:
    inner = draft.node("Mul", node.inputs[0], _scalar(draft, _number(node, "beta", 1.0)))
    return draft.node("Mul", draft.node("Tanh", inner), _scalar(draft, _number(node, "alpha", 1.0)))


def _parametric_softplus(draft: Draft, node: ir.Node) -> ir.Value:
    inner = draft.node("Mul", node.inputs[0], _scalar(draft, _number(node, "beta", 1.0)))
    return draft.node("Mul", draft.node("Softplus", inner), _scalar(draft, _number(node, "alpha", 1.0)))


def _thresholded_relu(draft: Draft, node: ir.Node) -> ir.Value:
    return draft.node("ThresholdedRelu", node.inputs[0], alpha=_number(node, "alpha", 1.0))


def _mean_variance(draft: Draft, node: ir.Node) -> ir.Value:
    across = _number(node, "across_channels", 0.0) != 0
    axes = draft.constant(np.array([1, 2, 3] if across else [2, 3], np.int64))
    centred = draft.node("Sub", node.inputs[0], draft.node("ReduceMean", node.inputs[0], axes, keepdims=1))
    if not _number(node, "normalize_variance", 1.0):
        return centred
    variance = draft.node("ReduceMean", draft.node("Mul", centred, centred), axes, keepdims=1)
    deviation = draft.node("Add", draft.node("Sqrt", variance), _scalar(draft, 1e-9))
    return draft.node("Div", centred, deviation)


def _resize(draft: Draft, node: ir.Node) -> ir.Value | None:
    """Upsample of any version, and Resize-10: from the corner, whole pixels; a smaller picture takes the pixel above."""
    mode = _text(node, "mode", "nearest")
    scales = [float(n) for n in _list(node, "scales")]
    if "height_scale" in node.attributes:
        scales = [1.0, 1.0, _number(node, "height_scale", 1.0), _number(node, "width_scale", 1.0)]
    given: ir.Value | None = draft.constant(np.array(scales, np.float32)) if scales else None
    if given is None and len(node.inputs) > 1:
        given = node.inputs[1]
        known = constant(given)
        scales = [float(n) for n in known] if known is not None else []
    if given is None or mode not in ("nearest", "linear", "bilinear"):
        return None
    rounding = "ceil" if scales and min(scales) < 1 else "floor"
    return draft.node(
        "Resize",
        node.inputs[0],
        None,
        given,
        mode="nearest" if mode == "nearest" else "linear",
        coordinate_transformation_mode="asymmetric",
        nearest_mode=rounding,
    )


def _batch_norm(draft: Draft, node: ir.Node) -> ir.Value | None:
    """Of inference only. `spatial` 0: one mean and one variance for every pixel, which is plain arithmetic."""
    if sum(bool(value.uses()) or value.is_graph_output() for value in node.outputs) > 1:
        return None
    epsilon = _number(node, "epsilon", 1e-5)
    if _number(node, "spatial", 1.0):
        return draft.node("BatchNormalization", *node.inputs[:5], epsilon=epsilon)
    scale, shift, mean, variance = (constant(value) for value in node.inputs[1:5])
    if scale is None or shift is None or mean is None or variance is None:
        return None
    factor = scale / np.sqrt(variance + np.float32(epsilon))
    scaled = draft.node("Mul", node.inputs[0], draft.constant(factor.astype(np.float32)))
    return draft.node("Add", scaled, draft.constant((shift - mean * factor).astype(np.float32)))


def _dropout(draft: Draft, node: ir.Node) -> ir.Value | None:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return None
    return draft.node("Identity", node.inputs[0])


def _pad(draft: Draft, node: ir.Node) -> ir.Value | None:
    amounts = _list(node, "paddings") or _list(node, "pads")
    if not amounts:
        return None
    pads = draft.constant(np.array(amounts, np.int64))
    filling = _scalar(draft, _number(node, "value", 0.0))
    return draft.node("Pad", node.inputs[0], pads, filling, mode=_text(node, "mode", "constant"))


def _broadcast(draft: Draft, node: ir.Node) -> ir.Value | None:
    """Before opset 7 the second operand was laid along `axis`, not along the last axes. Networks for pictures have four axes."""
    other = node.inputs[1]
    if not _number(node, "broadcast", 0.0) or "axis" not in node.attributes:
        return draft.node(node.op_type, *node.inputs)
    array, axis = constant(other), int(_number(node, "axis", 0))
    value = node.inputs[0]
    if array is None or value is None:
        return None
    rank = len(value.shape) if value.shape is not None else 4
    behind = rank - axis - array.ndim
    if axis < 0 or behind < 0:
        return None
    return draft.node(node.op_type, value, draft.constant(array.reshape(*array.shape, *(1,) * behind)))


def _prelu(draft: Draft, node: ir.Node) -> ir.Value | None:
    slope = constant(node.inputs[1])
    if slope is None:
        return None
    rank = len(node.inputs[0].shape) if node.inputs[0] is not None and node.inputs[0].shape is not None else 4
    laid = slope.reshape(-1, *(1,) * (rank - 2)) if slope.ndim == 1 and slope.size > 1 else slope
    return draft.node("PRelu", node.inputs[0], draft.constant(laid))


def _cast(draft: Draft, node: ir.Node) -> ir.Value:
    to = node.attributes["to"].value
    return draft.node("Cast", node.inputs[0], to=to if isinstance(to, int) else onnx.TensorProto.DataType.Value(str(to)))


def _reshape(draft: Draft, node: ir.Node) -> ir.Value:
    return draft.node("Reshape", node.inputs[0], draft.constant(np.array(_list(node, "shape"), np.int64)))


LEGACY = {
    "ImageScaler": Legacy(_image_scaler),
    "Affine": Legacy(_affine),
    "Scale": Legacy(_scale),
    "Crop": Legacy(_crop),
    "ScaledTanh": Legacy(_scaled_tanh),
    "ParametricSoftplus": Legacy(_parametric_softplus),
    "ThresholdedRelu": Legacy(_thresholded_relu, below=10),
    "MeanVarianceNormalization": Legacy(_mean_variance, below=9),
    "Upsample": Legacy(_resize),
    "Resize": Legacy(_resize, below=11),
    "BatchNormalization": Legacy(_batch_norm, below=9),
    "Dropout": Legacy(_dropout, below=12),
    "Pad": Legacy(_pad, below=11),
    "PRelu": Legacy(_prelu, below=7),
    "Cast": Legacy(_cast, below=6),
    "Reshape": Legacy(_reshape, below=5),
} | {name: Legacy(_broadcast, below=7) for name in ("Add", "Sub", "Mul", "Div", "Pow")}
