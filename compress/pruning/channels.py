"""Which channels of a network go: scores from a criterion, widths from the target, and the lowest scores of each space.

Never here: zeroing or removing them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.channels.graph import ChannelGraph, ChannelSpace
from compress.errors import PlanError
from compress.pruning import widths
from compress.pruning.criteria import criterion
from compress.pruning.target import Target
from compress.pruning.widths import Path, Widths


def choose_channels(graph: ChannelGraph, tensors: Mapping[str, Tensor], target: Target) -> dict[str, tuple[int, ...]]:
    """Space name -> the channels that go, rising; spaces that lose none are left out.

    Raises PlanError when no space can be pruned, or the target cannot be met.
    """
    spaces = {space.name: space for space in graph.spaces if space.prunable}
    if not spaces:
        reasons = [f"{space.name}: {space.reason}" for space in graph.spaces[:2]]
        raise PlanError("no channels of this network can be pruned", "; ".join(reasons) or None)
    score = criterion(target.criterion)
    scores = {name: score(space, graph.rows(space, tensors)) for name, space in spaces.items()}
    kept = stay(spaces, scores, target, graph)
    gone = {name: lowest(scores[name], spaces[name].width - kept[name], spaces[name].group) for name in spaces}
    return {name: channels for name, channels in gone.items() if channels}


def lowest(scores: Tensor, count: int, group: int) -> tuple[int, ...]:
    """The `count` channels with the lowest scores, equally many from each of `group` equal blocks; ties: the first ones."""
    blocks = scores.view(group, -1)
    chosen = blocks.argsort(dim=1, stable=True)[:, : count // group]
    starts = torch.arange(group)[:, None] * blocks.shape[1]
    return tuple(sorted((chosen + starts).flatten().tolist()))


def stay(spaces: Mapping[str, ChannelSpace], scores: Mapping[str, Tensor], target: Target, graph: ChannelGraph) -> Widths:
    """How many channels of each space stay so that `target` is met."""
    full = {name: space.width for name, space in spaces.items()}
    if target.widths:
        return widths.by_pattern(target.widths, full, {name: space.group for name, space in spaces.items()})
    steps = {name: widths.step_of(space.width, space.group, target.multiple) for name, space in spaces.items()}
    by_rank = target.rank == "global"
    path = widths.ranked(scores, steps) if by_rank else widths.uniform(full, steps)
    if target.ratio is not None:
        widths.check_leaves_some(target.ratio, {"the network": sum(full.values())} if by_rank else full)
        return path(target.ratio)
    return _within_limit(path, full, steps, target, graph)


def _within_limit(path: Path, full: Widths, steps: Widths, target: Target, graph: ChannelGraph) -> Widths:
    unit, amount = ("macs", target.macs) if target.macs else ("parameters", target.params)
    assert amount is not None  # a target names exactly one

    def cost(kept: Widths) -> int:
        return int(getattr(graph.predict({name: full[name] - kept[name] for name in full}), unit))

    limit = amount.of(cost(full))
    kept = widths.by_limit(path, limit, cost, "MACs" if unit == "macs" else unit)
    return widths.refill(kept, full, steps, limit, cost, lambda name, now: -now / full[name])
