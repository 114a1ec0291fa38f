"""Islands with channels last (tf2onnx leaves one between any two convolutions) -> channels first, transposes gone.

Why: TensorFlow computes with channels last, ONNX's convolutions with channels first, so that such a file turns every picture
twice a layer. The converter turns each once more, and may lay the constants of the islands out wrongly. A transpose is pushed
below whatever follows it, whose axes and constants are turned instead, until it meets the one that undoes it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import constant, integers, static_shape

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
Turn = Callable[["_Island", ir.Node], bool]  # turn a node's axes and constants; False, and nothing done, when it cannot be


def rewrite(graph: ir.Graph) -> int:
    """Push every transpose to channels last down; return how many nodes and transposes changed."""
    island = _Island(graph)
    places, changed = 0, True
    while changed:
        changed = False
        for node in list(graph):
            if node.graph is None:  # taken out by an earlier turn of this loop
                continue
            moved = island.merge(node) if _perm(node) is not None else island.push(node)
            places += moved
            changed |= moved
    return places


class _Island:
    """A graph whose transposes move down."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made = 0

    def source(self, value: ir.Value | None) -> ir.Value | None:
        """What `value` is with channels first, when a transpose made it of that."""
        maker = value.producer() if value is not None else None
        return maker.inputs[0] if maker is not None and _perm(maker) == TO_LAST else None

    def merge(self, node: ir.Node) -> bool:
        """A transpose of a transpose is one, or none."""
        value, perm = node.inputs[0], _perm(node)
        maker = value.producer() if value is not None else None
        inner = _perm(maker) if maker is not None else None
        assert perm is not None
        if value is None or maker is None or inner is None or len(inner) != len(perm):
            return False
        both, source = tuple(inner[axis] for axis in perm), maker.inputs[0]
        assert source is not None
        if both != tuple(range(len(both))):
            node.replace_input_with(0, source)
            node.attributes["perm"] = ir.AttrInt64s("perm", both)
            return True
        if node.outputs[0].is_graph_output():
            node.op_type = "Identity"
            node.attributes.clear()
            node.replace_input_with(0, source)
            return True
        node.outputs[0].replace_all_uses_with(source)
        self._graph.remove(node, safe=True)
        return True

    def push(self, node: ir.Node) -> bool:
        """Compute `node` with channels first, and turn what it makes instead of what it takes."""
        if node.op_type not in _TURNS or all(self.source(value) is None for value in node.inputs):
            return False
        shapes = [static_shape(value) for value in node.outputs]
        if not _TURNS[node.op_type](self, node):
            return False
        for value, shape in zip(node.outputs, shapes, strict=True):
            if shape is not None and len(shape) == 4 and value.name:
                value.shape = ir.Shape([shape[axis] for axis in TO_FIRST])
                self._turn_below(value, shape)
        return True

    def take(self, node: ir.Node, index: int) -> bool:
        """Input `index` of `node` with channels first: a transposed one by its source, a constant or another tensor turned."""
        value = node.inputs[index]
        turned = self.first(value)
        if turned is None:
            return value is None
        node.replace_input_with(index, turned)
        return True

    def first(self, value: ir.Value | None) -> ir.Value | None:
        """`value` with channels first; None when there is no way."""
        source, array = self.source(value), constant(value)
        if source is not None or value is None:
            return source
        if array is not None:
            if array.size == 1:
                return value
            if array.ndim > 4:
                return None
            return self.constant(array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(TO_FIRST))
        shape = static_shape(value)
        if shape is None or (len(shape) != 4 and prod(shape) != 1):
            return None
        if len(shape) != 4:
            return value
        return self._turned(value, shape)

    def constant(self, array: np.ndarray) -> ir.Value:  # type: ignore[type-arg]
        """A new initializer."""
        tensor = ir.tensor(np.ascontiguousarray(array), name=self._name("constant"))
        value = ir.Value(name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _turned(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """A tensor that is not there with channels first yet: turned here, by a reshape where it is one pixel."""
        first = tuple(shape[axis] for axis in TO_FIRST)
        if shape[1] * shape[2] == 1:
            node = ir.Node(
                "", "Reshape", [value, self.constant(np.array(first, np.int64))], num_outputs=1, name=self._name("reshape")
            )
        else:
            node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", TO_FIRST)], num_outputs=1, name=self._name("turn"))
        self._place(node, value, first)
        maker = value.producer()
        if maker is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(maker, node)
        return node.outputs[0]

    def _turn_below(self, value: ir.Value, shape: tuple[int, ...]) -> None:
        """Whoever read `value` reads it turned to channels last, under its old name where the caller of the graph reads it."""
        node = ir.Node("", "Transpose", [value], [ir.AttrInt64s("perm", TO_LAST)], num_outputs=1, name=self._name("turn"))
        self._place(node, value, shape)
        maker = value.producer()
        assert maker is not None
        for reader, index in list(value.uses()):
            if reader is not node:
                reader.replace_input_with(index, node.outputs[0])
        self._graph.insert_after(maker, node)
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                name = value.name
                value.name, node.outputs[0].name = f"{name}/channels_first", name
                self._graph.outputs[index] = node.outputs[0]

    def _place(self, node: ir.Node, like: ir.Value, shape: tuple[int, ...]) -> None:
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{node.name}/0", like.type, ir.Shape(shape)

    def _name(self, what: str) -> str:
        self._made += 1
        return f"channels_first/{what}_{self._made}"


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    if node.op_type != "Transpose" or node.domain or "perm" not in node.attributes:
        return None
    return tuple(node.attributes["perm"].as_ints())


def _makes_pictures(node: ir.Node) -> bool:
    """True when every output has four axes: what a node of more than one turned input must be sure of."""
    return all(len(static_shape(value) or ()) == 4 for value in node.outputs if value.name)


def _pointwise(island: _Island, node: ir.Node) -> bool:
    """All operands, each broadcast to four axes."""
    if not _makes_pictures(node):
        return False
    found = [island.first(value) for value in node.inputs]
    if any(new is None and old is not None for new, old in zip(found, node.inputs, strict=True)):
        return False
    for index, value in enumerate(found):
        node.replace_input_with(index, value)
    return True


def _first_only(island: _Island, node: ir.Node) -> bool:
    """The picture, and scalars beside it."""
    return _makes_pictures(node) and island.take(node, 0)


def _along_axis(island: _Island, node: ir.Node) -> bool:
    attribute = node.attributes.get("axis")
    if attribute is None or not _makes_pictures(node):
        return False
    axis = attribute.as_int() % 4
    found = [island.first(value) for value in node.inputs] if node.op_type == "Concat" else [island.first(node.inputs[0])]
    if any(value is None for value in found):
        return False
    for index, value in enumerate(found):
        node.replace_input_with(index, value)
    node.attributes["axis"] = ir.AttrInt64("axis", TO_LAST[axis])
    return True


def _reduce(island: _Island, node: ir.Node) -> bool:
    """Without `keepdims` only where the axes that stay keep their order."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return False
    last = [int(axis) % 4 for axis in axes.reshape(-1)]
    keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
    stay = [TO_LAST[axis] for axis in range(4) if axis not in last]
    if (not keeps and stay != sorted(stay)) or not last:
        return False
    if not island.take(node, 0):
        return False
    node.replace_input_with(1, island.constant(np.array(sorted(TO_LAST[axis] for axis in last), np.int64)))
    return True


def _pad(island: _Island, node: ir.Node) -> bool:
    pads = constant(node.inputs[1])
    if pads is None:
        return False
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return _pad_of_axes(island, node)
    if pads.size != 8 or not island.take(node, 0):
        return False
    both = pads.reshape(2, 4)[:, list(TO_FIRST)]
    node.replace_input_with(1, island.constant(both.reshape(-1)))
    return True


def _pad_of_axes(island: _Island, node: ir.Node) -> bool:
    axes = constant(node.inputs[3])
    if axes is None or not island.take(node, 0):
        return False
    node.replace_input_with(3, island.constant(_turned_axes(axes)))
    return True


def _slice(island: _Island, node: ir.Node) -> bool:
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    if axes is None or not island.take(node, 0):
        return False
    node.replace_input_with(3, island.constant(_turned_axes(axes)))
    return True


def _turned_axes(axes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([TO_LAST[int(axis) % 4] for axis in axes], np.int64)


def _resize(island: _Island, node: ir.Node) -> bool:
    index = 3 if len(node.inputs) > 3 and node.inputs[3] is not None else 2
    lengths = constant(node.inputs[index]) if len(node.inputs) > index else None
    if lengths is None or lengths.size != 4 or integers(node, "axes", ()) or not island.take(node, 0):
        return False
    node.replace_input_with(index, island.constant(lengths[list(TO_FIRST)]))
    return True


def _tile(island: _Island, node: ir.Node) -> bool:
    repeats = constant(node.inputs[1])
    if repeats is None or repeats.size != 4 or not island.take(node, 0):
        return False
    node.replace_input_with(1, island.constant(repeats[list(TO_FIRST)]))
    return True


_ONE = (
    "Abs", "Cast", "Ceil", "Clip", "Cos", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus",
    "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
)  # fmt: skip
_MANY = (
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or",
    "PRelu", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_REDUCED = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare")
_TURNS: dict[str, Turn] = {
    **dict.fromkeys(_ONE, _first_only),
    **dict.fromkeys(_MANY, _pointwise),
    **dict.fromkeys(("Concat", "Split", "Softmax", "LogSoftmax"), _along_axis),
    **dict.fromkeys(_REDUCED, _reduce),
    "Pad": _pad,
    "Slice": _slice,
    "Resize": _resize,
    "Tile": _tile,
}
