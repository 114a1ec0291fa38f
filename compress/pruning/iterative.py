"""Prune a little, tune a little: increments as a training's `before_step` hook (Han et al. 2015; Artist-Eye, algorithm 1).

What it does at a step depends on the step and on the network's zeros alone, so a resumed training goes on exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from compress.pruning.magnitude import remove_smallest
from compress.pruning.masks import HeldMasks
from compress.pruning.weights import prunable_weights


class Increments:
    """`shares`: step -> share of the total that is zero from then on. Between increments, zeros are held."""

    def __init__(self, shares: Mapping[int, float]) -> None:
        self.shares = shares
        self._masks: HeldMasks | None = None

    def __call__(self, step: int, network: nn.Module, optimizer: Optimizer) -> None:
        weights = prunable_weights(network).tensors
        if step in self.shares:
            remove_smallest(weights, self.shares[step])
        if self._masks is None:
            self._masks = HeldMasks(weights.values(), optimizer)
        elif step in self.shares:
            self._masks.refresh()
