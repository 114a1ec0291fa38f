"""Operators whose output channels mix all input channels (of a group): convolutions, transposed convolutions, linear layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.fx import Node

from compress.channels.labels import Array
from compress.channels.operators import handles
from compress.channels.operators.spatial import only, unknown
from compress.channels.steps import Linear
from compress.channels.walk import Arguments, Balance, Walk, module_of, op_of, shape_of


@dataclass(frozen=True)
class Window:
    """How the taps of a convolution lie over the picture, one number a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]  # rows of zeros added at the start
    after: tuple[int, ...]

    def inside(self) -> tuple[bool, ...]:
        """For each tap, row-major: does it meet the picture, and not the zeros around it, at every output pixel of every size."""
        along = [
            [before <= tap * dilation <= dilation * (kernel - 1) - after for tap in range(kernel)]
            for kernel, dilation, before, after in zip(self.kernel, self.dilation, self.before, self.after, strict=True)
        ]
        return tuple(all(taps) for taps in itertools.product(*along))


@handles("conv1d", "conv2d", "conv3d")
def convolution(walk: Walk, node: Node, arguments: Arguments) -> None:
    source, weight = arguments["input"], arguments["weight"]
    kernel = _kernel(walk, node, arguments)
    if kernel is None:
        return
    stride, dilation = (_spread(arguments[name], len(kernel)) for name in ("stride", "dilation"))
    before, after = _padding(arguments["padding"], kernel, dilation)
    inside = Window(kernel, stride, dilation, before, after).inside()
    while source.name in walk.zero_pads:  # read what the pad pads: then its constants can still be merged
        source = walk.zero_pads[source.name]
        inside = (False,) * len(inside)  # by how much it pads can depend on the size
    groups = int(arguments["groups"])
    positions = int(np.prod(shape_of(node)[-len(kernel) :])) * _batch(node, len(kernel))
    call = Product(source, weight, arguments["bias"], groups, False, inside, positions, len(shape_of(node)) - len(kernel) - 1)
    mix(walk, node, call)


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(walk: Walk, node: Node, arguments: Arguments) -> None:
    """A constant does not pass through: pixels near the border, and between strides, meet fewer taps."""
    source, weight = arguments["input"], arguments["weight"]
    kernel = _kernel(walk, node, arguments)
    if kernel is None:
        return
    pointwise = all(n == 1 for n in (*kernel, *_spread(arguments["stride"], 1))) and not any(_spread(arguments["padding"], 1))
    pointwise = pointwise and not any(_spread(arguments["output_padding"], 1))
    inside = (pointwise,) * int(np.prod(kernel))
    positions = int(np.prod(shape_of(source)[-len(kernel) :])) * _batch(source, len(kernel))
    channels = len(shape_of(node)) - len(kernel) - 1
    mix(walk, node, Product(source, weight, arguments["bias"], int(arguments["groups"]), True, inside, positions, channels))


def _kernel(walk: Walk, node: Node, arguments: Arguments) -> tuple[int, ...] | None:
    """How many taps along each axis of space; None, and opaque, when the weight is computed or the taps lie along channels."""
    weight = arguments["weight"]
    if weight.name not in walk.data:
        walk.computed(node, "convolution")
        return None
    kernel = shape_of(weight)[2:]
    if not walk.over_space(arguments["input"], len(kernel)):
        walk.opaque(node, "a convolution along channels")
        return None
    return kernel


@handles("linear")
def linear(walk: Walk, node: Node, arguments: Arguments) -> None:
    source, weight = arguments["input"], arguments["weight"]
    if weight.name not in walk.data or len(shape_of(weight)) != 2:
        walk.computed(node, "linear layer")
        return
    labels, last = walk.look(source), len(shape_of(source)) - 1
    if labels.size > labels.shape[last]:
        _over_space(walk, node, source, weight, arguments)
        return
    positions = int(np.prod(shape_of(node)[:-1]))
    mix(walk, node, Product(source, weight, arguments["bias"], 1, False, (True,), positions, last))


