"""The prune stage: a network and a plan in, a sparser or smaller network out, with its history. The input is not touched.

Channels are zeroed, then stripped, which proves that the strip moved nothing. Never here: deciding (plan.py), training, files.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compress.channels.graph import ChannelGraph, trace
from compress.channels.strip import Report, strip
from compress.errors import TraceError
from compress.networks.load import LoadedNetwork, snapshot
from compress.pruning.plan import Plan, apply
from compress.pruning.weights import prunable_weights
from compress.spec import ModelSpec


@dataclass(frozen=True)
class Subject:
    """A network that is to be pruned: as loaded, example inputs, and its channel graph; None where it cannot be traced."""

    loaded: LoadedNetwork
    examples: tuple[Tensor, ...]
    graph: ChannelGraph | None


def subject(loaded: LoadedNetwork, size: tuple[int, int] | None = None, needs_graph: bool = True) -> Subject:
    """`size`: of the pictures that MACs are counted on. Raises TraceError when the graph is needed and cannot be had."""
    examples = examples_of(loaded.spec, size)
    try:
        return Subject(loaded, examples, trace(loaded.module, examples))
    except TraceError:
        if needs_graph:
            raise
        return Subject(loaded, examples, None)


def examples_of(spec: ModelSpec, size: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
    """Inputs of the spec's shapes, the same each time; `size` replaces height and width of pictures."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(*shape[:2], *size) if size and len(shape) == 4 else shape for shape in spec.examples]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@dataclass(frozen=True)
class Pruned:
    """`loaded`: the network after it, with its history. `stripped`: the strip's report, where channels went."""

    loaded: LoadedNetwork
    stripped: Report | None = None


def prune(before: Subject, plan: Plan, entry: Mapping[str, Any], at_once: bool = True) -> Pruned:
    """A copy of the network with what `plan` names gone; its history has one entry more: `entry`, what was planned and measured.

    `at_once`: False leaves the weights to a schedule, and the history says what is going to be. Raises PlanError, ParityError.
    """
    module, report = copy.deepcopy(before.loaded.module), None
    measured: dict[str, Any] = {}
    if at_once:
        apply(module, plan, before.graph, before.loaded.spec)
        if plan.channels:
            done = strip(module, before.examples)
            module, report = done.module, done.report
        measured = {"measured": _measured(module, plan)}
    return Pruned(_with_history(before.loaded, module, {**entry, **_planned(plan), **measured}), report)


def _planned(plan: Plan) -> dict[str, Any]:
    """What the history says of a plan. Single weights are in the tensors, as zeros; channels that are gone would be forgotten."""
    if plan.channels:
        what: dict[str, Any] = {"channels": {name: list(gone) for name, gone in plan.channels.items()}}
    else:
        what = {"zeros": plan.zeros, "of": sum(plan.goes(name).numel() for name in plan.weights)}
    return {"target": dict(plan.target), "planned": what, "made_for": plan.fingerprint}


def _measured(module: nn.Module, plan: Plan) -> dict[str, int]:
    measured = {"parameters": sum(p.numel() for p in module.parameters())}
    return {**measured, "zeros": prunable_weights(module).zeros} if plan.weights else measured


def _with_history(loaded: LoadedNetwork, module: nn.Module, entry: Mapping[str, Any]) -> LoadedNetwork:
    history = (*loaded.checkpoint.history, entry)
    return replace(loaded, module=module, checkpoint=snapshot(module, loaded.spec, history))
