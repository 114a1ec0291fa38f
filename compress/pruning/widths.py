"""How many channels stay in each space. Pure arithmetic: scores and limits in, widths out; no network, no tensors of one.

A `Path` says the widths for a share removed, from nothing to nearly all; a ratio is one point on it, and a limit on cost is the
first point that meets it, with single steps given back as long as the limit holds. So a result is never more than one step
of one space below its limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from compress.errors import PlanError, UsageError

Widths = dict[str, int]  # space name -> channels that stay
Path = Callable[[float], Widths]  # share removed, in [0, 1] -> widths, which never rise with it
Appeal = Callable[[str, int], float]  # (space, channels that stay) -> how much one step more is wanted there

_HALVINGS = 40


def step_of(width: int, group: int, multiple: int) -> int:
    """What widths of a space are multiples of: of `multiple` where it is that wide, and of its `group` (equal blocks) always."""
    both = math.lcm(multiple, group)
    return both if width >= both else group


def allowed(exact: float, width: int, step: int) -> int:
    """The width nearest to `exact` that may stay of `width`: a multiple of `step`, or all; never none. Halfway, the wider."""
    below = max(step, min(width, math.floor(exact / step) * step))
    above = next_wider(below, width, step)
    return below if exact - below < above - exact else above


def next_wider(kept: int, width: int, step: int) -> int:
    """One step more than `kept`, at most `width`."""
    return min(width, (kept // step + 1) * step)


def uniform(full: Widths, steps: Widths) -> Path:
    """The same share of every space. Within a network the layers' scores say little about each other; this says nothing."""
    return lambda share: {name: allowed(width * (1 - share), width, steps[name]) for name, width in full.items()}


def ranked(scores: Mapping[str, Tensor], steps: Widths) -> Path:
    """The lowest scores of all spaces together go first.

    Scores are divided by their space's mean: an L1 norm grows with the size of the filters, and a norm layer behind them
    cancels their scale, so only the ratio to its peers says something about a channel.
    """
    relative = {name: score.double() / score.double().mean().clamp_min(1e-300) for name, score in scores.items()}
    everything = torch.cat(list(relative.values())).sort().values

    def widths(share: float) -> Widths:
        gone = min(round(share * len(everything)), len(everything) - 1)
        limit = everything[gone]
        return {name: allowed(int((r >= limit).sum()), len(r), steps[name]) for name, r in relative.items()}

    return widths


def check_leaves_some(ratio: float, widths: Widths) -> None:
    """Raise PlanError where a space would keep less than half a channel."""
    for name, width in widths.items():
        if width * (1 - ratio) < 0.5:
            raise PlanError(f"--ratio {ratio} would leave no channel of the {width} in {name}", "a smaller --ratio")


def by_limit(path: Path, limit: int, cost: Callable[[Widths], int], unit: str) -> Widths:
    """The first point of `path` that costs no more than `limit`. Raises PlanError when even the last costs more."""
    if cost(path(0.0)) <= limit:
        raise PlanError(f"the network has {cost(path(0.0)):,} {unit} already, no more than the {limit:,} asked for")
    if cost(path(1.0)) > limit:
        raise PlanError(
            f"{limit:,} {unit} cannot be reached: with every space at its least there are {cost(path(1.0)):,}",
            "a larger amount, or a smaller --multiple",
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(path(middle)) <= limit else (middle, high)
    return path(high)


def refill(kept: Widths, full: Widths, steps: Widths, limit: int, cost: Callable[[Widths], int], appeal: Appeal) -> Widths:
    """Give steps back to the spaces that want them most, as long as the cost stays within `limit`."""
    open_spaces = {name for name in kept if kept[name] < full[name]}
    while open_spaces:
        name = max(sorted(open_spaces), key=lambda n: appeal(n, kept[n]))
        wider = {**kept, name: next_wider(kept[name], full[name], steps[name])}
        if cost(wider) > limit:
            open_spaces.discard(name)
            continue
        kept = wider
        if kept[name] == full[name]:
            open_spaces.discard(name)
    return kept


def by_pattern(wanted: Mapping[str, int], full: Widths, groups: Widths) -> Widths:
    """Widths spelled out: glob pattern -> channels that stay. Spaces that none names keep theirs; the last one that fits wins.

    Raises UsageError for a pattern that fits no space, PlanError for a width that a space cannot have.
    """
    kept = dict(full)
    for pattern, width in wanted.items():
        found = [name for name in full if fnmatchcase(name, pattern)]
        if not found:
            raise UsageError(f"--widths: no space is named {pattern}", f"there are {', '.join(full)}")
        kept |= dict.fromkeys(found, width)
    for name, width in kept.items():
        if not 1 <= width <= full[name]:
            raise PlanError(f"--widths: {name} has {full[name]} channels, {width} of them cannot stay")
        if width % groups[name]:
            raise PlanError(f"--widths: {name} lies in {groups[name]} equal groups, {width} cannot be shared among them")
    return kept


def parse_widths(text: str) -> dict[str, int]:
    """`down1.conv=16,residual.*=48` -> {"down1.conv": 16, "residual.*": 48}."""
    parsed = {}
    for part in text.split(","):
        pattern, _, number = part.strip().rpartition("=")
        if not pattern or not number.isdecimal():
            raise UsageError(f"--widths: not understood: {part.strip()!r}", "for example 'down1.conv=16,residual.*=48'")
        parsed[pattern] = int(number)
    return parsed
