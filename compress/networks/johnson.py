"""The feed-forward style network of Johnson, Alahi and Fei-Fei (2016), in the form with InstanceNorm and reflection padding.

Topology as in gordicaleksa/pytorch-nst-feedforward and pytorch/examples (fast_neural_style): 1,679,235 parameters at width 32.
There is no activation after the residual additions, and none after the last convolution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import NetworkError
from compress.image_format import PRESETS
from compress.networks import Network, Recognised

MOST_BLOCKS = 64  # a file may ask for any number, and each is built one by one


class ConvNorm(nn.Module):
    """Reflection-padded convolution and its norm. `scale` 2 goes up before the convolution (nearest neighbour)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: str, stride: int = 1, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, padding_mode="reflect")
        self.norm = NORMS[norm](outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return self.norm(self.conv(x))


class TransposedConvNorm(nn.Module):
    """Transposed 3x3 convolution with stride 2, and its norm: the other way to go up (as in the original Lua)."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.norm = NORMS[norm](outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))). `hidden` is the width between the two convolutions."""

    def __init__(self, width: int, hidden: int, norm: str) -> None:
        super().__init__()
        self.first = ConvNorm(width, hidden, 3, norm)
        self.second = ConvNorm(hidden, width, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Johnson(nn.Module):
    """(N, 3, H, W) -> (N, 3, 4*ceil(ceil(H/2)/2), ...): the same size when H and W are multiples of 4.

    `width`: channels of the first layer; the next two have twice and four times as many, unless `widths` gives all three.
    `hidden`: channels inside the residual blocks (default: as outside). `norm`: `instance` (affine, statistics of the
    picture) or `batch`. `upsampling`: `nearest` (then a convolution) or `transposed`. `blocks`: residual blocks.
    """

    def __init__(
        self,
        width: int = 32,
        norm: str = "instance",
        upsampling: str = "nearest",
        blocks: int = 5,
        widths: Sequence[int] | None = None,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise NetworkError(f"johnson has no norm {norm!r}", f"one of {', '.join(NORMS)}")
        if upsampling not in ("nearest", "transposed"):
            raise NetworkError(f"johnson has no upsampling {upsampling!r}", "nearest or transposed")
        a, b, c = widths or (width, 2 * width, 4 * width)
        if min(a, b, c, hidden or c) < 1 or blocks < 0:
            raise NetworkError("widths of johnson must be positive")
        if blocks > MOST_BLOCKS:
            raise NetworkError(f"johnson has at most {MOST_BLOCKS} residual blocks, not {blocks}")

        def up(inputs: int, outputs: int) -> nn.Module:
            if upsampling == "nearest":
                return ConvNorm(inputs, outputs, 3, norm, scale=2)
            return TransposedConvNorm(inputs, outputs, norm)

        self.down1 = ConvNorm(3, a, 9, norm)
        self.down2 = ConvNorm(a, b, 3, norm, stride=2)
        self.down3 = ConvNorm(b, c, 3, norm, stride=2)
        self.residual = nn.Sequential(*(Residual(c, hidden or c, norm) for _ in range(blocks)))
        self.up1 = up(c, b)
        self.up2 = up(b, a)
        self.out = nn.Conv2d(a, 3, 9, padding=4, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        for down in (self.down1, self.down2, self.down3):
            x = F.relu(down(x))
        x = self.residual(x)
        for up in (self.up1, self.up2):
            x = F.relu(up(x))
        return self.out(x)


NORMS = {
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "batch": lambda channels: nn.BatchNorm2d(channels),
}

_NORMS_APART = (  # the norms beside the convolutions, numbered through: pytorch/examples and gordicaleksa
    (r"^conv([123])\.(?:conv2d\.)?", r"down\1.conv."), (r"^in([123])\.", r"down\1.norm."),
    (r"^(?:up|deconv)([12])\.(?:conv2d\.)?", r"up\1.conv."), (r"^in([45])\.", lambda m: f"up{int(m[1]) - 3}.norm."),
    (r"^(?:up|deconv)3\.(?:conv2d\.)?", "out."),
    (r"^res(\d+)\.conv1\.(?:conv2d\.)?", r"res\1.first.conv."), (r"^res(\d+)\.in1\.", r"res\1.first.norm."),
    (r"^res(\d+)\.conv2\.(?:conv2d\.)?", r"res\1.second.conv."), (r"^res(\d+)\.in2\.", r"res\1.second.norm."),
)  # fmt: skip
_NORMS_INSIDE = (  # one block a convolution: URST, which also writes norm.norm
    (r"^conv([123])\.block\.1\.", r"down\1.conv."), (r"^conv([123])\.norm\.(?:norm\.)?", r"down\1.norm."),
    (r"^deconv([12])\.block\.1\.", r"up\1.conv."), (r"^deconv([12])\.norm\.(?:norm\.)?", r"up\1.norm."),
    (r"^deconv3\.block\.1\.", "out."),
    (r"^res(\d+)\.block1\.block\.1\.", r"res\1.first.conv."), (r"^res(\d+)\.block1\.norm\.(?:norm\.)?", r"res\1.first.norm."),
    (r"^res(\d+)\.block2\.block\.1\.", r"res\1.second.conv."), (r"^res(\d+)\.block2\.norm\.(?:norm\.)?", r"res\1.second.norm."),
)  # fmt: skip
# A key that tells the naming apart, the image format that its networks were trained with, and its names in ours.
_LAYOUTS = (
    ("deconv1.conv2d.weight", "0..255", _NORMS_APART),
    ("up1.conv2d.weight", "imagenet", _NORMS_APART),
    ("deconv1.block.1.weight", "imagenet", _NORMS_INSIDE),
)
_NEVER_USED = ("running_mean", "running_var", "num_batches_tracked")  # what old InstanceNorms wrote


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    """Our names for a Johnson network of pytorch/examples, gordicaleksa or URST, or None. Widths are read off the shapes.

    Old files carry the running statistics of an InstanceNorm that never used them; they are dropped.
    """
    if "model.0.block.1.weight" in tensors and "model.3.block.0.block.1.weight" in tensors:
        raise NetworkError(
            "looks like eriklindernoren/Fast-Neural-Style-Transfer, which has a ReLU after every block: johnson has not",
            "--network package.module:factory names its own code",
        )
    for mark, format_name, rules in _LAYOUTS:
        if mark in tensors:
            renamed = {_renamed(k, rules): t for k, t in tensors.items() if k.rpartition(".")[2] not in _NEVER_USED}
            return Recognised(renamed, _arguments(renamed), PRESETS[format_name])
    if "down1.conv.weight" in tensors and "out.weight" in tensors:
        return Recognised(dict(tensors), _arguments(tensors), NETWORK.format)
    return None


def _renamed(key: str, rules: Sequence[tuple[str, Any]]) -> str:
    for pattern, replacement in rules:
        key, count = re.subn(pattern, replacement, key)
        if count:
            break
    return re.sub(r"^res(\d+)\.", lambda m: f"residual.{int(m[1]) - 1}.", key)


def _arguments(tensors: dict[str, Tensor]) -> dict[str, object]:
    """The factory's arguments, read off names and shapes; those that are the default are left out."""
    try:
        a, b, c = (tensors[f"down{i}.conv.weight"].shape[0] for i in (1, 2, 3))
        up = tuple(tensors["up1.conv.weight"].shape[:2])
        hidden = tensors["residual.0.first.conv.weight"].shape[0] if "residual.0.first.conv.weight" in tensors else c
    except (KeyError, IndexError) as error:
        raise NetworkError(f"looks like a johnson network, but is none: {error}") from error
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("residual.")})
    chosen: dict[str, tuple[object, bool]] = {
        "width": (a, (b, c) == (2 * a, 4 * a)),
        "widths": ([a, b, c], (b, c) != (2 * a, 4 * a)),
        "hidden": (hidden, hidden != c),
        "blocks": (blocks, blocks != 5),
        "norm": ("batch", "down1.norm.running_mean" in tensors),
        "upsampling": ("transposed", up == (c, b) and up != (b, c)),
    }
    return {name: value for name, (value, is_said) in chosen.items() if is_said}


NETWORK = Network("johnson", Johnson, PRESETS["imagenet"], recognise)
