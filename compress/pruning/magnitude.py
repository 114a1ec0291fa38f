"""Global magnitude pruning: the smallest weights of the whole network go, wherever they are.

The count is exact, ties go in the order of the network, and what is zero already counts: shares are of the total, never of
what is left (`torch.nn.utils.prune` called twice with 0.1 removes 19 %). Han et al. 2015.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def smallest(weights: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Which weights go so that exactly `round(share * total)` are zero: name -> bool mask of the weight's shape, True goes.

    `share`: of all weights together, in [0, 1). Where more than that are zero already, exactly those stay zero.
    """
    magnitudes = torch.cat([w.detach().abs().flatten().cpu() for w in weights.values()])
    gone = torch.zeros(len(magnitudes), dtype=torch.bool)
    gone[magnitudes.argsort(stable=True)[: round(share * len(magnitudes))]] = True
    parts = gone.split([w.numel() for w in weights.values()])
    return {name: part.view(w.shape).to(w.device) for (name, w), part in zip(weights.items(), parts, strict=True)}


def remove_smallest(weights: Mapping[str, Tensor], share: float) -> None:
    """Set the smallest weights to zero, in place, so that `round(share * total)` are."""
    with torch.no_grad():
        for name, gone in smallest(weights, share).items():
            weights[name].masked_fill_(gone, 0)
