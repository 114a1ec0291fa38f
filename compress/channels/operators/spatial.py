"""Operators over space, a channel at a time: pools, pads, resizes, warps, windows.

What comes out of a constant depends on how they treat borders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.steps import Evaluate, Tensors
from compress.channels.walk import Arguments, Walk, is_data, op_of, shape_of

PRESERVING = (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "max_pool1d", "max_pool2d", "max_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
WITH_INDICES = (
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "fractional_max_pool2d", "fractional_max_pool3d",
)  # fmt: skip


def stays(values: Sequence[Array], tensors: Tensors) -> Array:
    """A constant comes out as it went in."""
    return values[0]


def unknown(values: Sequence[Array], tensors: Tensors) -> Array:
    """What comes out of a constant varies with place or size."""
    return np.full(values[0].shape, np.nan)


def only(kept: float) -> Evaluate:
    """Only this one constant comes out as it went in."""
    return lambda values, _: np.where(values[0] == kept, kept, np.nan)


@handles(*PRESERVING)
def constant_preserving(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = _source(arguments)
    if is_data(node) and _over_space(walk, node, source):
        walk.channelwise(node, [source], walk.look(source), stays)


@handles(*WITH_INDICES)
def pool_with_indices(walk: Walk, node: Node, arguments: Arguments) -> None:
    """The values as any pool; where they came from is a number, whatever the channel's value."""
    source = _source(arguments)
    if not _over_space(walk, node, source):
        return
    for user in (user for user in node.users if op_of(user) == "getitem"):
        walk.channelwise(user, [source], walk.look(source), stays if user.args[1] == 0 else unknown)


