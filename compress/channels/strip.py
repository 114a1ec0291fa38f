"""Remove every channel that is constant or not needed, exactly; run both networks and compare, before anything is handed back.

In: a module and examples. Out: a new, smaller module that computes the same at every input size, and a report. Channels that
were only observed to be constant go on request; then the new module computes what the given one does with these channels set to
their constants, exactly so. The module given is not touched. Never here: choosing channels to prune, training, files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from compress.channels import facts as facts_of
from compress.channels.cut import Cut, absorbed, cut, merging
from compress.channels.decide import Removal, decide, grounds
from compress.channels.evidence import Threshold, silent
from compress.channels.export import copied
from compress.channels.extents import fits, pixels_at, pixels_of, spatial
from compress.channels.facts import Facts, Known, Label
from compress.channels.fold import folded
from compress.channels.graph import ChannelGraph, trace
from compress.channels.labels import Array
from compress.channels.observe import Observed
from compress.channels.override import Overridden
from compress.channels.proof import Check, Fault, Size, Witness, check_same
from compress.channels.ranges import Range, check_ranges
from compress.channels.rebuild import rebuild
from compress.channels.report import Evidence, Grounds, Report, SpaceReport, Totals, name_of, spaces_of
from compress.checkpoint import check_finite
from compress.errors import ParityError, UsageError

_RANDOM = ("the network gives different outputs for the same input", "strip needs it deterministic in eval mode")
__all__ = ["Preview", "Report", "SpaceReport", "Stripped", "Threshold", "Totals", "preview", "strip"]


@dataclass(frozen=True)
class Stripped:
    """`module`: new, in eval mode; `rebuild.record_of(module)` says what shrank, and `networks.load.snapshot` saves it."""

    module: nn.Module
    report: Report


def strip(
    module: nn.Module,
    examples: Sequence[Tensor],
    *,
    sizes: Sequence[Size] | None = None,
    ranges: Sequence[Range | None] = (),
    max_size: Size | None = None,
    observed: Observed | None = None,
    threshold: Threshold | float | None = None,
) -> Stripped:
    """Remove the dead and constant channels of `module`, which stays as it is.

    `examples`: one input tensor each, to trace with. `sizes`: (H, W) at which both networks are compared, in float64 and in their
    own precision; by default the example's, a smaller and a larger one. `ranges`: for each input, between which values it lies
    (`Range.of(image_format)`); what bounds prove then holds for inputs in them. `max_size`: (H, W) that no input will exceed on
    either side; proofs that hold up to it are used too. `observed`: what photos showed (`observe`, of `folded(module)` where it
    computes its weights); activations that stayed within `threshold` (a size, or a `Threshold`; default 0) go too. Raises
    TraceError, NetworkError (NaN in weights), UsageError (ranges, sizes or observations that do not fit), and ParityError when
    the outputs differ by more than 1e-12 of their range in float64, or 1e-5 in float32, and by more than the network's own
    rounding.
    """
    options = _Options(sizes or None, tuple(ranges), max_size, observed, _threshold(observed, threshold))
    options.check(examples)
    given, module = module, folded(module)
    check_finite({**given.state_dict(), **module.state_dict()})
    work = _Work(module, examples, trace(module, examples), options)
    if module is not given:
        check_same(given, module, examples, "making its computed weights plain")
    attempt = work.attempt(())
    if not attempt.removal.gone.any():
        return Stripped(copied(module).eval(), work.report(attempt, {}, work.unchanged(attempt)))
    alone: dict[int, str] = {}
    while isinstance(found := work.compared(attempt), Fault):
        culprit = _culprit(work, attempt, alone)
        alone[culprit] = f"without its channels {found.said} at {'x'.join(map(str, found.size))}"
        attempt = work.attempt(alone)
    stripped = work.rebuilt(attempt)
    checks = _held((*found, *work.witness(attempt).rounded(stripped)))
    return Stripped(stripped, work.report(attempt, alone, checks))


@dataclass(frozen=True)
class Preview:
    """`report`: what `strip` would say, `facts`: what it rests on. `seen`: the same when what was observed goes too, or None.

    Nothing was run: there are no checks, and a network whose code names a width may bear less.
    """

    report: Report
    seen: Report | None
    facts: Facts


def preview(
    module: nn.Module,
    graph: ChannelGraph,
    examples: Sequence[Tensor],
    *,
    ranges: Sequence[Range | None] = (),
    observed: Observed | None = None,
) -> Preview:
    """What `strip` would take out of `module`, whose weights are plain and whose graph this is. Arguments are as there."""
    options = _Options(None, tuple(ranges), None, None, Threshold())
    options.check(examples)
    work = _Work(module, examples, graph, options)
    report = work.report(work.attempt(()), {}, ())
    if observed is None:
        return Preview(report, None, work.facts)
    seen = _Work(module, examples, graph, replace(options, observed=observed), work.facts)
    return Preview(report, seen.report(seen.attempt(()), {}, ()), work.facts)


@dataclass(frozen=True)
class _Options:
    """As in `strip`."""

    sizes: Sequence[Size] | None
    ranges: tuple[Range | None, ...]
    max_size: Size | None
    observed: Observed | None
    threshold: Threshold

    def check(self, examples: Sequence[Tensor]) -> None:
        shapes = [tuple(example.shape) for example in examples]
        check_ranges(self.ranges, shapes)
        for what, size in (*(("size", size) for size in self.sizes or ()), ("largest size", self.max_size)):
            if size is not None and not _is_size(size, len(spatial(shapes))):
                said = _named(size) if isinstance(size, Sequence) else size
                raise UsageError(f"a {what} of {said} does not fit inputs of {', '.join(map(_named, shapes))}")
        for size in self.sizes or ():
            if self.max_size is not None and not fits(tuple(size), self.max_size):
                raise UsageError(f"{_named(size)} is compared, but the largest size is {_named(self.max_size)}")


@dataclass(frozen=True)
class _Attempt:
    """`removal`, and what it rests on: `facts`; for each unit, `labels`. `tensors`: the module's, some with constants merged.
    `overrides`: what was observed, and goes."""

    removal: Removal
    facts: Facts
    labels: Array
    tensors: Mapping[str, Tensor]
    overrides: Mapping[str, Array]


class _Work:
    """A traced module and what is known of it: what every attempt at removal starts from."""

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        graph: ChannelGraph,
        options: _Options,
        facts: Facts | None = None,  # when they are known already
    ) -> None:
        self.module, self.graph = module, graph
        self._examples, self._options = examples, options
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self.tensors = {name: tensor.detach().cpu() for name, tensor in named}
        pixels = pixels_at(module, graph, examples, options.max_size) if options.max_size else {}
        self._known = Known(options.ranges, pixels)
        self.facts = facts or facts_of.find(graph, self.tensors, self._known)
        self._witness: Witness | None = None
        self._done: tuple[_Attempt, Cut] | None = None

    def attempt(self, alone: Sequence[int] | Mapping[int, str]) -> _Attempt:
        """What goes when these classes of units stay. Nothing is taken for granted of a channel that stays after all."""
        if self._options.observed is None:
            return self._settled(self.facts, {}, alone)
        overrides = silent(self.graph, self.facts, self._options.observed, self._options.threshold)
        while overrides:
            facts = facts_of.find(self.graph, self.tensors, replace(self._known, observed=overrides))
            found = self._settled(facts, overrides, alone)
            going = _restricted(self.graph, overrides, found.removal.gone)
            if _count(going) == _count(overrides):
                return found
            overrides = going
        return self._settled(self.facts, {}, alone)

    def _settled(self, facts: Facts, overrides: Mapping[str, Array], alone: Sequence[int] | Mapping[int, str]) -> _Attempt:
        """Decided again until nothing more goes: merging constants can cancel a weight that another had, and narrow bounds."""
        graph, tensors = self.graph, self.tensors
        removal, labels = decide(graph, facts, tensors, alone), grounds(graph, facts)
        while any(removal.merges.values()):
            after, cancels = absorbed(graph, removal, tensors)
            if not cancels and not any(self._known.ranges):
                break
            known = facts_of.find(graph, after, replace(self._known, observed=overrides))
            again = decide(graph, known, after, alone)
            new = again.gone & ~removal.gone
            if not new.any() or not (again.gone >= removal.gone).all():
                break
            labels = np.where(new, np.maximum(grounds(graph, known), labels[merging(graph, removal)].max()), labels)
            why = tuple(old or now for old, now in zip(removal.why, again.why, strict=True))
            removal, tensors = replace(again, why=why), after
        return _Attempt(removal, facts, labels, tensors, overrides)

    def witness(self, attempt: _Attempt) -> Witness:
        """Of the module as it is, or with the channels that were observed set to their constants."""
        if attempt.overrides:
            return self._made(Overridden(self.module, attempt.overrides), self._options.sizes)
        self._witness = self._witness or self._made(self.module, self._options.sizes)
        return self._witness

    def _made(self, reference: nn.Module, sizes: Sequence[Size] | None) -> Witness:
        return Witness(reference, self._examples, sizes, ranges=self._options.ranges, largest=self._options.max_size)

    def unchanged(self, attempt: _Attempt) -> tuple[Check, ...]:
        """When nothing goes: the copy that is handed back against the module, at one size."""
        witness = self._made(self.module, ())
        found = witness.compare(self.rebuilt(attempt, witness.exact))
        if isinstance(found, Fault):
            raise ParityError(*_RANDOM)
        return tuple(found)

    def compared(self, attempt: _Attempt) -> list[Check] | Fault:
        witness = self.witness(attempt)
        return witness.compare(self.rebuilt(attempt, witness.exact))

    def totals(self, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
        """With these shapes in place of the module's own."""
        parameters, buffers = dict(self.module.named_parameters()), dict(self.module.named_buffers())
        known = {**parameters, **buffers}
        added = {name: shape for name, shape in shapes.items() if name not in self.tensors}
        cost = self.graph.sizes.cost({n: s for n, s in shapes.items() if n in parameters or n in added})
        size = sum(prod(shapes.get(name, tuple(t.shape))) * t.element_size() for name, t in known.items())
        size += sum(prod(shape) * next(iter(parameters.values())).element_size() for shape in added.values())
        return Totals(cost.parameters, cost.macs, size)

    def cut(self, attempt: _Attempt) -> Cut:
        """Made once for each attempt: rebuilding in two precisions and reporting need the same."""
        if self._done is None or self._done[0] is not attempt:
            self._done = attempt, cut(self.graph, attempt.removal, self.module, attempt.tensors)
        return self._done[1]

    def rebuilt(self, attempt: _Attempt, dtype: torch.dtype | None = None) -> nn.Module:
        """A new module without the channels that go; float64: before any rounding; None: in the module's own precision."""
        done = self.cut(attempt)
        tensors = {**self.tensors, **done.tensors}
        new = rebuild(copied(self.module).eval(), done.record, {name: tensor.shape for name, tensor in tensors.items()})
        new = new.double() if dtype == torch.float64 else new
        with torch.no_grad():
            for name, target in (*new.named_parameters(), *new.named_buffers()):
                target.copy_(tensors[name])
        return new

    def report(self, attempt: _Attempt, alone: Mapping[int, str], checks: tuple[Check, ...]) -> Report:
        graph, options = self.graph, self._options
        shapes = {name: tuple(tensor.shape) for name, tensor in self.cut(attempt).tensors.items()}
        ranges = [*options.ranges, *(None,) * (len(self._examples) - len(options.ranges))]
        return Report(
            before=self.totals({}),
            after=self.totals(shapes),
            spaces=spaces_of(graph, attempt.removal, self._grounds(attempt), alone),
            not_understood=tuple(map(str, graph.not_understood)),
            left_alone={name_of(graph, number): text for number, text in alone.items()},
            uncounted=graph.sizes.uncounted,
            checks=checks,
            bounded=tuple(known is not None for known in ranges),
            max_size=options.max_size,
            evidence=Evidence(options.observed.count, str(options.threshold)) if options.observed else None,
        )

    def _grounds(self, attempt: _Attempt) -> Grounds:
        largest, constant = (np.full(len(attempt.labels), np.nan) for _ in range(2))
        for name, values in attempt.overrides.items():
            seen = ~np.isnan(values)
            units = self.graph.labels[name][seen]
            assert self._options.observed is not None
            np.fmax.at(largest, units, self._options.observed.largest(name)[seen])
            constant[units] = values[seen]
        return Grounds(attempt.labels, largest, constant, self._up_to(attempt))

    def _up_to(self, attempt: _Attempt) -> Array:
        """For each unit up to how many pixels of the input norms over space make it idle; NaN: at no size, or at every size.

        Without a largest size: of those that would be idle at the example's.
        """
        base = prod(spatial([tuple(example.shape) for example in self._examples]))
        facts, known = self.facts, prod(self._options.max_size or ())
        if self._options.max_size is None:
            pixels = pixels_of(self.graph)
            if not pixels:
                return np.full(len(attempt.labels), np.nan)
            facts, known = facts_of.find(self.graph, self.tensors, replace(self._known, pixels=pixels)), base
        times = np.full(len(attempt.labels), np.nan)
        for name, stretch in facts.stretch.items():
            units = self.graph.labels[name]
            there = (facts.labels(name) == Label.SIZE) & (units >= 0) & ~np.isnan(stretch)
            np.fmin.at(times, units[there], stretch[there])
        found = np.fmax(np.floor(times * base + 1e-6), known)
        return np.where(grounds(self.graph, facts) == Label.SIZE, found, np.nan)


