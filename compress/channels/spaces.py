"""From single channels to spaces: channels that lie in the same places of the network are one space, with a name and its tensors.

Never here: operators, weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from compress.channels.labels import Array, Units, components
from compress.channels.walk import Walk

WRITERS = ("weight", "bias", "scale", "shift")


@dataclass(frozen=True)
class Binding:
    """Where channels of a space lie along one axis of one tensor of the module.

    `channels` (n): which of the space; all of them, but where only one half of a chunk is meant. `index` (n, k): for each of
    these its k positions along the axis (k > 1 after a flatten, before a pixel shuffle, behind a depthwise multiplier).
    With `groups` > 1 and axis 1, positions count through all groups: position p belongs to the rows (axis 0) of group
    p // size, and is its column p % size. `role`: weight, bias, scale, shift write the channels; into reads them; mean,
    variance, other follow them.
    """

    tensor: str
    axis: int
    index: Tensor = field(repr=False)
    channels: Tensor = field(repr=False)
    role: str
    groups: int = 1


@dataclass(frozen=True)
class ChannelSpace:
    """Channels that must stay aligned. `name`: of the first module that writes them. `reason`: why not, when not `prunable`.

    `group`: the space is laid out as so many blocks of equal length, one after the other (block b begins at channel
    b * width / group), and the same number must go from each: groups of a convolution, halves of a chunk. 1 nearly always.
    """

    name: str
    width: int
    prunable: bool
    reason: str | None
    group: int
    writers: tuple[Binding, ...]
    readers: tuple[Binding, ...]
    followers: tuple[Binding, ...]
    bundles: Array = field(repr=False)  # of ChannelGraph.bundles, in order

    @property
    def bindings(self) -> tuple[Binding, ...]:
        return (*self.writers, *self.readers, *self.followers)


def assemble(walk: Walk, units: Units) -> tuple[Array, tuple[ChannelSpace, ...]]:
    """The class of each bundle of units (bundles that share all places), and the spaces that weights write."""
    reasons: list[str | None] = [None] * (int(units.bundles.max(initial=-1)) + 1)
    for bundle, reason in zip(units.bundles, units.reasons, strict=True):
        reasons[bundle] = reasons[bundle] or reason
    axes = {site: _bundled(units, labels) for site, labels in walk.axes.items()}
    places = [*axes.values(), *(_bundled(units, labels) for labels in walk.labels_of.values())]
    blocks = [_bundled(units, balance.blocks) for balance in walk.balances if not balance.bundled and not balance.whole]
    classes = _joined(_classes(len(reasons), places), blocks)
    order, group, uneven = _layout(classes, blocks)
    for balance in walk.balances:
        if balance.whole:
            groups = _bundled(units, balance.blocks)
            uneven |= dict.fromkeys(classes[groups[groups >= 0]].tolist(), "group_norm counts its channels")
    bindings = _bindings(walk, axes, classes, order)
    spaces: list[ChannelSpace] = []
    taken: set[str] = set()
    for number, found in bindings.items():
        if not any(binding.role == "weight" for binding in found):
            continue
        channels = order[number]
        reason = next((reasons[channel] for channel in channels if reasons[channel]), uneven.get(number))
        if reason is None and group[number] == len(channels):
            reason = "one channel a group"
        name = _name(found, taken, walk)
        taken.add(name)
        writers = tuple(b for b in found if b.role in WRITERS)
        readers = tuple(b for b in found if b.role == "into")
        others = tuple(b for b in found if b.role not in (*WRITERS, "into"))
        spaces.append(
            ChannelSpace(name, len(channels), reason is None, reason, group[number], writers, readers, others, channels)
        )
    return classes, tuple(spaces)


def _bundled(units: Units, labels: Array) -> Array:
    found = units(labels)
    return np.where(found >= 0, units.bundles[np.maximum(found, 0)], found) if len(units) else found


def _classes(count: int, places: Sequence[Array]) -> Array:
    """Units with the same multiset of places get the same class."""
    return _in_order(_signatures(count, places))


def _signatures(count: int, places: Sequence[Array]) -> Array:
    """For each unit one number for the multiset of its places: the sum of one random number a place."""
    random = np.random.default_rng(0)
    signature = np.zeros(count, np.uint64)
    for place, number in zip(places, random.integers(2**64, size=len(places), dtype=np.uint64), strict=True):
        np.add.at(signature, place[place >= 0].ravel(), number)
    return signature


def _joined(classes: Array, blocks: Sequence[Array]) -> Array:
    """Classes that lie in one set of blocks are one: they are cut together."""
    members = [classes[found[found >= 0]] for found in blocks]
    root = components(int(classes.max(initial=-1)) + 1, [(found[:-1], found[1:]) for found in members])
    return _in_order(root[classes])


def _in_order(classes: Array) -> Array:
    """Renumbered by first unit."""
    _, first, inverse = np.unique(classes, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _layout(classes: Array, balances: Sequence[Array]) -> tuple[list[Array], list[int], dict[int, str]]:
    """For each class its channels, block after block; the number of blocks; why those stay whose blocks are of unequal length."""
    count = len(classes)
    cells = _in_order(_signatures(count, [np.unique(units) for blocks in balances for units in blocks]))
    sorting = np.lexsort((np.arange(count), cells, classes))
    order = np.split(sorting, np.cumsum(np.bincount(classes))[:-1]) if count else []
    group, uneven = [], {}
    for number, units in enumerate(order):
        lengths = np.unique(cells[units], return_counts=True)[1]
        group.append(len(lengths) if len(set(lengths)) == 1 else 1)
        if len(set(lengths)) > 1:
            uneven[number] = "its groups are not of equal length"
    return order, group, uneven


def _bindings(
    walk: Walk, axes: Mapping[tuple[str, int], Array], classes: Array, order: Sequence[Array]
) -> dict[int, list[Binding]]:
    place = np.zeros(len(classes), int)
    for units in order:
        place[units] = np.arange(len(units))
    found: dict[int, list[Binding]] = {}
    for (tensor, axis), units in axes.items():
        role, groups = walk.roles.get((tensor, axis), "other"), walk.groups.get(tensor, 1)
        for positions in _runs(units, classes, place):
            channels, times = np.unique(place[units[positions]], return_counts=True)
            for each in np.unique(times):
                index = torch.from_numpy(positions[np.repeat(times == each, times)].reshape(-1, each))
                binding = Binding(tensor, axis, index, torch.from_numpy(channels[times == each]), role, groups)
                found.setdefault(int(classes[units[positions[0]]]), []).append(binding)
    return dict(sorted(found.items()))


def _runs(units: Array, classes: Array, place: Array) -> list[Array]:
    """The tracked positions along an axis, class by class, in the order of the class's channels."""
    tracked = np.flatnonzero(units >= 0)
    numbers = classes[units[tracked]]
    order = np.lexsort((place[units[tracked]], numbers))
    return np.split(tracked[order], np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def _name(bindings: Sequence[Binding], taken: set[str], walk: Walk) -> str:
    """The module of the first weight that writes the space; with the range of its rows when it writes several."""
    first = next(binding for binding in bindings if binding.role == "weight")
    module = first.tensor.rpartition(".")[0] or first.tensor
    whole = walk.tensors[first.tensor].shape[first.axis] * (first.groups if first.axis == 1 else 1)
    rows = first.index.flatten()
    name = module if len(rows) == whole else f"{module}[{int(rows.min())}:{int(rows.max()) + 1}]"
    while name in taken:
        name += "'"
    return name
