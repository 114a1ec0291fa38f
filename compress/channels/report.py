"""What a strip did and what its proof rests on, as plain data. Never here: deciding, removing, printing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from compress.channels.decide import Removal
from compress.channels.facts import Label
from compress.channels.graph import ChannelGraph, ChannelSpace
from compress.channels.labels import Array
from compress.channels.moved import Moved
from compress.channels.proof import Check, Size


@dataclass(frozen=True)
class Proved:
    """Channels that went and are proved, by the surest proof there is: `weights`: for every input; `bounds`: for every input in
    its range; `size`: that too, up to the largest size. Positions in the space, as it was."""

    weights: tuple[int, ...] = ()
    bounds: tuple[int, ...] = ()
    size: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return len(self.weights) + len(self.bounds) + len(self.size)


@dataclass(frozen=True)
class Seen:
    """A channel that went because it was `constant` on the photos, but for the threshold. `largest`: what its activation reached
    there in size. Both None: only channels that went so read it."""

    channel: int
    largest: float | None
    constant: float | None


@dataclass(frozen=True)
class UpTo:
    """A channel that bounds prove constant as long as the input has at most `pixels` (height times width). `removed`: a largest
    size was given, and it went; else it stays, whatever it does. Pixels inside the network are taken to grow with the input's."""

    channel: int
    pixels: int
    removed: bool


@dataclass(frozen=True)
class SpaceReport:
    """`zero`, `constant`, `unread`: how many channels went because they are zero, another constant, or not needed by any output.

    `held`: how many are constant or unread and stay all the same: to carry constants through zero padding (one can carry many),
    to keep groups equal, or as the last one. `reason`: why the space stays whole, or None. `proved`, `observed`: the channels
    that went, by what is known of them. `proved_up_to`: those whose proof holds up to a size.
    """

    name: str
    before: int
    after: int
    zero: int
    constant: int
    unread: int
    held: int
    reason: str | None
    proved: Proved = field(default_factory=Proved)
    observed: tuple[Seen, ...] = ()
    proved_up_to: tuple[UpTo, ...] = ()

    @property
    def why(self) -> str:
        """What went and why, in words: `3 zero, 1 constant`; empty when nothing did."""
        return _words((self.zero, "zero"), (self.constant, "constant"), (self.unread, "unread"))

    @property
    def known(self) -> str:
        """How that is known, in words: `3 proved, 1 observed`; empty when nothing went."""
        return _words((self.proved.count, "proved"), (len(self.observed), "observed"))


@dataclass(frozen=True)
class Totals:
    """`macs`: at the example's size. `bytes`: of parameters and buffers as they are stored."""

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Evidence:
    """`photos`: how many inputs were seen. `threshold`: as it was given (`0.01`, `1%`)."""

    photos: int
    threshold: str


@dataclass(frozen=True)
class Report:
    """What went, why, and what the proof rests on. Without `evidence` all is proved, from the weights and the `bounded` inputs.

    `bounded`: for each input, whether its range was known (proofs by bounds hold inside it). `max_size`: the largest height and
    width for which the result is proved; None: every size. `evidence`: what the observed channels rest on; `moved`: how far the
    output moved on it, where that was measured. `not_understood`: operators that keep their channels. `left_alone`: spaces whose
    removal the network's code does not bear, and what happened. `uncounted`: operators that the MACs do not include. `checks`:
    both networks run and compared; with evidence, the one given has its observed channels set to their constants. When nothing
    went there is one check, of the copy that is handed back.
    """

    before: Totals
    after: Totals
    spaces: tuple[SpaceReport, ...]
    not_understood: tuple[str, ...]
    left_alone: Mapping[str, str]
    uncounted: tuple[str, ...]
    checks: tuple[Check, ...]
    bounded: tuple[bool, ...] = ()
    max_size: Size | None = None
    evidence: Evidence | None = None
    moved: Moved | None = None

    @property
    def removed(self) -> int:
        """Channels that went, over all spaces."""
        return sum(space.before - space.after for space in self.spaces)

    @property
    def conditions(self) -> dict[str, Any]:
        """What must hold for the proof beside the weights, for a checkpoint's history; empty when nothing must."""
        by_bounds = any(space.proved.bounds or space.proved.size for space in self.spaces)
        found: dict[str, Any] = {"inputs_in_range": True} if by_bounds and any(self.bounded) else {}
        if self.max_size is not None:
            found["max_size"] = list(self.max_size)
        if self.evidence is not None:
            found["observed"] = {**asdict(self.evidence), "channels": sum(len(space.observed) for space in self.spaces)}
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "spaces": [asdict(space) for space in self.spaces],
            "removed": [{"space": s.name, "channels": s.before - s.after, "why": s.why} for s in self.spaces if s.why],
            "proved": {name: sum(len(getattr(s.proved, name)) for s in self.spaces) for name in ("weights", "bounds", "size")},
            "observed": sum(len(s.observed) for s in self.spaces),
            "bounded_inputs": list(self.bounded),
            "max_size": list(self.max_size) if self.max_size else None,
            "evidence": asdict(self.evidence) if self.evidence else None,
            "moved": asdict(self.moved) if self.moved else None,
            "not_understood": list(self.not_understood),
            "left_alone": dict(self.left_alone),
            "uncounted": list(self.uncounted),
            "checks": [check.to_json() for check in self.checks],
        }


