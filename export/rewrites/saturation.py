"""`HardSigmoid`, and `Clip` to 0..1 -> a clip to 0..6, scaled.

Why: TFLite makes RELU_0_TO_1 of them, which XNNPACK does not run: every squeeze-and-excite gate cuts the network in two. It runs
RELU6, and the two scales are one multiplication and one addition on numbers that are few, or are folded into their neighbours.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Draft, constant


def rewrite(graph: ir.Graph) -> int:
    """Replace every one; return how many."""
    places = 0
    for node in list(graph):
        line = _line(node)
        if line is None or node.inputs[0] is None:
            continue
        slope, offset = line
        draft, value = Draft(graph, node), node.inputs[0]
        wide = draft.node("Mul", value, _number(draft, 6 * slope)) if slope != 1 / 6 else value
        wide = draft.node("Add", wide, _number(draft, 6 * offset)) if offset else wide
        clipped = draft.node("Clip", wide, _number(draft, 0.0), _number(draft, 6.0))
        draft.replace(draft.node("Mul", clipped, _number(draft, 1 / 6)))
        places += 1
    return places


def _line(node: ir.Node) -> tuple[float, float] | None:
    """(slope, offset) of what is clipped to 0..1; None for any other node."""
    if node.op_type == "HardSigmoid":
        slope, offset = (
            node.attributes[name].as_float() if name in node.attributes else default
            for name, default in (("alpha", 0.2), ("beta", 0.5))
        )
        return (1 / 6 if abs(slope - 1 / 6) < 1e-6 else slope), offset
    if node.op_type == "Clip" and len(node.inputs) == 3:
        low, high = (constant(value) for value in node.inputs[1:])
        if low is not None and high is not None and low.dtype == np.float32 and (low.item(), high.item()) == (0, 1):
            return 1.0, 0.0
    return None


def _number(draft: Draft, value: float) -> ir.Value:
    return draft.constant(np.array(value, np.float32))