@handles("max_unpool2d", "max_unpool3d")
def unpool(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Values among zeros, at places that are counted in the pixels of one channel."""
    source, indices = _source(arguments), arguments["indices"]
    if not _over_space(walk, node, source, 2 if "2d" in op_of(node) else 3):
        return
    walk.labels.tie(walk.look(source), walk.look(indices), walk.why(source, indices))
    walk.channelwise(node, [source, indices], walk.look(source), only(0.0))


@handles("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = _source(arguments)
    if not _over_space(walk, node, source):
        return
    padding = arguments["padding"]
    padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
    counts_zeros = (padded and arguments.get("count_include_pad", True)) or arguments.get("divisor_override") is not None
    walk.channelwise(node, [source], walk.look(source), only(0.0) if counts_zeros else stays)


@handles("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def warp(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Outside the picture are zeros, its border, or its mirror image. A grid's coordinates are no channels."""
    source, grid = _source(arguments), arguments["grid"]
    walk.labels.pin(walk.look(grid), "the coordinates of grid_sample")
    if not _over_space(walk, node, source, len(shape_of(source)) - 2):
        return
    kept = only(0.0) if arguments["padding_mode"] == 0 else stays
    walk.joint(node, [source, grid], walk.look(source), kept, lambda live, values: [live, np.array(live.any())])


@handles("pad", "constant_pad_nd", "_pad_circular")
def pad(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Pads over space keep channels; a pad along channels adds some that can never go. By how much may depend on the size."""
    source, amounts = _source(arguments), list(arguments["pad"])
    constant = arguments.get("mode", "constant") == "constant" and op_of(node) != "_pad_circular"
    value, rank = float(arguments.get("value") or 0), len(shape_of(source))
    around = [(0, 0)] * (rank - len(amounts) // 2) + [(amounts[i], amounts[i + 1]) for i in range(len(amounts) - 2, -1, -2)]
    labels = walk.look(source)
    along = [axis for axis in range(rank) if labels.shape[axis] > 1 and any(around[axis])]
    if along:
        kept = [around[axis] if axis in along else (0, 0) for axis in range(rank)]
        mixed = any(any(around[axis]) for axis in range(rank) if axis not in along)
        if not constant or min(amounts) < 0 or mixed:
            walk.opaque(node, "a pad that counts channels", 0)
        else:
            _pad_along(walk, node, source, kept, value)
        return
    walk.channelwise(node, [source], labels, only(value) if constant and _may_add(amounts) else stays)
    if constant and value == 0 and min(amounts) >= 0 and rank - len(amounts) // 2 >= 2:
        walk.zero_pads[node.name] = source


def _pad_along(walk: Walk, node: Node, source: Node, around: Sequence[tuple[int, int]], value: float) -> None:
    labels = walk.look(source)
    index = np.arange(labels.size).reshape(labels.shape)
    walk.move(node, [source], np.pad(index, around, constant_values=-1)[None], nowhere=value)


def _may_add(amounts: Sequence[int]) -> bool:
    """A pad by nothing at this size may be one by something at others; one that only takes away stays so."""
    return max(amounts) > 0 or not any(amounts)


@handles("im2col")
def unfold(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Each channel becomes as many as the window has places, one after the other; zero padding is around them."""
    source, window = _source(arguments), int(np.prod(arguments["kernel_size"]))
    if not _over_space(walk, node, source, 2):
        return
    labels = walk.look(source)
    axis = labels.ndim - 3
    index = np.arange(labels.size).reshape(labels.shape)[..., 0]
    index = np.repeat(index, window, axis) if labels.shape[axis] > 1 else index
    if not any(arguments["padding"]):
        walk.move(node, [source], index[None])
        return
    made = labels.ravel()[index]

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        found = values[0].ravel()[index]
        return np.where(found == 0, 0.0, np.nan)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        found = np.zeros(values[0].size, bool)
        found[index[live]] = True
        return [found.reshape(values[0].shape)]

    walk.joint(node, [source], made, evaluate, needs)


@handles("unfold")
def windows(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Windows along an axis of space become a new last axis."""
    source = _source(arguments)
    labels = walk.look(source)
    if labels.shape[arguments["dimension"]] > 1:
        walk.opaque(node, "unfold along channels", 0)
    else:
        walk.move(node, [source], np.arange(labels.size).reshape(*labels.shape, 1)[None])


@handles("col2im")
def fold(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Windows put back over one another and added up: channel j comes from its own k * k, and only zeros are sure to stay."""
    source, window = _source(arguments), int(np.prod(arguments["kernel_size"]))
    labels = walk.look(source)
    axis = labels.ndim - 2
    if labels.size != labels.shape[axis]:
        walk.opaque(node, "fold of what lies along other axes", 0)
        return
    if labels.size == 1:
        walk.channelwise(node, [source], labels.reshape((1,) * (labels.ndim + 1)), only(0.0))
        return
    grid = labels.reshape(-1, window)
    walk.labels.tie(grid[:, :1], grid, walk.why(source))
    made = grid[:, 0].reshape((*labels.shape[:axis], -1, 1, 1))

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        return np.where((values[0].reshape(-1, window) == 0).all(1), 0.0, np.nan).reshape(made.shape)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        return [np.repeat(live.ravel(), window).reshape(values[0].shape)]

    walk.joint(node, [source], made, evaluate, needs)


@handles("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "topk", "kthvalue", "argsort", "argmax", "argmin")
def ordered(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Along space: each channel by itself. Along channels: they are compared, or added up in their order."""
    source, op = _source(arguments), op_of(node)
    labels, axis = walk.look(source), arguments.get("dim")
    if axis is None or labels.shape[axis] > 1:
        walk.opaque(node, f"{op} compares or counts channels", 0)
        return
    results = [node] if is_data(node) else [user for user in node.users if op_of(user) == "getitem"]
    for result in results:
        if len(shape_of(result)) == labels.ndim:
            kept = labels
        else:
            kept = labels.reshape([n for other, n in enumerate(labels.shape) if other != axis % labels.ndim])
        walk.channelwise(result, [source], kept, only(0.0) if op == "cumsum" else unknown)


def _source(arguments: Arguments) -> Node:
    source = arguments.get("self", arguments.get("input"))
    assert isinstance(source, Node)
    return source


def _over_space(walk: Walk, node: Node, source: Node, count: int | None = None) -> bool:
    """No channels under the operator's window; otherwise it is opaque. `count`: axes of the window, as its name says: `2d`."""
    if count is None:
        named: Any = re.search(r"([123])d", op_of(node))
        count = int(named.group(1))
    if walk.over_space(source, count):
        return True
    walk.opaque(node, f"{op_of(node)} works along channels", 0)
    return False
