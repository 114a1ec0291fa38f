"""How far a network's output moved on given inputs: between the network as it was and one that should answer nearly the same.

Never here: proofs (proof.py), a picture's looks (metrics).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.channels.export import copied
from compress.errors import NetworkError
from compress.image_format import ImageFormat

PIXELS, SHARE = "of 255", "of the output's range"


@dataclass(frozen=True)
class Moved:
    """`max`, `mean`: absolute differences over all inputs, in `unit`: on the scale of pixels 0..255, clamped, where an output is
    a picture; else as a share of the range that the output spans on them. `psnr_db`: peak 255, or that range; None: none.
    """

    max: float
    mean: float
    psnr_db: float | None
    unit: str
    photos: int


class _Sums:
    def __init__(self) -> None:
        self.largest = self.total = self.squares = 0.0
        self.count = 0
        self.low, self.high = math.inf, -math.inf

    def add(self, before: Tensor, after: Tensor) -> None:
        difference = (before - after).double().abs()
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.squares += float(difference.square().sum())
        self.count += difference.numel()
        self.low, self.high = min(self.low, float(before.min())), max(self.high, float(before.max()))


def moved(
    before: nn.Module, after: nn.Module, batches: Iterable[Sequence[Tensor]], formats: Sequence[ImageFormat | None] = ()
) -> Moved:
    """`batches`: as for `observe`. `formats`: of the outputs, in order; those that are pictures count, or else all of them.

    Raises NetworkError when the outputs have different shapes, ValueError when there is no batch.
    """
    sums, photos = _Sums(), 0
    before, after = copied(before).eval(), copied(after).eval()
    pictures = [number for number, form in enumerate(formats) if form is not None]
    for batch in batches:
        one, other = _outputs(before, batch), _outputs(after, batch)
        if [tensor.shape for tensor in one] != [tensor.shape for tensor in other]:
            raise NetworkError("the networks give outputs of different shapes")
        for number in pictures or range(len(one)):
            form = formats[number] if pictures else None
            sums.add(*(_scaled(found[number], form) for found in (one, other)))
        photos += len(batch[0])
    if not sums.count:
        raise ValueError("there is nothing to compare: no batch was given")
    peak = 255.0 if pictures else (sums.high - sums.low) or max(abs(sums.high), 1e-300)
    scale = 1.0 if pictures else peak
    error = math.sqrt(sums.squares / sums.count)
    psnr = 20 * math.log10(peak / error) if error else None
    return Moved(sums.largest / scale, sums.total / sums.count / scale, psnr, PIXELS if pictures else SHARE, photos)


@torch.no_grad()
def _outputs(module: nn.Module, batch: Sequence[Tensor]) -> list[Tensor]:
    found = pytree.tree_leaves(module(*(tensor.clone() for tensor in batch)))
    return [leaf.float() for leaf in found if isinstance(leaf, Tensor)]


def _scaled(tensor: Tensor, form: ImageFormat | None) -> Tensor:
    if form is None:
        return tensor
    std, mean = (torch.tensor(values).view(1, 3, 1, 1) for values in (form.std, form.mean))
    return (tensor * std + mean).clamp(0, 255)
