"""What stages are compared on, and calibrated with: photos where there are some, else smooth pictures made here from a seed.

Noise would be the easy choice and the wrong one: networks for pictures answer it unlike anything that they will meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress import photos
from compress.errors import UsageError
from compress.image_format import ImageFormat
from export.parity import Sample

MOST_COMPARED = 8
_PIXELS_COMPARED = 1 << 21  # fewer samples of large sizes: the time of a comparison stays bounded


@dataclass(frozen=True)
class InputSpec:
    """One input of the network: `shape` NCHW, or any other rank; `format` None when it is no picture."""

    name: str
    shape: tuple[int, ...]
    format: ImageFormat | None

    @property
    def is_picture(self) -> bool:
        return self.format is not None and len(self.shape) == 4 and self.shape[1] == 3


@dataclass(frozen=True)
class Samples:
    """`compared`: a few, for parity. `calibration`: more, empty without photos. `about`: what they are, in words."""

    compared: tuple[Sample, ...]
    calibration: tuple[Sample, ...]
    about: str


def gather(inputs: Sequence[InputSpec], folder: Path | None, seed: int, most: int = 16) -> Samples:
    """Samples for inputs of these shapes, of at most `most` photos.

    Raises ImageError for a folder without photos, or a photo that cannot be read.
    """
    pictures = [spec for spec in inputs if spec.is_picture]
    area = max((spec.shape[2] * spec.shape[3] for spec in inputs if len(spec.shape) == 4), default=1)
    count = max(2, min(MOST_COMPARED, _PIXELS_COMPARED // area))
    if folder is None or not pictures:
        about = f"{count} smooth synthetic pictures, seed {seed}" if pictures else f"{count} random samples, seed {seed}"
        return Samples(tuple(_synthetic(inputs, index, seed) for index in range(count)), (), about)
    files = _spread(photos.list_photos(folder), most)
    decoded = [photos.decode(file) for file in files]
    found = tuple(_from_photos(inputs, decoded, index, seed) for index in range(len(decoded)))
    compared = tuple(_spread(found, count))
    return Samples(compared, found, f"{len(compared)} of the calibration photos")


def require_pictures(inputs: Sequence[InputSpec]) -> None:
    """Raise UsageError when no input is known to be a picture, so that photos could calibrate nothing."""
    if not any(spec.is_picture for spec in inputs):
        names = ", ".join(spec.name for spec in inputs)
        raise UsageError(f"no input is known to be a picture: {names}", "--image-format says how")


def _from_photos(
    inputs: Sequence[InputSpec], decoded: list[photos.Pixels], index: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    sample = _synthetic(inputs, index, seed)
    for place, spec in enumerate(spec for spec in inputs if spec.is_picture):
        photo = decoded[(index + place) % len(decoded)]  # content and style are not the same photo
        sample[spec.name] = _encoded(photos.fit(photo, *spec.shape[2:]), spec)
    return sample


def _synthetic(inputs: Sequence[InputSpec], index: int, seed: int) -> dict[str, NDArray[np.float32]]:
    sample: dict[str, NDArray[np.float32]] = {}
    for place, spec in enumerate(inputs):
        random = np.random.default_rng((seed, index, place))
        if len(spec.shape) != 4:
            sample[spec.name] = random.standard_normal(spec.shape, np.float32)
            continue
        smooth = np.stack([_smooth(random, *spec.shape[2:]) for _ in range(spec.shape[0] * spec.shape[1])], -1)
        if spec.is_picture:
            sample[spec.name] = np.concatenate([_encoded(part, spec) for part in np.split(smooth, spec.shape[0], -1)])
        else:
            sample[spec.name] = np.ascontiguousarray(smooth.transpose(2, 0, 1).reshape(spec.shape) / np.float32(255))
    return sample


def _smooth(random: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    """(height, width), 0..255: broad shapes with finer ones on them, as photos have."""
    total = np.zeros((height, width), np.float32)
    for cells, weight in ((3, 0.6), (9, 0.3), (33, 0.1)):
        coarse = Image.fromarray(random.random((cells, cells), np.float32) * np.float32(255 * weight))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(total, 0, 255)


def _encoded(pixels: NDArray[np.generic], spec: InputSpec) -> NDArray[np.float32]:
    assert spec.format is not None
    return np.ascontiguousarray(spec.format.encode(np.rint(pixels)).transpose(2, 0, 1)[None])  # whole pixels, as a file has


def _spread(items: Sequence, count: int) -> list:  # type: ignore[type-arg]
    """At most `count` of them, evenly spaced, in order."""
    if len(items) <= count:
        return list(items)
    return [items[round(index * (len(items) - 1) / max(1, count - 1))] for index in range(count)]
