"""Which channels of a space matter: pure functions from the rows that write a space to one score a channel.

To add one: a function and its line in `CRITERIA`. Never here: how many go (widths.py), single weights (magnitude.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from compress.channels.graph import ChannelSpace
from compress.errors import UsageError

Criterion = Callable[[ChannelSpace, Sequence[Tensor]], Tensor]
"""(space, its writers' rows, each (channels, -1)) -> (channels,), higher is kept."""


def filters(space: ChannelSpace, rows: Sequence[Tensor]) -> Tensor:
    """L1 norms of the filters, summed over all that write the space (Li et al. 2016, Pruning filters for efficient convnets)."""
    return torch.stack([row.abs().sum(1) for row in rows]).sum(0)


CRITERIA: Mapping[str, Criterion] = {"filters": filters}


def criterion(name: str) -> Criterion:
    """Raises UsageError that lists what there is."""
    if name not in CRITERIA:
        raise UsageError(
            f"no method named {name!r}", f"magnitude (single weights), or for channels {', '.join(sorted(CRITERIA))}"
        )
    return CRITERIA[name]
