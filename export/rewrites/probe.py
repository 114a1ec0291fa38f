"""Finds out what a piece of a graph computes by computing it: a piece that hangs on one tensor, run in numpy in double precision.

Exporters spell one operation in a dozen ways. What those have in common is their answer, so that is asked, not the spelling.
Never here: what the answer means (norms.py, means.py, repeats.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.rewrites.draft import constant, integers

Array = NDArray[Any]
_MOST_NODES = 64
_UNKNOWN = (ValueError, IndexError, TypeError, KeyError, OverflowError)  # what numpy and we say of attributes that make no sense


def hanging_on(value: ir.Value, allowed: Collection[str], order: Mapping[ir.Node, int]) -> list[ir.Node]:
    """The nodes of `allowed` operators that depend on `value` and on constants alone, in the order of the graph."""
    known = {value}
    found: list[ir.Node] = []
    waiting: list[tuple[int, ir.Node]] = []
    seen: set[ir.Node] = set()

    def readers(of: ir.Value) -> None:
        for node, _ in of.uses():
            if node not in seen and node in order:
                seen.add(node)
                heapq.heappush(waiting, (order[node], node))

    readers(value)
    while waiting and len(found) < _MOST_NODES:
        _, node = heapq.heappop(waiting)
        if node.op_type not in allowed or node.domain:
            continue
        if not all(given is None or given in known or constant(given) is not None for given in node.inputs):
            continue  # waits for something that does not hang on `value`, or that lies behind an operator not allowed
        found.append(node)
        known.update(node.outputs)
        for output in node.outputs:
            readers(output)
    return found


def order_of(graph: ir.Graph) -> dict[ir.Node, int]:
    """Node -> its place."""
    return {node: index for index, node in enumerate(graph)}


def run(nodes: Sequence[ir.Node], value: ir.Value, array: Array) -> dict[ir.Value, Array]:
    """Every tensor that the nodes make of `array` in place of `value`; those that cannot be computed are left out."""
    values = {value: array}
    with np.errstate(all="ignore"):
        for node in nodes:
            try:
                made = _OPERATORS[node.op_type](node, [_operand(given, values) for given in node.inputs])
            except _UNKNOWN:
                continue
            for output, result in zip(node.outputs, made if isinstance(made, list) else [made], strict=False):
                values[output] = result
    return values


def pictures(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every tensor that an operator reads, inputs first."""
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _operand(value: ir.Value | None, values: Mapping[ir.Value, Array]) -> Array | None:
    if value is None or value in values:
        return None if value is None else values[value]
    array = constant(value)
    if array is None:
        raise KeyError(value.name)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _axes(node: ir.Node, given: Sequence[Array | None]) -> tuple[int, ...] | None:
    if len(given) > 1 and given[1] is not None:
        return tuple(int(axis) for axis in given[1].reshape(-1))
    return integers(node, "axes", ()) or None


def _reduced(function: Callable[..., Array]) -> Callable[[ir.Node, Sequence[Array]], Array]:
    def run(node: ir.Node, given: Sequence[Array]) -> Array:
        keeps = node.attributes["keepdims"].as_int() if "keepdims" in node.attributes else 1
        return function(given[0], axis=_axes(node, given), keepdims=bool(keeps))

    return run


def _reshape(node: ir.Node, given: Sequence[Array]) -> Array:
    shape = [given[0].shape[index] if length == 0 else int(length) for index, length in enumerate(given[1])]
    return given[0].reshape(shape)


