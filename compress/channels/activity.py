"""What the channels of each space do: which are idle and how that is known, and how strongly they respond to inputs.

A channel is idle when it is constant or not needed in every tensor that it lies in. In: a graph with its facts, or with what was
observed. Out: plain data by space. Never here: whether an idle channel may go (decide.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.channels.facts import Facts
from compress.channels.graph import ChannelGraph, ChannelSpace
from compress.channels.labels import Array
from compress.channels.observe import Observed
from compress.channels.steps import Linear

KINDS = ("", "zero", "constant", "unread")


@dataclass(frozen=True)
class Seen:
    """What `count` inputs showed of a space, one entry a channel, where layers read it (where none does, at its last tensor).

    `largest`: the largest absolute value. `still`: it never moved: largest and smallest value are the same.
    """

    count: int
    largest: Array  # (width,)
    still: Array  # (width,), bool

    @property
    def dead(self) -> Array:
        """(width,), bool: zero on every input, at every pixel."""
        return self.largest == 0


def idle(graph: ChannelGraph, facts: Facts) -> Array:
    """For each unit the number in KINDS of why it is idle by these facts alone; 0 where it is at work."""
    free = np.ones(len(graph.bundles), bool)
    zero, constant = np.zeros(len(free), bool), np.zeros(len(free), bool)
    for step in graph.steps:
        units, value, needed = graph.labels[step.name], facts.values[step.name], facts.needed[step.name]
        tracked = units >= 0
        free[units[tracked & facts.live(step.name)]] = False
        held = tracked & needed & ~np.isnan(value)
        zero[units[held]] = True
        constant[units[held & (value != 0)]] = True
    return np.where(~free, 0, np.where(constant, 2, np.where(zero, 1, 3)))


class Activity:
    """Looks channels of spaces up in tensors of one graph. `signals`: space -> the tensors in which layers read its channels;
    where none does, the last tensor that has them.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._graph = graph
        count = int(graph.bundles.max(initial=-1)) + 1
        self._space, self._place = np.full(count, -1), np.zeros(count, int)
        for number, space in enumerate(graph.spaces):
            self._space[space.bundles] = number
            self._place[space.bundles] = np.arange(space.width)
        self.signals = self._signals()

    def by_channel(self, space: ChannelSpace, units: Array) -> Array:
        """A number a unit -> (width,) the smallest of each channel's units: a channel is idle when all of it is."""
        found = np.full(space.width, np.iinfo(np.int64).max)
        ours = self._space[self._graph.bundles] == self._number(space)
        np.minimum.at(found, self._place[self._graph.bundles[ours]], units[ours])
        return found

    def seen(self, observed: Observed) -> dict[str, Seen]:
        """Space -> what was seen of it; spaces of which nothing was observed are left out."""
        found = {}
        for space in self._graph.spaces:
            names = [name for name in self.signals[space.name] if name in observed.low]
            if names:
                spans = [self._largest(space, name, (observed.high[name] - observed.low[name])[None]) for name in names]
                sizes = [self._largest(space, name, observed.largest(name)[None]) for name in names]
                found[space.name] = Seen(observed.count, np.max(sizes, axis=0)[0], np.max(spans, axis=0)[0] == 0)
        return found

    def responses(self, observed: Observed, space: ChannelSpace) -> Array:
        """(inputs, width): how strongly each channel responds to each input, in the signal where it responds most."""
        names = [name for name in self.signals[space.name] if name in observed.responses]
        return np.max([self._largest(space, name, observed.responses[name]) for name in names], axis=0)

    def _signals(self) -> dict[str, tuple[str, ...]]:
        read: dict[int, dict[str, None]] = {}
        last: dict[int, str] = {}
        for step in self._graph.steps:
            last.update(dict.fromkeys(self._spaces_in(step.name), step.name))
            if isinstance(step, Linear):
                for number in self._spaces_in(step.inputs[0]):
                    read.setdefault(number, {})[step.inputs[0]] = None
        return {
            space.name: tuple(read.get(number, {last[number]: None} if number in last else {}))
            for number, space in enumerate(self._graph.spaces)
        }

    def _spaces_in(self, tensor: str) -> list[int]:
        units = self._graph.labels[tensor]
        return sorted({*self._space[self._graph.bundles[units[units >= 0]]].tolist()} - {-1})

    def _largest(self, space: ChannelSpace, tensor: str, values: Array) -> Array:
        """(rows, label array of a tensor) -> (rows, width): the largest of each channel; 0 where the tensor has none of it."""
        units = self._graph.labels[tensor].ravel()
        places = np.flatnonzero(units >= 0)
        bundles = self._graph.bundles[units[places]]
        ours = self._space[bundles] == self._number(space)
        most = np.full((space.width, len(values)), 0.0)
        np.maximum.at(most, self._place[bundles[ours]], values.reshape(len(values), -1)[:, places[ours]].T)
        return most.T

    def _number(self, space: ChannelSpace) -> int:
        return int(self._space[space.bundles[0]])
