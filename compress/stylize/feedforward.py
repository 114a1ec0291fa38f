"""One picture of any size through a feed-forward network; what comes out has exactly the size of what went in.

A network may take only sides of some multiple (found by trying it), or one size only. In the first case the picture is
continued by reflection and the result is cut; in the second it is scaled to fit and back, which costs detail.
Never here: reading files; networks or runtimes (a `Run` is given); tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import photos
from compress.errors import CompressError, ImageError, NetworkError
from compress.image_format import Run

MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
LEAST_SIDE = 16  # smaller pictures are continued to this: reflection inside a network needs some pixels


@dataclass(frozen=True)
class Sizes:
    """What a network takes: sides that are a multiple of `multiple`, or the one `fixed` (height, width)."""

    multiple: int = 1
    fixed: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.multiple < 1 or (self.fixed and min(self.fixed) < 1):
            raise ValueError(f"sizes must be positive, got {self}")


def sizes_of(run: Run) -> Sizes:
    """Which sides `run` gives back unchanged, found by trying small pictures. Raises NetworkError when there are none."""
    refused: CompressError | None = None
    made = {}
    for multiple in MULTIPLES:
        odd = max(1, 32 // multiple) | 1
        height, width = odd * multiple, (odd + 2) * multiple  # odd multiples: a larger multiple would not divide them
        try:
            made[height, width] = _shape(run, height, width)
        except CompressError as error:
            refused = error
            continue
        if made[height, width] == (height, width):
            return Sizes(multiple)
    if not made and refused:
        raise refused
    (height, width), (tall, wide) = next(reversed(made.items()))
    raise NetworkError(f"the network makes a picture of another size: {height}x{width} becomes {tall}x{wide}")


def stylize(run: Run, pixels: NDArray[Any], sizes: Sizes | None = None) -> NDArray[np.float32]:
    """(H, W, 3) RGB pixels 0..255, any dtype -> the same size, float32. `sizes`: found by trial when not given.

    Raises ImageError for a picture one pixel wide or high, and for one that does not fit into memory.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < 2:
        raise ImageError(f"a picture of {height}x{width} is too small", "both sides need two pixels or more")
    sizes = sizes or sizes_of(run)
    if sizes.fixed:
        return _run_one(run, pixels) if sizes.fixed == (height, width) else _scaled(run, pixels, sizes.fixed)
    tall, wide = (-(-max(side, LEAST_SIDE) // sizes.multiple) * sizes.multiple for side in (height, width))
    return _run_one(run, _continued(pixels, tall, wide))[:height, :width]


def _scaled(run: Run, pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Scale until the picture just fits into `size`, continue it to fill, run, cut, scale back: nothing is distorted."""
    height, width = pixels.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    inner = tuple(min(limit, max(2, round(side * scale))) for side, limit in zip((height, width), size, strict=True))
    small = photos.resize(_as_uint8(pixels), *inner)
    result = _run_one(run, _continued(small, *size))[: inner[0], : inner[1]]
    return photos.resize(_as_uint8(result), height, width).astype(np.float32)


def _run_one(run: Run, pixels: NDArray[Any]) -> NDArray[np.float32]:
    result = run(np.asarray(pixels, np.float32)[None])[0]
    if result.shape[:2] != pixels.shape[:2]:
        sides = [f"{a.shape[0]}x{a.shape[1]}" for a in (pixels, result)]
        raise NetworkError(f"the network makes a picture of another size: {sides[0]} becomes {sides[1]}")
    return result


def _continued(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Add rows below and columns to the right, by reflection, up to height x width."""
    missing = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
    return np.pad(pixels, missing, mode="reflect") if any(map(any, missing)) else pixels


def _as_uint8(pixels: NDArray[Any]) -> photos.Pixels:
    return np.clip(np.rint(np.asarray(pixels, np.float32)), 0, 255).astype(np.uint8)


def _shape(run: Run, height: int, width: int) -> tuple[int, int]:
    rows, columns = np.mgrid[:height, :width]
    probe = np.stack([rows * 7 % 256, columns * 5 % 256, (rows + columns) * 3 % 256], -1).astype(np.float32)
    tall, wide = run(probe[None]).shape[1:3]
    return tall, wide
