"""The feed-forward style network of Johnson, Alahi and Fei-Fei (2016), in the form with InstanceNorm and reflection padding.

Topology as in gordicaleksa/pytorch-nst-feedforward and pytorch/examples (fast_neural_style): 1,679,235 parameters at width 32.
There is no activation after the residual additions, and none after the last convolution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import NetworkError
from compress.image_format import PRESETS
from compress.networks import Network, Recognised


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

# Each foreign naming: a key that tells it apart, the image format it was trained with, and its names in ours, in order.
_LAYOUTS = (
    ("deconv1.conv2d.weight", "0..255", (  # pytorch/examples
        (r"^conv(\d)\.conv2d\.", r"down\1.conv."), (r"^in([123])\.", r"down\1.norm."),
        (r"^deconv([12])\.conv2d\.", r"up\1.conv."), (r"^in4\.", "up1.norm."), (r"^in5\.", "up2.norm."),
        (r"^deconv3\.conv2d\.", "out."),
        (r"^res(\d)\.conv1\.conv2d\.", r"res\1.first.conv."), (r"^res(\d)\.conv2\.conv2d\.", r"res\1.second.conv."),
        (r"^res(\d)\.in1\.", r"res\1.first.norm."), (r"^res(\d)\.in2\.", r"res\1.second.norm."),
    )),
    ("up1.conv2d.weight", "imagenet", (  # gordicaleksa
        (r"^conv(\d)\.conv2d\.", r"down\1.conv."), (r"^in([123])\.", r"down\1.norm."),
        (r"^up([12])\.conv2d\.", r"up\1.conv."), (r"^in4\.", "up1.norm."), (r"^in5\.", "up2.norm."),
        (r"^up3\.conv2d\.", "out."),
        (r"^res(\d)\.conv1\.conv2d\.", r"res\1.first.conv."), (r"^res(\d)\.conv2\.conv2d\.", r"res\1.second.conv."),
        (r"^res(\d)\.in1\.", r"res\1.first.norm."), (r"^res(\d)\.in2\.", r"res\1.second.norm."),
    )),
    ("conv1.block.1.weight", "imagenet", (  # eriklindernoren, URST
        (r"^conv(\d)\.block\.1\.", r"down\1.conv."), (r"^conv(\d)\.norm\.", r"down\1.norm."),
        (r"^deconv([12])\.block\.\d\.", r"up\1.conv."), (r"^deconv([12])\.norm\.", r"up\1.norm."),
        (r"^deconv3\.block\.\d\.", "out."),
        (r"^res(\d)\.block\.0\.block\.1\.", r"res\1.first.conv."), (r"^res(\d)\.block\.0\.norm\.", r"res\1.first.norm."),
        (r"^res(\d)\.block\.1\.block\.1\.", r"res\1.second.conv."), (r"^res(\d)\.block\.1\.norm\.", r"res\1.second.norm."),
    )),
)  # fmt: skip


def recognise(tensors: dict[str, Tensor]) -> Recognised | None:
    """Our names for a Johnson network of pytorch/examples, gordicaleksa or URST, or None. Widths are read off the shapes.

    Old files carry the running statistics of an InstanceNorm that never used them; they are dropped.
    """
    for mark, format_name, rules in _LAYOUTS:
        if mark not in tensors:
            continue
        renamed = {}
        for key, tensor in tensors.items():
            if key.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
                continue
            for pattern, replacement in rules:
                if re.match(pattern, key):
                    key = re.sub(pattern, replacement, key)
                    break
            key = re.sub(r"^res(\d)\.", lambda m: f"residual.{int(m[1]) - 1}.", key)
            renamed[key] = tensor
        return Recognised(renamed, _arguments(renamed), PRESETS[format_name])
    if "down1.conv.weight" in tensors and "out.weight" in tensors:
        return Recognised(dict(tensors), _arguments(tensors), NETWORK.format)
    return None


def _arguments(tensors: dict[str, Tensor]) -> dict[str, object]:
    try:
        widths = [tensors[f"down{i}.conv.weight"].shape[0] for i in (1, 2, 3)]
    except KeyError as error:
        raise NetworkError(f"looks like a johnson network, but has no {error.args[0]}") from error
    blocks = len({key.split(".")[1] for key in tensors if key.startswith("residual.")})
    arguments: dict[str, object] = {"width": widths[0]}
    if widths != [widths[0] * n for n in (1, 2, 4)]:
        arguments = {"widths": widths}
    if blocks != 5:
        arguments["blocks"] = blocks
    if "down1.norm.running_mean" in tensors:
        arguments["norm"] = "batch"
    return arguments


NETWORK = Network("johnson", Johnson, PRESETS["imagenet"], recognise)
