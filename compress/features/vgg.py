"""VGG-16 and VGG-19 feature extractors (Simonyan and Zisserman 2015), cut after the last layer that is asked for.

Three kinds of weight files are told apart by their keys, because preprocessing goes with the weights:
`features.0.weight` torchvision (ImageNet mean and std), `conv1_1.weight` caffe (BGR minus mean), `conv0.weight` the rescaled
network of AdaIN and WCT (its own 1x1 does the preprocessing; reflection padding). Never here: losses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import checkpoint
from compress.errors import NetworkError, UsageError
from compress.features import weights
from compress.image_format import PRESETS, ImageFormat
from compress.networks import pixels

CONVS_PER_BLOCK = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
LAYER = re.compile(r"relu([1-5])_([1-4])")


@dataclass(frozen=True)
class WeightKind:
    """How a weight file wants its input. `pad`: the padding mode of its 3x3 convolutions. `ceil`: of its pools."""

    name: str
    format: ImageFormat
    pad: str
    ceil: bool


KINDS = {
    "torchvision": WeightKind("torchvision", PRESETS["imagenet"], "constant", False),
    "caffe": WeightKind("caffe", PRESETS["caffe"], "constant", False),
    "normalised": WeightKind("normalised", PRESETS["0..1"], "reflect", True),
}


class Features(nn.Module):
    """RGB pixels (N, 3, H, W), 0..255 -> {layer name: (N, C, h, w)}, for the layers asked for. Frozen."""

    def __init__(self, kind: WeightKind, convs: dict[str, tuple[Tensor, Tensor]], layers: frozenset[str]) -> None:
        super().__init__()
        self.kind, self.layers = kind, layers
        self._names = list(convs)
        for name, (weight, bias) in convs.items():
            self.register_buffer(f"{name}_weight", weight.float().contiguous(memory_format=torch.channels_last), persistent=False)
            self.register_buffer(f"{name}_bias", bias.float(), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = pixels.encode(images, self.kind.format)
        found = {}
        for name in self._names:
            weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
            if name == "conv0":  # 1x1: RGB 0..1 to the caffe range
                x = F.conv2d(x, weight, bias)
                continue
            if name != "conv1_1" and name.endswith("_1"):
                x = F.max_pool2d(x, 2, ceil_mode=self.kind.ceil)
            if self.kind.pad == "constant":
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            else:
                x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode=self.kind.pad), weight, bias))
            layer = name.replace("conv", "relu")
            if layer in self.layers:
                found[layer] = x
        return found


def load(name: str, layers: Iterable[str], file: Path | None = None) -> Features:
    """The extractor `vgg16` or `vgg19` for `layers` such as `relu3_3`, from `file` or where weights.find looks.

    Raises UsageError for an unknown network or layer, MissingToolError without weights, NetworkError when the file ends
    before a layer that is asked for.
    """
    if name not in CONVS_PER_BLOCK:
        raise UsageError(f"no loss network named {name!r}", f"one of {', '.join(CONVS_PER_BLOCK)}")
    wanted = frozenset(layers)
    for layer in wanted:
        match = LAYER.fullmatch(layer)
        if not match or int(match[2]) > CONVS_PER_BLOCK[name][int(match[1]) - 1]:
            raise UsageError(f"{name} has no layer {layer!r}", "for example relu3_3")
    path = weights.find(name, file)
    tensors = checkpoint.read_foreign(path)
    kind, named = _named_convs(name, tensors, path)
    kept = _up_to(max(wanted), named, path)
    return Features(kind, kept, wanted).eval()


def conv_names(name: str) -> list[str]:
    """conv1_1, conv1_2, conv2_1 ... in the order in which they run."""
    return [f"conv{block}_{i}" for block, count in enumerate(CONVS_PER_BLOCK[name], 1) for i in range(1, count + 1)]


def _named_convs(name: str, tensors: dict[str, Tensor], path: Path) -> tuple[WeightKind, dict[str, tuple[Tensor, Tensor]]]:
    names = conv_names(name)
    if "features.0.weight" in tensors:
        indices = sorted({int(key.split(".")[1]) for key in tensors if re.fullmatch(r"features\.\d+\.weight", key)})
        keys = {conv: f"features.{index}" for conv, index in zip(names, indices, strict=False)}
        kind = KINDS["torchvision"]
    elif "conv1_1.weight" in tensors:
        kind = KINDS["normalised" if "conv0.weight" in tensors else "caffe"]
        keys = {conv: conv for conv in (["conv0"] if kind.name == "normalised" else []) + names}
    else:
        raise NetworkError(f"{path} has no VGG weights", "keys must be features.0.weight ... or conv1_1.weight ...")
    convs = {
        c: (tensors[f"{k}.weight"], tensors[f"{k}.bias"])
        for c, k in keys.items()
        if {f"{k}.weight", f"{k}.bias"} <= tensors.keys()
    }
    inputs = 3
    for conv, (weight, _) in convs.items():
        width = 3 if conv == "conv0" else WIDTHS[int(conv[4]) - 1]
        if tuple(weight.shape[:2]) != (width, inputs):
            raise NetworkError(
                f"{path} does not fit {name}: {conv} is {tuple(weight.shape)}", "--loss-network names the other one?"
            )
        inputs = width
    return kind, convs


def _up_to(last: str, convs: dict[str, tuple[Tensor, Tensor]], path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    conv = last.replace("relu", "conv")
    if conv not in convs:
        raise NetworkError(f"{path} ends at {list(convs)[-1]}, before {last}", "choose an earlier layer")
    names = list(convs)
    return {name: convs[name] for name in names[: names.index(conv) + 1]}
