"""How far two stages are apart, over the same pictures: pure arithmetic on arrays.

Pictures are compared as pixels, 0..255, clamped; PSNR has peak 255. Outputs that are no pictures (logits, masks) are compared
as they are, and have no PSNR. Never here: how anything is run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ParityError
from compress.image_format import PRESETS, ImageFormat
from compress.metrics.ssim import RADIUS, ssim
from export.artifact import Parity

Outputs = Sequence[NDArray[np.float32]]  # one array an output of the network, pictures as NCHW
Sample = Mapping[str, NDArray[Any]]  # input name -> array, pictures as NCHW
Run = Callable[[Sample], Outputs]
PIXELS, TENSOR = "pixels", "tensor"
PIXEL_FORMAT = PRESETS["0..255"]
TOLERANCE = 1e-3  # of the output's range: far above rounding, far below a wrong axis


@dataclass(frozen=True)
class Yardstick:
    """What the network as given makes of `samples`, against which every later stage is held.

    `tolerance`: what a stage that must not change anything may change, as a share of the output's range.
    """

    samples: Sequence[Sample]
    given: Sequence[Outputs]
    formats: Sequence[ImageFormat | None]
    tolerance: float = TOLERANCE

    @classmethod
    def of(cls, run: Run, samples: Sequence[Sample], formats: Sequence[ImageFormat | None]) -> Yardstick:
        """Run the network as given. Raises ParityError when it gives NaN, which nothing can be compared with."""
        given = [run(sample) for sample in samples]
        if not is_finite(given):
            raise ParityError("the network itself gives NaN or infinite values on ordinary input", "check its --image-format")
        return cls(samples, given, formats)

    def measure(self, stage: str, found: Sequence[Outputs]) -> Parity:
        """How far `found` is from the network as given."""
        return compare(stage, self.given, found, self.formats)

    def hold(self, stage: str, found: Sequence[Outputs]) -> Parity:
        """The same, of a stage that must not change anything. Raises ParityError when it did."""
        measured = self.measure(stage, found)
        if not measured.relative <= self.tolerance:
            moved = f"moved the output by {measured.relative:.1e} of its range (limit {self.tolerance:.0e})"
            raise ParityError(f"the stage {stage!r} {moved}")
        return measured

    def in_pixels(self, inputs: Mapping[str, ImageFormat]) -> Yardstick:
        """The same, for a network that takes and makes pixels where it had tensors: `inputs` by name, and every picture that it
        makes, clamped to 0..255.
        """
        samples = [{n: np.rint(_pixels(a, inputs[n])) if n in inputs else a for n, a in one.items()} for one in self.samples]
        given = [
            [_pixels(array, form) if form else array for array, form in zip(one, self.formats, strict=True)] for one in self.given
        ]
        return Yardstick(samples, given, [PIXEL_FORMAT if form else None for form in self.formats])

    def in_bytes(self, inputs: Collection[str]) -> Yardstick:
        """The same in whole numbers: half a pixel, and as a share of the output's range, may be lost by rounding."""
        samples = [{n: a.astype(np.uint8) if n in inputs else a for n, a in one.items()} for one in self.samples]
        spans = [
            max(float(one[k].max()) for one in self.given) - min(float(one[k].min()) for one in self.given)
            for k, form in enumerate(self.formats)
            if form
        ]
        lost = 0.5 / max(1.0, min(spans, default=255.0))
        return Yardstick(samples, self.given, self.formats, self.tolerance + lost)


def compare(stage: str, given: Sequence[Outputs], found: Sequence[Outputs], formats: Sequence[ImageFormat | None]) -> Parity:
    """`found` against `given`: for each sample, one array an output. `formats`: of each output, None for no picture.

    Where there are pictures among the outputs, only they make `max_abs`, `mean_abs` and `psnr_db`; `relative` sees all.
    """
    pictures = [index for index, form in enumerate(formats) if form is not None]
    unit, chosen = (PIXELS, pictures) if pictures else (TENSOR, list(range(len(formats))))
    gaps = [_gap(a[index], b[index], formats[index]) for a, b in zip(given, found, strict=True) for index in chosen]
    count = sum(gap.size for gap in gaps)
    square = sum(float(np.square(gap).sum()) for gap in gaps) / count
    psnr = None if square == 0 or unit == TENSOR else float(10 * np.log10(255.0**2 / square))
    return Parity(
        stage,
        max_abs=max(float(gap.max()) for gap in gaps),
        mean_abs=sum(float(gap.sum()) for gap in gaps) / count,
        psnr_db=psnr,
        relative=relative(given, found),
        unit=unit,
        ssim=_ssim(given, found, formats),
    )


def _ssim(given: Sequence[Outputs], found: Sequence[Outputs], formats: Sequence[ImageFormat | None]) -> float | None:
    """Mean over all pictures that are large enough."""
    values = [
        ssim(*(_pixels(one[index], form).transpose(0, 2, 3, 1) for one in (a, b)))
        for a, b in zip(given, found, strict=True)
        for index, form in enumerate(formats)
        if form is not None and min(a[index].shape[2:]) > 2 * RADIUS
    ]
    return sum(values) / len(values) if values else None


def relative(given: Sequence[Outputs], found: Sequence[Outputs]) -> float:
    """The largest difference of any output as a share of that output's range over all samples; inf when one is not finite, or
    has another shape.
    """
    worst = 0.0
    for index in range(len(given[0])):
        a, b = ([np.asarray(sample[index], np.float64) for sample in samples] for samples in (given, found))
        alike = [array.shape for array in a] == [array.shape for array in b]
        if not alike or not all(np.isfinite(array).all() for array in (*a, *b)):
            return float("inf")
        span = max(float(array.max()) for array in a) - min(float(array.min()) for array in a)
        gap = max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))
        worst = max(worst, gap / span if span else (0.0 if gap == 0 else float("inf")))
    return worst


def is_finite(found: Sequence[Outputs]) -> bool:
    """True when no value is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for sample in found for array in sample)


def _pixels(array: NDArray[np.float32], form: ImageFormat) -> NDArray[np.float32]:
    """A tensor N x 3 x H x W as RGB pixels, 0..255, laid out the same."""
    return np.ascontiguousarray(form.decode(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))


def _gap(a: NDArray[np.float32], b: NDArray[np.float32], form: ImageFormat | None) -> NDArray[np.float64]:
    if form is not None:
        a, b = (form.decode(array.transpose(0, 2, 3, 1)) for array in (a, b))
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
