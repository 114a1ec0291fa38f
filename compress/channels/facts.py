"""Two facts about every channel of every tensor, for every input and size: is it constant (forward), is it needed (backward).

All in float64, from the weights alone: nothing is observed. Never here: what to do about it (decide.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from compress.channels.graph import ChannelGraph
from compress.channels.labels import Array


@dataclass(frozen=True)
class Facts:
    """By name of the tensor in the graph, in the shape of its label array.

    `values`: the constant, NaN where there is none. `needed`: some output of the network depends on the channel through weights
    that are not zero. What feeds only constants is not needed: they come out without it.
    """

    values: Mapping[str, Array]
    needed: Mapping[str, Array]

    def live(self, name: str) -> Array:
        """Needed, and not a constant: what must go on being computed."""
        return self.needed[name] & np.isnan(self.values[name])


def find(graph: ChannelGraph, tensors: Mapping[str, Tensor]) -> Facts:
    """`tensors`: the module's parameters and buffers by name, on the CPU."""
    values = {name: np.full(labels.shape, np.nan) for name, labels in graph.labels.items()}
    for name, tensor in graph.data.items():
        if name in values:
            values[name] = _uniform(tensors[tensor], values[name].shape)
    for step in graph.steps:
        inputs = [values[name] for name in step.inputs]
        values[step.name] = step.constants(inputs, graph.labels[step.name].shape, tensors)

    needed = {name: np.zeros(labels.shape, bool) for name, labels in graph.labels.items()}
    for name in graph.outputs:
        needed[name][...] = True
    for step in reversed(graph.steps):
        live = needed[step.name] & np.isnan(values[step.name])
        if live.any():
            shapes = [needed[name].shape for name in step.inputs]
            for name, read in zip(step.inputs, step.reads(live, shapes, tensors), strict=True):
                needed[name] |= read
    return Facts(values, needed)


def _uniform(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    """A parameter as one value a channel; NaN where it differs over the positions of a channel."""
    values = tensor.detach().double().numpy()
    over = tuple(axis for axis, size in enumerate(shape) if size == 1)
    low, high = values.min(axis=over, keepdims=True), values.max(axis=over, keepdims=True)
    found = np.where(low == high, low, np.nan)
    return np.broadcast_to(found, shape).copy()
