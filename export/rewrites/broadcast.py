"""Constants of an element-wise operator with as many axes as what they meet: (C, 1, 1) -> (1, C, 1, 1).

Why: ONNX lines axes up from the right, and the converter, which moves channels last, then meets the wrong axis, or transposes the
whole picture to be sure. Nothing is computed otherwise.
"""

from __future__ import annotations

import onnx_ir as ir

from export.rewrites.draft import Draft, constant

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"})


def rewrite(graph: ir.Graph) -> int:
    """Give such constants all their axes; return how many operators had one."""
    places = 0
    for node in list(graph):
        if node.op_type not in _ELEMENTWISE or len(node.inputs) != 2:
            continue
        ranks = [value.shape.rank() if value is not None and value.shape is not None else None for value in node.inputs]
        for place, rank in enumerate(ranks):
            values, wanted = constant(node.inputs[place]), ranks[1 - place]
            if values is not None and rank is not None and wanted is not None and 0 < rank < wanted and wanted == 4:
                full = values.reshape((1,) * (wanted - rank) + values.shape)
                node.replace_input_with(place, Draft(graph, node).constant(full))
                places += 1
                break
    return places
