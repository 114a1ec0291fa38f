"""What this machine makes of a file, held against what a phone makes of it: its ports, and its answer to a photo.

Files run in a process of their own: what crashes there does not crash here. Never here: the phone itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from android_bench.job import Job
from compress import photos
from compress.errors import ArtifactError, MeasurementError
from compress.image_format import ImageFormat
from export.artifact import Port, card_path, read_artifact
from export.child import ChildError

if TYPE_CHECKING:
    from export.runtime import Executed

SECONDS = 120.0


@dataclass(frozen=True)
class Question:
    """`name`: of the file's one input. `tensor`: the photo as the file takes it. `given`: what this machine's runtime makes of
    it, one array an output, real numbers. `ports`: the outputs; `picture`: which of them is one."""

    name: str
    tensor: NDArray[Any]
    given: tuple[NDArray[Any], ...]
    ports: tuple[Port, ...]
    picture: int
    layout: str


def inputs_of(job: Job) -> tuple[Port, ...]:
    """The file's inputs. Raises ArtifactError for one that cannot be opened."""
    return _apart(job, []).inputs


def question(job: Job, photo: Path) -> Question:
    """The photo, scaled and cropped to the file's size. Raises ArtifactError for a file that does not say how a picture goes in
    and comes out, ImageError."""
    from export.runtime import layout_of, to_tensor

    about = _apart(job, [])
    inputs, outputs = _with_formats(job, about)
    pictures = [index for index, port in enumerate(outputs) if port.format]
    if len(inputs) != 1 or not inputs[0].format or not pictures:
        raise ArtifactError(f"{job.path} does not say how a picture goes in and comes out", "--image-format says it")
    layout = layout_of(inputs, "NHWC")
    axes = inputs[0].shape[2:4] if layout == "NCHW" else inputs[0].shape[1:3]
    height, width = (n or wanted for n, wanted in zip(axes, job.size or (256, 256), strict=True))
    pixels = photos.fit(photos.decode(photo), height, width)[None]
    real = to_tensor(pixels, replace(inputs[0], dtype="float32", quantisation=None), layout)
    given = _apart(job, [{inputs[0].name: real}]).results[0]
    return Question(inputs[0].name, to_tensor(pixels, inputs[0], layout), given, outputs, pictures[0], layout)


def compare(asked: Question, answer: bytes, name: str) -> Mapping[str, float | None]:
    """`max_abs`, `mean_abs` in pixels 0..255 after clamping; `psnr_db` with peak 255, None when nothing differs.

    `answer`: all outputs as the file gives them, one after the other. Raises MeasurementError for another size, and for NaN.
    """
    from export.runtime import to_pixels

    sizes = [array.size * np.dtype(port.dtype).itemsize for array, port in zip(asked.given, asked.ports, strict=True)]
    if len(answer) != sum(sizes):
        raise MeasurementError(f"{name}: the phone's output has {len(answer)} bytes, this machine's {sum(sizes)}")
    start, here, port = sum(sizes[: asked.picture]), asked.given[asked.picture], asked.ports[asked.picture]
    there = np.frombuffer(answer[start : start + sizes[asked.picture]], port.dtype).reshape(here.shape)
    if np.issubdtype(there.dtype, np.floating) and not np.isfinite(there).all():
        raise MeasurementError(f"{name}: the phone makes NaN or infinite values of the photo")
    pixels = (np.asarray(to_pixels(array, port, asked.layout), np.float64) for array in (here, there))
    gap = np.abs(np.subtract(*pixels))
    square = float(np.square(gap).mean())
    psnr = float(10 * np.log10(255.0**2 / square)) if square else None
    return {"max_abs": float(gap.max()), "mean_abs": float(gap.mean()), "psnr_db": psnr}


def _apart(job: Job, samples: list[dict[str, NDArray[Any]]]) -> Executed:
    from export.runtime import load, run_apart

    if not Path(job.path).is_file() or not Path(job.path).stat().st_size:
        load(Path(job.path))  # says so
    try:
        return run_apart(Path(job.path), samples, SECONDS)
    except ChildError as error:
        reason = error.reason if Path(job.path).name in error.reason else f"{job.path}: {error.reason}"
        raise ArtifactError(reason) from error


def _with_formats(job: Job, about: Executed) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs with the format that the caller names, or the card does."""
    told = job.net.get("image_format")
    if told:
        form = ImageFormat.parse(told)
        return tuple(_formatted(port, form) for port in about.inputs), tuple(_formatted(port, form) for port in about.outputs)
    if not card_path(Path(job.path)).exists():
        return about.inputs, about.outputs
    card = read_artifact(Path(job.path)).card
    return _as_on_card(about.inputs, card.inputs), _as_on_card(about.outputs, card.outputs)


def _formatted(port: Port, form: ImageFormat) -> Port:
    return replace(port, format=form if len(port.shape) == 4 else None)


def _as_on_card(ports: Sequence[Port], carded: Sequence[Port]) -> tuple[Port, ...]:
    return tuple(replace(port, format=card.format) for port, card in zip(ports, carded, strict=True))
