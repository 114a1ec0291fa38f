"""Means, sums, extremes, variances over axes. Over space: a channel at a time. Over channels alone: they are counted, and stay.

Over one axis with channels while others lie along another (branches that were stacked): each of those by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.elementwise import pointwise
from compress.channels.operators.moves import source_of
from compress.channels.steps import Evaluate, Tensors
from compress.channels.walk import Arguments, Walk, is_data, op_of, shape_of

# What is left of a constant, over space (whose size varies).
STAYS, ZERO, ONLY_ZERO = "stays", "zero", "only zero"
OVER_SPACE = {
    "mean": STAYS, "nanmean": STAYS, "amax": STAYS, "amin": STAYS, "max": STAYS, "min": STAYS, "median": STAYS,
    "nanmedian": STAYS, "all": STAYS, "any": STAYS, "var": ZERO, "std": ZERO,
    "sum": ONLY_ZERO, "nansum": ONLY_ZERO, "linalg_vector_norm": ONLY_ZERO, "norm": ONLY_ZERO, "prod": ONLY_ZERO,
    "logsumexp": "unknown",
}  # fmt: skip
OVER_BRANCHES: dict[str, Callable[..., Array]] = {
    "mean": np.mean, "amax": np.max, "amin": np.min, "max": np.max, "min": np.min, "sum": np.sum, "prod": np.prod,
}  # fmt: skip


@handles(*OVER_SPACE)
def reduction(walk: Walk, node: Node, arguments: Arguments) -> None:
    if arguments.get("other") is not None:  # max(a, b)
        pointwise(walk, node, arguments)
        return
    source, op = source_of(arguments), op_of(node)
    labels, axes = walk.look(source), _axes(node, arguments)
    over = tuple(axis for axis in axes if labels.shape[axis] > 1)
    into = _values_of(walk, node)
    if over and (np.prod([labels.shape[axis] for axis in over]) == labels.size or op not in OVER_BRANCHES or into != node.name):
        walk.opaque(node, f"{op} over channels counts them", 0)
        return
    if over:
        _over_branches(walk, node, source, axes, over)
        return
    if into:
        walk.channelwise(node, [source], _without(labels, axes, _keeps(arguments)), _left(OVER_SPACE[op], labels.shape), into)


@handles("var_mean", "std_mean")
def both(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = source_of(arguments)
    labels, axes = walk.look(source), _axes(node, arguments)
    if any(labels.shape[axis] > 1 for axis in axes):
        walk.opaque(node, f"{op_of(node)} over channels counts them", 0)
        return
    for user in (user for user in node.users if op_of(user) == "getitem"):
        kind = ZERO if user.args[1] == 0 else STAYS
        walk.channelwise(user, [source], _without(labels, axes, _keeps(arguments)), _left(kind, labels.shape))


def _over_branches(walk: Walk, node: Node, source: Node, axes: set[int], over: tuple[int, ...]) -> None:
    """The channels along the axes that go become one; every one of them is needed."""
    labels, op = walk.look(source), op_of(node)
    first = np.take(labels, [0], over[0])
    for axis in over[1:]:
        first = np.take(first, [0], axis)
    walk.labels.tie(np.broadcast_to(first, labels.shape), labels, walk.why(source))
    made = _without(first, axes, len(shape_of(node)) == labels.ndim)
    grows = op in ("sum", "prod") and any(shape_of(source)[axis] > 1 for axis in axes - set(over))
    shape = tuple(1 if axis in over else n for axis, n in enumerate(labels.shape))

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        found = OVER_BRANCHES[op](values[0], axis=over, keepdims=True)
        found = np.where(found == 0, found, np.nan) if grows else found
        return found.reshape(made.shape)

    walk.joint(node, [source], made, evaluate, lambda live, _: [live.reshape(shape)])


def _axes(node: Node, arguments: Arguments) -> set[int]:
    rank = len(shape_of(source_of(arguments)))
    wanted = arguments.get("dim")
    return {axis % rank for axis in ([wanted] if isinstance(wanted, int) else wanted or range(rank))}


def _keeps(arguments: Arguments) -> bool:
    return bool(arguments.get("keepdim"))


def _without(labels: Array, axes: set[int], keeps: bool) -> Array:
    return labels if keeps else labels.reshape([n for axis, n in enumerate(labels.shape) if axis not in axes])


def _left(kind: str, shape: tuple[int, ...]) -> Evaluate:
    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        value = values[0]
        if kind == STAYS:
            return value
        if kind == ZERO:
            return np.where(np.isnan(value), np.nan, 0.0)
        return np.where(value == 0, 0.0, np.nan) if kind == ONLY_ZERO else np.full(shape, np.nan)

    return evaluate


def _values_of(walk: Walk, node: Node) -> str | None:
    """Name of the result that holds the values; where they came from, the second one, is not tracked. None: nobody takes them."""
    if is_data(node):
        return node.name
    users = [user for user in node.users if op_of(user) == "getitem"]
    for user in users:
        if user.args[1] != 0:
            walk.opaque(user, f"{op_of(node)} says where its value was", 0)
    return next((user.name for user in users if user.args[1] == 0), None)
