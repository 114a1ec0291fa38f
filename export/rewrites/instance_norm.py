"""`InstanceNormalization` -> means, one subtraction, one multiplication by itself, one scale and one shift.

Why: TFLite's own form squares with SQUARED_DIFFERENCE, which has no integer kernel (int8 falls out of XNNPACK, int16 does not
run at all), and multiplies the picture twice, by 1/sigma and by gamma. Here gamma / sigma is multiplied first, on C numbers. The
variance is the mean of centred squares: E[x^2] - E[x]^2 would be faster and cancels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Array, Draft, constant, static_shape


def rewrite(graph: ir.Graph) -> int:
    """Replace every `InstanceNormalization` of an (N, C, H, W) value; return how many."""
    places = 0
    for node in list(graph):
        if node.op_type != "InstanceNormalization":
            continue
        value, scale, shift = node.inputs[0], constant(node.inputs[1]), constant(node.inputs[2])
        shape = static_shape(value)
        if value is None or scale is None or shift is None or shape is None or len(shape) != 4:
            continue
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        _replace(graph, node, value, (scale, shift, epsilon))
        places += 1
    return places


def _replace(graph: ir.Graph, node: ir.Node, value: ir.Value, numbers: tuple[Array, Array, float]) -> None:
    draft, (scale, shift, epsilon) = Draft(graph, node), numbers
    axes = draft.constant(np.array([2, 3], np.int64))
    centred = draft.node("Sub", value, draft.node("ReduceMean", value, axes, keepdims=1))
    variance = draft.node("ReduceMean", draft.node("Mul", centred, centred), axes, keepdims=1)
    deviation = draft.node("Sqrt", draft.node("Add", variance, draft.constant(np.array(epsilon, scale.dtype))))
    inverse = draft.node("Reciprocal", deviation)  # not Div: the converter lays constants under a Div out wrongly
    per_channel = (1, len(scale), 1, 1)
    factor = draft.node("Mul", inverse, draft.constant(scale.reshape(per_channel)))
    draft.replace(draft.node("Add", draft.node("Mul", centred, factor), draft.constant(shift.reshape(per_channel))))
