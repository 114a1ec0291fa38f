"""GroupNorm, as exporters spell it (reshape, InstanceNormalization over each group, reshape back) -> means over the picture,
averaged over the channels of a group by a 1x1 convolution.

Why: the reshapes put groups where TFLite has its channels last: four transposes of the whole picture for each norm. Here the
picture stays as it is, and only C numbers are mixed. The variance is the mean of centred squares, as for InstanceNorm.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Draft, constant, is_only_read_by, static_shape


def rewrite(graph: ir.Graph) -> int:
    """Replace every one of an (N, C, H, W) value; return how many."""
    places = 0
    for node in list(graph):
        if node.op_type != "InstanceNormalization" or node.inputs[0] is None:
            continue
        before, after = node.inputs[0].producer(), _only_reader(node.outputs[0])
        if before is None or after is None or before.op_type != "Reshape" or after.op_type != "Reshape":
            continue
        if not is_only_read_by(before.outputs[0], node):
            continue
        value, scale = before.inputs[0], constant(node.inputs[1])
        shape, split, back = (static_shape(one) for one in (value, before.outputs[0], after.outputs[0]))
        if scale is None or constant(node.inputs[2]) is None or shape is None or split is None or len(shape) != 4:
            continue
        if back != shape or split[:2] != (shape[0], len(scale)):
            continue
        _replace(graph, node, after, value, shape[1])
        places += 1
    return places


def _replace(graph: ir.Graph, node: ir.Node, after: ir.Node, value: ir.Value | None, channels: int) -> None:
    draft = Draft(graph, after)
    scale, shift = constant(node.inputs[1]), constant(node.inputs[2])
    assert scale is not None
    assert shift is not None
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    each = channels // len(scale)
    average = np.kron(np.eye(len(scale)), np.full((each, each), 1 / each)).astype(scale.dtype)[:, :, None, None]
    mixing, axes = draft.constant(average), draft.constant(np.array([2, 3], np.int64))

    def mean(tensor: ir.Value | None) -> ir.Value:
        return draft.node("Conv", draft.node("ReduceMean", tensor, axes, keepdims=1), mixing, kernel_shape=[1, 1])

    centred = draft.node("Sub", value, mean(value))
    variance = mean(draft.node("Mul", centred, centred))
    deviation = draft.node("Sqrt", draft.node("Add", variance, draft.constant(np.array(epsilon, scale.dtype))))
    factor = draft.node("Reciprocal", deviation)
    per_channel = (1, channels, 1, 1)
    if np.any(scale != 1):
        factor = draft.node("Mul", factor, draft.constant(np.repeat(scale, each).reshape(per_channel)))
    result = draft.node("Mul", centred, factor)
    if np.any(shift):
        result = draft.node("Add", result, draft.constant(np.repeat(shift, each).reshape(per_channel)))
    draft.replace(result)


def _only_reader(value: ir.Value) -> ir.Node | None:
    users = [user for user, _ in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None
