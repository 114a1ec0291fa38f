"""Keep pruned weights at zero while an optimizer runs. The mask is the zeros themselves: `w != 0`.

So nothing is stored beside the weights, a saved network needs no clean-up, and a resumed training finds its masks in them.
Gradients are masked before a step and weights after it, so that neither momentum nor weight decay revives one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.pruning.plan import Plan, masks
from compress.pruning.weights import prunable_weights, zeros_in


class HeldMasks:
    """Masks that are held through each step of `optimizer`, until `remove()`; also a context manager.

    `masks`: True for what stays, in each weight's shape; without, the zeros of the weights say what does not.
    """

    def __init__(self, weights: Iterable[Tensor], optimizer: Optimizer, masks: Iterable[Tensor] | None = None) -> None:
        self._weights = list(weights)
        self._masks = [mask.to(w.device) for mask, w in zip(masks, self._weights, strict=True)] if masks is not None else []
        if masks is None:
            self.refresh()
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it; hooks belong to the one that steps
        self._handles = [
            optimizer.register_step_pre_hook(self._mask_gradients),
            optimizer.register_step_post_hook(self._mask_weights),
        ]

    def refresh(self) -> None:
        """Take the zeros as they are now: after pruning more, or loading other weights."""
        self._masks = [w.detach() != 0 for w in self._weights]

    def remove(self) -> None:
        """Let go: the optimizer is as it was."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> HeldMasks:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _mask_gradients(self, *_: Any) -> None:
        for weight, mask in zip(self._weights, self._masks, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(mask)

    @torch.no_grad()
    def _mask_weights(self, *_: Any) -> None:
        for weight, mask in zip(self._weights, self._masks, strict=True):
            weight.mul_(mask)
            # A kept weight that lands on zero exactly would look pruned for ever: the smallest number stands for it.
            weight.masked_fill_((weight == 0) & mask, torch.finfo(weight.dtype).tiny)


def hold_masks(module: nn.Module, optimizer: Optimizer, plan: Plan | None = None) -> HeldMasks:
    """Hold what was pruned at zero through `optimizer`'s steps.

    With `plan`: what it names, channels too (all that writes them: weights, biases, norm scale and shift). Without: the zeros
    in every prunable weight. Raises PlanError when the plan was made for another network.
    """
    if plan is None:
        return HeldMasks([w for w in prunable_weights(module).tensors.values() if zeros_in(w)], optimizer)
    kept, parameters = masks(module, plan), dict(module.named_parameters())
    return HeldMasks([parameters[name] for name in kept], optimizer, kept.values())
