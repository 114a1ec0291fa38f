"""A convolution that has both strides and dilations -> a larger kernel with zeros between its taps.

Why: TensorFlow refuses strides and dilations together. The zeros cost multiplications; to skip pixels afterwards instead would
cost more, strides times strides outputs that nobody reads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Array, Draft, constant, integers


def rewrite(graph: ir.Graph) -> int:
    """Replace every such convolution of a constant kernel; return how many."""
    places = 0
    for node in list(graph):
        strides, dilations = integers(node, "strides", ()), integers(node, "dilations", ())
        if node.op_type != "Conv" or max(strides, default=1) == 1 or max(dilations, default=1) == 1:
            continue
        weight = constant(node.inputs[1])
        if weight is None or weight.ndim != 4 or "auto_pad" in node.attributes:
            continue
        draft = Draft(graph, node)
        spread = _spread(weight, dilations)
        kept = {name: each.value for name, each in node.attributes.items() if name not in ("dilations", "kernel_shape")}
        inputs = [node.inputs[0], draft.constant(spread), *node.inputs[2:]]
        draft.replace(draft.node("Conv", *inputs, **kept, kernel_shape=list(spread.shape[2:])))
        places += 1
    return places


def _spread(weight: Array, dilations: tuple[int, ...]) -> Array:
    """(out, in, kh, kw) with `dilations - 1` zeros between its rows and columns."""
    height, width = ((length - 1) * step + 1 for length, step in zip(weight.shape[2:], dilations, strict=True))
    spread = np.zeros((*weight.shape[:2], height, width), weight.dtype)
    spread[:, :, :: dilations[0], :: dilations[1]] = weight
    return spread
