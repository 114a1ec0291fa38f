"""Pictures in and out with channels first, as everything after this expects, of files that have them last (TensorFlow, Keras).

An input is known by what is done to it: a transpose before the first convolution, or none; its shape decides only where the
graph does not. The transposes that are put in here meet those of the file, and rewrites/channels_last.py removes both.
"""

from __future__ import annotations

import onnx_ir as ir

from export.rewrites.draft import constant

TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
PICTURES = (1, 3, 4)  # channels of pictures
_POINTWISE = frozenset({
    "Abs", "Add", "Cast", "Clip", "Div", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max",
    "Min", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Tanh", "Where",
})  # fmt: skip
_KEEPS_AXES = _POINTWISE | {"Pad", "Resize", "Concat"}
_FIRST = frozenset({
    "Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "InstanceNormalization",
    "BatchNormalization", "LRN", "DepthToSpace", "SpaceToDepth", "GroupNormalization",
})  # fmt: skip
_MOST_STEPS = 64
_SMALLEST = 8  # pixels a side of what is taken for a picture by its shape alone


def inputs_with_channels_last(graph: ir.Graph) -> frozenset[str]:
    """Names of the inputs that are (N, height, width, channels)."""
    return frozenset(str(value.name) for value in graph.inputs if _is_last(value, forward=True))


def outputs_with_channels_last(graph: ir.Graph) -> frozenset[str]:
    """Names of the outputs that are (N, height, width, channels)."""
    return frozenset(str(value.name) for value in graph.outputs if _is_last(value, forward=False))


def channels_first(model: ir.Model, inputs: frozenset[str], outputs: frozenset[str]) -> int:
    """Turn these inputs and outputs around, in place, under their old names; return how many."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in inputs]:
        shape = value.shape
        turned = _transpose(value, TO_LAST, f"{value.name}/channels_last")
        readers = [(node, index) for node, index in value.uses() if node is not turned]
        for node, index in readers:
            node.replace_input_with(index, turned.outputs[0])
        turned.outputs[0].shape = shape
        value.shape = ir.Shape([shape[axis] for axis in TO_FIRST]) if shape is not None else None
        graph.insert_before(graph[0], turned)
    for index, value in enumerate(graph.outputs):
        if value.name not in outputs:
            continue
        name = str(value.name)
        turned = _transpose(value, TO_FIRST, name)
        value.name = f"{name}/channels_last"
        turned.outputs[0].shape = ir.Shape([value.shape[axis] for axis in TO_FIRST]) if value.shape is not None else None
        graph.append(turned)
        graph.outputs[index] = turned.outputs[0]
    return len(inputs) + len(outputs)


def name_channels(model: ir.Model) -> int:
    """Fill in the channels of an input that leaves them open, from the convolution that reads it; return how many."""
    places = 0
    for value in model.graph.inputs:
        if value.shape is None or len(value.shape) != 4 or isinstance(value.shape[1], int):
            continue
        channels = _channels_read(value)
        if channels is not None:
            value.shape = ir.Shape([value.shape[0], channels, *value.shape[2:]])
            places += 1
    return places


def _channels_read(value: ir.Value) -> int | None:
    waiting = [value]
    for _ in range(_MOST_STEPS):
        if not waiting:
            return None
        here = waiting.pop(0)
        for node, _index in here.uses():
            if node.op_type == "Conv" and node.inputs[0] is here:
                weight = constant(node.inputs[1])
                groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
                return int(weight.shape[1]) * groups if weight is not None else None
            if node.op_type in _KEEPS_AXES:
                waiting += node.outputs
    return None


def _transpose(value: ir.Value, perm: tuple[int, ...], name: str) -> ir.Node:
    node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", perm)], num_outputs=1, name=name)
    node.outputs[0].name, node.outputs[0].type = name, value.type
    return node


def _is_last(value: ir.Value, forward: bool) -> bool:
    if value.shape is None or len(value.shape) != 4:
        return False
    said = _said_by_graph(value, forward)
    return said if said is not None else _said_by_shape(value)


def _said_by_shape(value: ir.Value) -> bool:
    assert value.shape is not None
    sides = [length for length in (value.shape[1], value.shape[2]) if isinstance(length, int)]
    return value.shape[3] in PICTURES and value.shape[1] not in PICTURES and all(side >= _SMALLEST for side in sides)


def _said_by_graph(value: ir.Value, forward: bool) -> bool | None:
    """Through pointwise operators to the first one that tells; None when none does."""
    waiting, seen = [value], {value}
    for _ in range(_MOST_STEPS):
        if not waiting:
            return None
        here = waiting.pop(0)
        for node in _neighbours(here, forward):
            if node.op_type == "Transpose":
                perm = tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else ()
                if perm == (TO_FIRST if forward else TO_LAST):
                    return True
            elif node.op_type in _FIRST and (not forward or node.inputs[0] is here):
                return False
            elif node.op_type in _KEEPS_AXES:
                new = node.outputs if forward else [other for other in node.inputs if other is not None]
                waiting += [other for other in new if other not in seen]
                seen.update(new)
        if not forward and here.is_graph_input() and here is not value:
            return _said_by_shape(here) if here.shape is not None and len(here.shape) == 4 else None
    return None


def _neighbours(value: ir.Value, forward: bool) -> list[ir.Node]:
    if forward:
        return [node for node, _ in value.uses()]
    maker = value.producer()
    return [maker] if maker is not None else []
