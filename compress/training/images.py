"""A folder of photos as batches of random crops. A batch is a pure function of (seed, step): resuming needs no state.

Photos that cannot be read are skipped with a warning, the same ones each time. Never here: value ranges of networks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.errors import ImageError, UsageError
from compress.photos import Pixels, decode, list_photos

Batch = NDArray[np.uint8]  # (N, size, size, 3), RGB


@dataclass(frozen=True)
class CropConfig:
    """`smallest`: a crop's side is this share to all of the photo's shorter side, then scaled to `size`; flipped by chance."""

    size: int = 256
    batch: int = 4
    smallest: float = 0.6
    seed: int = 0
    cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.size < 16 or self.batch < 1:
            raise UsageError(f"training needs --size >= 16 and --batch >= 1, got {self.size} and {self.batch}")
        if not 0 < self.smallest <= 1:
            raise UsageError(f"smallest crop must be in (0, 1], got {self.smallest}")


class Crops:
    """Batches of random crops. Every photo comes once an epoch, in an order that depends on the seed and the epoch alone."""

    def __init__(self, photos: list[Path], config: CropConfig, warn: Callable[[str], None]) -> None:
        self.photos, self.config, self.warn = photos, config, warn
        self._broken: set[int] = set()
        self._decoded: OrderedDict[int, Pixels] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def of_folder(cls, folder: Path, config: CropConfig, warn: Callable[[str], None]) -> Crops:
        """Raises ImageError for an empty folder."""
        return cls(list_photos(folder), config, warn)

    def cropped(self, config: CropConfig) -> Crops:
        """The same photos, cropped otherwise; which ones cannot be read is said once for both."""
        other = Crops(self.photos, config, self.warn)
        other._broken = self._broken
        return other

    def batch(self, step: int) -> Batch:
        """The crops of step `step` (0, 1, 2 ...), the same however often and in whichever order it is asked."""
        return np.stack([self._crop(step * self.config.batch + i) for i in range(self.config.batch)])

    def _crop(self, index: int) -> Pixels:
        epoch, place = divmod(index, len(self.photos))
        order = np.random.default_rng((self.config.seed, 0, epoch)).permutation(len(self.photos))
        for offset in range(len(self.photos)):
            photo = self._photo(int(order[(place + offset) % len(self.photos)]))
            if photo is not None:
                return self._random_crop(photo, np.random.default_rng((self.config.seed, 1, index)))
        raise ImageError("none of the photos can be read", "see the warnings above")

    def _random_crop(self, photo: Pixels, random: np.random.Generator) -> Pixels:
        size, (height, width) = self.config.size, photo.shape[:2]
        side = min(height, width) * random.uniform(self.config.smallest, 1)
        top, left = random.uniform(0, height - side), random.uniform(0, width - side)
        box = (left, top, left + side, top + side)
        crop = Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2)
        pixels = np.asarray(crop)
        return pixels[:, ::-1] if random.random() < 0.5 else pixels

    def _photo(self, number: int) -> Pixels | None:
        with self._lock:
            if number in self._broken:
                return None
            if number in self._decoded:
                self._decoded.move_to_end(number)
                return self._decoded[number]
            try:
                photo = decode(self.photos[number])
            except ImageError as error:
                self._broken.add(number)
                self.warn(f"skipped: {error}")
                return None
            self._decoded[number] = photo
            self._bytes += photo.nbytes
            while self._bytes > self.config.cache_bytes and len(self._decoded) > 1:
                self._bytes -= self._decoded.popitem(last=False)[1].nbytes
            return photo


class Prefetched:
    """The next batch is made in a thread while this one is in use. The values are those of `crops.batch`."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="crops")
        self._ahead: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        ready = self._ahead.pop(step, None) or self._pool.submit(self.crops.batch, step)
        self._ahead = {step + 1: self._pool.submit(self.crops.batch, step + 1)}
        return ready.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
