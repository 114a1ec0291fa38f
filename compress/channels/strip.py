"""Remove every channel that is constant or not needed, exactly; run both networks and compare, before anything is handed back.

In: a module and examples. Out: a new, smaller module that computes the same at every input size, and a report. The module
given is not touched. Never here: choosing channels to prune, training, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.channels import facts as facts_of
from compress.channels.cut import Cut, cut
from compress.channels.decide import Removal, decide
from compress.channels.export import copied
from compress.channels.fold import folded
from compress.channels.graph import ChannelGraph, ChannelSpace, trace
from compress.channels.proof import Check, Fault, Size, Witness, check_same
from compress.channels.rebuild import rebuild
from compress.checkpoint import check_finite
from compress.errors import ParityError


@dataclass(frozen=True)
class SpaceReport:
    """`zero`, `constant`, `unread`: how many channels went because they are zero, another constant, or not needed by any output.

    `held`: how many are constant or unread and stay all the same: to carry constants through zero padding (one can carry many),
    to keep groups equal, or as the last one. `reason`: why the space stays whole, or None.
    """

    name: str
    before: int
    after: int
    zero: int
    constant: int
    unread: int
    held: int
    reason: str | None

    @property
    def why(self) -> str:
        """What went and why, in words: `3 zero, 1 constant`; empty when nothing did."""
        counts = ((self.zero, "zero"), (self.constant, "constant"), (self.unread, "unread"))
        return ", ".join(f"{count} {what}" for count, what in counts if count)


@dataclass(frozen=True)
class Totals:
    """`macs`: at the example's size. `bytes`: of parameters and buffers as they are stored."""

    parameters: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Report:
    """What went, why, and how it was proved. Everything here is proved from the weights, for every input; nothing is observed.

    `not_understood`: operators that keep their channels. `left_alone`: spaces whose removal the network's code does not bear, and
    what happened. `uncounted`: operators that the MACs do not include. `checks` is empty when there was nothing to remove.
    """

    before: Totals
    after: Totals
    spaces: tuple[SpaceReport, ...]
    not_understood: tuple[str, ...]
    left_alone: Mapping[str, str]
    uncounted: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def removed(self) -> int:
        """Channels that went, over all spaces."""
        return sum(space.before - space.after for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        return {
            "before": asdict(self.before),
            "after": asdict(self.after),
            "spaces": [asdict(space) for space in self.spaces],
            "removed": [{"space": s.name, "channels": s.before - s.after, "why": s.why} for s in self.spaces if s.why],
            "not_understood": list(self.not_understood),
            "left_alone": dict(self.left_alone),
            "uncounted": list(self.uncounted),
            "checks": [check.to_json() for check in self.checks],
        }


@dataclass(frozen=True)
class Stripped:
    """`module`: new, in eval mode; `rebuild.record_of(module)` says what shrank, and `networks.load.snapshot` saves it."""

    module: nn.Module
    report: Report


def strip(module: nn.Module, examples: Sequence[Tensor], *, sizes: Sequence[Size] | None = None) -> Stripped:
    """Remove the dead and constant channels of `module`, which stays as it is.

    `examples`: one input tensor each, to trace with. `sizes`: (H, W) at which both networks are compared, in float64 and in their
    own precision; by default the example's, a smaller and a larger one. Raises TraceError, NetworkError (NaN in weights), and
    ParityError when the outputs differ by more than 1e-5 of their range.
    """
    given, module = module, folded(module)
    check_finite({**given.state_dict(), **module.state_dict()})
    work = _Work(module, trace(module, examples))
    if module is not given:
        check_same(given, module, examples, "making its computed weights plain")
    removal = work.decide({})
    if not removal.gone.any():
        return Stripped(copied(module).eval(), _report(work, removal, {}, ()))
    witness = Witness(module, examples, sizes)
    alone: dict[int, str] = {}
    while isinstance(found := witness.compare(work.rebuilt(removal, witness.exact)), Fault):
        culprit = _culprit(work, witness, removal, alone)
        alone[culprit] = f"without its channels {found.said} at {'x'.join(map(str, found.size))}"
        removal = work.decide(alone)
    stripped = work.rebuilt(removal)
    checks = (*found, *witness.rounded(stripped))
    worst = max(checks, key=lambda check: check.gap / check.limit)
    if not worst.holds:
        raise ParityError(
            f"strip moved the output by {worst.gap:.1e} of its range at {'x'.join(map(str, worst.size))} in {worst.dtype}"
            f" (limit {worst.limit:.1e})"
        )
    return Stripped(stripped, _report(work, removal, alone, checks))


class _Work:
    """A traced module and what is known of it: what every attempt at removal starts from."""

    def __init__(self, module: nn.Module, graph: ChannelGraph) -> None:
        self.module, self.graph = module, graph
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self.tensors = {name: tensor.detach().cpu() for name, tensor in named}
        self._facts = facts_of.find(graph, self.tensors)

    def decide(self, alone: Mapping[int, str] | set[int]) -> Removal:
        return decide(self.graph, self._facts, self.tensors, alone)

    def totals(self, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
        """With these shapes in place of the module's own."""
        parameters, buffers = dict(self.module.named_parameters()), dict(self.module.named_buffers())
        known = {**parameters, **buffers}
        added = {name: shape for name, shape in shapes.items() if name not in self.tensors}
        cost = self.graph.sizes.cost({n: s for n, s in shapes.items() if n in parameters or n in added})
        size = sum(prod(shapes.get(name, tuple(t.shape))) * t.element_size() for name, t in known.items())
        size += sum(prod(shape) * next(iter(parameters.values())).element_size() for shape in added.values())
        return Totals(cost.parameters, cost.macs, size)

    def cut(self, removal: Removal) -> Cut:
        return cut(self.graph, removal, self.module, self.tensors)

    def rebuilt(self, removal: Removal, dtype: torch.dtype | None = None) -> nn.Module:
        """A new module without the channels that go; float64: before any rounding; None: in the module's own precision."""
        done = self.cut(removal)
        tensors = {**self.tensors, **done.tensors}
        new = rebuild(copied(self.module).eval(), done.record, {name: tensor.shape for name, tensor in tensors.items()})
        new = new.double() if dtype == torch.float64 else new
        with torch.no_grad():
            for name, target in (*new.named_parameters(), *new.named_buffers()):
                target.copy_(tensors[name])
        return new


def _culprit(work: _Work, witness: Witness, removal: Removal, alone: Mapping[int, str]) -> int:
    """The space without whose removal the spaces before it (in the network's order) do no harm: found by halving."""
    touched = sorted(set(work.graph.space_of[removal.gone].tolist()))

    def harmless(count: int) -> bool:
        attempt = work.decide({*alone, *touched[count:]})
        return not isinstance(witness.compare(work.rebuilt(attempt, witness.exact)), Fault)

    if not harmless(0):
        raise ParityError("the network gives different outputs for the same input", "strip needs it deterministic in eval mode")
    low, high = 0, len(touched)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if harmless(middle) else (low, middle)
    return touched[high - 1]


def _report(work: _Work, removal: Removal, alone: Mapping[int, str], checks: tuple[Check, ...]) -> Report:
    graph = work.graph
    shapes = {name: tuple(tensor.shape) for name, tensor in work.cut(removal).tensors.items()}
    return Report(
        before=work.totals({}),
        after=work.totals(shapes),
        spaces=_spaces(graph, removal, alone),
        not_understood=tuple(map(str, graph.not_understood)),
        left_alone={_name(graph, number): text for number, text in alone.items()},
        uncounted=graph.sizes.uncounted,
        checks=checks,
    )


def _spaces(graph: ChannelGraph, removal: Removal, alone: Mapping[int, str]) -> tuple[SpaceReport, ...]:
    gone, why_of = np.ones(len(graph.bundles), bool), {}
    np.logical_and.at(gone, graph.bundles, removal.gone)
    for unit in reversed(np.flatnonzero(removal.gone).tolist()):
        why_of[int(graph.bundles[unit])] = removal.why[unit]
    held = np.unique(graph.bundles[removal.held])
    found = []
    for space in graph.spaces:
        why = Counter(why_of[channel] for channel in space.bundles.tolist() if gone[channel])
        left = space.width - int(gone[space.bundles].sum())
        stay = int(np.isin(space.bundles, held).sum())
        reason = space.reason or alone.get(_number(graph, space))
        counts = (why["zero"], why["constant"], why["unread"])
        found.append(SpaceReport(space.name, space.width, left, *counts, stay, reason))
    return tuple(found)


def _number(graph: ChannelGraph, space: ChannelSpace) -> int:
    """Of the class of units that the space is."""
    return int(graph.space_of[np.flatnonzero(graph.bundles == space.bundles[0])[0]])


def _name(graph: ChannelGraph, number: int) -> str:
    """Of a class of units: its space, or the first tensor that it lies in."""
    for space in graph.spaces:
        if _number(graph, space) == number:
            return space.name
    return next(tensor for (tensor, _), units in graph.axes.items() if (graph.space_of[units[units >= 0]] == number).any())
