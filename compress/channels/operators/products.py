"""Products of tensors: matmul, einsum, attention. By the letters of an einsum: which axes are summed over, which stay.

Channels that are summed over on both sides go together, and zero ones drop out. Channels that stay along one side pass through.
Channels that stay along both sides are paired, each with each (a Gram matrix): those stay.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from torch.fx import Node

from compress.channels.labels import FIXED, Array
from compress.channels.operators import handles
from compress.channels.operators.linear import Product, mix
from compress.channels.steps import Tensors
from compress.channels.walk import Arguments, Walk, op_of, shape_of


@dataclass(frozen=True)
class Side:
    """An operand and the letters of its axes; `labels`: its label array."""

    node: Node
    letters: str
    labels: Array

    @property
    def channels(self) -> set[str]:
        """The letters along which channels lie."""
        return {letter for letter, n in zip(self.letters, self.labels.shape, strict=True) if n > 1}

    def over(self, array: Array, letters: str) -> Array:
        """`array` (shaped as the labels) with its axes in the order of `letters`, 1 for those that it does not have."""
        order = [self.letters.index(letter) for letter in letters if letter in self.letters]
        rest = [axis for axis in range(array.ndim) if axis not in order]
        moved = array.transpose([*order, *rest])
        sizes = [array.shape[self.letters.index(letter)] if letter in self.letters else 1 for letter in letters]
        return moved.reshape(sizes)

    def back(self, array: Array, letters: str) -> Array:
        """A mask over `letters` as one over this operand's labels: any over the axes that it does not have."""
        array = array.any(axis=tuple(axis for axis, letter in enumerate(letters) if letter not in self.letters))
        kept = [letter for letter in letters if letter in self.letters]
        own = [letter for letter in self.letters if letter in kept]
        array = array.transpose([kept.index(letter) for letter in own])
        sizes = dict(zip(own, array.shape, strict=True))
        array = array.reshape([sizes.get(letter, 1) for letter in self.letters])
        over = tuple(axis for axis, n in enumerate(self.labels.shape) if n == 1)
        return np.broadcast_to(array.any(axis=over, keepdims=True), self.labels.shape)


@handles("matmul", "mm", "bmm", "mv", "dot")
def matmul(walk: Walk, node: Node, arguments: Arguments) -> None:
    left, right = (value for value in arguments.values() if isinstance(value, Node))
    batch = max(len(shape_of(left)), len(shape_of(right)), 2) - 2
    names = string.ascii_lowercase[3 : 3 + batch]
    rows, columns = ("a" if len(shape_of(left)) > 1 else ""), ("c" if len(shape_of(right)) > 1 else "")
    first = names[batch - max(len(shape_of(left)) - 2, 0) :] + rows + "b"
    second = names[batch - max(len(shape_of(right)) - 2, 0) :] + "b" + columns
    contract(walk, node, [(left, first), (right, second)], names + rows + columns)


