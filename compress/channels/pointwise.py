"""Bounds of functions of single numbers (activations, arithmetic), by the extremes that they take over intervals.

Most are monotone in each argument, so their extremes lie at corners; some turn round once. The function that is tried there is
the operator itself, in float64. What is not in the tables is unbounded. Never here: layers, space (bounds.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from compress.channels.intervals import INF, Interval, finite, rounded, unbounded
from compress.channels.labels import Array
from compress.channels.steps import Channelwise, Step

TOUCH = 2.0**-43  # of an interval: so far beyond a knot it still touches it (rounding of float64, over thousands of terms)
JUMP = 1e-6  # of an interval: so far from a jump float32 may land on its other side

# Functions that are monotone in each argument, whichever way: extremes lie at corners. Those in EXACT do not round.
EXACT = {
    "alias", "alpha_dropout", "clamp", "clamp_max", "clamp_min", "clip", "clone", "contiguous", "detach", "dropout",
    "feature_alpha_dropout", "feature_dropout", "hardtanh", "lift_fresh_copy", "masked_fill", "max", "maximum", "min", "minimum",
    "neg", "negative", "relu", "relu6", "to", "_to_copy", "type_as", "where",
}  # fmt: skip
MONOTONE = {
    "acos", "acosh", "add", "asin", "asinh", "atan", "atanh", "celu", "div", "divide", "elu", "erf", "erfc", "exp", "exp2",
    "expm1", "hardsigmoid", "leaky_relu", "lerp", "log", "log10", "log1p", "log2", "log_sigmoid", "mul", "multiply", "prelu",
    "reciprocal", "rrelu", "rsqrt", "rsub", "selu", "sigmoid", "sinh", "softplus", "softshrink", "sqrt", "sub", "subtract",
    "tanh", "true_divide", "addcmul", "addcdiv",
}  # fmt: skip
# Functions that turn round: monotone between these points (gelu has a form of its own for each of its two).
TURNS = {
    "abs": (0.0,), "celu": (0.0,), "cosh": (0.0,), "elu": (0.0,), "float_power": (0.0,),
    "gelu": (-0.7517915246935645, -0.7524614220710162), "hardswish": (-1.5,), "hypot": (0.0,), "leaky_relu": (0.0,),
    "mish": (-1.1924312145157545,), "pow": (0.0,), "prelu": (0.0,), "rrelu": (0.0,), "silu": (-1.2784645427610738,),
    "square": (0.0,),
}  # fmt: skip
JUMPS = {"ceil", "floor", "hardshrink", "round", "sgn", "sign", "trunc"}  # monotone, but not continuous
POLES = {"div": "other", "divide": "other", "true_divide": "other", "reciprocal": "self", "addcdiv": "tensor2"}
# What a function makes of anything at all.
RANGE = {
    "abs": (0, INF), "acos": (0, math.pi), "acosh": (0, INF), "asin": (-math.pi / 2, math.pi / 2),
    "atan": (-math.pi / 2, math.pi / 2), "atan2": (-math.pi, math.pi), "cos": (-1, 1), "cosh": (1, INF), "eq": (0, 1),
    "erf": (-1, 1), "erfc": (0, 2), "exp": (0, INF), "exp2": (0, INF), "expm1": (-1, INF), "frac": (-1, 1), "ge": (0, 1),
    "gt": (0, 1), "hardsigmoid": (0, 1), "hypot": (0, INF), "le": (0, 1), "log_sigmoid": (-INF, 0), "log_softmax": (-INF, 0),
    "logical_and": (0, 1), "logical_not": (0, 1), "logical_or": (0, 1), "logical_xor": (0, 1), "lt": (0, 1), "ne": (0, 1),
    "relu": (0, INF), "relu6": (0, 6), "rsqrt": (0, INF), "sgn": (-1, 1), "sigmoid": (0, 1), "sign": (-1, 1), "sin": (-1, 1),
    "softmax": (0, 1), "softplus": (0, INF), "sqrt": (0, INF), "square": (0, INF), "std": (0, INF), "tanh": (-1, 1),
    "var": (0, INF),
}  # fmt: skip


def pointwise(step: Channelwise, inputs: Sequence[Interval], tensors: Mapping[str, Tensor]) -> Interval:
    """Bounds of what `step` makes of `inputs`: unbounded for a function, or a use of it, that is not known."""
    shape = np.broadcast_shapes(*(found.low.shape for found in inputs))
    if not _is_known(step) or _meets_pole(step, inputs):
        return unbounded(shape)
    if step.op == "threshold":
        return _threshold(step, inputs[0])
    knots = _knots(step)
    if step.op in JUMPS:
        inputs = [Interval(x.low - JUMP * x.size, x.high + JUMP * x.size) for x in inputs]
    elif len(inputs) == 1:
        inputs = [_touching(inputs[0], knots)]
    corners = itertools.product(*(_ends(step, name, x) for name, x in zip(step.inputs, inputs, strict=True)))
    found = [step.evaluate(list(corner), tensors) for corner in corners]
    shape = np.broadcast_shapes(shape, *(corner.shape for corner in found))  # a PReLU has a slope for each channel of an input
    found = [np.broadcast_to(corner, shape) for corner in found]
    low, high = np.min(found, axis=0), np.max(found, axis=0)
    swing = inputs[0].swing if len(inputs) == 1 else None
    if step.op in EXACT:
        passes = swing if knots == (None, None) and step.op in _SAME else None
        return Interval(low, high, passes, swing.stretch(*knots) if swing and knots != (None, None) else None)
    sizes = [np.broadcast_to(x.size, shape) for x in inputs]
    saturated = (low == high) & np.any([np.broadcast_to(x.low < x.high, shape) for x in inputs], axis=0)
    result = rounded(Interval(low, high), np.max([finite(low), finite(high), *sizes], axis=0), saturated, _slack(step))
    return replace(result, stretch=swing.stretch(*knots) if swing and knots != (None, None) else None)


def _is_known(step: Step) -> bool:
    """In the tables, and called in a way that they speak of: no tensor twice, where that makes another function of it."""
    twice = len(set(step.call.tensors.values())) < len(step.call.tensors)
    tables = step.op in EXACT or step.op in MONOTONE or step.op in TURNS or step.op in JUMPS or step.op == "threshold"
    return tables and (not twice or step.op in _TWICE) and step.call.options.get("rounding_mode") is None


def _meets_pole(step: Step, inputs: Sequence[Interval]) -> bool:
    """Is there a channel whose interval holds 0 where the function divides by it?"""
    argument = POLES.get(step.op)
    if step.op in ("pow", "float_power"):
        exponent = step.call.options.get("exponent")
        if not isinstance(exponent, int | float):
            return True
        argument = "self" if exponent < 0 else None
    name = step.call.tensors.get(argument or "")
    if name is None or name not in step.inputs:
        return False
    divisor = inputs[step.inputs.index(name)]
    return bool(((divisor.low <= 0) & (divisor.high >= 0)).any())


def _ends(step: Step, name: str, x: Interval) -> tuple[Array, ...]:
    """Where an argument is tried: its ends, and the points between them at which the function turns round."""
    if name in (step.call.tensors.get("condition"), step.call.tensors.get("mask")):
        return np.zeros(x.low.shape), np.ones(x.low.shape)
    low, high = x.low + 0.0, x.high + 0.0  # of -0 some functions make -inf
    if step.op in _GATES:
        low, high = np.maximum(low, _CLOSED), np.maximum(high, _CLOSED)
    squares = len(step.inputs) == 1 and len(step.call.tensors) == 2 and step.op in _PRODUCTS
    turns = (0.0,) if squares else TURNS.get(step.op, ())
    return low, high, *(np.clip(turn, low, high) for turn in turns)


_PRODUCTS = {"mul", "multiply"}
_TWICE = {"add", "max", "maximum", "min", "minimum", *_PRODUCTS}
_SAME = EXACT - {"clamp", "clamp_max", "clamp_min", "clip", "hardtanh", "masked_fill", "max", "maximum", "min", "minimum", "neg",
                 "negative", "relu", "relu6", "where"}  # fmt: skip
_GATES = {"gelu", "hardswish", "mish", "silu"}  # go to 0 on the left
_CLOSED = -1e3  # where these are 0 in float64


def _knots(step: Step) -> tuple[float | None, float | None]:
    """Below the first the function is constant, and above the second; None: on that side it is not."""
    options = step.call.options
    bounds = {
        "relu": (0.0, None), "relu6": (0.0, 6.0), "hardsigmoid": (-3.0, 3.0), "hardswish": (-3.0, None),
        "hardtanh": (options.get("min_val"), options.get("max_val")), "clamp": (options.get("min"), options.get("max")),
        "clip": (options.get("min"), options.get("max")), "clamp_min": (options.get("min"), None),
        "clamp_max": (None, options.get("max")),
    }  # fmt: skip
    return bounds.get(step.op, (None, None))


def _touching(x: Interval, knots: tuple[float | None, float | None]) -> Interval:
    """An interval that ends a rounding beyond a knot ends at the knot: what is continuous cannot tell."""
    low, high = x.low, x.high
    for knot in (knot for knot in knots if knot is not None):
        high = np.where((high > knot) & (high <= knot + TOUCH * x.size), knot, high)
        low = np.where((low < knot) & (low >= knot - TOUCH * x.size), knot, low)
    return replace(x, low=low, high=high)


def _threshold(step: Step, x: Interval) -> Interval:
    """x where it is greater than `threshold`, else `value`."""
    limit, value = float(step.call.options["threshold"]), float(step.call.options["value"])
    margin = JUMP * np.maximum(x.size, abs(limit))
    passes, falls = x.high > limit - margin, x.low <= limit + margin
    low = np.minimum(np.where(passes, np.maximum(x.low, limit - margin), INF), np.where(falls, value, INF))
    high = np.maximum(np.where(passes, x.high, -INF), np.where(falls, value, -INF))
    return Interval(low, high)


def _slack(step: Step) -> float:
    """Softplus gives way to the identity at its threshold, a little below itself."""
    if step.op != "softplus":
        return 0.0
    beta, threshold = float(step.call.options["beta"]), float(step.call.options["threshold"])
    return float(np.logaddexp(0, -threshold)) / abs(beta)
