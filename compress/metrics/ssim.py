"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004) of pictures on the 0..255 scale. numpy only.

An 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, biased variances, only where the window lies inside; on each colour
channel alone, then averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ImageError
from compress.metrics.psnr import PEAK, check_same_shape

RADIUS, SIGMA = 5, 1.5
C1, C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def ssim(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Mean SSIM of two (..., H, W, 3) arrays of pixels 0..255: 1 for identical pictures, about 0 for unrelated ones.

    Raises ImageError when the shapes differ, or a side is shorter than the window (11 pixels).
    """
    check_same_shape(one, other)
    if one.ndim < 3 or min(one.shape[-3:-1]) < 2 * RADIUS + 1:
        raise ImageError(f"structural similarity needs pictures of 11x11 or more, got {one.shape}")
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float(np.mean(luminance * structure))


def _blurred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian-weighted means over H and W of (..., H, W, C), valid positions only."""
    offsets = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel /= kernel.sum()
    for axis in (-3, -2):
        length = values.shape[axis] - 2 * RADIUS
        values = sum(weight * np.take(values, range(i, i + length), axis) for i, weight in enumerate(kernel))  # type: ignore[assignment]
    return values