@handles("addmm", "baddbmm", "addbmm", "addmv")
def added(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Linear layers in other words; anything else is left alone."""
    left, right = (value for name, value in arguments.items() if isinstance(value, Node) and name not in ("self", "input"))
    bias = arguments["self"]
    plain = arguments["beta"] == arguments["alpha"] == 1 and len(shape_of(bias)) == 1 and bias.name in walk.data
    if op_of(node) != "addmm" or not plain or not _as_linear(walk, node, (left, "ab"), (right, "bc"), "ac", bias):
        walk.opaque(node, f"{op_of(node)} of computed matrices", prod(shape_of(node)) * shape_of(left)[-1])


@handles("einsum")
def einsum(walk: Walk, node: Node, arguments: Arguments) -> None:
    equation, operands = arguments["equation"].replace(" ", ""), arguments["tensors"]
    terms, arrow, out = equation.partition("->")
    sides = terms.split(",")
    if "." in equation or not arrow or len(sides) > 2 or any(len(set(side)) < len(side) for side in (*sides, out)):
        walk.opaque(node)
    elif len(sides) == 2:
        contract(walk, node, list(zip(operands, sides, strict=True)), out)
    elif set(sides[0]) == set(out):
        labels = walk.look(operands[0])
        index = np.arange(labels.size).reshape(labels.shape)
        walk.move(node, operands, index.transpose([sides[0].index(letter) for letter in out])[None])
    else:
        walk.opaque(node)


def contract(walk: Walk, node: Node, operands: Sequence[tuple[Node, str]], out: str) -> None:
    """An einsum of two operands, each with the letters of its axes."""
    one, two = operands
    if _as_linear(walk, node, one, two, out) or _as_linear(walk, node, two, one, out):
        return
    a, b = (Side(operand, letters, walk.look(operand)) for operand, letters in operands)
    sizes = {letter: n for operand, letters in operands for letter, n in zip(letters, shape_of(operand), strict=True) if n > 1}
    macs = prod(sizes.values())
    summed = (a.channels | b.channels) - set(out)
    paired = f"{op_of(node)} pairs channels with channels"
    if not summed:
        _pass(walk, node, (a, b), out, macs)
    elif not summed <= set(a.letters) & set(b.letters):
        walk.opaque(node, f"{op_of(node)} adds up channels", macs)
    elif (a.channels | b.channels) - summed - set(a.letters) & set(b.letters):
        walk.opaque(node, paired, macs)
    else:
        _meet(walk, node, (a, b), out, macs)


def _meet(walk: Walk, node: Node, sides: tuple[Side, Side], out: str, macs: int) -> None:
    """Channels are summed over: tied on both sides; a pair whose one side is zero contributes nothing."""
    a, b = sides
    letters = "".join(sorted(set(a.letters) | set(b.letters)))
    own = [_full(walk, side, letters, a.channels | b.channels) for side in sides]
    walk.labels.tie(own[0], own[1], walk.why(a.node, b.node))

    def spread(values: Sequence[Array]) -> tuple[Array, Array]:
        one, two = (side.over(value, letters) for side, value in zip(sides, values, strict=True))
        return one, two

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        one, two = spread(values)
        return np.array(0.0 if ((one == 0) | (two == 0)).all() else np.nan)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        one, two = np.broadcast_arrays(*spread(values))
        return [a.back(two != 0, letters), b.back(one != 0, letters)]

    def keeps(live: Array, values: Sequence[Array]) -> list[Array]:
        one, two = np.broadcast_arrays(*spread(values))
        return [a.back((np.nan_to_num(one) != 0) & (two != 0), letters), b.back((np.nan_to_num(two) != 0) & (one != 0), letters)]

    walk.joint(node, [a.node, b.node], np.full((1,) * len(out), FIXED), evaluate, needs, keeps, macs)


def _full(walk: Walk, side: Side, letters: str, channels: set[str]) -> Array:
    """The labels of one side over `letters`; FIXED where the other side has channels and this one has numbers."""
    labels, sizes = side.over(side.labels, letters), dict(zip(side.letters, shape_of(side.node), strict=True))
    if all(labels.shape[letters.index(x)] > 1 or sizes.get(x, 1) == 1 for x in channels):
        return labels
    walk.labels.pin(labels, walk.why(side.node))
    return np.full([sizes.get(x, 1) if x in channels else 1 for x in letters], FIXED)


def _pass(walk: Walk, node: Node, sides: tuple[Side, Side], out: str, macs: int) -> None:
    """Channels stay along one side, or along an axis that both share. Zero stays zero; of others nothing is known."""
    a, b = sides
    shared = set(a.letters) & set(b.letters)
    if a.channels and b.channels and not (a.channels | b.channels) <= shared:
        walk.opaque(node, f"{op_of(node)} pairs channels with channels", macs)
        return
    full = [_full(walk, side, out, a.channels | b.channels) if side.channels <= shared else None for side in sides]
    rows = [side.over(side.labels, out) for side in sides]
    if (a.channels | b.channels) <= shared and (a.channels | b.channels):
        one, two = (array if array is not None else row for array, row in zip(full, rows, strict=True))
        walk.labels.tie(one, two, walk.why(a.node, b.node))
    labels = rows[0] if a.channels else rows[1]

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        found = [side.over(value, out) == 0 for side, value in zip(sides, values, strict=True)]
        return np.where(np.broadcast_to(found[0] | found[1], labels.shape), 0.0, np.nan)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        return [side.back(live, out) for side in sides]

    walk.joint(node, [a.node, b.node], labels, evaluate, needs, macs=macs)


def _as_linear(
    walk: Walk, node: Node, data: tuple[Node, str], weight: tuple[Node, str], out: str, bias: Node | None = None
) -> bool:
    """The product of a tensor with a matrix that is a parameter, over channels, is a linear layer."""
    (source, letters), (matrix, pair) = data, weight
    while matrix.op == "call_function" and op_of(matrix) in ("t", "numpy_T", "mT", "transpose") and len(shape_of(matrix)) == 2:
        matrix, pair = matrix.all_input_nodes[0], pair[::-1]
    if matrix.name not in walk.data or source.name in walk.data or len(pair) != 2 or len(shape_of(matrix)) != 2:
        return False
    summed, new = ([x for x in pair if x not in out], [x for x in pair if x in out])
    if len(summed) != 1 or letters.replace(summed[0], new[0]) != out or summed[0] not in letters or new[0] in letters:
        return False
    channels = letters.index(summed[0])
    labels = walk.look(source)
    if labels.size != labels.shape[channels]:
        return False
    positions = prod(shape_of(node)) // shape_of(node)[channels]
    mix(walk, node, Product(source, matrix, bias, 1, pair[0] == summed[0], (True,), positions, channels))
    return True


@handles("scaled_dot_product_attention")
def attention(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Query and key meet over channels, by whose number the product is scaled; a value's channels pass through."""
    query, key, value = (arguments[name] for name in ("query", "key", "value"))
    sides = [walk.look(each) for each in (query, key)]
    mask, passed = arguments.get("attn_mask"), walk.look(value)
    if arguments.get("enable_gqa") or (passed.ndim > 1 and passed.shape[-2] > 1) or sides[0].shape != sides[1].shape:
        walk.opaque(node, "attention over channels")
        return
    for labels in sides:
        walk.labels.pin(labels, "attention is scaled by the number of its channels")
    inputs = [query, key, value, *([mask] if isinstance(mask, Node) else [])]
    for extra in inputs[3:]:
        walk.labels.pin(walk.look(extra), "a mask of attention")
    length, head = shape_of(query)[-2], shape_of(query)[-1]
    macs = prod(shape_of(node)) * shape_of(key)[-2] + prod(shape_of(query)[:-2]) * length * head * shape_of(key)[-2]
    kept = mask is None and not arguments.get("dropout_p")

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        return values[2] if kept else np.where(values[2] == 0, 0.0, np.nan)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        some = np.array(live.any())
        return [some, some, live, *[some] * (len(inputs) - 3)]

    walk.joint(node, inputs, passed, evaluate, needs, macs=macs)


@handles(
    "bilinear", "outer", "cdist", "cosine_similarity", "tensordot", "kron", "linalg_cross", "chain_matmul", "linalg_multi_dot"
)
def pairing(walk: Walk, node: Node, arguments: Arguments) -> None:
    walk.opaque(node, f"{op_of(node)} pairs or counts channels")
