"""Normalisation. Over space with the picture's own statistics, a constant cancels; with running statistics it is an affine map.

GroupNorm, LayerNorm and softmax over channels count or mix channels: they keep their channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.fx import Node

from compress.channels.labels import FIXED, Array
from compress.channels.operators import handles
from compress.channels.steps import Tensors
from compress.channels.walk import Arguments, Walk, is_data, op_of, shape_of


@handles("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments["input"]
    own = bool(arguments.get("training", arguments.get("use_input_stats")))
    labels, names = walk.look(source), {}
    for argument, role in (("weight", "scale"), ("bias", "shift"), ("running_mean", "mean"), ("running_var", "variance")):
        parameter = arguments[argument]
        if parameter is None:
            continue
        if parameter.name not in walk.data:
            walk.opaque(node, "a norm with computed parameters")
            return
        names[role] = walk.data[parameter.name]
        walk.role(parameter, 0, role)
        along = labels.ravel() if labels.size > 1 else np.full(len(walk.axis(names[role], 0)), FIXED)
        walk.labels.tie(walk.axis(names[role], 0), along, walk.why(source))
    shape = tuple(-1 if axis == 1 else 1 for axis in range(len(shape_of(source))))

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


@handles("group_norm")
def group_norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    walk.opaque(node, "group_norm counts its channels")


@handles("layer_norm", "rms_norm")
def layer_norm(walk: Walk, node: Node, arguments: Arguments) -> None:
    walk.opaque(node, "layer_norm mixes its channels")


@handles("softmax", "log_softmax")
def softmax(walk: Walk, node: Node, arguments: Arguments) -> None:
    source = arguments["self"]
    labels = walk.look(source)
    if labels.shape[arguments["dim"]] > 1:
        walk.opaque(node, "softmax mixes channels")
    else:  # over space: the value of a constant depends on the size
        walk.channelwise(node, [source], labels, lambda values, _: np.full(values[0].shape, np.nan))


def _double(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()
