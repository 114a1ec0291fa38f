"""One training run as commands start it: photos from a folder, a network file as output, previews, progress, resuming."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import nn

from compress import checkpoint
from compress.errors import NetworkError, TrainingError, UsageError
from compress.files import check_output
from compress.image_format import ImageFormat
from compress.networks.load import LoadedNetwork, snapshot
from compress.spec import ModelSpec
from compress.training.images import CropConfig, Crops
from compress.training.loop import Hook, Objective, Saving, TrainingConfig, train
from compress.training.state import state_path
from compress.training.watch import Previews, progress_bar

DTYPES = {"float32": torch.float32, "float16": torch.float16}
PREVIEWED = 4


class Talk(Protocol):
    """What a job needs of the one who started it: a console for progress, and a place for warnings."""

    @property
    def stderr(self) -> Console: ...
    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class Job:
    """`images`: folder of photos. `preview_every`: steps between preview sheets (NET.preview.jpg), 0 for none.

    `dtype`: of the tensors in the written network, float32 or float16; training itself keeps float32.
    """

    images: Path
    crops: CropConfig
    config: TrainingConfig
    preview_every: int = 250
    dtype: str = "float32"
    resume: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"no dtype {self.dtype!r}", "float32 or float16")

    def check(self, output: Path, force: bool, inputs: Iterable[Path]) -> None:
        """Refuse before any work: an output that exists (unless resuming), and nothing to resume."""
        check_output(output, force=force or self.resume, inputs=inputs)
        if self.resume and not state_path(output).is_file():
            raise TrainingError(f"nothing to resume: there is no {state_path(output)}", "start without --resume")

    def run(
        self,
        talk: Talk,
        loaded: LoadedNetwork,
        objective: Objective,
        output: Path,
        entry: Mapping[str, Any],
        before_step: Hook | None = None,
    ) -> dict[str, float]:
        """Train `loaded.module` in place and write it to `output`, with `entry` as its newest history. Returns the losses.

        `entry` says what is special to this training; what this job adds is recorded beside it. A resumed run must have the
        same entry and options. Raises what `training.loop.train` raises.
        """
        formats = picture_formats(loaded.spec)
        crops = Crops.of_folder(self.images, self.crops, talk.warn)
        entry = {**entry, **self._facts(crops)}

        def write(network: nn.Module, step: int, losses: Mapping[str, float]) -> None:
            done = {**entry, "done_steps": step, "losses": dict(losses)}
            made = snapshot(network, loaded.spec, loaded.checkpoint.history).then(**done)
            checkpoint.write(output, made.astype(DTYPES[self.dtype]))

        watchers: list[Any] = []
        if self.preview_every:
            watchers.append(
                Previews(output.with_name(f"{output.stem}.preview.jpg"), self._previewed(crops), formats, self.preview_every)
            )
        saving = Saving(state_path(output), {"spec": loaded.spec.to_json(), **entry}, write, self.resume)
        with progress_bar(talk.stderr, output.name) as bar:
            return train(loaded.module, objective, crops, self.config, formats, saving, before_step, (bar, *watchers))

    def _facts(self, crops: Crops) -> dict[str, Any]:
        names = hashlib.sha256("\n".join(p.name for p in crops.photos).encode()).hexdigest()[:16]
        config = {k: v for k, v in asdict(self.config).items() if k not in ("save_every", "device")}
        sizes = {"size": self.crops.size, "batch": self.crops.batch, "smallest_crop": self.crops.smallest}
        return {**config, **sizes, "photos": len(crops.photos), "photo_names": names, "dtype": self.dtype}

    def _previewed(self, crops: Crops) -> list[Any]:
        return list(crops.cropped(replace(self.crops, batch=PREVIEWED, smallest=1.0)).batch(0))


def picture_formats(spec: ModelSpec) -> tuple[ImageFormat, ImageFormat]:
    """The formats of a network with one picture in and one out. Raises NetworkError for any other."""
    if len(spec.inputs) != 1 or len(spec.outputs) != 1 or not spec.inputs[0] or not spec.outputs[0]:
        raise NetworkError(
            f"{spec.network} is not known to make a picture of a picture", "--image-format says how pixels become its tensors"
        )
    return spec.inputs[0], spec.outputs[0]
