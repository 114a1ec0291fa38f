"""Operators over space, a channel at a time: pools, pads, resizes, means.

What comes out of a constant depends on how they treat borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.steps import Evaluate, Tensors
from compress.channels.walk import Arguments, Walk, is_data, shape_of


def stays(values: Sequence[Array], tensors: Tensors) -> Array:
    """A constant comes out as it went in."""
    return values[0]


def becomes_zero(values: Sequence[Array], tensors: Tensors) -> Array:
    """What a constant leaves of itself is zero: differences, variances."""
    return np.where(np.isnan(values[0]), np.nan, 0.0)


def only(kept: float) -> Evaluate:
    """Only this one constant comes out as it went in."""
    return lambda values, _: np.where(values[0] == kept, kept, np.nan)


@handles(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def constant_preserving(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = _source(arguments)
    if not is_data(node) or not _over_space_only(walk, source, node):
        walk.opaque(node)
        return
    walk.channelwise(node, [source], walk.look(source), stays)


@handles("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = _source(arguments)
    if not _over_space_only(walk, source, node):
        walk.opaque(node)
        return
    padding = arguments["padding"]
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    counts_zeros = (padded and arguments.get("count_include_pad", True)) or arguments.get("divisor_override") is not None
    walk.channelwise(node, [source], walk.look(source), only(0.0) if counts_zeros else stays)


@handles("pad", "constant_pad_nd")
def pad(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Pads over space keep channels; a pad along channels adds some that can never go."""
    source, amounts = _source(arguments), list(arguments["pad"])
    constant = arguments.get("mode", "constant") == "constant"
    value = float(arguments.get("value") or 0)
    labels, rank = walk.look(source), len(shape_of(source))
    around = [(0, 0)] * (rank - len(amounts) // 2) + [(amounts[i], amounts[i + 1]) for i in range(len(amounts) - 2, -1, -2)]
    along = [axis for axis in range(rank) if labels.shape[axis] > 1 and any(around[axis])]
    if along:
        if not constant or min(amounts) < 0:
            walk.opaque(node)
            return
        index = np.arange(labels.size).reshape(labels.shape)
        walk.move(
            node, [source], np.pad(index, [around[a] if a in along else (0, 0) for a in range(rank)], constant_values=-1)[None]
        )
        return
    walk.channelwise(node, [source], labels, only(value) if constant and max(amounts) > 0 else stays)
    if constant and value == 0 and min(amounts) >= 0 and rank - len(amounts) // 2 >= 2:
        walk.zero_pads[node.name] = (source, [*amounts, *(0,) * (2 * (rank - 2) - len(amounts))])


@handles("mean", "amax", "amin", "var", "std", "sum")
def reduction(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments["self"]
    labels, rank = walk.look(source), len(shape_of(source))
    wanted = arguments.get("dim")
    axes = {axis % rank for axis in ([wanted] if isinstance(wanted, int) else wanted or range(rank))}
    name = str(node.target).split(".")[1]
    if not is_data(node) or any(labels.shape[axis] > 1 for axis in axes):
        walk.opaque(node, f"{name} over channels counts them")
        return
    evaluate: Any = {"var": becomes_zero, "std": becomes_zero, "sum": only(0.0)}.get(name, stays)
    kept = labels if arguments.get("keepdim") else labels.reshape([n for axis, n in enumerate(labels.shape) if axis not in axes])
    walk.channelwise(node, [source], kept, evaluate)


@handles("flip", "roll")
def rearranged(walk: Walk, node: Node, arguments: Arguments) -> None:
    source, dims = arguments["self"], arguments["dims"]
    if not dims or any(walk.look(source).shape[axis] > 1 for axis in dims):
        walk.opaque(node)
    else:
        walk.channelwise(node, [source], walk.look(source), stays)


def _source(arguments: Arguments) -> Node:
    source = arguments.get("self", arguments.get("input"))
    assert isinstance(source, Node)
    return source


def _over_space_only(walk: Walk, source: Node, node: Node) -> bool:
    """Every labelled axis has the length that it had: the window ran over other ones."""
    labels = walk.look(source)
    before, after = shape_of(source), shape_of(node)
    return len(before) == len(after) and all(n == 1 or before[axis] == after[axis] for axis, n in enumerate(labels.shape))