def _culprit(work: _Work, attempt: _Attempt, alone: Mapping[int, str]) -> int:
    """The space without whose removal the spaces before it (in the network's order) do no harm: found by halving."""
    touched = sorted(set(work.graph.space_of[attempt.removal.gone].tolist()))

    def harmless(count: int) -> bool:
        return not isinstance(work.compared(work.attempt([*alone, *touched[count:]])), Fault)

    if not harmless(0):
        raise ParityError(*_RANDOM)
    low, high = 0, len(touched)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if harmless(middle) else (low, middle)
    return touched[high - 1]


def _held(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """The same. Raises ParityError when one does not hold."""
    worst = max(checks, key=lambda check: check.gap / check.limit)
    if not worst.holds:
        raise ParityError(
            f"strip moved the output by {worst.gap:.1e} of its range at {_named(worst.size)} in {worst.dtype}"
            f" (limit {worst.limit:.1e})"
        )
    return checks


def _threshold(observed: Observed | None, threshold: Threshold | float | None) -> Threshold:
    if threshold is not None and observed is None:
        raise UsageError("a threshold needs an observation to hold against it")
    return threshold if isinstance(threshold, Threshold) else Threshold(threshold or 0.0)


def _restricted(graph: ChannelGraph, overrides: Mapping[str, Array], gone: Array) -> dict[str, Array]:
    """The overrides of channels that go. Where one other than zero stays (to carry others), none but zeros of its space go."""
    never = np.append(gone, False)
    spaces = np.append(graph.space_of, -1)
    odd = {
        int(n)
        for name, v in overrides.items()
        for n in spaces[graph.labels[name]][(np.nan_to_num(v) != 0) & ~never[graph.labels[name]]]
    }
    found = {}
    for name, values in overrides.items():
        units = graph.labels[name]
        leaves = never[units] & ~((np.nan_to_num(values) != 0) & np.isin(spaces[units], list(odd)))
        kept = np.where(leaves, values, np.nan)
        if not np.isnan(kept).all():
            found[name] = kept
    return found


def _count(overrides: Mapping[str, Array]) -> int:
    return sum(int((~np.isnan(values)).sum()) for values in overrides.values())


def _is_size(size: object, count: int) -> bool:
    return isinstance(size, Sequence) and len(size) == count and all(isinstance(n, int) and n > 0 for n in size)


def _named(size: Size) -> str:
    return "x".join(map(str, size))
