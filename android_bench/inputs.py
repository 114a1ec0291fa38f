"""What goes into a file or a network while it is timed: shapes that fit, seeded random values. Never here: running anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError
from compress.image_format import ImageFormat
from compress.spec import Shape
from export.artifact import Port

FREE_SIZE = (256, 256)  # height, width, where neither file nor caller says


def for_ports(ports: Sequence[Port], layout: str, size: tuple[int, int] | None, seed: int) -> list[NDArray[Any]]:
    """One array an input of a file. `size` fills free heights and widths of 4-D inputs; any other free axis is 1.

    Raises UsageError when the first 4-D input is fixed at another size.
    """
    random = np.random.default_rng(seed)
    pictures = [port for port in ports if len(port.shape) == 4]
    if size and pictures:
        fixed = _size_axes(pictures[0].shape, layout)
        if any(n not in (None, wanted) for n, wanted in zip(fixed, size, strict=True)):
            is_, wanted = ("x".join(str(n or "?") for n in pair) for pair in (fixed, size))
            raise UsageError(f"the file is fixed at {is_}, not {wanted}", "leave --size out, or export it at that size")
    return [values(_filled(port.shape, layout, size or FREE_SIZE), port.dtype, random) for port in ports]


def for_examples(
    examples: Sequence[Shape], formats: Sequence[ImageFormat | None], size: tuple[int, int] | None, seed: int
) -> list[NDArray[Any]]:
    """One NCHW array an input of a network: its example shapes, 4-D ones at `size`; random pixels in the network's own format."""
    random = np.random.default_rng(seed)
    made = []
    for shape, form in zip(examples, formats, strict=True):
        shape = (*shape[:2], *size) if size and len(shape) == 4 else shape
        if form and len(shape) == 4 and shape[1] == 3:
            pixels = random.integers(0, 256, (shape[0], *shape[2:], 3))
            made.append(np.ascontiguousarray(form.encode(pixels).transpose(0, 3, 1, 2)))
        else:
            made.append(values(shape, "float32", random))
    return made


def values(shape: Shape, dtype: str, random: np.random.Generator) -> NDArray[Any]:
    """Floats in 0..1; small integers over their whole range; wide ones, which are indices or sizes, zero; booleans at random.

    Raises UsageError for any other type.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise UsageError(f"an input of type {dtype} cannot be made up") from error
    if kind.kind == "f":
        return random.random(shape).astype(kind)
    if kind.kind == "b":
        return random.integers(0, 2, shape).astype(kind)
    if kind.kind in "iu" and kind.itemsize <= 2:
        limits = np.iinfo(kind)
        return random.integers(limits.min, limits.max, shape, dtype=kind, endpoint=True)
    if kind.kind in "iu":
        return np.zeros(shape, kind)
    raise UsageError(f"an input of type {dtype} cannot be made up")


def _size_axes(shape: tuple[int | None, ...], layout: str) -> tuple[int | None, ...]:
    return shape[2:4] if layout == "NCHW" else shape[1:3]


def _filled(shape: tuple[int | None, ...], layout: str, size: tuple[int, int]) -> Shape:
    full: tuple[int | None, ...] = (None,) * len(shape)
    if len(shape) == 4:
        full = (None, None, *size) if layout == "NCHW" else (None, *size, None)
    return tuple(n or wanted or 1 for n, wanted in zip(shape, full, strict=True))
