"""Channels that the code lays over two axes (a channel shuffle): which may go, and in which order the others lie then.

The code keeps the rows of such a grid and computes their length from the width. So the same number must go from each row, and
all else must find the rest where it was: in a network that is cut to whole columns nothing else changes. Channels in the same
places of the network may change places with one another, at no price: the weights that write and read them are permuted. So
what goes need not be columns itself, there must only be columns with as many channels of each kind. Never here: what is dead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.channels.graph import ChannelGraph
from compress.channels.labels import Array, components


@dataclass(frozen=True)
class Grids:
    """`column`: unit -> number of the set of units that are one column of some grid, or share one. `kind`: unit -> number; units
    of one kind may change places. `inside` (n): the units that lie in grids. `fixed`: columns with something that cannot go.
    """

    column: Array
    kind: Array
    inside: Array
    fixed: Array

    @staticmethod
    def of(graph: ChannelGraph) -> Grids:
        count = len(graph.reasons)
        if not graph.grids:
            nothing = np.empty(0, int)
            return Grids(np.arange(count), np.arange(count), nothing, nothing)
        ties, bound = [], []
        for grid in graph.grids:
            first = np.broadcast_to(grid.max(axis=0), grid.shape)
            tracked = grid >= 0
            ties.append((grid[tracked], first[tracked]))
            bound.append(grid[:, ~tracked.all(axis=0)].ravel())
        column = components(count, ties)
        stuck = np.concatenate(bound)
        inside = np.unique(np.concatenate([grid[grid >= 0] for grid in graph.grids]))
        return Grids(column, _kinds(graph), inside, np.unique(column[stuck[stuck >= 0]]))

    def keep(self, gone: Array) -> None:
        """Take out of `gone` what no column can take the place of."""
        for kind, places in self._places(gone).items():
            going = self._of_kind(kind, gone)
            surplus = len(going) - len(places)
            gone[np.concatenate([np.setdiff1d(going, places), np.intersect1d(going, places)])[:surplus]] = False

    def turns(self, gone: Array) -> Array:
        """For each unit how many of its kind that go come before it: who stays in turn leaves whole columns. 0 outside grids."""
        turns = np.zeros(len(self.column), int)
        for kind in np.unique(self.kind[self.inside]).tolist():
            going = self._of_kind(kind, gone)
            turns[going] = np.arange(len(going))
        return turns

    def moved(self, gone: Array) -> Array:
        """For each unit the one that comes to lie in its place: what goes lies in whole columns then, the others in order."""
        result = np.arange(len(self.column))
        for kind, places in self._places(gone).items():
            units = self.inside[self.kind[self.inside] == kind]
            result[places] = units[gone[units]]
            result[np.setdiff1d(units, places)] = units[~gone[units]]
        return result

    def _of_kind(self, kind: int, gone: Array) -> Array:
        return self.inside[(self.kind[self.inside] == kind) & gone[self.inside]]

    def _places(self, gone: Array) -> dict[int, Array]:
        """For each kind the units whose places go: columns, those first of which most goes anyhow."""
        allowed = dict(zip(*np.unique(self.kind[self.inside[gone[self.inside]]], return_counts=True), strict=True))
        places: dict[int, list[int]] = {kind: [] for kind in allowed}
        for units in self._columns(gone):
            kinds, counts = np.unique(self.kind[units], return_counts=True)
            if all(allowed.get(kind, 0) >= n for kind, n in zip(kinds, counts, strict=True)):
                for unit in units:
                    places[self.kind[unit]].append(unit)
                for kind, n in zip(kinds, counts, strict=True):
                    allowed[kind] -= n
        return {kind: np.array(sorted(found), int) for kind, found in places.items()}

    def _columns(self, gone: Array) -> list[Array]:
        order = self.inside[np.argsort(self.column[self.inside], kind="stable")]
        parts = np.split(order, np.flatnonzero(np.diff(self.column[order])) + 1) if len(order) else []
        free = [units for units in parts if self.column[units[0]] not in self.fixed]
        return sorted(free, key=lambda units: (int((~gone[units]).sum()), int(units[0])))


def _kinds(graph: ChannelGraph) -> Array:
    """Units of one kind lie in the same places, in the same blocks of each; what may not go is one of its kind."""
    count = len(graph.reasons)
    random = np.random.default_rng(0)
    signature = np.zeros(count, np.uint64)
    blocks = [block for balance in graph.balances for block in balance.blocks]
    for place in (*graph.axes.values(), *graph.labels.values(), *blocks):
        np.add.at(signature, place[place >= 0], random.integers(2**64, size=1, dtype=np.uint64))
    stuck = [unit for unit, reason in enumerate(graph.reasons) if reason is not None]
    signature[stuck] += random.integers(2**64, size=len(stuck), dtype=np.uint64)
    return np.asarray(np.unique(signature, return_inverse=True)[1])
