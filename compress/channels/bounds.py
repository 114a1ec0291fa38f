"""Between which values each channel of every tensor lies, for every input in its range and every size, or up to one.

Intervals are those of real arithmetic on the weights as they are: each is widened outward by what float64 can lose on the way,
and not by what float32 can. So a ReLU is dead when its bound is zero or less, and b = -|g| sqrt(HW - 1) is dead, as it is on
paper; a float32 run may then leave its own rounding (1e-7 of the terms) where there is a zero now, at inputs that touch the
bound, as it may with every constant. Only functions that jump (sign, threshold, floor) are held off from their jumps by a
margin that float32 respects: there a rounding is no small thing.

An operator that is not in the tables below is unbounded, or as wide as its own nature (`RANGE`). Never here: what is constant or
needed (facts.py), labels, decisions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from compress.channels.graph import ChannelGraph
from compress.channels.intervals import INF, ULP, Interval, Swing, finite, fitted, rounded, unbounded
from compress.channels.labels import Array
from compress.channels.pointwise import RANGE, pointwise
from compress.channels.ranges import Range
from compress.channels.steps import Channelwise, Linear, Move, Step, any_tap, sum_of_taps

# Over space only, each channel for itself: what comes out is among what went in, or a mean of it.
CHOICES = {
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d",
}  # fmt: skip
MEANS = {
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip
REDUCED = {"mean", "amax", "amin", "flip", "roll", "slice", "narrow"}  # the same, over any axis of what is not tracked
BICUBIC = 1.375**2  # the sum of the absolute weights of a bicubic tap, at most


class Bounds:
    """Rules by operator. `ranges`: one for each input; `pixels`: norm over space -> pixels of its picture at the largest size."""

    def __init__(
        self,
        graph: ChannelGraph,
        tensors: Mapping[str, Tensor],
        ranges: Sequence[Range | None] = (),
        pixels: Mapping[str, int] | None = None,
    ) -> None:
        self._graph, self._tensors, self._ranges = graph, tensors, ranges
        self._pixels = pixels or {}

    def up_to(self, pixels: Mapping[str, int]) -> Bounds:
        """The same with a largest size."""
        return Bounds(self._graph, self._tensors, self._ranges, pixels)

    def given(self) -> dict[str, Interval]:
        """What is known of every tensor before the first step: of inputs their range, of parameters their values."""
        found = {name: unbounded(labels.shape) for name, labels in self._graph.labels.items()}
        for name, known in zip(self._graph.inputs, self._ranges, strict=False):
            if known is not None and name in found:
                found[name] = Interval(*known.along(self._graph.labels[name].ndim))
        for name, tensor in self._graph.data.items():
            if name in found:
                values = self._double(tensor)
                found[name] = Interval(values, values).onto(found[name].low.shape)
        return found

    def after(self, step: Step, inputs: Sequence[Interval]) -> Interval:
        """Of what `step` makes, from those of its inputs."""
        shape = self._graph.labels[step.name].shape
        with np.errstate(all="ignore"):
            found = self._rule(step, inputs, shape)
            low, high = RANGE.get(step.op, (-INF, INF))
            known = ~np.isnan(found.low) & ~np.isnan(found.high)
            lows = np.clip(np.where(known, found.low, -INF), low, high)
            highs = np.clip(np.where(known, found.high, INF), low, high)
        return fitted(replace(found, low=lows, high=highs), shape, step.call.shape)

    def _rule(self, step: Step, inputs: Sequence[Interval], shape: tuple[int, ...]) -> Interval:
        if isinstance(step, Linear):
            return self._linear(step, inputs[0], shape)
        if step.op in ("instance_norm", "batch_norm", "group_norm", "_native_batch_norm_legit_no_training"):
            return self._norm(step, inputs[0])
        if step.op in ("layer_norm", "rms_norm"):
            return self._layer_norm(step, inputs[0])
        if isinstance(step, Move):
            return self._move(step, inputs)
        if not isinstance(step, Channelwise):
            return unbounded(shape)
        source = inputs[0] if inputs else unbounded(shape)
        if step.op in CHOICES:
            return replace(source, stretch=None)
        if step.op in MEANS:
            return replace(_mean(source), swing=None, stretch=None)
        tracked = source.onto(self._graph.labels[step.inputs[0]].shape) if step.inputs else source
        if step.op in REDUCED:
            return _mean(tracked)
        if step.op in _OVER_SPACE:
            spatial = step.op not in ("pad", "constant_pad_nd") or len(step.call.options["pad"]) // 2 <= source.low.ndim - 2
            return _OVER_SPACE[step.op](step, source if spatial and step.op not in ("var", "std", "sum") else tracked)
        return pointwise(step, inputs, self._tensors)

    def _move(self, step: Move, inputs: Sequence[Interval]) -> Interval:
        parts = [found.onto(self._graph.labels[name].shape) for name, found in zip(step.inputs, inputs, strict=True)]
        nowhere = float(step.call.options.get("value") or 0) if step.op in ("pad", "constant_pad_nd") else None
        low, high = (np.concatenate([np.ravel(getattr(part, end)) for part in parts]) for end in ("low", "high"))
        outside = step.index < 0
        lows = np.where(outside, -INF if nowhere is None else nowhere, low[step.index])
        highs = np.where(outside, INF if nowhere is None else nowhere, high[step.index])
        return Interval(lows.min(axis=0), highs.max(axis=0))

    # -- layers that mix channels ------------------------------------------------------------------------------------------

    def _linear(self, step: Linear, source: Interval, shape: tuple[int, ...]) -> Interval:
        """Each tap meets its own pixel; those that may meet the zeros around the picture, or the gaps of strides, also meet 0."""
        to = [step.into if a == step.axis else 1 for a in range(len(shape))]
        along = source if source.low.shape == tuple(to) else source.onto([1] * len(shape))
        low, high = step.grouped(along.low), step.grouped(along.high)
        bias = step.shift(self._tensors)
        rows, silent = self._bounded(step, low, high)
        result = np.where(silent, bias, -INF), np.where(silent, bias, INF)
        for end, found in zip(result, self._mixed(step, low, high, bias[rows], rows), strict=True):
            end[rows] = found
        where = [step.out if a == step.axis else 1 for a in range(len(shape))]
        return Interval(result[0].reshape(where), result[1].reshape(where))

    def _bounded(self, step: Linear, low: Array, high: Array) -> tuple[Array, Array]:
        """The output channels that may have a bound, nearly none behind a ReLU; and whether a channel has no weights at all."""
        none, every = np.arange(0), np.arange(step.out)
        if not (np.isfinite(low) | np.isfinite(high)).any():
            return none, np.zeros(step.out, bool)
        if step.groups > 1 or (np.isfinite(low) & np.isfinite(high)).all():
            return every, np.zeros(step.out, bool)
        matrix = step.matrix(self._tensors)
        positive, negative = any_tap(matrix > 0)[0], any_tap(matrix < 0)[0]
        upward = (positive & np.isinf(high)) | (negative & np.isinf(low))
        downward = (positive & np.isinf(low)) | (negative & np.isinf(high))
        silent = ~(positive | negative).any(1)
        return every[~(upward.any(1) & downward.any(1)) & ~silent], silent

    def _mixed(self, step: Linear, low: Array, high: Array, bias: Array, rows: Array) -> tuple[Array, Array]:
        """Of these output channels, with their `bias`."""
        lowest, highest = np.full(len(rows), INF), np.full(len(rows), -INF)
        for always, sometimes in _taps(step, self._tensors[step.weight].shape[2:]):
            bottom, top, size = np.zeros(len(rows)), np.zeros(len(rows)), np.abs(bias)
            for taps, (lo, hi) in ((always, (low, high)), (sometimes, (np.minimum(low, 0), np.maximum(high, 0)))):
                if any(taps):
                    plus, minus = self._signed(step, taps, rows)
                    top, bottom = top + _met(plus, hi) + _met(minus, lo), bottom + _met(plus, lo) + _met(minus, hi)
                    size = size + _met(plus - minus, np.maximum(finite(lo), finite(hi)))
            lost = ULP * (step.into // step.groups * len(step.inside) + 2) * size
            lowest = np.minimum(lowest, bottom + bias - lost)
            highest = np.maximum(highest, top + bias + lost)
        return lowest, highest

    def _signed(self, step: Linear, taps: tuple[bool, ...], rows: Array) -> tuple[Array, Array]:
        """(groups, rows / groups, in / groups) each: sums of the positive weights over these taps, and of the negative ones."""
        matrix = step.matrix(self._tensors)
        matrix = matrix if len(rows) == step.out else matrix[:, torch.from_numpy(rows)]
        matrix = matrix if all(taps) else matrix[..., torch.tensor(taps)]
        return step.gain * sum_of_taps(matrix.clamp(min=0)), step.gain * sum_of_taps(matrix.clamp(max=0))

    # -- norms -------------------------------------------------------------------------------------------------------------

    def _norm(self, step: Step, source: Interval) -> Interval:
        options, rank = step.call.options, source.low.ndim
        if any(tensor not in self._graph.data for name, tensor in step.call.tensors.items() if name != "input"):
            return unbounded(source.low.shape)
        shape = [-1 if axis == 1 else 1 for axis in range(rank)]
        scale, shift = (self._parameter(step, name, shape, default) for name, default in (("weight", 1.0), ("bias", 0.0)))
        if step.op != "group_norm" and not options.get("training", options.get("use_input_stats")):
            mean, var = (self._parameter(step, n, shape, d) for n, d in (("running_mean", 0.0), ("running_var", 1.0)))
            slope = scale / np.sqrt(var + options["eps"])
            return _affine(source, slope, shift - mean * slope, np.abs(mean * slope) + np.abs(shift))
        cells = step.call.shape[1] // options["num_groups"] if step.op == "group_norm" else 1
        pixels = math.prod(step.call.shape[2:])
        largest = self._pixels.get(step.name, INF) if step.op != "batch_norm" else INF  # which counts the pictures of a batch too
        width = _width(source) if step.op != "group_norm" else _width(source.onto([1] * rank))
        reach = np.abs(scale) * _deviation(width, cells * largest - 1, options["eps"])
        reach = np.where(scale == 0, 0, reach)
        swing = Swing(shift, np.abs(scale), cells, pixels) if step.op != "batch_norm" else None
        return rounded(Interval(shift - reach, shift + reach, swing), np.abs(shift) + finite(reach), reach == 0)

    def _layer_norm(self, step: Step, source: Interval) -> Interval:
        """Over the last axes, whose numbers are known at every size."""
        over = tuple(step.call.options["normalized_shape"])
        if any(tensor not in self._graph.data for name, tensor in step.call.tensors.items() if name != "input"):
            return unbounded(source.low.shape)
        shape = (1,) * (source.low.ndim - len(over)) + over
        scale, shift = (self._parameter(step, name, shape, default) for name, default in (("weight", 1.0), ("bias", 0.0)))
        count, eps = math.prod(over), float(step.call.options.get("eps") or 0)
        whole = source.onto([1] * source.low.ndim)
        if step.op == "rms_norm":
            bound = _deviation(np.maximum(np.abs(whole.low), np.abs(whole.high)), count, eps)
        else:
            bound = _deviation(_width(whole), count - 1, eps)
        reach = np.broadcast_to(np.abs(scale) * bound, np.broadcast_shapes(np.shape(scale), np.shape(shift)))
        found = Interval(np.atleast_1d(shift - reach), np.atleast_1d(shift + reach))
        return rounded(found, np.abs(shift) + finite(reach), reach == 0)

    def _parameter(self, step: Step, argument: str, shape: Sequence[int], default: float) -> Array:
        name = step.call.tensors.get(argument)
        return self._double(self._graph.data[name]).reshape(shape) if name else np.full([1] * len(shape), default)

    def _double(self, name: str) -> Array:
        return np.asarray(self._tensors[name].detach().double().numpy())


def _width(x: Interval) -> Array:
    """With what rounding adds to it when a mean is taken off: a small epsilon magnifies that."""
    return x.high - x.low + 2.0**-44 * x.size


def _deviation(width: Array | float, others: float, eps: float) -> Array:
    """How far from its mean, in standard deviations, one of `others` + 1 numbers can lie that are all within `width`.

    One number d from the mean of the others makes a variance of at least d * d / others: |z| <= d / sqrt(d * d / others + eps),
    which grows with d; without a width that is sqrt(others), and without a size width / sqrt(eps).
    """
    width = np.asarray(width, np.float64)
    if others <= 0:
        return np.zeros(width.shape)
    bound = width / np.sqrt(width * width / others + eps) if others < INF else width / np.sqrt(eps)
    return np.where(width == 0, 0.0, np.where(np.isinf(width), np.sqrt(others), bound))


def _affine(source: Interval, slope: Array, offset: Array, size: Array) -> Interval:
    """slope * source + offset; `size`: of the terms that make the offset."""
    ends = [np.where(slope == 0, 0, slope * end) + offset for end in (source.low, source.high)]
    found = Interval(np.minimum(*ends), np.maximum(*ends))
    return rounded(found, np.abs(slope) * source.size + size, slope == 0)


# -- over space ------------------------------------------------------------------------------------------------------------


def _average(step: Step, x: Interval) -> Interval:
    options = step.call.options
    if options.get("divisor_override") is not None:
        return unbounded(x.low.shape)
    padded = np.any(options.get("padding", 0)) and options.get("count_include_pad", True)
    return _mean(_with(x, 0.0) if padded else x)


def _mean(x: Interval) -> Interval:
    """Of numbers within x: rounding is relative to its ends."""
    rounding = 2.0**-44
    return replace(x, low=x.low - rounding * finite(x.low), high=x.high + rounding * finite(x.high))


def _padded(step: Step, x: Interval) -> Interval:
    amounts = step.call.options["pad"]
    crops = max(amounts) <= 0 and any(amounts)  # a pad by nothing at this size may be one by something at others
    if step.call.options.get("mode", "constant") != "constant" or crops:
        return x
    return _with(x, float(step.call.options.get("value") or 0))


def _with(x: Interval, value: float) -> Interval:
    return Interval(np.minimum(x.low, value), np.maximum(x.high, value))


def _spread(step: Step, x: Interval) -> Interval:
    """Variance and deviation of numbers within a width w: at most w * w / 2, with Bessel's correction and two of them."""
    correction = step.call.options.get("correction", 1)
    if correction not in (None, 0, 1):
        return unbounded(x.low.shape)
    width = x.high - x.low
    top = width * width / 2 if step.op == "var" else width / math.sqrt(2)
    return _mean(Interval(np.zeros(width.shape), top))


