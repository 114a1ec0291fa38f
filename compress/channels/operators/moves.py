"""Operators that only put channels elsewhere: views, permutations, cat, chunks, slices, pixel shuffle. Each is an index array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.spatial import stays
from compress.channels.walk import Arguments, Balance, Walk, is_data, op_of, shape_of


def places(walk: Walk, node: Node) -> Array:
    """Flat positions in the label array of a tensor, in its shape."""
    labels = walk.look(node)
    return np.arange(labels.size).reshape(labels.shape)


@handles("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "_reshape_alias")
def view(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments.get("self", arguments.get("input"))
    index, splits = reshaped(places(walk, source), shape_of(source), shape_of(node))
    if splits:
        walk.labels.pin(walk.look(source), f"{op_of(node)} lays channels over two axes")
    walk.move(node, [source], index[None])


@handles("permute", "transpose", "movedim", "t", "swapaxes", "numpy_T", "mT")
def permute(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments.get("self", arguments.get("input"))
    rank = len(shape_of(source))
    if op_of(node) == "permute":
        order = [axis % rank for axis in arguments["dims"]]
    elif op_of(node) == "transpose":
        order = list(range(rank))
        a, b = arguments["dim0"], arguments["dim1"]
        order[a], order[b] = order[b], order[a]
    elif op_of(node) == "t":
        order = list(range(rank))[::-1]
    else:
        walk.opaque(node)
        return
    walk.move(node, [source], places(walk, source).transpose(order)[None])


@handles("expand", "expand_as", "repeat")
def expand(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Copies along axes without channels change nothing; copies of channels are the same channels again."""
    source = arguments["self"]
    index, rank = places(walk, source), len(shape_of(node))
    index = index.reshape((1,) * (rank - index.ndim) + index.shape)
    if op_of(node) == "repeat":
        index = np.tile(index, [n if index.shape[axis] > 1 else 1 for axis, n in enumerate(arguments["repeats"])])
    walk.move(node, [source], index[None])


@handles("cat", "concat", "concatenate")
def cat(walk: Walk, node: Node, arguments: Arguments) -> None:
    sources = arguments["tensors"]
    rank, axis = len(shape_of(node)), arguments["dim"] % len(shape_of(node))
    arrays, start = [], 0
    for source in sources:
        labels = walk.look(source)
        arrays.append(start + places(walk, source))
        start += labels.size
    along = {other for array in arrays for other in range(rank) if array.shape[other] > 1}
    if along - {axis}:
        _cat_beside(walk, node, sources, arrays, axis)
        return
    if not along:
        walk.move(node, sources, np.stack(arrays))
        return
    wide = [[shape_of(source)[axis] if a == axis else 1 for a in range(rank)] for source in sources]
    parts = [np.broadcast_to(array, shape) for array, shape in zip(arrays, wide, strict=True)]
    walk.move(node, sources, np.concatenate(parts, axis)[None])


def _cat_beside(walk: Walk, node: Node, sources: Sequence[Node], arrays: list[Array], axis: int) -> None:
    """Tensors laid side by side over space: the same channels in each, constant where they all are."""
    if any(array.shape != arrays[0].shape or array.shape[axis] > 1 for array in arrays):
        walk.opaque(node)
        return
    walk.move(node, sources, np.stack(arrays))


@handles("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "tensor_split", "unbind")
def chunk(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments["self"]
    axis = arguments["dim"] % len(shape_of(source))
    index = places(walk, source)
    if op_of(node) in ("tensor_split", "unbind"):
        walk.opaque(node)
        return
    pieces: dict[int, Node] = {int(user.args[1]): user for user in node.users if op_of(user) == "getitem"}  # type: ignore[arg-type]
    sizes = [value.shape[axis] for value in node.meta["val"]]
    starts = np.cumsum([0, *sizes])
    for number, user in pieces.items():
        part = index if index.shape[axis] == 1 else np.take(index, range(starts[number], starts[number + 1]), axis)
        walk.move(node, [source], part[None], into=user.name)
    if index.shape[axis] > 1 and len(set(sizes)) == 1:
        labels = np.moveaxis(walk.look(source), axis, 0).reshape(len(sizes), -1)
        walk.balances.append(Balance(labels))
    elif index.shape[axis] > 1 and op_of(node) != "split_with_sizes":
        walk.labels.pin(walk.look(source), f"{op_of(node)} makes unequal parts")


@handles("getitem")
def getitem(walk: Walk, node: Node, arguments: Arguments) -> None:
    if node.name not in walk.labels_of and is_data(node):
        walk.opaque(node)


@handles("slice", "narrow", "select")
def cut(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments["self"]
    index, shape = places(walk, source), shape_of(source)
    axis = arguments["dim"] % len(shape)
    if op_of(node) == "select":
        chosen: Any = np.take(index, arguments["index"] if index.shape[axis] > 1 else 0, axis)
        walk.move(node, [source], chosen[None])
        return
    if index.shape[axis] == 1:
        walk.channelwise(node, [source], walk.look(source), stays)
        return
    start = arguments["start"]
    stop = start + arguments["length"] if op_of(node) == "narrow" else arguments["end"]
    chosen = range(shape[axis])[slice(start, stop, arguments.get("step", 1))]
    walk.move(node, [source], np.take(index, list(chosen), axis)[None])
    if chosen.step == 1 and len(chosen):
        walk.pieces.setdefault(source, []).append((chosen[0], chosen[-1] + 1, walk.look(node)))


@handles("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Node, arguments: Arguments) -> None:
    """r * r channels side by side become one."""
    source, factor = arguments["self"], int(arguments["upscale_factor"]) ** 2
    index = places(walk, source)
    if index.size == 1:
        walk.move(node, [source], index[None])
        return
    shape = [n // factor if n > 1 else 1 for n in index.shape]
    walk.move(node, [source], index.reshape(-1, factor).T.reshape(factor, *shape))


@handles("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: Node, arguments: Arguments) -> None:
    """One channel becomes r * r, side by side."""
    source, factor = arguments["self"], int(arguments["downscale_factor"]) ** 2
    index = places(walk, source)
    axis = len(shape_of(node)) - 3
    walk.move(node, [source], (np.repeat(index, factor, axis) if index.size > 1 else index)[None])


def reshaped(index: Array, before: Sequence[int], after: Sequence[int]) -> tuple[Array, bool]:
    """`index` (label-shaped) after a view; True when channels of one axis come to lie over several.

    Axes without channels that merge or split stay without; where space is merged into channels, each channel repeats.
    """
    shape, result, splits = [], index, False
    full: list[int] = []
    for ins, outs in _aligned(before, after):
        old, new = [before[a] for a in ins], [after[a] for a in outs]
        tracked = any(index.shape[a] > 1 for a in ins)
        full += old if tracked else [1] * len(old)
        shape += new if tracked else [1] * len(new)
        splits |= tracked and sum(n > 1 for n in new) > 1 and [n for n in new if n > 1] != [n for n in old if n > 1]
    return np.broadcast_to(result, full).reshape(shape), splits


def _aligned(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of both shapes with equal products, as short as they get."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        ins, outs = [i], [j]
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, ins, i = left * before[i], [*ins, i], i + 1
            else:
                right, outs, j = right * after[j], [*outs, j], j + 1
        runs.append((ins, outs))
    runs += [([axis], []) for axis in range(i, len(before))]
    runs += [([], [axis]) for axis in range(j, len(after))]
    return runs
