"""Intervals: between which two numbers each channel of a tensor lies. Arrays that broadcast against it, -inf and inf included.

Never here: operators (bounds.py, pointwise.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compress.channels.labels import Array

INF = math.inf
ULP = 2.0**-52


@dataclass(frozen=True)
class Swing:
    """A norm over space: between centre - reach * sqrt(cells * pixels - 1) and centre + the same, whatever goes in.

    `pixels`: of the picture that it was traced on; `cells`: channels that share its statistics.
    """

    centre: Array
    reach: Array
    cells: int
    pixels: int

    def stretch(self, lower: float | None, upper: float | None) -> Array:
        """Up to how many times the traced pixels the channel stays below `lower`, or above `upper`; NaN: at no size."""
        below = -INF if lower is None else lower - self.centre
        above = -INF if upper is None else self.centre - upper
        with np.errstate(all="ignore"):
            room = np.maximum(below, above) / np.maximum(self.reach, 1e-300)
            return np.where(room >= 0, (1 + room * room) / (self.cells * self.pixels), np.nan)


@dataclass(frozen=True)
class Interval:
    """`low` <= every value <= `high`, in a shape that broadcasts against the tensor; -inf and inf where nothing is known.

    `swing`: how far it depends on the size alone, if it does. `stretch`: as in `Swing.stretch`, for what comes out of a knot.
    """

    low: Array
    high: Array
    swing: Swing | None = None
    stretch: Array | None = None

    def onto(self, shape: Sequence[int]) -> Interval:
        """In this shape: all that lies along an axis of length 1 in one interval."""
        return Interval(_hull(self.low, shape, np.minimum), _hull(self.high, shape, np.maximum))

    @property
    def size(self) -> Array:
        """The larger of the two ends in size; 0 for an end that is not finite."""
        return np.maximum(finite(self.low), finite(self.high))


def rounded(x: Interval, size: Array, exact: Array | np.bool_, slack: float = 0.0) -> Interval:
    """Wider by what rounding can lose on terms of this size, where it is not `exact`."""
    lost = np.where(exact, 0.0, 16 * ULP * size + slack)
    return replace(x, low=x.low - lost, high=x.high + lost)


def fitted(x: Interval, labels: tuple[int, ...], traced: tuple[int, ...]) -> Interval:
    """In the label array's shape, or wider along axes that are not tracked."""
    if x.low.ndim < len(labels):
        lead = (1,) * (len(labels) - x.low.ndim)
        x = Interval(x.low.reshape(lead + x.low.shape), x.high.reshape(lead + x.high.shape))
    if x.low.ndim > len(labels):
        same = x.low.size == math.prod(labels)
        ends = (x.low, x.high) if same else (np.min(x.low), np.max(x.high))
        low, high = (end.reshape(labels) if same else np.full(labels, end) for end in ends)
        return Interval(low, high)
    allowed = zip(x.low.shape, labels, traced or labels, strict=True)
    if not all(found in (1, label) or (label == 1 and found == length) for found, label, length in allowed):
        return Interval(np.full(labels, np.min(x.low)), np.full(labels, np.max(x.high)))
    shape = np.broadcast_shapes(x.low.shape, labels)
    return replace(x, low=np.broadcast_to(x.low, shape), high=np.broadcast_to(x.high, shape))


def unbounded(shape: tuple[int, ...]) -> Interval:
    return Interval(np.full(shape, -INF), np.full(shape, INF))


def _hull(array: Array, shape: Sequence[int], reduce: np.ufunc) -> Array:
    over = tuple(axis for axis, length in enumerate(shape) if length == 1 and array.shape[axis] > 1)
    return np.broadcast_to(reduce.reduce(array, axis=over, keepdims=True) if over else array, shape)


def finite(ends: Array) -> Array:
    return np.where(np.isfinite(ends), np.abs(ends), 0.0)
