"""What people see while a training runs: a bar with losses and time left, and pictures of what the network makes by now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import nn

from compress.image_format import ImageFormat
from compress.networks.run import picture_of
from compress.photos import Pixels, encode
from compress.training.loop import Progress, Watcher

LINE_EVERY_S = 30.0


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Watcher]:
    """A watcher that draws a bar on a terminal, and writes a line every half minute elsewhere."""
    if console.is_terminal and not console.quiet:
        columns = (
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console) as bar:
            task = bar.add_task(label, losses="")

            def draw(progress: Progress, _: nn.Module) -> None:
                bar.update(task, completed=progress.step, total=progress.steps, losses=_terms(progress))

            yield draw
        return
    last = [time.monotonic() - LINE_EVERY_S]

    def line(progress: Progress, _: nn.Module) -> None:
        if progress.step == progress.steps or time.monotonic() - last[0] >= LINE_EVERY_S:
            last[0] = time.monotonic()
            pace = progress.seconds / (progress.step - progress.step_when_started)
            left = pace * (progress.steps - progress.step)
            text = (
                f"{label}: step {progress.step} of {progress.steps}, {_terms(progress)}, {pace:.2f} s a step, {_clock(left)} left"
            )
            console.print(text, soft_wrap=True)

    yield line


class Previews:
    """A watcher that writes one sheet, photos above and what the network makes of them below, every `every` steps."""

    def __init__(self, path: Path, photos: list[Pixels], formats: tuple[ImageFormat, ImageFormat], every: int) -> None:
        self.path, self.formats, self.every = path, formats, every
        self.photos = np.stack(photos)  # (N, H, W, 3)

    def __call__(self, progress: Progress, network: nn.Module) -> None:
        if progress.step % self.every == 0 or progress.step == progress.steps:
            encode(self.path, self.sheet(network))

    def sheet(self, network: nn.Module) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """(2H, N*W, 3) pixels, 0..255. The network's mode, device and random state stay as they are."""
        was_training = network.training
        network.eval()
        device = next(network.parameters()).device
        tensors = torch.from_numpy(self.formats[0].encode(self.photos)).to(device).permute(0, 3, 1, 2)
        with torch.no_grad():
            made = picture_of(network, tensors).float().permute(0, 2, 3, 1).cpu().numpy()
        network.train(was_training)
        rows = (self.photos.astype(np.float32), self.formats[1].decode(made))
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)


def _terms(progress: Progress) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in progress.terms.items())


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
