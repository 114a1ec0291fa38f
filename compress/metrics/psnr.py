"""Peak signal-to-noise ratio of pictures on the 0..255 scale. numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ImageError

PEAK = 255.0


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float | None:
    """10 log10(255^2 / mean squared difference), in dB, over all values of two equally shaped arrays of pixels 0..255.

    None when they are identical. Raises ImageError when the shapes differ.
    """
    check_same_shape(one, other)
    error = float(np.mean(np.square(np.asarray(one, np.float64) - np.asarray(other, np.float64))))
    return float(10 * np.log10(PEAK**2 / error)) if error else None


def check_same_shape(one: NDArray[Any], other: NDArray[Any]) -> None:
    """Raise ImageError for pictures that cannot be compared."""
    if one.shape != other.shape or not one.size:
        raise ImageError(f"pictures of {one.shape} and {other.shape} cannot be compared")
