"""Which channels are one: union-find over single channels, settled once, in time proportional to their number.

A *label array* stands for a tensor: as many axes, each as long as the tensor's or 1 where the position does not matter (batch,
space); its entries number single channels (atoms). `FIXED` marks what is not tracked, and so never cut. Tied atoms become one
*unit*: the smallest thing that can be cut. Units that are pruned together, though one of them may be cut without the others,
are one *bundle*. Never here: operators, tensors, values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FIXED = -1


@dataclass(frozen=True)
class Units:
    """`of_atom`: atom -> unit, units numbered by their first atom. `reasons`: for each unit why it may not go, or None.

    `bundles`: unit -> bundle, numbered likewise.
    """

    of_atom: Array
    reasons: tuple[str | None, ...]
    bundles: Array

    def __call__(self, labels: Array) -> Array:
        """The same label array, in units."""
        if self.of_atom.size == 0:
            return labels
        return np.where(labels >= 0, self.of_atom[np.maximum(labels, 0)], FIXED)

    def __len__(self) -> int:
        return len(self.reasons)


class Labels:
    """Hands out atoms, collects what ties them and what pins them."""

    def __init__(self) -> None:
        self._count = 0
        self._ties: list[tuple[Array, Array]] = []
        self._pins: list[tuple[Array, str]] = []
        self._bundles: list[tuple[Array, Array]] = []

    def fresh(self, count: int) -> Array:
        """`count` new atoms; a width of one is never cut, so a single channel is FIXED."""
        if count == 1:
            return np.full(1, FIXED)
        self._count += count
        return np.arange(self._count - count, self._count)

    def tie(self, a: Array, b: Array, reason: str) -> None:
        """Position by position the same unit; tied to something FIXED, a channel is pinned for `reason`."""
        a, b = (side.ravel() for side in np.broadcast_arrays(a, b))
        both = (a >= 0) & (b >= 0)
        self._ties.append((a[both], b[both]))
        self.pin(a[b < 0], reason)
        self.pin(b[a < 0], reason)

    def bundle(self, a: Array, b: Array) -> None:
        """Position by position the same bundle."""
        tracked = (a >= 0) & (b >= 0)
        self._bundles.append((a[tracked], b[tracked]))

    def pin(self, labels: Array, reason: str, first: bool = False) -> None:
        """These channels, and all that get tied to them, may never go. The first reason is told."""
        atoms = labels[labels >= 0]
        if atoms.size:
            self._pins.insert(0 if first else len(self._pins), (atoms.ravel(), reason))

    def settle(self) -> Units:
        roots = components(self._count, self._ties)
        firsts, of_atom = np.unique(roots, return_inverse=True)
        first_reason = np.full(len(firsts), len(self._pins))
        for number, (atoms, _) in enumerate(self._pins):
            np.minimum.at(first_reason, of_atom[atoms], number)
        texts = [reason for _, reason in self._pins]
        bundles = np.unique(components(self._count, [*self._ties, *self._bundles])[firsts], return_inverse=True)[1]
        return Units(of_atom, tuple(texts[i] if i < len(texts) else None for i in first_reason), bundles)


def components(count: int, ties: Sequence[tuple[Array, Array]]) -> Array:
    """The smallest atom of each atom's component: hook roots to smaller ones, shorten paths, until nothing moves."""
    parent = np.arange(count)
    a, b = (np.concatenate([tie[side] for tie in ties] or [np.empty(0, int)]) for side in (0, 1))
    while a.size:
        a, b = parent[a], parent[b]
        differ = a != b
        a, b = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
        np.minimum.at(parent, b, a)
        while True:
            shorter = parent[parent]
            if np.array_equal(shorter, parent):
                break
            parent = shorter
    return parent
