"""Between which values each channel of an input lies: what an image format promises, or the caller says.

Never here: what follows from it (bounds.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.image_format import ImageFormat


@dataclass(frozen=True)
class Range:
    """Every number of channel c of an input lies in `low[c]`..`high[c]`; one number each stands for all channels.

    Raises UsageError for ends that are NaN, the wrong way round or not equally many.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            object.__setattr__(self, name, (float(value),) if isinstance(value, int | float) else tuple(map(float, value)))
        if not self.low or len(self.low) != len(self.high):
            raise UsageError(f"a range needs as many low as high ends, got {len(self.low)} and {len(self.high)}")
        if any(math.isnan(a) or math.isnan(b) or a > b for a, b in zip(self.low, self.high, strict=True)):
            raise UsageError(f"a range must go from low to high, got {self.low} to {self.high}")

    @classmethod
    def of(cls, form: ImageFormat) -> Range:
        """Of pixels 0..255, with the rounding of `ImageFormat.encode`: it is monotone, so no pixel leaves it."""
        black, white = (form.encode(np.full(3, pixel, np.float32)).tolist() for pixel in (0, 255))
        return cls(tuple(black), tuple(white))

    def along(self, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(low, high) as arrays that broadcast against a tensor (N, C, ...) of `rank` axes."""
        to = [len(self.low) if axis == 1 else 1 for axis in range(rank)] if len(self.low) > 1 else [1] * rank
        return np.array(self.low).reshape(to), np.array(self.high).reshape(to)


def check_ranges(ranges: Sequence[Range | None], shapes: Sequence[Sequence[int]]) -> None:
    """Raise UsageError unless there is an input (of these shapes) for each range, with as many channels."""
    if len(ranges) > len(shapes):
        raise UsageError(f"{len(ranges)} ranges were given for {len(shapes)} inputs")
    for found, shape in zip(ranges, shapes, strict=False):
        count = len(found.low) if found else 1
        if count > 1 and (len(shape) < 2 or shape[1] != count):
            raise UsageError(f"a range of {count} channels does not fit an input of shape {'x'.join(map(str, shape))}")


def ranges_of(formats: Sequence[ImageFormat | None]) -> tuple[Range | None, ...]:
    """One for each input; None where it is no picture, and nothing is known."""
    return tuple(Range.of(form) if form else None for form in formats)