def _slice(node: ir.Node, given: Sequence[Array]) -> Array:
    starts, ends = given[1], given[2]
    axes = given[3] if len(given) > 3 and given[3] is not None else range(len(starts))
    steps = given[4] if len(given) > 4 and given[4] is not None else [1] * len(starts)
    index: list[slice] = [slice(None)] * given[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        far = int(end) if abs(int(end)) < 1 << 40 else None
        index[int(axis)] = slice(int(start) if abs(int(start)) < 1 << 40 else None, far, int(step))
    return given[0][tuple(index)]


def _split(node: ir.Node, given: Sequence[Array]) -> list[Array]:
    axis = _integer(node, "axis", 0)
    if len(given) > 1 and given[1] is not None:
        return list(np.split(given[0], np.cumsum(given[1])[:-1], axis))
    return list(np.array_split(given[0], len(node.outputs), axis))


def _mean_variance(node: ir.Node, given: Sequence[Array]) -> Array:
    axes = integers(node, "axes", (0, 2, 3))
    centred = given[0] - given[0].mean(axes, keepdims=True)
    return centred / (np.sqrt(np.square(centred).mean(axes, keepdims=True)) + 1e-9)


def _instance_norm(node: ir.Node, given: Sequence[Array]) -> Array:
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    axes = tuple(range(2, given[0].ndim))
    centred = given[0] - given[0].mean(axes, keepdims=True)
    scale, shift = (array.reshape(-1, *(1,) * len(axes)) for array in given[1:3])
    return centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + epsilon) * scale + shift


def _depth_to_space(node: ir.Node, given: Sequence[Array]) -> Array:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "DCR"
    return depth_to_space(given[0], _integer(node, "blocksize", 1), mode)


def depth_to_space(array: Array, block: int, mode: str) -> Array:
    """(N, C, H, W) -> (N, C / block^2, H * block, W * block); `mode`: the order of the channels, as ONNX names it."""
    n, c, h, w = array.shape
    if mode == "CRD":
        blocks = array.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        blocks = array.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // block**2, h * block, w * block)


def _integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _squeezed(node: ir.Node, given: Sequence[Array]) -> Array:
    return np.squeeze(given[0], _axes(node, given))


def _unsqueezed(node: ir.Node, given: Sequence[Array]) -> Array:
    return np.expand_dims(given[0], _axes(node, given) or ())


_Operator = Callable[[ir.Node, Sequence[Any]], "Array | list[Array]"]
_ARITHMETIC: dict[str, _Operator] = {
    "Add": lambda node, x: x[0] + x[1],
    "Sub": lambda node, x: x[0] - x[1],
    "Mul": lambda node, x: x[0] * x[1],
    "Div": lambda node, x: x[0] / x[1],
    "Pow": lambda node, x: np.power(x[0], x[1]),
    "Max": lambda node, x: np.maximum.reduce(x),
    "Sum": lambda node, x: np.add.reduce(np.broadcast_arrays(*x)),
    "Abs": lambda node, x: np.abs(x[0]),
    "Neg": lambda node, x: -x[0],
    "Sqrt": lambda node, x: np.sqrt(x[0]),
    "Reciprocal": lambda node, x: 1 / x[0],
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceSumSquare": _reduced(lambda x, **how: np.sum(np.square(x), **how)),
    "ReduceL2": _reduced(lambda x, **how: np.sqrt(np.sum(np.square(x), **how))),
    "GlobalAveragePool": lambda node, x: x[0].mean(tuple(range(2, x[0].ndim)), keepdims=True),
    "MeanVarianceNormalization": _mean_variance,
    "InstanceNormalization": _instance_norm,
}
_MOVEMENT: dict[str, _Operator] = {
    "Identity": lambda node, x: x[0],
    "Reshape": _reshape,
    "Flatten": lambda node, x: x[0].reshape(int(np.prod(x[0].shape[: _integer(node, "axis", 1)])), -1),
    "Squeeze": _squeezed,
    "Unsqueeze": _unsqueezed,
    "Expand": lambda node, x: x[0] * np.ones(tuple(int(n) for n in x[1]), x[0].dtype),
    "Tile": lambda node, x: np.tile(x[0], [int(n) for n in x[1]]),
    "Transpose": lambda node, x: np.transpose(x[0], integers(node, "perm", ()) or None),
    "Concat": lambda node, x: np.concatenate(x, _integer(node, "axis", 0)),
    "Gather": lambda node, x: np.take(x[0], x[1], _integer(node, "axis", 0)),
    "Slice": _slice,
    "Split": _split,
    "DepthToSpace": _depth_to_space,
}
_OPERATORS = _ARITHMETIC | _MOVEMENT
ARITHMETIC, MOVEMENT = frozenset(_ARITHMETIC), frozenset(_MOVEMENT)
