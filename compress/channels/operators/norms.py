"""Normalisation. Over space with the picture's own statistics, a constant cancels; with running statistics it is an affine map.

GroupNorm counts the channels of a group: a group goes whole, or stays. LayerNorm and its kin mix all channels, which stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.moves import source_of
from compress.channels.steps import Tensors
from compress.channels.walk import Arguments, Balance, Walk, is_data, op_of, shape_of

PARAMETERS = {"weight": "scale", "bias": "shift", "running_mean": "mean", "running_var": "variance"}


@handles("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit", "native_batch_norm")
def norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = source_of(arguments)
    own = bool(arguments.get("training", arguments.get("use_input_stats")))
    rank = len(shape_of(source))
    if not walk.over_space(source, rank - 2):
        walk.opaque(node, f"{op_of(node)} over channels", 0)
        return
    names = _bound(walk, node, arguments, PARAMETERS)
    if names is None:
        return
    shape, labels = tuple(-1 if axis == 1 else 1 for axis in range(rank)), walk.look(source)

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        def parameter(role: str, default: float) -> Array:
            return _double(tensors[names[role]]).reshape(shape) if role in names else np.array(default)

        mean, variance = parameter("mean", 0), parameter("variance", 1)
        scale, shift = parameter("scale", 1), parameter("shift", 0)
        normed = np.where(np.isnan(values[0]), np.nan, 0) if own else (values[0] - mean) / np.sqrt(variance + arguments["eps"])
        return np.where(scale == 0, shift, normed * scale + shift)

    into = node.name if is_data(node) else next(user.name for user in node.users if op_of(user) == "getitem")
    walk.channelwise(node, [source], labels, evaluate, into)
    if own:
        walk.cancels.add(into)


def _bound(walk: Walk, node: Node, arguments: Arguments, roles: dict[str, str], axis: int = 1) -> dict[str, str] | None:
    """The norm's parameters by role, tied to `axis` of what it norms; None, and opaque, when the network computes one."""
    source, names = source_of(arguments), {}
    for argument, role in roles.items():
        parameter = arguments.get(argument)
        if parameter is None:
            continue
        if parameter.name not in walk.data:
            walk.opaque(node, "a norm with computed parameters", 0)
            return None
        names[role] = walk.data[parameter.name]
        walk.role(parameter, 0, role)
        known = walk.axis(names[role], 0)
        walk.labels.tie(known, walk.along(source, axis, len(known)), walk.why(source))
    return names


@handles("group_norm")
def group_norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    """A group that is constant in all its channels comes out constant, whatever the size; it goes whole, with the group count."""
    source = source_of(arguments)
    rank, groups = len(shape_of(source)), int(arguments["num_groups"])
    if not walk.over_space(source, rank - 2):
        walk.opaque(node, "group_norm counts its channels", 0)
        return
    labels = walk.look(source)
    if labels.size != labels.shape[1] or labels.size == 1:
        walk.opaque(node, "group_norm counts its channels", 0)
        return
    if groups == 1:
        walk.labels.pin(labels, "group_norm counts its channels")
    else:
        walk.balances.append(Balance(labels.reshape(groups, -1), whole=True))
    _norm_groups(walk, node, arguments, groups, 1)


def _norm_groups(walk: Walk, node: Node, arguments: Arguments, groups: int, axis: int) -> None:
    """Channels lie along `axis` alone, group after group."""
    source, centres = source_of(arguments), op_of(node) != "rms_norm"
    names = _bound(walk, node, arguments, {"weight": "scale", "bias": "shift"}, axis)
    if names is None:
        return
    labels = walk.look(source)
    eps = torch.finfo(node.meta["val"].dtype).eps if arguments["eps"] is None else float(arguments["eps"])

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        blocks = values[0].reshape(groups, -1)
        blocks = blocks - blocks.mean(1, keepdims=True) if centres else blocks
        normed = (blocks / np.sqrt((blocks**2).mean(1, keepdims=True) + eps)).ravel()
        scale = _double(tensors[names["scale"]]) if "scale" in names else np.ones(normed.size)
        shift = _double(tensors[names["shift"]]) if "shift" in names else np.zeros(normed.size)
        return np.where(scale == 0, shift, normed * scale + shift).reshape(labels.shape)

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        return [np.repeat(live.reshape(groups, -1).any(1), live.size // groups).reshape(live.shape)]

    walk.joint(node, [source], labels, evaluate, needs)


@handles("layer_norm", "rms_norm")
def layer_norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Over channels: one group, which stays. Over space alone, without parameters, a constant cancels."""
    source = source_of(arguments)
    labels, count = walk.look(source), len(arguments["normalized_shape"])
    channels = [axis for axis in range(labels.ndim) if labels.shape[axis] > 1]
    if op_of(node) == "layer_norm" and all(axis < labels.ndim - count for axis in channels) and arguments["weight"] is None:
        walk.channelwise(node, [source], labels, lambda values, _: np.where(np.isnan(values[0]), np.nan, 0.0))
        walk.cancels.add(node.name)
        return
    if count == 1 and channels == [labels.ndim - 1]:
        walk.labels.pin(labels, f"{op_of(node)} mixes its channels")
        _norm_groups(walk, node, arguments, 1, labels.ndim - 1)
        return
    walk.opaque(node, f"{op_of(node)} mixes its channels", 0)


@handles("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Over branches (channels lie along another axis as well): each channel by itself. Over space, its size counts."""
    source = source_of(arguments)
    labels = walk.look(source)
    axis = arguments["dim"] % labels.ndim
    if labels.shape[axis] == 1:
        count = np.nan if shape_of(source)[axis] > 1 else 1.0
        flat = (0.0 if "log" in op_of(node) else 1.0) if count == 1.0 else np.nan
        walk.channelwise(node, [source], labels, lambda values, _: np.full(values[0].shape, flat))
        return
    if prod(labels.shape) == labels.shape[axis]:
        walk.opaque(node, f"{op_of(node).strip('_')} mixes channels", 0)
        return
    first = np.take(labels, [0], axis)
    walk.labels.tie(np.broadcast_to(first, labels.shape), labels, walk.why(source))

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        power = np.exp(values[0] - values[0].max(axis, keepdims=True))
        share = power / power.sum(axis, keepdims=True)
        return np.log(share) if "log" in op_of(node) else share

    def needs(live: Array, values: Sequence[Array]) -> list[Array]:
        return [live.any(axis, keepdims=True)]

    walk.joint(node, [source], labels, evaluate, needs)


def _double(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()
