"""Which channels go, and what the layers that read them get in their place. In: facts. Out: a `Removal`, plain data.

A channel may go when it is constant or not needed in every tensor that it lies in, and every layer that reads it can take over
its constant: into its bias, or, where zero padding or a transposed convolution gets in the way, into the weights of another
constant channel that stays (its carrier). Never here: touching weights (cut.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from compress.channels.facts import Facts, Label
from compress.channels.graph import ChannelGraph
from compress.channels.grids import Grids
from compress.channels.labels import Array
from compress.channels.steps import Linear
from compress.channels.walk import Balance


@dataclass(frozen=True)
class Merge:
    """In one group of a weight: `weight[:, carrier] += ratio * weight[:, channel]`; positions within the group."""

    group: int
    channel: int
    carrier: int
    ratio: float


@dataclass(frozen=True)
class Removal:
    """`gone`: for each unit, whether it goes; `why`: zero, constant or unread. `held`: it could go, but for others: it carries a
    constant, keeps groups equal, or is the last one.

    `moved`: for each unit which one comes to lie in its place, before any goes: nearly always itself (grids.py).
    `folds`: weight -> (groups, in / groups), the constants whose effect goes into its bias. `merges`: weight -> merges.
    """

    gone: Array
    held: Array
    why: tuple[str, ...]
    folds: Mapping[str, Array]
    merges: Mapping[str, tuple[Merge, ...]]
    moved: Array


@dataclass(frozen=True)
class Reader:
    """A weight and the constants it reads, over all its calls. Arrays are (groups, in / groups).

    `value`: NaN where it is no constant. `hard`: a constant that matters and that the bias cannot take over.
    """

    step: Linear
    units: Array
    value: Array
    hard: Array
    bears: bool  # it has a bias, or can be given one

    @property
    def carries(self) -> Array:
        """Where a carrier may sit: a constant other than zero."""
        return np.nan_to_num(self.value) != 0


def decide(graph: ChannelGraph, facts: Facts, tensors: Mapping[str, Tensor], alone: Collection[int] = ()) -> Removal:
    """`alone`: classes of units (ChannelGraph.space_of) that stay whatever the facts say."""
    gone = _candidates(graph, facts)
    gone &= ~np.isin(graph.space_of, list(alone))
    wanted, places = gone.copy(), Grids.of(graph)
    readers = _readers(graph, facts, tensors, gone)
    order = _by_worth(readers, gone, places.turns(gone))
    while True:
        before = gone.copy()
        _keep_balance(graph, gone, order)
        _keep_carriers(readers, gone, _costs(graph, gone))
        _keep_one(graph, gone)
        places.keep(gone)
        if np.array_equal(before, gone):
            break
    folds, merges = {}, {}
    for reader in readers:
        folds[reader.step.weight], merges[reader.step.weight] = _take_over(reader, gone)
    return Removal(gone, wanted & ~gone, _reasons(graph, facts, gone), folds, merges, places.moved(gone))


def grounds(graph: ChannelGraph, facts: Facts) -> Array:
    """For each unit the surest `Label` by which it may go, NONE where it may not."""
    found = np.full(len(graph.reasons), int(Label.NONE))
    for known in facts.chain():
        found[_candidates(graph, known)] = known.label
    return found


def _candidates(graph: ChannelGraph, facts: Facts) -> Array:
    """Constant or not needed wherever it lies, and not pinned."""
    free = np.array([reason is None for reason in graph.reasons], bool)
    for step in graph.steps:
        live = facts.live(step.name)
        units = graph.labels[step.name][live]
        free[units[units >= 0]] = False
        if live.any():
            values = [facts.values[name] for name in step.inputs]
            for name, held in zip(step.inputs, step.holds(live, values), strict=True):
                _stay(free, graph.labels[name][held])
    return free


def _readers(graph: ChannelGraph, facts: Facts, tensors: Mapping[str, Tensor], gone: Array) -> list[Reader]:
    """One for each weight. What its calls or its bias cannot agree on is taken out of `gone`."""
    calls: dict[str, list[Linear]] = {}
    weights_of: dict[str, set[str]] = {}
    for step in graph.steps:
        if isinstance(step, Linear):
            calls.setdefault(step.weight, []).append(step)
            weights_of.setdefault(step.bias or "", set()).add(step.weight)
    cancelled = _cancelled(graph)
    readers = []
    for steps in calls.values():
        shared = any(step.bias is not None and len(weights_of[step.bias]) > 1 for step in steps)
        cancels = all(step.name in cancelled for step in steps)
        found = [_reader(graph, facts, tensors, step, shared, cancels) for step in steps]
        readers.append(found[0] if len(found) == 1 else _agreed(found, gone))
    return readers


def _reader(
    graph: ChannelGraph, facts: Facts, tensors: Mapping[str, Tensor], step: Linear, shared: bool, cancels: bool
) -> Reader:
    source = step.inputs[0]
    value = step.grouped(facts.values[source])
    counts = np.nan_to_num(value) != 0
    bears = not shared and (step.bias is not None or (step.owner is not None and not cancels))
    if not counts.any():
        hard = np.zeros(value.shape, bool)
    else:
        used = facts.needed[step.name] | ~np.isnan(facts.values[step.name])
        rows = np.broadcast_to(used.ravel(), step.out).reshape(step.groups, -1, 1)
        blocked = step.spills(tensors) if bears or cancels else step.touches(tensors)
        hard = counts & (blocked & rows).any(1)
    return Reader(step, step.grouped(graph.labels[source]), value, hard, bears)


def _cancelled(graph: ChannelGraph) -> set[str]:
    """Tensors that only norms over space read: what is added to their channels cancels."""
    users: dict[str, list[str]] = {name: ["an output"] for name in graph.outputs}
    for step in graph.steps:
        for name in step.inputs:
            users.setdefault(name, []).append(step.name)
    return {name for name, found in users.items() if all(user in graph.cancels for user in found)}


def _agreed(readers: list[Reader], gone: Array) -> Reader:
    """The calls of one weight as one reader; channels that need different things in different calls stay.

    Where constants must be carried, so do those that are known in some calls only: in the others nothing would carry for them.
    """
    values, first = np.stack([reader.value for reader in readers]), readers[0]
    hard = np.any([reader.hard for reader in readers], axis=0)
    unknown, value = np.isnan(values), values[0]
    for other in values[1:]:
        value = np.where(np.isnan(value), other, value)
    clash = (~unknown & (values != value)).any(0)
    if hard.any():
        clash |= unknown.any(0) & (np.nan_to_num(value) != 0)
    _stay(gone, first.units[clash])
    return Reader(first.step, first.units, np.where(clash, np.nan, value), hard, all(reader.bears for reader in readers))


def _keep_carriers(readers: list[Reader], gone: Array, costs: Array) -> None:
    """Where a hard constant goes and none stays that could carry it, keep one: the one that costs least for each layer it serves.

    Of equals, the one whose smallest value is largest; then the first.
    """
    needs = [need for reader in readers for need in _needs(reader, gone)]
    serves: dict[int, set[int]] = {}
    for number, need in enumerate(needs):
        for unit in need:
            serves.setdefault(unit, set()).add(number)

    def rank(unit: int) -> tuple[float, float, int]:
        served = serves[unit]
        return costs[unit] / max(len(served), 0.1), -min((needs[number][unit] for number in served), default=0.0), unit

    queue = [rank(unit) for unit in serves]
    heapq.heapify(queue)
    while queue:
        best = heapq.heappop(queue)
        unit = best[2]
        if best != (now := rank(unit)):  # others took over some of what it served: a unit only falls behind
            heapq.heappush(queue, now)
        elif serves[unit]:
            gone[unit] = False
            for number in list(serves[unit]):
                for other in needs[number]:
                    serves[other].discard(number)


def _needs(reader: Reader, gone: Array) -> Iterator[dict[int, float]]:
    """For each group that needs a carrier: the units that could be it, and the size of their constants there."""
    leaving = _leaving(reader.units, gone)
    for group in np.flatnonzero((reader.hard & leaving).any(1) & ~(reader.carries & ~leaving).any(1)):
        places = np.flatnonzero(reader.carries[group] & leaving[group])
        sizes = np.abs(reader.value[group, places]).tolist()
        need: dict[int, float] = {}
        for unit, size in zip(reader.units[group, places].tolist(), sizes, strict=True):
            need[unit] = min(size, need.get(unit, size))
        yield need


def _by_worth(readers: list[Reader], gone: Array, turns: Array) -> Array:
    """For each unit its place in the order in which they had better stay: those that could carry most layers' constants first.

    `turns`: of equals, which come first.
    """
    serves, smallest = np.zeros(len(gone)), np.full(len(gone), np.inf)
    for reader in readers:
        needing = (reader.hard & _leaving(reader.units, gone)).any(1, keepdims=True)
        able = needing & reader.carries & (reader.units >= 0)
        np.add.at(serves, reader.units[able], 1)
        np.minimum.at(smallest, reader.units[able], np.abs(reader.value[able]))
    order = np.empty(len(gone), int)
    order[np.lexsort((turns, -smallest, -serves))] = np.arange(len(gone))
    return order


def _keep_balance(graph: ChannelGraph, gone: Array, order: Array) -> None:
    """Blocks that must stay equal lose equally many; a group whose both sides are gone may go whole, one of a norm only so."""
    for balance in graph.balances:
        leaving, dead, count = _blocks(graph, balance, gone)
        for units, going in zip(balance.blocks[~dead], leaving[~dead], strict=True):
            extra = int(going.sum() - count)
            if extra > 0:
                places = np.flatnonzero(going)
                _stay(gone, units[places[np.argsort(order[units[places]], kind="stable")[:extra]]])


def _blocks(graph: ChannelGraph, balance: Balance, gone: Array) -> tuple[Array, Array, int]:
    """Which places of the blocks go; which blocks go whole; how many places each of the others may lose."""
    leaving = _leaving(balance.blocks, gone)
    if balance.whole:
        return leaving, leaving.all(1), 0
    dead = np.zeros(len(leaving), bool)
    if balance.partner is not None:
        dead = leaving.all(1) & _leaving(graph.balances[balance.partner].blocks, gone).all(1)
        dead[0] &= not dead.all()
    return leaving, dead, min(leaving[~dead].sum(1).min(), leaving.shape[1] - 1)


def _costs(graph: ChannelGraph, gone: Array) -> Array:
    """For each unit, how many must stay if it does: one of each block; all that a whole group would give away."""
    costs = np.ones(len(gone))
    for balance in graph.balances:
        _, dead, count = _blocks(graph, balance, gone)
        for units, whole in zip(balance.blocks, dead, strict=True):
            cost = len(units) - count if whole else (~dead).sum()
            costs[units[units >= 0]] = np.maximum(costs[units[units >= 0]], cost)
    return costs


def _keep_one(graph: ChannelGraph, gone: Array) -> None:
    """No tensor of the module loses the last position of an axis."""
    for units in graph.axes.values():
        if _leaving(units, gone).all():
            gone[units[0]] = False


def _take_over(reader: Reader, gone: Array) -> tuple[Array, tuple[Merge, ...]]:
    leaving = _leaving(reader.units, gone)
    merges = []
    for group, channel in np.argwhere(leaving & reader.hard):
        staying = np.where(reader.carries[group] & ~leaving[group], np.abs(reader.value[group]), 0)
        carrier = int(staying.argmax())
        ratio = float(reader.value[group, channel] / reader.value[group, carrier])
        merges.append(Merge(int(group), int(channel), carrier, ratio))
    fold = np.where(leaving & ~reader.hard & reader.carries, np.nan_to_num(reader.value), 0.0)
    return fold if reader.bears else np.zeros_like(fold), tuple(merges)


def _reasons(graph: ChannelGraph, facts: Facts, gone: Array) -> tuple[str, ...]:
    constant, zero = np.zeros(len(gone), bool), np.zeros(len(gone), bool)
    for step in graph.steps:
        units, value = graph.labels[step.name], facts.values[step.name]
        counts = facts.needed[step.name] & ~np.isnan(value) & (units >= 0)
        zero[units[counts]] = True
        constant[units[counts & (value != 0)]] = True
    return tuple(
        "" if not g else "constant" if c else "zero" if z else "unread" for g, c, z in zip(gone, constant, zero, strict=True)
    )


def _leaving(units: Array, gone: Array) -> Array:
    return (units >= 0) & gone[units]


def _stay(gone: Array, units: Array) -> None:
    gone[units[units >= 0]] = False