def _sum(step: Step, x: Interval) -> Interval:
    """Of any number of pixels, one at least."""
    low, high = np.where(x.low >= 0, x.low, -INF), np.where(x.high <= 0, x.high, INF)
    return _mean(Interval(low, high))


def _bicubic(step: Step, x: Interval) -> Interval:
    middle, half = (x.low + x.high) / 2, (x.high - x.low) / 2 * BICUBIC
    return rounded(Interval(middle - half, middle + half), 16 * x.size, np.False_)


_OVER_SPACE = {
    "avg_pool1d": _average, "avg_pool2d": _average, "avg_pool3d": _average, "pad": _padded, "constant_pad_nd": _padded,
    "var": _spread, "std": _spread, "sum": _sum, "upsample_bicubic2d": _bicubic,
}  # fmt: skip


# -- taps ------------------------------------------------------------------------------------------------------------------


def _taps(step: Linear, kernel: Sequence[int]) -> list[tuple[tuple[bool, ...], tuple[bool, ...]]]:
    """(taps that always meet the picture, taps that sometimes do), for each kind of output pixel.

    Of a transposed convolution, pixels of one remainder by the stride meet the taps of one remainder.
    """
    if not step.transposed or all(step.inside):
        return [(step.inside, tuple(not inside for inside in step.inside))]
    stride, dilation = (step.call.options[name] for name in ("stride", "dilation"))
    steps = [stride[a % len(stride)] for a in range(len(kernel))]
    remainders = [
        tuple(tap * dilation[a % len(dilation)] % steps[a] for a, tap in enumerate(place))
        for place in itertools.product(*map(range, kernel))
    ]
    never = (False,) * len(remainders)
    kinds = [(never, tuple(found == kind for found in remainders)) for kind in dict.fromkeys(remainders)]
    return kinds if len(kinds) == math.prod(steps) else [*kinds, (never, never)]


def _met(matrix: Array, ends: Array) -> Array:
    """Sum over the inputs of weight times end, (groups, out / groups, in / groups) x (groups, in / groups) -> (out,)."""
    found = np.matmul(matrix, np.where(np.isfinite(ends), ends, 0)[..., None])[..., 0]
    if np.isinf(ends).any():
        infinite = (np.sign(matrix) * np.where(np.isinf(ends), np.sign(ends), 0)[:, None]).sum(-1)
        found = np.where(infinite == 0, found, np.copysign(INF, infinite))
    return np.asarray(found.ravel())
