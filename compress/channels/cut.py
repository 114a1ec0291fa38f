"""Carry out a `Removal`: smaller tensors, with what the removed channels contributed folded in, and the record of what shrank.

All arithmetic in float64. Never here: deciding what goes, modules other than their names and kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compress.channels.decide import Removal
from compress.channels.graph import ChannelGraph
from compress.channels.labels import Array
from compress.channels.rebuild import ADDED_BIAS, record_of
from compress.channels.steps import Channelwise, Joint, Linear


@dataclass(frozen=True)
class Cut:
    """`tensors`: all tensors of the module that changed, by name, float64. `record`: module -> attributes, for rebuild."""

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Mapping[str, Any]]


def cut(graph: ChannelGraph, removal: Removal, module: nn.Module, tensors: Mapping[str, Tensor]) -> Cut:
    """`tensors`: parameters and buffers of `module` by name, on the CPU. None of them is changed."""
    changed: dict[str, Tensor] = {}
    biases = _taken_over(graph, removal, tensors, changed)
    shrunk: dict[str, Tensor] = {}
    staying: dict[str, dict[int, Array]] = {}
    for (name, axis), units in graph.axes.items():
        staying.setdefault(name, {})[axis] = _staying(units, removal)
    for name, keep in staying.items():
        source = changed.get(name, tensors[name].detach())
        if name in changed or any(not np.array_equal(kept, np.arange(len(graph.axes[name, a]))) for a, kept in keep.items()):
            shrunk[name] = _grouped(source, keep, graph.groups[name]) if graph.groups.get(name, 1) > 1 else _plain(source, keep)
    for name, (bias, units) in biases.items():
        kept = bias[torch.from_numpy(_staying(units, removal))]
        if name in tensors or bool(kept.any()):
            shrunk[name] = kept
    for name, first in _tied(module):
        if first in shrunk:
            shrunk[name] = shrunk[first]
    return Cut(shrunk, _record(graph, removal, module, tensors, shrunk))


def _taken_over(
    graph: ChannelGraph, removal: Removal, tensors: Mapping[str, Tensor], changed: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Array]]:
    """Merge into weights (`changed`); return the biases that folding gives, still of full width, with their units."""
    biases: dict[str, tuple[Tensor, Array]] = {}
    for step in (step for step in graph.steps if isinstance(step, Linear)):
        fold, name = removal.folds[step.weight], step.bias or f"{step.owner}.bias"
        if fold.any() and name not in biases:
            old = tensors[name].detach().double() if step.bias else torch.zeros(step.out, dtype=torch.float64)
            added = (step.sums(tensors) * fold[:, None]).sum(-1).ravel() / step.bias_gain
            biases[name] = (old + torch.from_numpy(added), graph.axes[step.weight, 1 if step.transposed else 0])
        if removal.merges[step.weight] and step.weight not in changed:
            changed[step.weight] = _merged(step, removal, tensors)
    return biases


def absorbed(graph: ChannelGraph, removal: Removal, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """All tensors with constants merged, and nothing cut: an equal network. And whether a weight became zero by that."""
    found, cancels = dict(tensors), False
    for step in (step for step in graph.steps if isinstance(step, Linear) and removal.merges[step.weight]):
        weight = _merged(step, removal, tensors)
        cancels |= bool(((weight == 0) & (tensors[step.weight] != 0)).any())
        for merge in removal.merges[step.weight]:
            step.matrix({step.weight: weight})[merge.group, :, merge.channel] = 0
        found[step.weight] = weight
    return found, cancels


def merging(graph: ChannelGraph, removal: Removal) -> Array:
    """The units whose constants others carry."""
    found = []
    for step in (step for step in graph.steps if isinstance(step, Linear)):
        units = graph.axes[step.weight, 0 if step.transposed else 1].reshape(step.groups, -1)
        found += [int(units[merge.group, merge.channel]) for merge in removal.merges[step.weight]]
    return np.unique(np.array(found, int))


def _merged(step: Linear, removal: Removal, tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight of `step` with the constants merged that go."""
    weight = tensors[step.weight].detach().double().clone()
    matrix = step.matrix({step.weight: weight})
    for merge in removal.merges[step.weight]:
        matrix[merge.group, :, merge.carrier] += merge.ratio * matrix[merge.group, :, merge.channel]
    return weight


