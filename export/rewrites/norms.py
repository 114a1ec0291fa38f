"""Means, squares, roots and quotients that together normalise each channel of a picture -> one `InstanceNormalization`.

Why: exporters spell it as centred squares, as E[x^2] - E[x]^2, with a power or a reciprocal of a root, with the scale before or
after, on a flattened picture or not; instance_norm.py then gives all of them one form, which is fast and does not cancel. A
piece is run on pictures of three scales, in double precision: two tell scale, shift and epsilon, the third must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from export.rewrites import probe
from export.rewrites.draft import Array, Draft, constant, static_shape

_ALLOWED = probe.ARITHMETIC | {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"}
_NORMS = frozenset({"MeanVarianceNormalization", "InstanceNormalization"})
_SUMS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL2"})
_MEANS = _NORMS | _SUMS | {"ReduceMean", "GlobalAveragePool"}
_ROOTS = _NORMS | {"Sqrt", "Pow", "ReduceL2"}
_FREE_OF_SIZE = probe.ARITHMETIC - _SUMS
_SMALL = (11, 13)  # a picture that such a piece is tried on: it computes the same at every size
_LARGEST = 1 << 23
_SPREADS = (1.0, 1e-3, 0.05)  # of the three pictures
_AGREED = 1e-5  # of the range, in double precision


@dataclass(frozen=True)
class _Norm:
    """`scale * (x - mean) / sqrt(variance + epsilon) + shift`, a number a channel."""

    scale: Array
    shift: Array
    epsilon: float


def rewrite(graph: ir.Graph) -> int:
    """Replace the end of every such piece; return how many."""
    order, places = probe.order_of(graph), 0
    for value in list(probe.pictures(graph)):
        shape = static_shape(value)
        if shape is None or len(shape) != 4 or shape[0] != 1 or shape[2] * shape[3] < 2 or constant(value) is not None:
            continue
        if not any(node.op_type in _ALLOWED for node, _ in value.uses()):
            continue
        nodes = probe.hanging_on(value, _ALLOWED, order)
        kinds = {node.op_type for node in nodes}
        if kinds & _MEANS and kinds & _ROOTS:
            places += _replaced(graph, value, shape, nodes)
    return places


def _replaced(graph: ir.Graph, value: ir.Value, shape: tuple[int, ...], nodes: list[ir.Node]) -> int:
    size = _SMALL if all(_is_free_of_size(node) for node in nodes) else shape[2:]
    if prod((*shape[:2], *size)) > _LARGEST:
        return 0
    random = np.random.default_rng(0)
    pictures = [random.standard_normal((*shape[:2], *size)) * spread + spread for spread in _SPREADS]
    found = [probe.run(nodes, value, picture) for picture in pictures]
    for node in reversed(nodes):
        if node.op_type == "InstanceNormalization" and node.inputs[0] is value:
            return 0  # nothing behind it belongs to it
        output = node.outputs[0]
        made = [values.get(output) for values in found]
        if static_shape(output) != shape or any(array is None or array.shape != pictures[0].shape for array in made):
            continue
        norm = _fitted(pictures, [array for array in made if array is not None])
        if norm is not None:
            draft = Draft(graph, node)
            numbers = [draft.constant(np.asarray(array, np.float32)) for array in (norm.scale, norm.shift)]
            draft.replace(draft.node("InstanceNormalization", value, *numbers, epsilon=norm.epsilon))
            return 1
    return 0


def _is_free_of_size(node: ir.Node) -> bool:
    """True when neither the operator nor one of its constants knows the height or width."""
    arrays = [constant(given) for given in node.inputs]
    is_small = all(array is None or array.ndim < 3 or array.shape[-2:] == (1, 1) for array in arrays)
    return node.op_type in _FREE_OF_SIZE and is_small


def _fitted(pictures: list[Array], made: list[Array]) -> _Norm | None:
    """The norm that makes `made` of `pictures`, if there is one."""
    if not all(np.isfinite(array).all() for array in made):
        return None
    centred = [array - array.mean((2, 3), keepdims=True) for array in pictures]
    variances = [np.square(array).mean((0, 2, 3)) for array in centred]
    shift = made[0].mean((0, 2, 3))
    slopes = [(y * x).mean((0, 2, 3)) / variance for x, y, variance in zip(centred, made, variances, strict=True)]
    first, second = (np.square(slope) for slope in slopes[:2])
    told = first != second
    if not told.any():
        return None  # a plain scale: nothing is divided by the deviation
    epsilons = (first * variances[0] - second * variances[1])[told] / (second - first)[told]
    epsilon = max(0.0, float(np.median(epsilons)))
    norm = _Norm(slopes[0] * np.sqrt(variances[0] + epsilon), shift, epsilon)
    return norm if all(map(lambda x, y, v: _agrees(norm, x, y, v), centred, made, variances)) else None


def _agrees(norm: _Norm, centred: Array, made: Array, variance: Array) -> bool:
    factor = (norm.scale / np.sqrt(variance + norm.epsilon))[None, :, None, None]
    gap = np.abs(centred * factor + norm.shift[None, :, None, None] - made).max()
    span = np.abs(made - norm.shift[None, :, None, None]).max()
    return bool(gap <= _AGREED * span)
