"""Which input positions an output position reads, along one axis: exact interval arithmetic, whatever lies between them.

Windows do not move evenly once something was upsampled: a pixel behind a nearest-neighbour resize sees two or three pixels of
what comes before, by turns. So a `Reach` has one interval for each phase of its period. Borders do not count: what is said holds
for a position far from all of them. Never here: operators, graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd, inf, lcm

import numpy as np

from compress.channels.labels import Array

LONGEST_PERIOD = 1 << 14


@dataclass(frozen=True)
class Reach:
    """Position `period * q + r` reads input positions `step * q + low[r]` to `step * q + high[r]`; low > high: none.

    `exact`: False where an operator's own windows are only known from outside; then the size is an upper bound.
    """

    step: int
    low: Array  # (period,)
    high: Array  # (period,)
    exact: bool = True

    @property
    def period(self) -> int:
        return len(self.low)

    @property
    def stride(self) -> Fraction:
        """Input positions from one position to the next; below one behind an upsampling."""
        return Fraction(self.step, self.period)

    @property
    def size(self) -> int:
        """The receptive field: from the first to the last input position that one position reads, at the widest phase."""
        return max(int((self.high - self.low).max()) + 1, 0) if np.isfinite(self.low).any() else 0

    @property
    def margin(self) -> int:
        """How far it reads beyond the input position that it stands for (phase * stride), to either side."""
        if self.size == 0:
            return 0
        here = np.arange(self.period) * float(self.stride)
        return max(ceil(max((here - self.low).max(), (self.high - here).max())), 0)


START = Reach(1, np.zeros(1), np.zeros(1))


@dataclass(frozen=True)
class Taps:
    """How an operator reads its input: output position `r + len(reads) * q` reads `reads[r] + per * q`, each a tuple."""

    reads: tuple[tuple[int, ...], ...]
    per: int = 1
    exact: bool = True


def through(source: Reach, taps: Taps) -> Reach | None:
    """What is read through an operator. None: the period gets too long to follow."""
    times = source.period // gcd(source.period, taps.per)
    period = len(taps.reads) * times
    if period > LONGEST_PERIOD:
        return None
    low, high = np.full(period, inf), np.full(period, -inf)
    for position in range(period):
        turn, phase = divmod(position, len(taps.reads))
        if taps.reads[phase]:
            read = np.array(taps.reads[phase]) + turn * taps.per
            far, place = source.step * (read // source.period), read % source.period
            low[position] = (far + source.low[place]).min()
            high[position] = (far + source.high[place]).max()
    return Reach(source.step * times * taps.per // source.period, low, high, source.exact and taps.exact)


def joined(sides: Sequence[Reach]) -> Reach | None:
    """What is read when several are added or concatenated. None: their strides differ, or the common period is too long."""
    first = sides[0]
    period = lcm(*(side.period for side in sides))
    if any(side.stride != first.stride for side in sides) or period > LONGEST_PERIOD:
        return None
    wide = [_repeated(side, period // side.period) for side in sides]
    low, high = np.min([side.low for side in wide], axis=0), np.max([side.high for side in wide], axis=0)
    return Reach(wide[0].step, low, high, all(side.exact for side in sides))


def _repeated(reach: Reach, times: int) -> Reach:
    far = np.repeat(np.arange(times), reach.period) * reach.step
    return Reach(reach.step * times, np.tile(reach.low, times) + far, np.tile(reach.high, times) + far, reach.exact)


def window(kernel: int, stride: int, dilation: int, before: int) -> Taps:
    """A convolution or a pool. `before`: rows of padding at the start."""
    return Taps((tuple(tap * dilation - before for tap in range(kernel)),), stride)


def transposed(kernel: int, stride: int, dilation: int, before: int) -> Taps:
    """A transposed convolution: each phase of the stride has its own taps, some have none."""
    reads = [
        tuple(
            (phase + before - tap * dilation) // stride for tap in range(kernel) if not (phase + before - tap * dilation) % stride
        )
        for phase in range(stride)
    ]
    return Taps(tuple(reads))


def moved(by: int, step: int = 1) -> Taps:
    """A slice that starts at `by`, or a pad (`by` negative)."""
    return Taps(((by,),), step)


def nearest(ratio: Fraction, centred: bool = False) -> Taps:
    """A nearest-neighbour resize. `ratio`: length of the input over that of the output. `centred`: torch's nearest-exact."""
    shift = Fraction(1, 2) if centred else 0
    return _resized(ratio, lambda position: (_floor((position + shift) * ratio),))


def linear(ratio: Fraction, reads: int, smooth: bool = False) -> Taps:
    """A linear (`reads` 1) or cubic (2: so many pixels to each side) resize. `smooth`: with antialiasing."""

    def around(position: int) -> tuple[int, ...]:
        centre = (position + Fraction(1, 2)) * ratio - Fraction(1, 2)
        if smooth:
            support = reads * max(ratio, Fraction(1))
            return _floor(centre - support) + 1, ceil(centre + support) - 1
        if centre.denominator == 1 and reads == 1:
            return (int(centre),)
        return _floor(centre) - reads + 1, _floor(centre) + reads

    return _resized(ratio, around)


def corner_aligned(ratio: Fraction, reads: int) -> Taps:
    """A resize that puts corners on corners drifts along the picture: an upper bound, from how far it can drift."""
    drift = abs(1 - ratio) / 2

    def around(position: int) -> tuple[int, ...]:
        centre = (position + Fraction(1, 2)) * ratio - Fraction(1, 2)
        return _floor(centre - drift) - reads + 1, _floor(centre + drift) + reads

    found = _resized(ratio, around)
    return Taps(found.reads, found.per, exact=False)


def blocks(ratio: Fraction) -> Taps:
    """An adaptive pool: each output position takes its share of the input, rounded outwards."""
    return _resized(ratio, lambda position: tuple(range(_floor(position * ratio), ceil((position + 1) * ratio))))


def _resized(ratio: Fraction, reads: Callable[[int], tuple[int, ...]]) -> Taps:
    return Taps(tuple(reads(position) for position in range(ratio.denominator)), ratio.numerator)


def _floor(value: Fraction) -> int:
    return value.numerator // value.denominator
