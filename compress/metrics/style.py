"""How much of a painting's style a network gives to photos, and how much of the photos it keeps.

Gram losses of different paintings cannot be compared, so style is told as a share of the unstylised photo's own loss against the
same painting: 1 is no style at all, 0 is the painting's. Never here: the losses themselves (losses/perceptual.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.image_format import Run
from compress.losses.perceptual import PerceptualLoss
from compress.photos import Pixels


@dataclass(frozen=True)
class StyleAndContent:
    """Of one stylised photo. `style`, `content`: unweighted losses. `photo_style`: the style loss of the photo itself."""

    style: float
    photo_style: float
    content: float

    @property
    def relative_style(self) -> float:
        """Style loss as a share of that of the unstylised photo."""
        return self.style / self.photo_style


def style_and_content(run: Run, photos: Iterable[Pixels], loss: PerceptualLoss) -> list[StyleAndContent]:
    """Losses of what `run` makes of each photo (H, W, 3), in order; `loss` holds the painting and the loss network."""
    return [_of_one(run, photo, loss) for photo in photos]


@torch.inference_mode()
def _of_one(run: Run, photo: Pixels, loss: PerceptualLoss) -> StyleAndContent:
    before = np.asarray(photo, np.float32)[None]
    plain, styled = _tensor(before), _tensor(run(before))
    found = loss.features(styled)
    return StyleAndContent(
        style=float(loss.style(found)),
        photo_style=float(loss.style(loss.features(plain))),
        content=float(loss.content(plain, found)),
    )


def _tensor(pictures: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
