"""Which activations count as constant on the inputs that were seen: those that never rose above a threshold, or hardly varied.

In: an `Observed` and a threshold. Out: constants, which are taken for granted only on request. Never here: running the network
(observe.py), what follows (facts.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compress.channels.facts import Facts
from compress.channels.graph import ChannelGraph
from compress.channels.labels import Array
from compress.channels.observe import Observed
from compress.channels.steps import Channelwise
from compress.errors import UsageError

ACTIVATIONS = frozenset({
    "celu", "clamp", "clamp_max", "clamp_min", "clip", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh",
    "leaky_relu", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softshrink", "tanh",
    "threshold",
})  # fmt: skip


@dataclass(frozen=True)
class Threshold:
    """`value`: an activation's size, at most; with `share`, a share (0 to 1) of the largest one in the same tensor.

    0, the default: only channels that were the same number at every pixel of every photo. Raises UsageError.
    """

    value: float = 0.0
    share: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise UsageError(f"a threshold must be zero or more, got {self.value}")
        if self.share and self.value >= 1:
            raise UsageError(f"a threshold must be less than 100%, got {self.value:.0%}")

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """`0.01`: the size of an activation; `1%`: of the largest one in its layer. Raises UsageError for anything else."""
        share = text.strip().endswith("%")
        try:
            number = float(text.strip().removesuffix("%"))
        except ValueError as error:
            raise UsageError(f"not a threshold: {text!r}", "a number (0.01), or a share of each layer's largest (1%)") from error
        return cls(number / 100 if share else number, share)

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.share else f"{self.value:g}"

    def of(self, largest: Array) -> float:
        """For a tensor whose channels had these largest sizes."""
        return self.value * float(largest.max(initial=0)) if self.share else self.value


def silent(graph: ChannelGraph, facts: Facts, observed: Observed, threshold: Threshold) -> dict[str, Array]:
    """Activation -> its constants, NaN where a channel spoke, is proved constant, or may not go anyway.

    A channel whose size never exceeded the threshold is 0, not the middle of its values: mostly it is exactly that, and a zero
    needs nothing in its place. One that varied by no more than the threshold is the middle: so none moves by more than it.
    Raises UsageError when the observation is of another network.
    """
    free = np.array([*(reason is None for reason in graph.reasons), False])
    found = {}
    for step in graph.steps:
        if not isinstance(step, Channelwise) or step.op not in ACTIVATIONS:
            continue
        labels = graph.labels[step.name]
        if step.name not in observed.low or observed.low[step.name].shape != labels.shape:
            raise UsageError(f"the observation does not fit the network: {step.name} was not seen", "observe this very network")
        low, high, largest = observed.low[step.name], observed.high[step.name], observed.largest(step.name)
        limit = threshold.of(largest)
        constant = np.where(largest <= limit, 0.0, np.where(high - low <= limit, (low + high) / 2, np.nan))
        constant[~free[labels] | ~facts.live(step.name)] = np.nan
        if not np.isnan(constant).all():
            found[step.name] = constant
    return found
