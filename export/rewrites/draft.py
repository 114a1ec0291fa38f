"""What rewrites share: reading constants off a graph, and drafting the nodes that take another node's place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]


def constant(value: ir.Value | None) -> Array | None:
    """The array that `value` always holds, or None when it depends on the input (or there is no value)."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of `value` when all of it is known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(n for n in value.shape if isinstance(n, int))


def integers(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of integers, or `default`."""
    attribute = node.attributes.get(name)
    return tuple(attribute.as_ints()) if attribute is not None else default


def is_only_read_by(value: ir.Value, node: ir.Node) -> bool:
    """True when nothing else reads `value`, the caller of the graph included."""
    return not value.is_graph_output() and all(user is node for user, _ in value.uses())


class Draft:
    """New nodes that will stand where `old` stands. Every name comes from the name of `old`'s output: the same each time."""

    def __init__(self, graph: ir.Graph, old: ir.Node) -> None:
        self._graph = graph
        self._old = old
        self._prefix = _unused(graph, str(old.outputs[0].name))
        self._nodes: list[ir.Node] = []
        self._constants = 0

    def constant(self, array: Array) -> ir.Value:
        """A new initializer."""
        name = f"{self._prefix}/constant_{self._constants}"
        self._constants += 1
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def node(self, operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A new node of the standard domain with one output; returns that output."""
        name = f"{self._prefix}/{operator}_{len(self._nodes)}"
        made = ir.Node("", operator, inputs, ir.convenience.convert_attributes(attributes), num_outputs=1, name=name)
        made.outputs[0].name = name
        made.outputs[0].type = self._old.outputs[0].type
        self._nodes.append(made)
        return made.outputs[0]

    def slice(self, value: ir.Value, axis: int, start: int, end: int) -> ir.Value:
        """`value[start:end]` along one axis. One axis a node: the converter gets several at once wrong."""
        bounds = [self.constant(np.array([n], np.int64)) for n in (start, end, axis)]
        return self.node("Slice", value, *bounds)

    def replace(self, result: ir.Value) -> None:
        """Put the draft where `old` stands; `result` takes the place, name and shape of its output."""
        ir.convenience.replace_nodes_and_values(
            self._graph, self._old, [self._old], self._nodes, [self._old.outputs[0]], [result]
        )


def _unused(graph: ir.Graph, prefix: str) -> str:
    """`prefix`, or one like it when an earlier draft stands in the same place."""
    taken = f"{prefix}/"
    if any(str(name).startswith(taken) for name in (*graph.initializers, *(node.name for node in graph))):
        return _unused(graph, f"{prefix}+")
    return prefix
