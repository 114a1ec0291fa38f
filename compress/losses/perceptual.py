"""Johnson's perceptual loss: content (features), style (Gram matrices), total variation.

Johnson, Alahi and Fei-Fei 2016, equations 2-5. Sums over style layers, means within a layer; Gram matrices over C*H*W.
Weights go with the range of the loss network's features, so the defaults are per kind of weight file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import ImageError, UsageError
from compress.features import vgg
from compress.photos import Pixels

# VGG-19 takes the layers of VGG-16's that it has too; relu4_1 for relu4_3, where the smaller weight files end.
SMALLEST_PAINTING = 16  # pixels of its shorter side: fewer than a crop must have say nothing of a style
STYLE_LAYERS = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "vgg19": ("relu1_2", "relu2_2", "relu3_3", "relu4_1"),
}
CONTENT_LAYERS = {"vgg16": ("relu3_3",), "vgg19": ("relu3_3",)}
# (content, style, total variation) for each kind of weight file. caffe: what the bundled networks were trained with.
# normalised: the same balance of the terms on unstylised photos. torchvision: as in pytorch/examples (1e5 and 1e10).
WEIGHTS = {"caffe": (1.0, 0.8, 10.0), "torchvision": (1.0, 1e5, 1e-5), "normalised": (1.0, 5e3, 7e-5)}


@dataclass(frozen=True)
class PerceptualConfig:
    """None: the default of the loss network, or of its weight file. `style_size`: longer side of the painting in pixels."""

    loss_network: str = "vgg19"
    weights: Path | None = None
    content_layers: tuple[str, ...] | None = None
    style_layers: tuple[str, ...] | None = None
    content_weight: float | None = None
    style_weight: float | None = None
    tv_weight: float | None = None
    style_size: int = 512

    def __post_init__(self) -> None:
        if self.loss_network not in STYLE_LAYERS:
            raise UsageError(f"no loss network named {self.loss_network!r}", f"one of {', '.join(STYLE_LAYERS)}")
        for name in ("content_weight", "style_weight", "tv_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name.replace('_', ' ')} must be a number >= 0, got {value}")
        if self.style_size < 32:
            raise UsageError(f"style size must be at least 32 pixels, got {self.style_size}")


class PerceptualLoss(nn.Module):
    """An objective for training: (photos, outputs), RGB pixels (N, 3, H, W) on the 0..255 scale -> weighted terms.

    `painting`: (H, W, 3) uint8; its Gram matrices are computed once. Runs in float32 where it sums squares, whatever the
    autocast around it says.
    """

    def __init__(self, config: PerceptualConfig, painting: Pixels) -> None:
        super().__init__()
        self.loss_network, self.style_size = config.loss_network, config.style_size
        self.content_layers = config.content_layers or CONTENT_LAYERS[config.loss_network]
        self.style_layers = config.style_layers or STYLE_LAYERS[config.loss_network]
        self.features = vgg.load(config.loss_network, {*self.content_layers, *self.style_layers}, config.weights)
        chosen = (config.content_weight, config.style_weight, config.tv_weight)
        defaults = WEIGHTS[self.features.kind.name]
        self.weights = tuple(d if c is None else c for c, d in zip(chosen, defaults, strict=True))
        with torch.no_grad():
            found = self.features(_painting_tensor(painting, config.style_size))
        for layer in self.style_layers:
            self.register_buffer(f"gram_{layer}", gram(found[layer]), persistent=False)

    def forward(self, photos: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """{"content", "style", "tv"}: each weighted; their sum is the loss. A term with weight 0 is not computed."""
        content_weight, style_weight, tv_weight = self.weights
        terms = {}
        found = self.features(outputs)
        if content_weight:
            terms["content"] = content_weight * self.content(photos, found)
        if style_weight:
            terms["style"] = style_weight * self.style(found).mean()
        if tv_weight:
            terms["tv"] = tv_weight * total_variation(outputs)
        return terms

    def facts(self) -> dict[str, Any]:
        """What was optimised, as JSON for a checkpoint's history."""
        content, style, tv = self.weights
        return {
            "loss_network": self.loss_network,
            "weights_kind": self.features.kind.name,
            "content_layers": list(self.content_layers),
            "style_layers": list(self.style_layers),
            "content_weight": content,
            "style_weight": style,
            "tv_weight": tv,
            "style_size": self.style_size,
        }

    def content(self, photos: Tensor, found: dict[str, Tensor]) -> Tensor:
        """Mean squared difference of features, summed over the content layers; unweighted scalar."""
        with torch.no_grad():
            wanted = self.features(photos)
        return torch.stack([F.mse_loss(found[n].float(), wanted[n].float()) for n in self.content_layers]).sum()

    def style(self, found: dict[str, Tensor]) -> Tensor:
        """Mean squared difference of Gram matrices, summed over the style layers; unweighted, one value a picture (N,)."""
        return torch.stack(
            [(gram(found[layer]) - getattr(self, f"gram_{layer}")).square().mean((1, 2)) for layer in self.style_layers]
        ).sum(0)


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C): inner products over space, divided by C*H*W. Always float32."""
    n, c, h, w = features.shape
    with torch.autocast(features.device.type, enabled=False):
        flat = features.float().reshape(n, c, h * w)
        return flat @ flat.transpose(1, 2) / (c * h * w)


def total_variation(images: Tensor) -> Tensor:
    """Mean over pixels of the squared differences to the right and lower neighbours; scalar, 0..255 scale squared."""
    images = images.float()
    return (images[..., 1:, :] - images[..., :-1, :]).square().mean() + (images[..., 1:] - images[..., :-1]).square().mean()


def parse_layers(text: str | None) -> tuple[str, ...] | None:
    """`relu1_2,relu2_2` -> a tuple; None stays None."""
    layers: Sequence[str] = [part.strip() for part in text.split(",")] if text else []
    return tuple(layers) or None


def _painting_tensor(painting: Pixels, longer_side: int) -> Tensor:
    from compress.photos import resize

    if min(painting.shape[:2]) < SMALLEST_PAINTING:
        height, width = painting.shape[:2]
        raise ImageError(f"a painting of {width}x{height} is too small", f"both sides need {SMALLEST_PAINTING} pixels or more")
    scale = longer_side / max(painting.shape[:2])
    height, width = (max(32, round(side * scale)) for side in painting.shape[:2])
    return torch.from_numpy(resize(painting, height, width).copy()).permute(2, 0, 1)[None].float()
