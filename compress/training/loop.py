"""The training loop: one for training, iterative pruning and fine-tuning. What is learned is the objective's business.

It owns: optimizer and schedule, autocast and memory layout, clipping, state files, resuming, Ctrl-C, losses that explode.
Never here: losses, file formats of networks, options of a command.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from compress.errors import MissingToolError, TrainingError, UsageError
from compress.image_format import ImageFormat
from compress.networks import pixels
from compress.networks.run import picture_of
from compress.training import state
from compress.training.images import Crops, Prefetched
from compress.training.stop import stop_between_steps

Objective = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""(photos, outputs), RGB pixels (N, 3, H, W) on the 0..255 scale -> weighted terms, whose sum is minimised.

An `nn.Module` with trainable parameters (adapters) is trained along with the network, and saved in the state file only."""

Hook = Callable[[int, nn.Module, Optimizer], None]
"""`before_step(step, network, optimizer)`: a schedule's place, a pure function of the step and of the network as it is."""


@dataclass(frozen=True)
class TrainingConfig:
    """`schedule`: the learning rate over time, `cosine` to zero or `constant`, both after `warmup` steps.

    `precision`: `fp32`, or `bf16` (autocast; sums stay in float32). `clip`: largest gradient norm, 0 for none.
    """

    steps: int
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 50
    precision: str = "bf16"
    device: str = "cpu"
    clip: float = 0.0
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.save_every < 1 or self.warmup < 0:
            raise UsageError(f"training needs at least one step, got {self.steps}")
        if not 0 < self.learning_rate < 1:
            raise UsageError(f"learning rate must be in (0, 1), got {self.learning_rate}")
        if self.schedule not in ("cosine", "constant") or self.precision not in ("fp32", "bf16"):
            raise UsageError(f"no schedule {self.schedule!r} or precision {self.precision!r}", "cosine|constant, fp32|bf16")

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, 2 ..."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.schedule == "cosine" else 1.0
        return self.learning_rate * warm * decay


@dataclass(frozen=True)
class Progress:
    """What watchers see after each step. `terms`: weighted losses of this step. `seconds`: of this run so far."""

    step: int
    steps: int
    terms: dict[str, float]
    seconds: float
    step_when_started: int


Watcher = Callable[[Progress, nn.Module], None]
"""Something that looks on after each step: progress bar, previews, log."""


@dataclass(frozen=True)
class Saving:
    """Where the state goes, and what else is to be written with it. `plan`: what was asked; a resume must ask the same.

    `checkpoint(network, step, losses)` writes the usable network; called with every state, at the end and at Ctrl-C.
    """

    path: Path
    plan: Mapping[str, Any]
    checkpoint: Callable[[nn.Module, int, Mapping[str, float]], None]
    resume: bool = False


@dataclass
class Losses:
    """Running means of the terms: smoothed for people, the last tenth of the training for the record."""

    steps: int
    smooth: dict[str, float] = field(default_factory=dict)
    tail: dict[str, list[float]] = field(default_factory=dict)

    def add(self, step: int, terms: Mapping[str, float]) -> None:
        for name, value in terms.items():
            before = self.smooth.get(name, value)
            self.smooth[name] = before + 0.05 * (value - before)
            if step >= self.steps - max(1, self.steps // 10):
                self.tail.setdefault(name, []).append(value)

    def summary(self) -> dict[str, float]:
        return {n: sum(v) / len(v) for n, v in self.tail.items()} if self.tail else dict(self.smooth)


def train(
    network: nn.Module,
    objective: Objective,
    crops: Crops,
    config: TrainingConfig,
    formats: tuple[ImageFormat, ImageFormat],
    saving: Saving | None = None,
    before_step: Hook | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> dict[str, float]:
    """Train `network` in place for `config.steps` steps and return the mean weighted losses of the last tenth.

    `formats`: of the network's input and output. The network ends on the CPU in eval mode. With `saving`, the state is
    written every `save_every` steps and at Ctrl-C (KeyboardInterrupt comes after the step), and deleted at the end.
    Raises TrainingError when a loss is not finite, ImageError when no photo can be read.
    """
    device = _device(config.device)
    torch.manual_seed(config.seed)
    network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if isinstance(objective, nn.Module):
        objective.to(device)
    learned = state.learned(network, objective)
    optimizer = Adam([tensor for tensor in learned.values() if tensor.requires_grad], config.learning_rate)
    resumed = state.load(saving.path, saving.plan, learned, optimizer) if saving and saving.resume else state.Moment(0)
    start, losses, began = resumed.step, Losses(config.steps, **resumed.losses), time.monotonic()

    with closing(Prefetched(crops)) as batches, stop_between_steps() as stop:
        for step in range(start, config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.rate(step)
            if before_step:
                before_step(step, network, optimizer)
            terms = _step(network, objective, batches.batch(step), optimizer, config, formats, device)
            losses.add(step, terms)
            for watch in watchers:
                watch(Progress(step + 1, config.steps, losses.smooth, time.monotonic() - began, start), network)
            done = step + 1
            if saving and done < config.steps and (stop.asked or done % config.save_every == 0):
                saving.checkpoint(network, done, losses.summary())
                moment = state.Moment(done, {"smooth": losses.smooth, "tail": losses.tail})
                state.save(saving.path, moment, saving.plan, learned, optimizer)
            if stop.asked and done < config.steps:
                raise KeyboardInterrupt
    network.to(device="cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    if saving:
        saving.checkpoint(network, config.steps, losses.summary())
        saving.path.unlink(missing_ok=True)
    return losses.summary()


def _step(
    network: nn.Module,
    objective: Objective,
    batch: Any,
    optimizer: Optimizer,
    config: TrainingConfig,
    formats: tuple[ImageFormat, ImageFormat],
    device: torch.device,
) -> dict[str, float]:
    photos = torch.from_numpy(batch).to(device, non_blocking=True).permute(0, 3, 1, 2).float()  # channels-last already
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        outputs = pixels.decode(picture_of(network, pixels.encode(photos, formats[0])).float(), formats[1])
        terms = objective(photos, outputs)
    total = torch.stack([term.float() for term in terms.values()]).sum()
    values = {name: float(term.detach()) for name, term in terms.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise TrainingError(f"the loss is not finite ({values})", "a smaller --learning-rate, --precision fp32, or --clip")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    if config.clip:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], config.clip)
    optimizer.step()
    return values


def _device(name: str) -> torch.device:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise MissingToolError("there is no CUDA device here", "--device cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device {name!r}", "cpu or cuda") from error
