"""What one operator means for channels, in five kinds. Each says which constants come out, and what it reads.

    Channelwise   output channel j is a function of the input channels j: activations, norms over space, pools, pads, resizes, add
    Move          output channels are input channels elsewhere: cat, chunk, view, permute, pixel shuffle
    Linear        each output channel mixes all input channels of its group: convolutions, linear layers
    Joint         output channels are functions of several input channels: GroupNorm, softmax over branches, matrix products
    Opaque        reads everything; what comes out is not known: what is not understood, and what counts or mixes channels

A constant is the value that a channel has for every input, at every pixel, at every size; NaN where it has none.
Value and need arrays have the shape of the tensor's label array (labels.py). Never here: torch.export's nodes, decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.channels.labels import Array

Tensors = Mapping[str, Tensor]
Evaluate = Callable[[Sequence[Array], Tensors], Array]
Needs = Callable[[Array, Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class Call:
    """`tensors`: argument -> name of the tensor that it is; `options`: the other arguments; `shape`: the output's, as traced."""

    tensors: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One call of an operator. `name`: its output's; `inputs`: names of the tensors that carry data into it.

    `call`: how it was called, for those who ask what the operator does to numbers (bounds.py).
    """

    name: str
    op: str
    module: str
    inputs: tuple[str, ...]
    call: Call = field(kw_only=True, repr=False, compare=False, default_factory=lambda: Call())

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        """Constants of the output (label shape `shape`), from those of the inputs."""
        return np.full(shape, np.nan)

    def reads(self, live: Array, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        """For each input (`values`: its constants), which channels are needed for the output channels that are `live`."""
        return [np.ones(value.shape, bool) for value in values]

    def holds(self, live: Array, values: Sequence[Array]) -> list[Array]:
        """For each input, which constants may not go, because it cannot do without them."""
        return [np.zeros(value.shape, bool) for value in values]


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

    def reads(self, live: Array, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [_reduced(live, value.shape, alone=len(values) == 1) for value in values]


@dataclass(frozen=True)
class Joint(Step):
    """`needs(live, values)`: as `reads`. `keeps(live, values)`: as `holds`; None: it can do without any constant.

    `macs`: of the call, for the cost.
    """

    evaluate: Evaluate
    needs: Needs
    keeps: Needs | None = None
    macs: int = 0

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        found = np.broadcast_to(self.evaluate(values, tensors), shape)
        return np.where(np.isfinite(found), found, np.nan)

    def reads(self, live: Array, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        return [np.broadcast_to(read, v.shape) for read, v in zip(self.needs(live, values), values, strict=True)]

    def holds(self, live: Array, values: Sequence[Array]) -> list[Array]:
        if self.keeps is None:
            return super().holds(live, values)
        return [np.broadcast_to(kept, v.shape) for kept, v in zip(self.keeps(live, values), values, strict=True)]


@dataclass(frozen=True)
class Move(Step):
    """`index` (k, *output label shape): flat positions in the inputs' label arrays, one after the other; -1: a number, `nowhere`.

    With k > 1 an output channel holds k input channels side by side in space, and is constant when they are equal.
    """

    index: Array
    nowhere: float = np.nan

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        flat = np.concatenate([np.ravel(value) for value in values])
        found = np.where(self.index >= 0, flat[self.index], self.nowhere)
        return np.where((found == found[0]).all(axis=0), found[0], np.nan)

    def reads(self, live: Array, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        sizes = [value.size for value in values]
        needed = np.zeros(sum(sizes), bool)
        wanted = self.index[np.broadcast_to(live, self.index.shape)]
        needed[wanted[wanted >= 0]] = True
        parts = np.split(needed, np.cumsum(sizes)[:-1])
        return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]


@dataclass(frozen=True)
class Linear(Step):
    """A convolution, transposed convolution or linear layer whose `weight` (and `bias`) are tensors of the module.

    `out`, `into`: widths. `inside` (taps): the tap meets the picture at every pixel of every size, so that a constant passes
    through it unchanged; False where padding or the gaps of a transposed convolution get in the way. `positions`: how often
    each tap is used in the traced call, for the cost. `owner`: name of the module that can be given a bias, or None. `axis`: of
    the output that holds the channels. `gain`, `bias_gain`: positive numbers by which the code multiplies weight and bias.
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
    axis: int
    gain: float = 1.0
    bias_gain: float = 1.0

    def matrix(self, tensors: Tensors) -> Tensor:
        """The weight as (groups, out / groups, in / groups, taps), without the gain."""
        weight = tensors[self.weight].detach()
        matrix = weight.reshape(self.groups, weight.shape[0] // self.groups, weight.shape[1], -1)
        return matrix.transpose(1, 2) if self.transposed else matrix

    def touches(self, tensors: Tensors) -> Array:
        """(groups, out / groups, in / groups): the output channel has a weight other than zero for the input channel."""
        return any_tap(self.matrix(tensors) != 0)

    def spills(self, tensors: Tensors) -> Array:
        """As `touches`, over the taps that are not always inside: through these, a constant does not stay a constant."""
        if all(self.inside):
            return np.zeros((self.groups, self.out // self.groups, self.into // self.groups), bool)
        return any_tap(self.matrix(tensors)[..., ~self._inside] != 0)

    def sums(self, tensors: Tensors) -> Array:
        """(groups, out / groups, in / groups): the sum over the taps that are always inside, with the gain, in float64."""
        return self.gain * sum_of_taps(self.matrix(tensors)[..., self._inside])

    def shift(self, tensors: Tensors) -> Array:
        """(out,): the bias with its gain, in float64; zeros where there is none."""
        return np.zeros(self.out) if self.bias is None else self.bias_gain * tensors[self.bias].detach().double().numpy()

    @cached_property
    def _inside(self) -> Tensor:
        return torch.tensor(self.inside)

    def constants(self, values: Sequence[Array], shape: tuple[int, ...], tensors: Tensors) -> Array:
        value = self.grouped(values[0])
        unknown, nonzero = np.isnan(value), np.nan_to_num(value) != 0
        varies = (self.touches(tensors) & unknown[:, None]).any(-1)
        result = self.shift(tensors)
        if nonzero.any():
            varies |= (self.spills(tensors) & nonzero[:, None]).any(-1)
            result += (self.sums(tensors) * np.nan_to_num(value)[:, None]).sum(-1).ravel()
        result[varies.ravel()] = np.nan
        return result.reshape(shape) if result.size == np.prod(shape) else np.full(shape, np.nan)

    def reads(self, live: Array, values: Sequence[Array], tensors: Tensors) -> list[Array]:
        shape = values[0].shape
        rows = np.broadcast_to(live.ravel(), self.out) if live.size == 1 else live.ravel()
        needed = (self.touches(tensors) & rows.reshape(self.groups, -1, 1)).any(1).ravel()
        return [needed.reshape(shape) if needed.size == np.prod(shape) else np.full(shape, needed.any())]

    def grouped(self, values: Array) -> Array:
        """Values of the input channels as (groups, in / groups)."""
        flat = values.ravel()
        return (flat if flat.size == self.into else np.broadcast_to(flat, self.into)).reshape(self.groups, -1)


def any_tap(found: Tensor) -> Array:
    """(..., taps) booleans -> (...). One tap needs no search: torch takes its time over an axis of length one."""
    return (found[..., 0] if found.shape[-1] == 1 else found.any(-1)).numpy()


def sum_of_taps(matrix: Tensor) -> Array:
    """(..., taps) -> (...), in float64, without a copy of the whole in float64."""
    if matrix.shape[-1] == 1:
        return matrix[..., 0].double().numpy()
    wide = matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()
    return np.einsum("...t->...", wide.numpy(), dtype=np.float64)


def _reduced(mask: Array, shape: tuple[int, ...], alone: bool) -> Array:
    """`mask` brought back to an input's label shape: any over the axes that the operator broadcast."""
    if alone and mask.size == np.prod(shape):
        return mask.reshape(shape)
    mask = mask.any(axis=tuple(range(mask.ndim - len(shape)))) if mask.ndim > len(shape) else mask
    over = tuple(axis for axis, size in enumerate(shape) if size == 1 and mask.shape[axis] > 1)
    return np.broadcast_to(mask.any(axis=over, keepdims=True), shape)
