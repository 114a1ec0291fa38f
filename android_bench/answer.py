"""What a phone makes of a photo, held against what this machine makes of it with the same file. Never here: the phone itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from android_bench.job import Job
from compress import photos
from compress.errors import ArtifactError, MeasurementError
from compress.image_format import ImageFormat
from export.artifact import Port


@dataclass(frozen=True)
class Question:
    """`name`: of the file's one input. `tensor`: the photo as the file takes it. `given`: what this machine's runtime makes of
    it, one array an output. `picture`: which of them is one, and `port` how it becomes pixels."""

    name: str
    tensor: NDArray[Any]
    given: tuple[NDArray[Any], ...]
    picture: int
    port: Port
    layout: str


def question(job: Job, photo: Path) -> Question:
    """The photo, scaled and cropped to the file's size. Raises ArtifactError for a file that does not say how a picture goes in
    and comes out, ImageError."""
    from export.runtime import load, opened, to_tensor

    form = job.net.get("image_format")
    card = opened(Path(job.path), ImageFormat.parse(form) if form else None).card
    pictures = [index for index, port in enumerate(card.outputs) if port.format]
    if len(card.inputs) != 1 or not card.inputs[0].format or not pictures:
        raise ArtifactError(f"{job.path} does not say how a picture goes in and comes out", "--image-format says it")
    pixels = photos.fit(photos.decode(photo), *(card.size or job.size or (256, 256)))
    tensor = to_tensor(pixels[None], card.inputs[0], card.layout)
    given = tuple(load(Path(job.path), job.threads).run_tensors([tensor]))
    return Question(card.inputs[0].name, tensor, given, pictures[0], card.outputs[pictures[0]], card.layout)


def compare(asked: Question, answer: bytes, name: str) -> Mapping[str, float | None]:
    """`max_abs`, `mean_abs` in pixels 0..255 after clamping; `psnr_db` with peak 255, None when nothing differs.

    `answer`: all outputs, one after the other. Raises MeasurementError for an answer of another size, and for NaN.
    """
    from export.runtime import to_pixels

    expected = sum(array.nbytes for array in asked.given)
    if len(answer) != expected:
        raise MeasurementError(f"{name}: the phone's output has {len(answer)} bytes, this machine's {expected}")
    start = sum(array.nbytes for array in asked.given[: asked.picture])
    here = asked.given[asked.picture]
    there = np.frombuffer(answer[start : start + here.nbytes], here.dtype).reshape(here.shape)
    if np.issubdtype(here.dtype, np.floating) and not np.isfinite(there).all():
        raise MeasurementError(f"{name}: the phone makes NaN or infinite values of the photo")
    pixels = (np.asarray(to_pixels(array, asked.port, asked.layout), np.float64) for array in (here, there))
    gap = np.abs(np.subtract(*pixels))
    square = float(np.square(gap).mean())
    psnr = float(10 * np.log10(255.0**2 / square)) if square else None
    return {"max_abs": float(gap.max()), "mean_abs": float(gap.mean()), "psnr_db": psnr}
