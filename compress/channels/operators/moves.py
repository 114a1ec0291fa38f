"""Operators that only give channels another place: views, permutations, copies, shuffles. Each is an index array."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.spatial import stays
from compress.channels.walk import Arguments, Walk, is_data, op_of, shape_of

PERMUTES = (
    "permute", "transpose", "movedim", "moveaxis", "t", "swapaxes", "swapdims", "numpy_T", "mT", "mH", "matrix_H", "adjoint",
)  # fmt: skip


def places(walk: Walk, node: Node) -> Array:
    """Flat positions in the label array of a tensor, in its shape."""
    labels = walk.look(node)
    return np.arange(labels.size).reshape(labels.shape)


def source_of(arguments: Arguments) -> Node:
    """The tensor that an operator works on."""
    source = arguments.get("self", arguments.get("input"))
    assert isinstance(source, Node)
    return source


@handles(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "_reshape_alias",
    "atleast_1d", "atleast_2d", "atleast_3d", "ravel",
)  # fmt: skip
def view(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Channels that come to lie over several axes form a grid: the code keeps all its axes but the last as they are."""
    source = source_of(arguments)
    before, after = shape_of(source), shape_of(node)
    found = reshaped(places(walk, source), before, after)
    if found is None:
        walk.opaque(node, f"{op_of(node)} lays channels and space over the same axes", 0)
        return
    index, split = found
    walk.move(node, [source], index)
    if split is not None:
        walk.grid(walk.look(node), split)


@handles(*PERMUTES)
def permute(walk: Walk, node: Node, arguments: Arguments) -> None:
    """What the operator does to positions is what it does to channels."""
    source = source_of(arguments)
    walk.move(node, [source], _run_on(places(walk, source), node, arguments)[None])


@handles("channel_shuffle", "native_channel_shuffle")
def shuffle(walk: Walk, node: Node, arguments: Arguments) -> None:
    """A view over (groups, channels of each), transposed, and back."""
    source = source_of(arguments)
    labels = walk.look(source)
    if labels.size != labels.shape[1]:
        walk.opaque(node, f"{op_of(node)} of what lies along other axes", 0)
        return
    index = places(walk, source)
    walk.move(node, [source], (_run_on(index, node, arguments) if labels.size > 1 else index)[None])
    if labels.size > 1:
        walk.grid(labels.reshape(int(arguments["groups"]), -1), 1)


