"""Operators that work on every number by itself: activations, arithmetic, comparisons. Their inputs' channels become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from compress.channels.labels import FIXED, Array
from compress.channels.operators import handles
from compress.channels.steps import Evaluate, Tensors
from compress.channels.walk import Arguments, Walk, arguments_of, in_place, is_data, op_of, shape_of

SAME = (
    "contiguous", "clone", "detach", "alias", "lift_fresh_copy",
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout",
)  # fmt: skip
POINTWISE = (
    "abs", "acos", "acosh", "add", "addcdiv", "addcmul", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and",
    "bitwise_not", "bitwise_or", "ceil", "celu", "clamp", "clamp_max", "clamp_min", "clip", "copysign", "cos", "cosh",
    "div", "divide", "elu", "eq", "erf", "erfc", "exp", "exp2", "expm1", "float_power", "floor", "floor_divide", "fmod",
    "frac", "ge", "gelu", "gt", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "hypot", "le",
    "leaky_relu", "lerp", "log", "log10", "log1p", "log2", "log_sigmoid", "logaddexp", "logical_and", "logical_not", "logical_or",
    "logical_xor", "logit", "lt", "masked_fill", "maximum", "minimum", "mish", "mul", "multiply",
    "nan_to_num", "ne", "neg", "negative", "pow", "reciprocal", "relu", "relu6", "remainder", "round", "rrelu", "rsqrt",
    "rsub", "selu", "sgn", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "softshrink", "sqrt", "square", "sub",
    "subtract", "tan", "tanh", "threshold", "true_divide", "trunc", "where", "xlogy",
)  # fmt: skip
_GAINS = ("mul", "multiply", "div", "divide", "true_divide")
_WRITES = {"add": "shift", "sub": "shift", "subtract": "shift", "mul": "scale", "multiply": "scale"}


@handles(*SAME, "to", "_to_copy", "type_as")
def same(walk: Walk, node: Node, arguments: Arguments) -> None:
    """The tensor itself, in another place or precision; random when it drops, and then no constant is known."""
    source = arguments.get("input", arguments.get("self"))
    if not node.meta["val"].is_floating_point() or not source.meta["val"].is_floating_point():
        walk.opaque(node)
        return
    drops = bool(arguments.get("train", False)) and float(arguments.get("p", 0)) > 0
    if source.name in walk.data and not drops:  # autocast, `weight.to(x.dtype)`: a parameter like the one it was made of
        walk.data[node.name] = walk.data[source.name]
        return
    walk.channelwise(node, [source], walk.look(source), _nothing if drops else _itself)


@handles(*POINTWISE)
def pointwise(walk: Walk, node: Node, arguments: Arguments) -> None:
    if _is_gain(walk, node, arguments):
        return
    operands = list(dict.fromkeys(value for value in arguments.values() if isinstance(value, Node) and is_data(value)))
    if any(operand.name in walk.gains for operand in operands):
        walk.opaque(node, "a parameter times numbers that are not positive")
        return
    labels = merged(walk, node, operands)
    role = _WRITES.get(op_of(node))
    for operand in operands:
        if operand.name in walk.data and role and len(operands) > 1:
            for axis, size in enumerate(walk.look(operand).shape):
                if size > 1:
                    walk.role(operand, axis, role)
    walk.channelwise(node, operands, labels, _apply(node, arguments, operands))


def _is_gain(walk: Walk, node: Node, arguments: Arguments) -> bool:
    """An equalised learning rate: a parameter times a number, which layers alone take, counts as the parameter."""
    source, number = arguments.get("self"), arguments.get("other")
    if op_of(node) not in _GAINS or not isinstance(source, Node) or not isinstance(number, int | float):
        return False
    if source.name not in walk.data or in_place(node) or not 0 < number < np.inf or not all(_takes(u, node) for u in node.users):
        return False
    gain = walk.gains.get(source.name, 1.0) * (number if op_of(node) in ("mul", "multiply") else 1 / number)
    walk.data[node.name], walk.gains[node.name] = walk.data[source.name], gain
    return True


def _takes(layer: Node, parameter: Node) -> bool:
    """As its weight or its bias, and as nothing else; or as what such a layer takes, times another number."""
    arguments = arguments_of(layer)
    if op_of(layer) in _GAINS and arguments.get("self") is parameter and not isinstance(arguments.get("other"), Node):
        return bool(layer.users) and all(_takes(user, layer) for user in layer.users)
    return op_of(layer).startswith(("conv", "linear")) and arguments.get("input") is not parameter


@handles("prelu")
def prelu(walk: Walk, node: Node, arguments: Arguments) -> None:
    source, weight = arguments["self"], arguments["weight"]
    labels = walk.look(source)
    name = walk.data.get(weight.name)
    if name is None:
        walk.opaque(node)
        return
    rank, count = len(shape_of(node)), walk.tensors[name].numel()
    if count > 1:
        walk.over_space(source, rank - 2)
        labels = walk.look(source)
        walk.labels.tie(walk.axis(name, 0), walk.along(source, 1 if rank > 1 else 0, count), walk.why(source))

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        slope = tensors[name].detach().double().numpy().reshape((1, -1) + (1,) * (rank - 2))
        return np.where(values[0] > 0, values[0], slope * values[0])

    walk.channelwise(node, [source], labels, evaluate)


@handles("glu")
def gated(walk: Walk, node: Node, arguments: Arguments) -> None:
    """The first half of the channels times the sigmoid of the second."""
    source = arguments["self"]
    labels = walk.look(source)
    axis = arguments["dim"] % labels.ndim
    if labels.shape[axis] == 1:  # halves of space
        walk.channelwise(node, [source], labels, lambda values, _: _gate(values[0], values[0]))
        return
    value, gate = np.split(labels, 2, axis)
    walk.labels.tie(value, gate, walk.why(source))

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        return _gate(*np.split(values[0], 2, axis))

    walk.joint(node, [source], value, evaluate, lambda live, _: [np.concatenate([live, live], axis)])


def _gate(value: Array, gate: Array) -> Array:
    return np.where(value == 0, 0.0, value * torch.sigmoid(torch.from_numpy(gate)).numpy())


def merged(walk: Walk, node: Node, operands: Sequence[Node]) -> Array:
    """Tie the operands' channels where they meet, and return the output's labels."""
    rank = len(shape_of(node))
    network = [operand for operand in operands if operand.name not in walk.data or operand.name in walk.labels_of]
    along = [axis for axis in range(rank) if any(_padded(walk.look(operand), rank).shape[axis] > 1 for operand in network)]
    sizes = [_sizes(walk, operand, rank) for operand in operands]
    if not along:  # parameters among themselves, or with what has no channels: channels come first
        others = [size for operand, size in zip(operands, sizes, strict=True) if operand in network]
        along = [axis for axis in range(rank) if max(s[axis] for s in sizes) > 1 == max([1, *(s[axis] for s in others)])][:1]
    for operand, size in zip(operands, sizes, strict=True):  # a parameter that meets others: the last of their axes that it has
        shared = [axis - rank + len(shape_of(operand)) for axis in along if size[axis] > 1]
        walk.lay(operand, shared[-1] if shared else None)
    padded = [_padded(walk.look(operand), rank) for operand in operands]
    labels = np.full((1,) * rank, FIXED)
    for n, operand in enumerate(operands):
        here = padded[n]
        if any(here.shape[axis] > 1 and axis not in along for axis in range(rank)):
            walk.labels.pin(here, f"{walk.data.get(operand.name, operand.name)} does not lie along channels")
            continue
        if here.size == 1 and any(sizes[n][axis] > 1 for axis in along):
            here = np.full([sizes[n][axis] if axis in along else 1 for axis in range(rank)], FIXED)
        if here.size == 1:
            continue
        if labels.size > 1 and _across(labels, here):
            for each in padded:
                walk.labels.pin(each, f"{op_of(node)} pairs channels with channels")
            return np.full((1,) * rank, FIXED)
        if labels.size > 1:
            walk.labels.tie(labels, here, walk.why(*operands))
        shape = np.broadcast_shapes(labels.shape, here.shape)
        labels = np.broadcast_to(here if (labels < 0).all() else labels, shape)
    return labels


def _across(a: Array, b: Array) -> bool:
    """Each has channels along an axis where the other has none."""
    axes = list(zip(a.shape, b.shape, strict=True))
    return any(n > 1 == m for n, m in axes) and any(m > 1 == n for n, m in axes)


def _sizes(walk: Walk, operand: Node, rank: int) -> tuple[int, ...]:
    """The shape of an operand, with 1 along axes that it is stretched over: there it has one channel, however many times."""
    stretched = walk.stretched.get(operand.name, ())
    sizes = tuple(1 if axis in stretched else size for axis, size in enumerate(shape_of(operand)))
    return (1,) * (rank - len(sizes)) + sizes


def _padded(labels: Array, rank: int) -> Array:
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def _apply(node: Node, arguments: Arguments, operands: Sequence[Node]) -> Evaluate:
    """The operator itself on the constants, in float64; unknown wherever an input is, but that zero times anything is zero."""
    target: Any = node.target
    multiplies = op_of(node) in ("mul", "multiply") and len(operands) == 2
    booleans = [operand.meta["val"].dtype == torch.bool for operand in operands]
    positional = [argument.name for argument in target._schema.arguments if not argument.kwarg_only]

    def evaluate(values: Sequence[Array], tensors: Tensors) -> Array:
        known = dict(zip(operands, map(_tensor, values, booleans), strict=True))
        call = {name: known.get(value, value) if isinstance(value, Node) else value for name, value in arguments.items()}
        keywords = {name: value for name, value in call.items() if name not in positional}
        found = target(*(call[name] for name in positional), **keywords).double().numpy()
        unknown = np.isnan(np.broadcast_arrays(np.zeros(found.shape), *values)[1:]).any(axis=0)
        zero = (values[0] == 0) | (values[1] == 0) if multiplies else False
        return np.where(zero, 0.0, np.where(unknown, np.nan, found))

    return evaluate


def _tensor(values: Array, boolean: bool) -> Tensor:
    tensor = torch.tensor(values, dtype=torch.float64)
    return torch.nan_to_num(tensor).bool() if boolean else tensor


def _itself(values: Sequence[Array], tensors: Tensors) -> Array:
    return values[0]


def _nothing(values: Sequence[Array], tensors: Tensors) -> Array:
    return np.full(values[0].shape, np.nan)
