"""ImageFormat in torch: NCHW, differentiable, never clamped (a clamp would hide the gradient).

Never here: numpy pictures (image_format.py does those).
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.image_format import ORDERS, ImageFormat


def encode(pixels: Tensor, image_format: ImageFormat) -> Tensor:
    """RGB pixels (N, 3, H, W), 0..255 -> the tensor that a network with this format takes."""
    return (_ordered(pixels, image_format) - _column(image_format.mean, pixels)) / _column(image_format.std, pixels)


def decode(tensor: Tensor, image_format: ImageFormat) -> Tensor:
    """What a network with this format makes -> RGB pixels (N, 3, H, W) on the 0..255 scale, not clamped."""
    return _ordered(tensor * _column(image_format.std, tensor) + _column(image_format.mean, tensor), image_format)


def _ordered(tensor: Tensor, image_format: ImageFormat) -> Tensor:
    return tensor if image_format.order == "RGB" else tensor[:, list(ORDERS[image_format.order])]


def _column(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, 3, 1, 1)
