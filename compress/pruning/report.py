"""What a pruning did, as the document that `--json` prints: before and after, what went and why, what was not understood.

The shape is that of a strip's report, with what only pruning knows beside it. Never here: deciding, removing, files.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor, nn

from compress.channels.graph import ChannelGraph
from compress.pruning.plan import Plan
from compress.pruning.stage import Pruned, Subject
from compress.pruning.weights import prunable_weights, zeros_in

Document = dict[str, Any]


def predicted(before: Subject, plan: Plan) -> Document:
    """What `plan` is going to do. Numbers that only a measurement gives are null."""
    gone = {name: len(channels) for name, channels in plan.channels.items()}
    cost = before.graph.predict(gone) if before.graph else None
    parameters = cost.parameters if cost else _parameters(before.loaded.module)
    after = {"parameters": parameters, "macs": cost.macs if cost else None, "bytes": None}
    return _document(before, plan, after, gone, {name: int(plan.goes(name).sum()) for name in plan.weights})


def measured(before: Subject, plan: Plan, after: Pruned, stored: Mapping[str, Tensor]) -> Document:
    """What became of it. `stored`: the tensors as they were written."""
    module, report = after.loaded.module, after.stripped
    gone = {space.name: space.before - space.after for space in report.spaces} if report else {}
    macs = report.after.macs if report else _macs(before.graph)
    totals = {"parameters": _parameters(module), "macs": macs, "bytes": _bytes(stored)}
    zeros = {name: zeros_in(stored[name]) for name in plan.weights}
    document = _document(before, plan, totals, gone, zeros)
    if report:
        said = report.to_json()
        return document | {name: said[name] for name in ("left_alone", "checks")}
    return document | {"deflated_bytes": _deflated_bytes(stored)}


def _document(before: Subject, plan: Plan, after: Document, gone: Mapping[str, int], zeros: Mapping[str, int]) -> Document:
    module, graph = before.loaded.module, before.graph
    first = {"parameters": _parameters(module), "macs": _macs(graph), "bytes": _bytes(before.loaded.checkpoint.tensors)}
    document: Document = {"target": dict(plan.target), "before": first, "after": after}
    if plan.weights:
        found = prunable_weights(module)
        after_all = sum(zeros.values())
        document["weights"] = {"prunable": found.total, "zeros_before": found.zeros, "zeros_after": after_all}
        document |= {"removed": after_all - found.zeros, "tensors": _tensors(plan, zeros)}
    else:
        document["removed"] = sum(gone.values())
    document["spaces"] = _spaces(graph, plan, gone) if graph else []
    return document | {"not_understood": _not_understood(module, plan, graph)}


def _spaces(graph: ChannelGraph, plan: Plan, gone: Mapping[str, int]) -> list[Document]:
    return [
        {
            "name": space.name,
            "before": space.width,
            "after": space.width - gone.get(space.name, 0),
            "channels": list(plan.channels.get(space.name, ())),
            "why": _why(plan) if space.name in plan.channels else None,
            "reason": space.reason,
        }
        for space in graph.spaces
    ]


def _tensors(plan: Plan, zeros: Mapping[str, int]) -> list[Document]:
    return [{"name": n, "weights": prod(plan.shapes[n]), "zeros": zeros[n], "why": _why(plan)} for n in plan.weights]


def _why(plan: Plan) -> str:
    asked = {key: value for key, value in plan.target.items() if key in ("sparsity", "ratio", "macs", "params")}
    said = ", ".join(f"{key} {value}" for key, value in asked.items())
    return f"lowest by {plan.target.get('method', 'choice')}" + (f" ({said})" if said else "")


def _not_understood(module: nn.Module, plan: Plan, graph: ChannelGraph | None) -> list[str]:
    """What was left alone because nothing safe is known of it, and what is missing from the MACs."""
    if plan.weights:
        left = [f"{name} {why}" for name, why in prunable_weights(module).skipped.items()]
    else:
        left = [str(unknown) for unknown in graph.not_understood] if graph else []
    uncounted = [f"the MACs of {name}" for name in graph.predict({}).uncounted] if graph else ["the network: it cannot be traced"]
    return left + uncounted


def _macs(graph: ChannelGraph | None) -> int | None:
    return graph.predict({}).macs if graph else None


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _deflated_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Zeros save room only once they are compressed: what a zip of the tensors takes."""
    return sum(len(zlib.compress(t.detach().cpu().contiguous().numpy().tobytes())) for t in tensors.values())
