"""Photos as the input of a network: read, brought to one size, in its image format, one at a time.

Never here: what the network does with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress import photos
from compress.errors import NetworkError
from compress.spec import ModelSpec


def photo_batches(spec: ModelSpec, paths: Sequence[Path], size: tuple[int, int]) -> Iterator[list[Tensor]]:
    """For each photo a batch of (1, 3, height, width), scaled to cover `size` and cropped. Each is read when it is its turn.

    Raises NetworkError (at once) when the network does not take a picture and nothing else; ImageError for a photo.
    """
    if len(spec.examples) != 1:
        raise NetworkError(
            f"{spec.network} has {len(spec.examples)} inputs: a photo cannot feed them all", "observe it in Python"
        )
    form = spec.inputs[0]
    if form is None:
        raise NetworkError(f"{spec.network} does not say how a photo goes in", "--image-format says it")
    if len(spec.examples[0]) != 4 or spec.examples[0][1] != 3:
        shape = "x".join(map(str, spec.examples[0]))
        raise NetworkError(f"{spec.network} takes {shape}, which is no colour photo", "--example gives its input shape")

    def encoded(path: Path) -> list[Tensor]:
        pixels = form.encode(photos.fit(photos.decode(path), *size))
        return [torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]]

    return (encoded(path) for path in paths)


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the photos, evenly from all of them, in order."""
    if len(paths) <= most:
        return list(paths)
    return [paths[number * len(paths) // most] for number in range(most)]