def _plain(tensor: Tensor, keep: Mapping[int, Array]) -> Tensor:
    for axis, kept in keep.items():
        tensor = tensor.index_select(axis, torch.from_numpy(kept).to(tensor.device))
    return tensor.double()


def _grouped(weight: Tensor, keep: Mapping[int, Array], groups: int) -> Tensor:
    """Group by group: its rows (axis 0), its columns (axis 1); a group without rows is gone. Their order is that of the rows."""
    rows = _by_group(keep[0], weight.shape[0] // groups, groups)
    columns = _by_group(keep[1], weight.shape[1], groups) if 1 in keep else [torch.arange(weight.shape[1])] * groups
    blocks = weight.double().unflatten(0, (groups, -1))
    order = dict.fromkeys((keep[0] // (weight.shape[0] // groups)).tolist())
    return torch.cat([blocks[g][rows[g]][:, columns[g]] for g in order])


def _by_group(positions: Array, size: int, groups: int) -> list[Tensor]:
    """Positions counted through all groups, as those within each."""
    return [torch.from_numpy(positions[positions // size == group] - group * size) for group in range(groups)]


def _tied(module: nn.Module) -> Iterator[tuple[str, str]]:
    """(name, first name of the same tensor) for every further name."""
    first: dict[int, str] = {}
    for name, tensor in (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)):
        if first.setdefault(id(tensor), name) != name:
            yield name, first[id(tensor)]


def _staying(units: Array, removal: Removal) -> Array:
    """Which positions along an axis stay, in their new order: each place gets what `moved` puts there, then some go."""
    wanted = np.where(units >= 0, removal.moved[units], units) if len(removal.moved) else units
    source = np.empty(len(units), int)
    source[np.argsort(wanted, kind="stable")] = np.argsort(units, kind="stable")  # the n-th of a channel's copies: the n-th again
    return source[~((wanted >= 0) & removal.gone[wanted])]


def _record(
    graph: ChannelGraph, removal: Removal, module: nn.Module, tensors: Mapping[str, Tensor], shrunk: Mapping[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """What `rebuild` must set. A module of any kind whose tensors shrank has an entry, if an empty one."""
    modules, before = dict(module.named_modules(remove_duplicate=False)), record_of(module)
    record: dict[str, dict[str, Any]] = {}
    for name, tensor in shrunk.items():
        owner, _, local = name.rpartition(".")
        entry = record.setdefault(owner, dict(before.get(owner, {})))
        if name not in tensors or (local == "bias" and ADDED_BIAS in entry):
            entry[ADDED_BIAS] = len(tensor)
        entry.update(_attributes(modules[owner], local, tensor, _groups_left(graph, removal, name)))
    for step in graph.steps:
        target, labels = modules.get(step.module), graph.labels[step.name]
        if not isinstance(target, _NormBase | nn.GroupNorm) or not isinstance(step, Channelwise | Joint):
            continue
        left = ~((labels >= 0) & removal.gone[labels])
        if not left.all():
            record.setdefault(step.module, dict(before.get(step.module, {}))).update(_norm_attributes(target, left))
    return record


def _norm_attributes(norm: nn.Module, left: Array) -> dict[str, Any]:
    """Of a norm, which may have no tensor that tells. `left`: for each of its channels whether it stays."""
    if isinstance(norm, nn.GroupNorm):
        groups = int(left.reshape(norm.num_groups, -1).any(1).sum())
        return {"num_channels": int(left.sum()), "num_groups": groups}
    return {"num_features": int(left.sum())}


def _groups_left(graph: ChannelGraph, removal: Removal, weight: str) -> int:
    groups = graph.groups.get(weight, 1)
    if groups == 1:
        return 1
    rows = graph.axes[weight, 0]
    return len(np.unique(_staying(rows, removal) // (len(rows) // groups)))


def _attributes(module: nn.Module, local: str, tensor: Tensor, groups: int) -> dict[str, Any]:
    if isinstance(module, _ConvNd) and local == "weight":
        channels = (tensor.shape[0], tensor.shape[1] * groups)
        into, out = channels if isinstance(module, _ConvTransposeNd) else channels[::-1]
        return {"in_channels": into, "out_channels": out, "groups": groups}
    if isinstance(module, nn.Linear) and local == "weight":
        return {"in_features": tensor.shape[1], "out_features": tensor.shape[0]}
    if isinstance(module, _NormBase):
        return {"num_features": len(tensor)} if tensor.dim() else {}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": len(tensor)}
    return {}
