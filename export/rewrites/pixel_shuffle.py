"""PyTorch's pixel shuffle -> `DepthToSpace` in TFLite's order, the channels of the convolution before it put in that order.

Why: PyTorch lays the r x r pixels of one channel side by side (CRD), TFLite those of one pixel (DCR). Converters make a transpose
of six axes of the first, which a GPU delegate refuses; of the second, one operator that every delegate has. Only data moves.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Draft, constant, is_only_read_by

# Operators that do the same to every channel: the order of channels passes through them.
_ALIKE = frozenset(
    {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "Clip", "HardSwish", "HardSigmoid", "Elu", "Selu", "Gelu", "Identity"}
)


def rewrite(graph: ir.Graph) -> int:
    """Replace every CRD `DepthToSpace` that a convolution feeds; return how many."""
    places = 0
    for node in list(graph):
        mode = node.attributes.get("mode")
        if node.op_type != "DepthToSpace" or mode is None or mode.as_string() != "CRD":
            continue
        conv = _conv_before(node)
        if conv is None:
            continue
        factor = node.attributes["blocksize"].as_int()
        weight = constant(conv.inputs[1])
        assert weight is not None
        order = np.arange(len(weight)).reshape(-1, factor * factor).T.ravel()  # new channel -> the old one in its place
        draft = Draft(graph, conv)
        for place in range(1, len(conv.inputs)):
            if (values := constant(conv.inputs[place])) is not None:
                conv.replace_input_with(place, draft.constant(values[order]))
        node.attributes["mode"] = ir.AttrString("mode", "DCR")
        places += 1
    return places


def _conv_before(node: ir.Node) -> ir.Node | None:
    """The convolution whose channels `node` takes apart, nothing but activations between, each read by the next alone."""
    reader, value = node, node.inputs[0]
    while value is not None and is_only_read_by(value, reader):
        maker = value.producer()
        if maker is None:
            return None
        if maker.op_type == "Conv":
            group = maker.attributes.get("group")
            known = all(constant(one) is not None for one in maker.inputs[1:] if one is not None)
            return maker if known and (group is None or group.as_int() == 1) else None
        if maker.op_type not in _ALIKE:
            return None
        reader, value = maker, maker.inputs[0]
    return None
