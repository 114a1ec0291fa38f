"""What one operator means for channels, in four kinds. Each says which constants come out, and what it reads.

    Channelwise   output channel j is a function of the input channels j: activations, norms over space, pools, pads, resizes, add
    Move          output channels are input channels elsewhere: cat, chunk, view, permute, pixel shuffle
    Linear        each output channel mixes all input channels of its group: convolutions, linear layers
    Opaque        reads everything; what comes out is not known: what is not understood, and what counts or mixes channels

A constant is the value that a channel has for every input, at every pixel, at every size; NaN where it has none.
Value and need arrays have the shape of the tensor's label array (labels.py). Never here: torch.export's nodes, decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from compress.channels.labels import Array

Tensors = Mapping[str, Tensor]
Evaluate = Callable[[Sequence[Array], Tensors], Array]


@dataclass(frozen=True)
class Step:
    """One call of an operator. `name`: its output's; `inputs`: names of the tensors that carry data into it."""

    name: str
    op: str
    module: str
    inputs: tuple[str, ...]

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        """Constants of the output (label shape `shape`), from those of the inputs."""
        return np.full(shape, np.nan)

    def reads(self, live: Array, shapes: Sequence[tuple[int, ...]], tensors: Tensors) -> list[Array]:
        """For each input, which channels are needed for the output channels that are `live`."""
        return [np.ones(shape, bool) for shape in shapes]


@dataclass(frozen=True)
class Opaque(Step):
    """`macs`: of the call, where they can be counted; None: not known."""

    macs: int | None = None


@dataclass(frozen=True)
class Channelwise(Step):
    evaluate: Evaluate

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        found = self.evaluate(values, tensors)
        found = np.where(np.isfinite(found), found, np.nan)
        if found.size > np.prod(shape):  # along an axis whose channels are not tracked
            return np.full(shape, np.nan)
        return found.reshape(shape) if found.size == np.prod(shape) else np.broadcast_to(found, shape).copy()

    def reads(self, live: Array, shapes: Sequence[tuple[int, ...]], tensors: Tensors) -> list[Array]:
        return [_reduced(live, shape, alone=len(shapes) == 1) for shape in shapes]


@dataclass(frozen=True)
class Move(Step):
    """`index` (k, *output label shape): flat positions in the inputs' label arrays, one after the other; -1: from nowhere.

    With k > 1 an output channel holds k input channels side by side in space, and is constant when they are equal.
    """

    index: Array

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        flat = np.concatenate([np.ravel(value) for value in values])
        found = np.where(self.index >= 0, flat[self.index], np.nan)
        return np.where((found == found[0]).all(axis=0), found[0], np.nan)

    def reads(self, live: Array, shapes: Sequence[tuple[int, ...]], tensors: Tensors) -> list[Array]:
        sizes = [int(np.prod(shape)) for shape in shapes]
        needed = np.zeros(sum(sizes), bool)
        wanted = self.index[np.broadcast_to(live, self.index.shape)]
        needed[wanted[wanted >= 0]] = True
        parts = np.split(needed, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class Linear(Step):
    """A convolution, transposed convolution or linear layer whose `weight` (and `bias`) are tensors of the module.

    `out`, `into`: widths. `inside` (taps): the tap meets the picture at every pixel of every size, so that a constant passes
    through it unchanged; False where padding or the gaps of a transposed convolution get in the way. `positions`: how often
    each tap is used in the traced call, for the cost. `owner`: name of the module that can be given a bias, or None.
    """

    weight: str
    bias: str | None
    groups: int
    transposed: bool
    out: int
    into: int
    inside: tuple[bool, ...]
    positions: int
    owner: str | None

    def matrix(self, tensors: Tensors) -> Tensor:
        """The weight as (groups, out / groups, in / groups, taps)."""
        weight = tensors[self.weight].detach()
        matrix = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        return matrix.transpose(1, 2) if self.transposed else matrix

    def touches(self, tensors: Tensors) -> Array:
        """(groups, out / groups, in / groups): the output channel has a weight other than zero for the input channel."""
        return (self.matrix(tensors) != 0).any(-1).numpy()

    def spills(self, tensors: Tensors) -> Array:
        """As `touches`, over the taps that are not always inside: through these, a constant does not stay a constant."""
        if all(self.inside):
            return np.zeros((self.groups, self.out // self.groups, self.into // self.groups), bool)
        return (self.matrix(tensors)[..., ~self._inside] != 0).any(-1).numpy()

    def sums(self, tensors: Tensors) -> Array:
        """(groups, out / groups, in / groups): the sum over the taps that are always inside, in float64."""
        return self.matrix(tensors)[..., self._inside].double().sum(-1).numpy()

    @cached_property
    def _inside(self) -> Tensor:
        return torch.tensor(self.inside)

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        value = self.grouped(values[0])
        unknown, nonzero = np.isnan(value), np.nan_to_num(value) != 0
        varies = (self.touches(tensors) & unknown[:, None]).any(-1)
        result = np.zeros(self.out) if self.bias is None else tensors[self.bias].detach().double().numpy().copy()
        if nonzero.any():
            varies |= (self.spills(tensors) & nonzero[:, None]).any(-1)
            result += (self.sums(tensors) * np.nan_to_num(value)[:, None]).sum(-1).ravel()
        result[varies.ravel()] = np.nan
        return result.reshape(shape) if result.size == np.prod(shape) else np.full(shape, np.nan)

    def reads(self, live: Array, shapes: Sequence[tuple[int, ...]], tensors: Tensors) -> list[Array]:
        rows = np.broadcast_to(live.ravel(), self.out) if live.size == 1 else live.ravel()
        needed = (self.touches(tensors) & rows.reshape(self.groups, -1, 1)).any(1).ravel()
        return [needed.reshape(shapes[0]) if needed.size == np.prod(shapes[0]) else np.full(shapes[0], needed.any())]

    def grouped(self, values: Array) -> Array:
        """Values of the input channels as (groups, in / groups)."""
        flat = values.ravel()
        return (flat if flat.size == self.into else np.broadcast_to(flat, self.into)).reshape(self.groups, -1)


def _reduced(mask: Array, shape: tuple[int, ...], alone: bool) -> Array:
    """`mask` brought back to an input's label shape: any over the axes that the operator broadcast."""
    if alone and mask.size == np.prod(shape):
        return mask.reshape(shape)
    mask = mask.any(axis=tuple(range(mask.ndim - len(shape)))) if mask.ndim > len(shape) else mask
    over = tuple(axis for axis, size in enumerate(shape) if size == 1 and mask.shape[axis] > 1)
    return np.broadcast_to(mask.any(axis=over, keepdims=True), shape)
