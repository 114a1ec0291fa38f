"""Samples a second of the training loop, beside a bare PyTorch loop of the same work, step by step in turns.

    python benchmarks/training_speed.py --photos DIR --style PAINTING --weights VGG19.pth -o benchmarks/records/

The same work: a Johnson network at 256x256, batch 4, VGG-19 features, content, style and total variation, Adam; bf16 autocast and
channels-last in both. The bare loop has its batches ready; ours reads, crops and prefetches photos, schedules, checks that losses
are finite and reports: that is the price to be measured. Both run in one process, one step of each in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import lines
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import photos
from compress.image_format import PRESETS
from compress.losses.perceptual import PerceptualConfig, PerceptualLoss
from compress.networks.johnson import Johnson
from compress.training.images import CropConfig, Crops
from compress.training.loop import Progress, TrainingConfig, train

ROOT = Path(__file__).resolve().parent.parent
MEAN, STD = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1), torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1)
CAFFE_MEAN = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)  # BGR
STYLE = ("conv1_2", "conv2_2", "conv3_3", "conv4_1")
CONTENT = "conv3_3"


class Vgg(nn.Module):
    """VGG-19 to conv4_1, written out: what anyone would write first."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        for name in sorted({key.split(".")[0] for key in state}):
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            self.convs[name] = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            self.convs[name].load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, found = x.flip(1) - CAFFE_MEAN, {}
        for name, conv in self.convs.items():
            if name != "conv1_1" and name.endswith("_1"):
                x = F.max_pool2d(x, 2)
            x = found[name] = F.relu(conv(x))
        return found


class Bare:
    """The loop's body and nothing else. `step(photos)`: (N, 3, 256, 256), RGB 0..255."""

    def __init__(self, network: nn.Module, vgg: Vgg, painting: Tensor) -> None:
        self.network = network.to(memory_format=torch.channels_last).train()
        self.vgg = vgg.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        with torch.no_grad():
            self.grams = {name: _gram(features) for name, features in self.vgg(painting).items() if name in STYLE}

    def step(self, batch: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network((batch - MEAN) / STD).float() * STD + MEAN
            found = self.vgg(outputs)
            with torch.no_grad():
                wanted = self.vgg(batch)[CONTENT]
            content = F.mse_loss(found[CONTENT].float(), wanted.float())
        style = sum((_gram(found[name]) - self.grams[name]).square().mean() for name in STYLE)
        variation = (outputs[..., 1:, :] - outputs[..., :-1, :]).square().mean() + (
            (outputs[..., 1:] - outputs[..., :-1]).square().mean()
        )
        loss = content + 5 * style + 10 * variation
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def main() -> None:
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    context = {**lines.context("torch"), "measure": "training", "threads": options.threads, "batch": options.batch}
    samples = measure(options)
    found = [{**context, "size": options.size, "name": name, "samples_ms": own} for name, own in samples.items()]
    lines.write(options.output / "training.jsonl", found)
    ratio = median(bare / ours for ours, bare in zip(*samples.values(), strict=True))
    for name, own in samples.items():
        print(f"{name}: {1e3 * options.batch / median(own):.2f} samples a second")
    print(f"speed / bare loop: {ratio:.3f} (target >= 0.9), median of {len(samples['bare loop'])} pairs of steps")


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """ms a step of each; the first two pairs are not counted."""
    config = CropConfig(options.size, options.batch)
    crops = Crops.of_folder(options.photos, config, lambda text: print(text, file=sys.stderr))
    batches = [torch.from_numpy(crops.batch(step)).permute(0, 3, 1, 2).float() for step in range(8)]
    painting = photos.decode(options.style)
    bare = Bare(Johnson(), Vgg(torch.load(options.weights, weights_only=True)), _painting(painting))
    samples: dict[str, list[float]] = {"compress train": [], "bare loop": []}
    turn = _Turns(samples, lambda step: bare.step(batches[step % len(batches)]))
    objective = PerceptualLoss(PerceptualConfig(weights=options.weights), painting)
    training = TrainingConfig(steps=options.steps + 2, save_every=options.steps + 2)
    formats = (PRESETS["imagenet"], PRESETS["imagenet"])
    train(Johnson(), objective, Crops.of_folder(options.photos, config, lambda _: None), training, formats, watchers=(turn,))
    return {name: own[2:] for name, own in samples.items()}


class _Turns:
    """Watches our loop: after each of its steps one of the bare loop, both timed."""

    def __init__(self, samples: dict[str, list[float]], bare: Callable[[int], None]) -> None:
        self.samples, self.bare, self.since = samples, bare, time.perf_counter()

    def __call__(self, progress: Progress, network: Any) -> None:
        arrived = time.perf_counter()
        self.bare(progress.step)
        self.samples["compress train"].append(1e3 * (arrived - self.since))
        self.since = time.perf_counter()
        self.samples["bare loop"].append(1e3 * (self.since - arrived))
        print(
            f"step {progress.step}: {self.samples['compress train'][-1]:.0f} and {self.samples['bare loop'][-1]:.0f} ms",
            flush=True,
        )


def _gram(features: Tensor) -> Tensor:
    n, c, h, w = features.shape
    flat = features.float().reshape(n, c, h * w)
    return flat @ flat.transpose(1, 2) / (c * h * w)


def _painting(pixels: photos.Pixels) -> Tensor:
    scale = 512 / max(pixels.shape[:2])
    height, width = (round(side * scale) for side in pixels.shape[:2])
    return torch.from_numpy(photos.resize(pixels, height, width).copy()).permute(2, 0, 1)[None].float()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True, help="the painting")
    parser.add_argument("--weights", type=Path, required=True, help="VGG-19's weight file, caffe kind (conv1_1.weight ...)")
    parser.add_argument("--steps", type=int, default=30, help="pairs of steps that count")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    return parser


if __name__ == "__main__":
    main()
