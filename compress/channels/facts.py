"""Two facts about every channel of every tensor: is it constant (forward), is it needed (backward). And how that is known.

All in float64. What the weights alone say holds for every input; bounds (bounds.py) hold for every input in its range, some of
them up to a size; an observation holds for the inputs seen. Never here: what to do about it (decide.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from torch import Tensor

from compress.channels.bounds import Bounds
from compress.channels.graph import ChannelGraph
from compress.channels.intervals import Interval
from compress.channels.labels import Array
from compress.channels.ranges import Range


class Label(IntEnum):
    """What a fact rests on, from the surest on. All but `OBSERVED` are proved."""

    NONE = 0  # no constant
    WEIGHTS = 1  # the weights alone: every input, every size
    BOUNDS = 2  # bounds: every input in its range, every size
    SIZE = 3  # bounds of norms over space: every input in its range, up to the largest size
    OBSERVED = 4  # the inputs that were seen


@dataclass(frozen=True)
class Known:
    """What is known beside the weights; each part may be missing.

    `ranges`: one for each input, None where nothing is known. `pixels`: tensor that a norm over space makes -> pixels of its
    picture at the largest size (extents.py). `observed`: tensor -> constants taken for granted, NaN where there is none, in the
    shape of its label array.
    """

    ranges: Sequence[Range | None] = ()
    pixels: Mapping[str, int] = field(default_factory=dict)
    observed: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """By name of the tensor in the graph, in the shape of its label array.

    `values`: the constant, NaN where there is none. `needed`: some output of the network depends on the channel through weights
    that are not zero. What feeds only constants is not needed: they come out without it. `low`, `high`: bounds, -inf and inf
    included; empty for the weights alone. `stretch`: for what a norm over space may prove constant, up to how many times the
    traced number of pixels it does; NaN where it never does. `label`: the weakest that these facts rest on; `surer`: the facts
    without that.
    """

    values: Mapping[str, Array]
    needed: Mapping[str, Array]
    low: Mapping[str, Array]
    high: Mapping[str, Array]
    stretch: Mapping[str, Array]
    label: Label = Label.WEIGHTS
    surer: Facts | None = None

    def live(self, name: str) -> Array:
        """Needed, and not a constant: what must go on being computed."""
        return self.needed[name] & np.isnan(self.values[name])

    def labels(self, name: str) -> Array:
        """`Label` of each channel's constant: the surest facts that have it."""
        found = np.full(self.values[name].shape, int(Label.NONE))
        for facts in self.chain():
            found[~np.isnan(facts.values[name])] = facts.label
        return found

    def chain(self) -> Iterator[Facts]:
        """These facts, then ever surer ones."""
        yield self
        if self.surer is not None:
            yield from self.surer.chain()


def find(graph: ChannelGraph, tensors: Mapping[str, Tensor], known: Known | None = None) -> Facts:
    """`tensors`: the module's parameters and buffers by name, on the CPU."""
    known = known or Known()
    facts = _found(graph, tensors, {}, None, Label.WEIGHTS)
    bounds = Bounds(graph, tensors, known.ranges)
    facts = _found(graph, tensors, {}, bounds, Label.BOUNDS, facts)
    if known.pixels:
        bounds = bounds.up_to(known.pixels)
        facts = _found(graph, tensors, {}, bounds, Label.SIZE, facts)
    if known.observed:
        facts = _found(graph, tensors, known.observed, bounds, Label.OBSERVED, facts)
    return facts


def _found(
    graph: ChannelGraph,
    tensors: Mapping[str, Tensor],
    observed: Mapping[str, Array],
    bounds: Bounds | None,
    label: Label,
    surer: Facts | None = None,
) -> Facts:
    values, intervals = _forward(graph, tensors, observed, bounds, surer)
    same = surer is not None and all(values[name] is surer.values[name] for name in values)
    needed = surer.needed if surer is not None and same else _backward(graph, tensors, values)
    within = {name: found.onto(graph.labels[name].shape) for name, found in intervals.items()}
    low, high = ({name: getattr(found, end) for name, found in within.items()} for end in ("low", "high"))
    stretch = {n: _stretch(x.stretch, graph.labels[n].shape) for n, x in intervals.items() if x.stretch is not None}
    return Facts(values, needed, low, high, stretch, label, surer)


def _forward(
    graph: ChannelGraph, tensors: Mapping[str, Tensor], observed: Mapping[str, Array], bounds: Bounds | None, surer: Facts | None
) -> tuple[dict[str, Array], dict[str, Interval]]:
    """Constants and bounds in one pass: a constant is its own bounds, and bounds that meet are a constant.

    Constants that the `surer` facts have already are the same arrays, and what depends on them alone is not computed again.
    """
    known = surer.values if surer else _given(graph, tensors)
    values, intervals = dict(known), bounds.given() if bounds else {}
    for step in graph.steps:
        if surer and all(values[name] is known[name] for name in step.inputs):
            found = known[step.name]
        else:
            found = step.constants([values[name] for name in step.inputs], graph.labels[step.name].shape, tensors)
        if bounds:
            interval = bounds.after(step, [intervals[name] for name in step.inputs])
            intervals[step.name], found = _agreed(interval, found)
        if step.name in observed:
            found = np.where(np.isnan(observed[step.name]), found, observed[step.name])
            if bounds:
                intervals[step.name] = _agreed(intervals[step.name], found)[0]
        values[step.name] = known[step.name] if np.array_equal(found, known[step.name], equal_nan=True) else found
    return values, intervals


def _given(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Nothing, but of the parameters what they are."""
    values = {name: np.full(labels.shape, np.nan) for name, labels in graph.labels.items()}
    held = {name: tensors[tensor] for name, tensor in graph.data.items() if name in values}
    return {**values, **{name: _uniform(tensor, values[name].shape) for name, tensor in held.items()}}


def _agreed(interval: Interval, value: Array) -> tuple[Interval, Array]:
    """Each with what the other knows."""
    within = interval.onto(value.shape)
    value = np.where(np.isnan(value) & (within.low == within.high) & np.isfinite(within.low), within.low, value)
    known = ~np.isnan(value)
    if not known.any():
        return interval, value
    low, high = np.where(known, value, interval.low), np.where(known, value, interval.high)
    return replace(interval, low=low, high=high), value


def _backward(graph: ChannelGraph, tensors: Mapping[str, Tensor], values: Mapping[str, Array]) -> dict[str, Array]:
    needed = {name: np.zeros(labels.shape, bool) for name, labels in graph.labels.items()}
    for name in graph.outputs:
        needed[name][...] = True
    for step in reversed(graph.steps):
        live = needed[step.name] & np.isnan(values[step.name])
        if live.any():
            constants = [values[name] for name in step.inputs]
            for name, read in zip(step.inputs, step.reads(live, constants, tensors), strict=True):
                needed[name] |= read
    return needed


def _stretch(found: Array, shape: tuple[int, ...]) -> Array:
    fits = all(n in (1, m) for n, m in zip(found.shape, shape, strict=True))
    return np.broadcast_to(found, shape) if fits else np.full(shape, np.nan)


def _uniform(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    """A parameter as one value a channel; NaN where it differs over the positions of a channel."""
    values = tensor.detach().double().numpy()
    over = tuple(axis for axis, size in enumerate(shape) if size == 1)
    low, high = values.min(axis=over, keepdims=True), values.max(axis=over, keepdims=True)
    found = np.where(low == high, low, np.nan)
    return np.broadcast_to(found, shape).copy()