def _over_space(walk: Walk, node: Node, source: Node, weight: Node, arguments: Arguments) -> None:
    """A linear layer along an axis without channels does the same to each channel; what it makes of a constant varies."""
    labels = walk.look(source)
    if labels.shape[-1] > 1:
        walk.opaque(node, "a linear layer over channels and others")
        return
    unbiased = arguments["bias"] is None
    extra = [parameter for parameter in (weight, arguments["bias"]) if parameter is not None]
    for parameter in extra:
        walk.labels.pin(walk.look(parameter), "a linear layer over space")
    macs = int(np.prod(shape_of(node))) * shape_of(weight)[1]
    walk.joint(node, [source], labels, only(0.0) if unbiased else unknown, lambda live, _: [live], macs=macs)


@dataclass(frozen=True)
class Product:
    """`channels`: the axis of the output that holds them (and of the input)."""

    source: Node
    weight: Node
    bias: Node | None
    groups: int
    transposed: bool
    inside: tuple[bool, ...]
    positions: int
    channels: int


def mix(walk: Walk, node: Node, call: Product) -> None:
    """Bind weight and bias, tie the input, and note the step. Its output's channels are the weight's rows."""
    name = walk.data[call.weight.name]
    shape = shape_of(call.weight)
    if call.bias is not None and call.bias.name not in walk.data:
        walk.opaque(node, "its convolution computes its own bias")
        return
    if walk.groups.setdefault(name, call.groups) != call.groups:
        walk.opaque(node, "a weight used with different groups")
        return
    gain, bias_gain = _gain(walk, call.weight), _gain(walk, call.bias)
    if gain is None or bias_gain is None:
        walk.opaque(node, "a parameter used with different gains")
        return
    axis = len(shape_of(call.source)) - (len(shape_of(node)) - call.channels)
    if walk.look(call.source).size > walk.look(call.source).shape[axis]:
        walk.opaque(node, f"{op_of(node)} mixes channels with what lies along other axes")
        return
    rows, columns = walk.axis(name, 0), walk.axis(name, 1, shape[1] * call.groups)
    out, into = (columns, rows) if call.transposed else (rows, columns)
    walk.role(call.weight, 1 if call.transposed else 0, "weight")
    walk.role(call.weight, 0 if call.transposed else 1, "into")
    walk.labels.tie(into, walk.along(call.source, axis, len(into)), walk.why(call.source))
    bias = None
    if call.bias is not None:
        bias = walk.data[call.bias.name]
        walk.role(call.bias, 0, "bias")
        walk.labels.tie(walk.axis(bias, 0), out, "tied to channels that cannot go")
    _groups(walk, out, into, call.groups)
    labels = out.reshape([-1 if axis == call.channels else 1 for axis in range(len(shape_of(node)))])
    step = Linear(
        node.name, op_of(node), module_of(node), walk.names([call.source]), name, bias, call.groups, call.transposed,
        len(out), len(into), call.inside, call.positions, _owner(walk, node, name), call.channels, gain, bias_gain,
    )  # fmt: skip
    walk.add(node, step, [] if bias or len(out) > 1 else [call.source], labels)


def _gain(walk: Walk, parameter: Node | None) -> float | None:
    """The number by which the code multiplies it, the same at every use; None where it is not."""
    if parameter is None:
        return 1.0
    gain = walk.gains.get(parameter.name, 1.0)
    return gain if walk.gain_of.setdefault(walk.data[parameter.name], gain) == gain else None


def _groups(walk: Walk, out: Array, into: Array, groups: int) -> None:
    """Depthwise: each input channel goes with its output. Grouped: the groups stay equal, or go whole."""
    if groups == 1:
        return
    if len(into) == len(out) == groups:
        walk.labels.tie(into, out, "tied to channels that cannot go")
        return
    depthwise, first = len(into) == groups, len(walk.balances)
    if depthwise:
        walk.labels.bundle(np.repeat(into, len(out) // groups), out)
    walk.balances.append(Balance(into.reshape(groups, -1), first + 1, depthwise))
    walk.balances.append(Balance(out.reshape(groups, -1), first, depthwise))


def _owner(walk: Walk, node: Node, weight: str) -> str | None:
    """The module that makes the call with its own weight, when it is of a kind whose forward uses `self.bias`."""
    module = module_of(node)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
    owner = walk.modules.get(module)
    return module if isinstance(owner, kind) and owner.weight is walk.tensors[weight] else None


def _padding(padding: Any, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)
    return _spread(padding, len(kernel)), _spread(padding, len(kernel))


def _spread(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def _batch(node: Node, spatial: int) -> int:
    shape = shape_of(node)
    return shape[0] if len(shape) == spatial + 2 else 1
