"""Operators that lay tensors side by side or take them apart: cat, stack, chunk, split, slices, writes into slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.elementwise import merged
from compress.channels.operators.moves import places, source_of
from compress.channels.operators.spatial import stays
from compress.channels.steps import Tensors
from compress.channels.walk import Arguments, Balance, Walk, is_data, op_of, shape_of

SPLITS = (
    "chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "tensor_split", "hsplit",
    "vsplit", "dsplit", "unbind",
)  # fmt: skip


@handles("cat", "concat", "concatenate")
def cat(walk: Walk, node: Node, arguments: Arguments) -> None:
    sources = arguments["tensors"]
    rank, axis = len(shape_of(node)), arguments["dim"] % len(shape_of(node))
    sources = [source for source in sources if len(shape_of(source)) == rank]  # an empty 1-D tensor may stand among them
    arrays = _numbered(walk, sources)
    along = {other for array in arrays for other in range(rank) if array.shape[other] > 1}
    if axis not in along:
        _beside(walk, node, sources, arrays)
        return
    others = tuple(max(array.shape[other] for array in arrays) for other in range(rank))
    wide = [[shape_of(source)[axis] if a == axis else others[a] for a in range(rank)] for source in sources]
    parts = [np.broadcast_to(array, shape) for array, shape in zip(arrays, wide, strict=True)]
    walk.move(node, sources, np.concatenate(parts, axis)[None])


def _beside(walk: Walk, node: Node, sources: Sequence[Node], arrays: list[Array]) -> None:
    """Tensors laid side by side over space: the same channels in each, constant where they all are the same."""
    if all(array.shape == arrays[0].shape for array in arrays):
        walk.move(node, sources, np.stack(arrays))
    else:
        walk.channelwise(node, sources, merged(walk, node, sources), all_equal)


def all_equal(values: Sequence[Array], tensors: Tensors) -> Array:
    """The constant that all inputs have in common."""
    first, *others = np.broadcast_arrays(*values)
    return np.where(np.all([first == other for other in others], axis=0), first, np.nan)


@handles("stack", "column_stack", "hstack", "vstack", "dstack")
def stack(walk: Walk, node: Node, arguments: Arguments) -> None:
    """A new axis, as long as there are tensors: their channels go together, position by position."""
    if op_of(node) != "stack":
        walk.opaque(node)
        return
    sources, axis = arguments["tensors"], arguments["dim"] % len(shape_of(node))
    arrays = _numbered(walk, sources)
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if len(sources) == 1 or np.prod(shape) == 1:
        index = np.stack([np.expand_dims(array, axis) for array in arrays])
        walk.move(node, sources, index)
        return
    index = np.stack([np.broadcast_to(array, shape) for array in arrays], axis)
    walk.move(node, sources, index[None])
    last = max(other for other, n in enumerate(index.shape) if n > 1 and other != axis)
    walk.grid(walk.look(node), last)


def _numbered(walk: Walk, sources: Sequence[Node]) -> list[Array]:
    """Places in each, counted through all of them."""
    arrays, start = [], 0
    for source in sources:
        arrays.append(start + places(walk, source))
        start += arrays[-1].size
    return arrays


@handles(*SPLITS)
def split(walk: Walk, node: Node, arguments: Arguments) -> None:
    source, op = source_of(arguments), op_of(node)
    rank = len(shape_of(source))
    named = {"hsplit": 1 if rank > 1 else 0, "vsplit": 0, "dsplit": 2}
    axis = int(named[op] if op in named else arguments["dim"]) % rank
    index = places(walk, source)
    pieces: dict[int, Node] = {int(user.args[1]): user for user in node.users if op_of(user) == "getitem"}  # type: ignore[arg-type]
    if op == "unbind":
        for number, user in pieces.items():
            walk.move(user, [source], np.take(index, number if index.shape[axis] > 1 else 0, axis)[None])
        _one_by_one(walk, node, source, axis)
        return
    sizes = [value.shape[axis] for value in node.meta["val"]]
    starts = np.cumsum([0, *sizes])
    for number, user in pieces.items():
        part = index if index.shape[axis] == 1 else np.take(index, range(starts[number], starts[number + 1]), axis)
        walk.move(node, [source], part[None], into=user.name)
    if index.shape[axis] == 1:
        return
    if len(set(sizes)) == 1:
        if len(sizes) > 1:
            labels = np.moveaxis(walk.look(source), axis, 0).reshape(len(sizes), -1)
            walk.balances.append(Balance(labels))
    elif not _in_numbers(op, arguments):
        walk.labels.pin(walk.look(source), f"{op} makes unequal parts")


def _in_numbers(op: str, arguments: Arguments) -> bool:
    """The code says itself how long each part is: whether it computes that from the width, running it will show."""
    return op.endswith("split_with_sizes") or "indices" in arguments


def _one_by_one(walk: Walk, node: Node, source: Node, axis: int) -> None:
    labels = walk.look(source)
    if labels.size == labels.shape[axis] > 1:
        walk.labels.pin(labels, f"{op_of(node)} takes channels one by one")


@handles("getitem")
def getitem(walk: Walk, node: Node, arguments: Arguments) -> None:
    if node.name not in walk.labels_of and is_data(node):
        walk.opaque(node)


@handles("slice", "narrow")
def cut(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = source_of(arguments)
    axis, chosen = _range(node, arguments, shape_of(source))
    index = places(walk, source)
    if index.shape[axis] == 1:
        walk.channelwise(node, [source], walk.look(source), stays)
        if axis in walk.stretched.get(source.name, ()):
            walk.stretched[node.name] = {axis}
        return
    walk.move(node, [source], np.take(index, list(chosen), axis)[None])
    if chosen.step == 1 and len(chosen):
        walk.pieces.setdefault(source, []).append((chosen[0], chosen[-1] + 1, walk.look(node)))


@handles("select")
def select(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = source_of(arguments)
    axis = arguments["dim"] % len(shape_of(source))
    index = places(walk, source)
    walk.move(node, [source], np.take(index, arguments["index"] if index.shape[axis] > 1 else 0, axis)[None])
    _one_by_one(walk, node, source, axis)


@handles("slice_scatter", "select_scatter", "copy", "fill")
def write(walk: Walk, node: Node, arguments: Arguments) -> None:
    """A tensor with another one written into a part of it."""
    source, written = source_of(arguments), arguments.get("src")
    if op_of(node) == "fill":
        _fill(walk, node, source, arguments["value"])
        return
    assert isinstance(written, Node)
    if op_of(node) == "copy":  # over the whole of it
        walk.channelwise(node, [source, written], merged(walk, node, [source, written]), lambda values, _: values[1])
        return
    axis, chosen = _range(node, arguments, shape_of(source))
    onto, new = _numbered(walk, [source, written])
    if onto.shape[axis] == 1 and op_of(node) == "slice_scatter" and new.shape[axis] == 1:
        walk.channelwise(node, [source, written], merged(walk, node, [source, written]), all_equal)
        return
    if op_of(node) == "select_scatter":
        new = np.expand_dims(new, axis)
        if onto.shape[axis] == 1 and onto.shape == new.shape:  # a row, or a picture: beside the others of its channel
            walk.move(node, [source, written], np.stack([onto, new]))
            return
    walk.labels.pin(walk.look(source), f"{op_of(node)} writes channels by number")
    walk.labels.pin(walk.look(written), f"{op_of(node)} writes channels by number")
    shape = np.broadcast_shapes(*(tuple(1 if a == axis else n for a, n in enumerate(each.shape)) for each in (onto, new)))
    wide = np.broadcast_to(onto, [shape_of(source)[axis] if a == axis else n for a, n in enumerate(shape)]).copy()
    place: list[Any] = [slice(None)] * onto.ndim
    place[axis] = list(chosen)
    wide[tuple(place)] = new
    walk.move(node, [source, written], wide[None])


def _fill(walk: Walk, node: Node, source: Node, value: Any) -> None:
    if isinstance(value, Node):
        found = walk.constant(value)
        if found is None or found.numel() != 1:
            walk.opaque(node, "fill writes a computed value")
            return
        value = found.item()
    walk.joint(node, [source], walk.look(source), lambda values, _: np.array(float(value)), lambda live, _: [np.array(False)])


def _range(node: Node, arguments: Arguments, shape: Sequence[int]) -> tuple[int, range]:
    """The axis and the positions along it that a slice takes."""
    axis = arguments["dim"] % len(shape)
    positions = range(shape[axis])
    if "index" in arguments:
        return axis, positions[slice(arguments["index"] % shape[axis], arguments["index"] % shape[axis] + 1)]
    start = arguments["start"]
    stop = start + arguments["length"] if op_of(node) == "narrow" else arguments["end"]
    return axis, positions[slice(start, stop, arguments.get("step", 1))]