@handles("flip", "fliplr", "flipud", "rot90")
def mirrored(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = source_of(arguments)
    walk.move(node, [source], _run_on(places(walk, source), node, arguments)[None])


@handles("roll", "index_select", "repeat_interleave", "index")
def by_number(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Along channels: which goes where is a number in the code, so they stay. Along space it changes nothing."""
    source = source_of(arguments)
    index = places(walk, source)
    axes = _worked(node, arguments)
    for other in node.all_input_nodes:  # the numbers, when the network computes them
        if is_data(other) and walk.current(other) is not source:
            walk.labels.pin(walk.look(walk.current(other)), f"{op_of(node)} picks by them")
    if axes is None:
        walk.opaque(node)
    elif not any(index.shape[axis] > 1 for axis in axes):
        walk.channelwise(node, [source], walk.look(source), stays)
    elif op_of(node) == "repeat_interleave" and isinstance(arguments.get("repeats"), int):
        walk.move(node, [source], np.repeat(index, arguments["repeats"], axes[0])[None])
    elif len(axes) == 1 and (order := _order(walk, node, arguments, axes[0])) is not None:
        walk.labels.pin(walk.look(source), f"{op_of(node)} picks channels by number")
        walk.move(node, [source], np.take(index, order, axes[0])[None])
    else:
        walk.opaque(node, f"{op_of(node)} picks channels by number", 0)


def _worked(node: Node, arguments: Arguments) -> list[int] | None:
    """The axes that the operator works along; None: not known, or it makes new ones."""
    rank = len(shape_of(source_of(arguments)))
    if op_of(node) == "index":
        chosen = {axis: one.meta["val"] for axis, one in enumerate(arguments["indices"]) if one is not None}
        axes = list(chosen)
        plain = all(one.dtype != torch.bool and one.dim() == len(axes) for one in chosen.values())
        return axes if plain and axes == list(range(axes[0], axes[-1] + 1)) else None
    if op_of(node) == "roll":
        dims = arguments["dims"]
        return [axis % rank for axis in ([dims] if isinstance(dims, int) else dims)] or None
    axis = arguments.get("dim")
    return None if axis is None else [axis % rank]


def _order(walk: Walk, node: Node, arguments: Arguments, axis: int) -> Array | None:
    """Which position along `axis` comes where, when the code says it with numbers."""
    length = shape_of(source_of(arguments))[axis]
    if op_of(node) == "roll":
        shifts = arguments["shifts"]
        shift = shifts if isinstance(shifts, int) else shifts[0]
        return np.roll(np.arange(length), shift)
    chosen = {"index": lambda: arguments["indices"][axis], "index_select": lambda: arguments["index"]}.get(op_of(node))
    numbers = walk.constant(chosen()) if chosen is not None else None
    if numbers is None or numbers.dim() != 1 or numbers.dtype not in (torch.int64, torch.int32):
        return None
    return numbers.cpu().numpy() % length


@handles("expand", "expand_as", "repeat", "tile", "broadcast_to")
def expand(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Copies along axes without channels change nothing; copies of channels are the same channels again."""
    source = source_of(arguments)
    index, rank = places(walk, source), len(shape_of(node))
    index = index.reshape((1,) * (rank - index.ndim) + index.shape)
    shape = (1,) * (rank - len(shape_of(source))) + shape_of(source)
    times = [after // before for before, after in zip(shape, shape_of(node), strict=True)]
    if op_of(node) in ("repeat", "tile"):
        index = np.tile(index, [n if index.shape[axis] > 1 else 1 for axis, n in enumerate(times)])
    walk.stretched[node.name] = {axis for axis, n in enumerate(times) if n > 1 and index.shape[axis] == 1 and shape[axis] == 1}
    walk.move(node, [source], index[None])


@handles("pixel_shuffle")
def pixel_shuffle(walk: Walk, node: Node, arguments: Arguments) -> None:
    """r * r channels side by side become one."""
    source, factor = source_of(arguments), int(arguments["upscale_factor"]) ** 2
    if not walk.over_space(source, 2):
        walk.opaque(node, "pixel_shuffle along channels", 0)
        return
    index, axis = places(walk, source), len(shape_of(source)) - 3
    if index.shape[axis] == 1:
        walk.move(node, [source], index[None])
        return
    split = index.reshape(*index.shape[:axis], -1, factor, *index.shape[axis + 1 :])
    walk.move(node, [source], np.moveaxis(split, axis + 1, 0))


@handles("pixel_unshuffle")
def pixel_unshuffle(walk: Walk, node: Node, arguments: Arguments) -> None:
    """One channel becomes r * r, side by side."""
    source, factor = source_of(arguments), int(arguments["downscale_factor"]) ** 2
    if not walk.over_space(source, 2):
        walk.opaque(node, "pixel_unshuffle along channels", 0)
        return
    index, axis = places(walk, source), len(shape_of(node)) - 3
    walk.move(node, [source], (np.repeat(index, factor, axis) if index.shape[axis] > 1 else index)[None])


def reshaped(index: Array, before: Sequence[int], after: Sequence[int]) -> tuple[Array, int | None] | None:
    """`index` (label-shaped) after a view, as (k, *label shape); and the last of the axes that channels of one now lie over.

    Axes without channels that merge or split stay without. Where an axis with channels merges with space, each channel repeats
    (a flatten); but where other channels lie along another axis, what merges into space is k channels side by side in it (a
    pixel shuffle by hand). None: channels and space over several axes.
    """
    labelled = [n > 1 for n in index.shape]
    aside: list[int] = []  # axes that become k
    full: list[int] = []
    shape: list[int] = []
    split: int | None = None
    for ins, outs in _aligned(before, after):
        old, new = [before[a] for a in ins], [after[a] for a in outs]
        wide = [a for a in ins if before[a] > 1]
        tracked, several = [a for a in wide if labelled[a]], sum(n > 1 for n in new) > 1
        elsewhere = sum(labelled) > len(tracked)
        if not tracked:
            old, new = [1] * len(old), [1] * len(new)
        elif len(tracked) < len(wide) and several:
            return None
        elif len(tracked) < len(wide) and elsewhere and wide[0] != tracked[0]:
            aside += tracked
            old, new = [1] * len(old), [1] * len(new)
        elif several and [n for n in new if n > 1] != [n for n in old if n > 1]:
            split = len(shape) + max(a for a, n in enumerate(new) if n > 1)
        full += old
        shape += new
    front = np.moveaxis(index, aside, range(len(aside))) if aside else index
    k = prod(index.shape[a] for a in aside)
    body = front.reshape(k, *(1 if a in aside else n for a, n in enumerate(index.shape)))
    return np.broadcast_to(body, (k, *full)).reshape(k, *shape), split


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


def _run_on(index: Array, node: Node, arguments: Arguments) -> Array:
    """The operator itself on positions."""
    target: Any = node.target
    values = dict(arguments)
    given = [values.pop(argument.name) for argument in target._schema.arguments if not argument.kwarg_only]
    given[0] = torch.from_numpy(np.ascontiguousarray(index))
    return np.asarray(target(*given, **values).numpy())
