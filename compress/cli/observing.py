"""Photos for commands that watch a network on them: read with a bar, again each time; those that cannot be read are left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from compress.cli.common import Talk
from compress.errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.spec import ModelSpec


class Watched:
    """The photos of a folder as inputs of a network at `size` (height, width). `most`: so many of them at most, from all over it.

    Raises ImageError for a folder without photos, NetworkError when the network does not take photos.
    """

    def __init__(self, folder: Path, spec: ModelSpec, size: tuple[int, int], talk: Talk, most: int | None = None) -> None:
        from compress.networks.batches import photo_batches, spread
        from compress.photos import list_photos

        found = list_photos(folder)
        self._paths = spread(found, most or len(found))
        self._spec, self._size, self._talk = spec, size, talk
        photo_batches(spec, [], size)

    def batches(self, label: str) -> Iterator[list[Tensor]]:
        """One photo a batch, and a bar. A photo that cannot be read is named once; raises ImageError when none can be."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from compress.networks.batches import photo_batches

        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = self._talk.stderr
        with Progress(*columns, console=console, disable=not console.is_terminal or console.quiet) as bar:
            for path in bar.track(list(self._paths)):
                try:
                    yield from photo_batches(self._spec, [path], self._size)
                except ImageError as error:
                    self._paths.remove(path)
                    self._talk.warn(f"skipped: {error}")
        if not self._paths:
            raise ImageError("none of the photos can be read", "see the warnings above")