@dataclass(frozen=True)
class Grounds:
    """For each unit: `label`: the surest by which it goes; `largest`, `constant`: of one that was observed; `pixels`: of the
    input, up to which a proof by size holds, NaN where there is none."""

    label: Array
    largest: Array
    constant: Array
    pixels: Array


def spaces_of(graph: ChannelGraph, removal: Removal, grounds: Grounds, alone: Mapping[int, str]) -> tuple[SpaceReport, ...]:
    """`alone`: class of units that stays -> why. A channel is a bundle of units, and goes when all of them do."""
    gone, why_of = np.ones(len(graph.bundles), bool), {}
    np.logical_and.at(gone, graph.bundles, removal.gone)
    for unit in reversed(np.flatnonzero(removal.gone).tolist()):
        why_of[int(graph.bundles[unit])] = removal.why[unit]
    held = np.unique(graph.bundles[removal.held])
    known = _bundled(graph, grounds)
    found = []
    for space in graph.spaces:
        went = gone[space.bundles]
        why = Counter(why_of[channel] for channel in space.bundles[went].tolist())
        proved, observed, up_to = _known(known, space.bundles, went)
        found.append(
            SpaceReport(
                name=space.name,
                before=space.width,
                after=space.width - int(went.sum()),
                zero=why["zero"],
                constant=why["constant"],
                unread=why["unread"],
                held=int(np.isin(space.bundles, held).sum()),
                reason=None if went.any() else space.reason or alone.get(number_of(graph, space)),
                proved=proved,
                observed=observed,
                proved_up_to=up_to,
            )
        )
    return tuple(found)


def _bundled(graph: ChannelGraph, grounds: Grounds) -> Grounds:
    """The same for bundles: the weakest label of its units, the largest activation, the smallest size."""
    count = len(graph.bundles)
    label, largest, pixels, constant = np.zeros(count, int), *(np.full(count, np.nan) for _ in range(3))
    np.maximum.at(label, graph.bundles, grounds.label)
    np.fmax.at(largest, graph.bundles, grounds.largest)
    np.fmin.at(pixels, graph.bundles, grounds.pixels)
    seen = ~np.isnan(grounds.constant)
    constant[graph.bundles[seen]] = grounds.constant[seen]
    return Grounds(label, largest, constant, pixels)


def _known(known: Grounds, bundles: Array, went: Array) -> tuple[Proved, tuple[Seen, ...], tuple[UpTo, ...]]:
    by = {label: np.flatnonzero(went & (known.label[bundles] == label)).tolist() for label in Label}
    proved = Proved(tuple(by[Label.WEIGHTS]), tuple(by[Label.BOUNDS]), tuple(by[Label.SIZE]))
    seen = tuple(Seen(c, _or_none(known.largest[bundles[c]]), _or_none(known.constant[bundles[c]])) for c in by[Label.OBSERVED])
    sized = np.flatnonzero(~np.isnan(known.pixels[bundles])).tolist()
    up_to = tuple(UpTo(c, int(known.pixels[bundles[c]]), bool(went[c])) for c in sized)
    return proved, seen, up_to


def number_of(graph: ChannelGraph, space: ChannelSpace) -> int:
    """Of the class of units that the space is."""
    return int(graph.space_of[np.flatnonzero(graph.bundles == space.bundles[0])[0]])


def name_of(graph: ChannelGraph, number: int) -> str:
    """Of a class of units: its space, or the first tensor that it lies in."""
    for space in graph.spaces:
        if number_of(graph, space) == number:
            return space.name
    return next(tensor for (tensor, _), units in graph.axes.items() if (graph.space_of[units[units >= 0]] == number).any())


def staying(reason: str | None, held: int) -> str:
    """Why channels that are idle stay: the `reason` why all do, or what the `held` ones are for; empty where none is."""
    if reason or held <= 0:
        return reason or ""
    return "1 carries a constant, or keeps groups equal" if held == 1 else f"{held} carry a constant, or keep groups equal"


def _words(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _or_none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)
