"""Each stranger network with the widths that it must have after half of its channels were zeroed, counted by hand.

`widths` names every convolution and linear layer and how many channels it then writes. Zeroed are floor(n / 2) of each space, and
as many in each block of a space that has some; `dead` says which, layer by layer, where a half must be a certain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

from compress.channels.graph import ChannelGraph
from compress.networks.johnson import Johnson
from tests import stranger_networks as pictures
from tests import stranger_networks_2 as sight
from tests import stranger_networks_3 as further
from tests.strip_cases import randomise_

Dead = Mapping[str, Iterable[int]]
Size = tuple[int, ...] | int


@dataclass(frozen=True)
class Stranger:
    """`shapes` of the inputs. `sizes`: three more for the first one: (H, W), or its batch where it has no space.

    `stays`: space -> words of the reason why its channels stay, for those that are no output. `parameters`: shapes of those that
    belong to no layer.
    """

    build: Callable[[], nn.Module]
    shapes: Sequence[tuple[int, ...]]
    sizes: Sequence[Size]
    widths: Mapping[str, int]
    dead: Dead | None = None
    stays: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def inputs(self, size: Size | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Random ones from a fixed seed; without `size` those to trace with."""
        generator = torch.Generator().manual_seed(5)
        first = self.shapes[0]
        if size is not None:
            first = (size, *first[1:]) if isinstance(size, int) else (*first[:2], *size)
        return [torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in (first, *self.shapes[1:])]


def made(case: Stranger, seed: int = 0) -> nn.Module:
    """The network with random weights, in which nothing is dead by accident.

    A filter whose weights are all negative, behind a ReLU, is dead where its norm subtracts more than it adds: bounds prove that.
    """
    net = randomise_(case.build(), seed)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.mul_(0.05)  # below any shift, so that each activation is open where all that it reads is zero
    return net


def zero_(net: nn.Module, case: Stranger, graph: ChannelGraph, seed: int = 0) -> None:
    """Set all that writes the chosen half of the channels to zero, in place."""
    if case.dead is not None:
        kill_(net, case.dead)
    else:
        graph.zero_(net, halves(graph, seed))


def halves(graph: ChannelGraph, seed: int = 0) -> dict[str, list[int]]:
    """Space -> half of its channels at random, as many in each block."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[int]] = {}
    for space in graph.spaces:
        if space.prunable:
            block = space.width // space.group
            chosen = [torch.randperm(block, generator=generator)[: block // 2] + n * block for n in range(space.group)]
            found[space.name] = torch.cat(chosen).tolist()
    return found


@torch.no_grad()
def kill_(net: nn.Module, dead: Dead) -> None:
    """Zero these channels of layers (weight and bias of what they write), of norms (scale and shift) and of bare parameters."""
    modules, parameters = dict(net.named_modules()), dict(net.named_parameters())
    for name, channels in dead.items():
        chosen, module = list(channels), modules.get(name)
        if module is None:
            parameters[name].movedim(min(1, parameters[name].dim() - 1), 0)[chosen] = 0
            continue
        if parametrize.is_parametrized(module, "weight"):
            weight = module.parametrizations["weight"].original0
        else:
            weight = getattr(module, "weight_g", module.weight)
        (weight.movedim(1, 0) if isinstance(module, nn.ConvTranspose2d) else weight)[chosen] = 0
        if module.bias is not None:
            module.bias[chosen] = 0


def _normed(dead: Dead) -> Dead:
    """What `conv_norm` makes: `x` stands for its convolution x.0 and its norm x.1."""
    return {f"{name}.{part}": list(channels) for name, channels in dead.items() for part in (0, 1)}


def _both(channels: Sequence[int], width: int) -> list[int]:
    """Of two halves that lie one after the other."""
    return [*channels, *(width + channel for channel in channels)]


PICTURE, SIZES = (1, 3, 16, 24), ((16, 24), (11, 13), (18, 27))
SMALL, UPSCALED = (1, 3, 8, 12), ((8, 12), (9, 7), (13, 10))
GROWN = {"head": 3, "wide1": 8, "narrow1": 3, "wide2": 7, "narrow2": 3, "tail": 12, "skip": 12}
GROWN_DEAD = {
    "head": [0, 2, 5], "narrow1": [0, 2, 5], "narrow2": [0, 2, 5], "wide1": range(1, 16, 2), "wide2": range(1, 13, 2),
}  # fmt: skip
STRANGERS: dict[str, Stranger] = {
    "johnson": Stranger(
        partial(Johnson, widths=[6, 10, 14], hidden=9, blocks=2), [PICTURE], SIZES,
        {"down1.conv": 3, "down2.conv": 5, "down3.conv": 7, "residual.0.first.conv": 5, "residual.0.second.conv": 7,
         "residual.1.first.conv": 5, "residual.1.second.conv": 7, "up1.conv": 5, "up2.conv": 3, "out": 3},
    ),
    "msgnet": Stranger(
        pictures.MSGNet, [PICTURE, (1, 3, 20, 12)], SIZES,
        {"enter": 3, "down1.conv1": 2, "down1.conv2": 3, "down1.conv3": 6, "down1.residual": 6, "down2.conv1": 4,
         "down2.conv2": 4, "down2.conv3": 10, "down2.residual": 10, "up1.conv1": 5, "up1.conv2": 6, "up1.conv3": 7,
         "up1.residual": 7, "up2.conv1": 7, "up2.conv2": 8, "up2.conv3": 8, "up2.residual": 8, "leave": 3},
        stays={"down2.residual": "bmm"},  # its Gram matrix is divided by the number of channels
    ),
    "adain": Stranger(
        pictures.AdaIN, [PICTURE, (1, 3, 20, 12)], SIZES,
        {"encoder.0": 2, "encoder.2": 4, "encoder.6": 5, "decoder.1": 3, "decoder.5": 2, "decoder.8": 3},
    ),
    "stargan2": Stranger(
        pictures.StarGAN2, [PICTURE, (1, 5)], SIZES,
        {"enter": 3, "conv1": 3, "conv2": 4, "shortcut": 4, "up.norm1.fc": 8, "up.conv1": 5, "up.norm2.fc": 10, "up.conv2": 5,
         "up.shortcut": 5, "leave": 3},
    ),
    "cyclegan": Stranger(
        pictures.CycleGAN, [PICTURE], SIZES,
        {"model.1": 3, "model.4": 5, "model.7": 6, "model.10.conv_block.1": 6, "model.10.conv_block.6": 6,
         "model.11.conv_block.1": 7, "model.11.conv_block.6": 6, "model.12": 4, "model.15": 3, "model.19": 3},
    ),
    "unet": Stranger(
        pictures.UNet, [PICTURE], SIZES,
        {"enter.0": 3, "enter.3": 3, "down1.0": 4, "down1.3": 5, "down2.0": 7, "down2.3": 8, "up1": 4, "up2": 2, "merge1.0": 6,
         "merge1.3": 6, "merge2.0": 5, "merge2.3": 7, "leave": 2},
    ),
    "pix2pix": Stranger(
        pictures.Pix2Pix, [PICTURE], ((16, 24), (8, 16), (32, 8)),
        {"model.0": 3, "model.1.model.1": 5, "model.1.model.3.model.1": 6, "model.1.model.3.model.3": 4, "model.1.model.5": 4,
         "model.3": 3},
    ),
    "espcn": Stranger(pictures.ESPCN, [(1, 1, 8, 12)], UPSCALED, {"conv1": 5, "conv2": 3, "conv3": 9}),
    "edsr": Stranger(
        pictures.EDSR, [SMALL], UPSCALED,
        {"sub_mean": 2, "head.0": 4, "body.0.body.0": 6, "body.0.body.2": 4, "body.1.body.0": 5, "body.1.body.2": 4, "body.2": 4,
         "tail.0": 4 * 4, "tail.2": 3 * 4, "tail.4": 2, "add_mean": 3},
    ),
    "wdsr": Stranger(partial(pictures.WDSR, parametrizations.weight_norm), [SMALL], UPSCALED, GROWN, GROWN_DEAD),
    "wdsr, old hooks": Stranger(partial(pictures.WDSR, weight_norm), [SMALL], UPSCALED, GROWN, GROWN_DEAD),
    "rrdb": Stranger(
        pictures.RRDBNet, [SMALL], UPSCALED,
        {"first": 4, "block1.convs.0": 2, "block1.convs.1": 3, "block1.convs.2": 2, "block1.convs.3": 3, "block1.last": 4,
         "block2.convs.0": 4, "block2.convs.1": 1, "block2.convs.2": 2, "block2.convs.3": 2, "block2.last": 4, "body": 4,
         "up1": 5, "up2": 5, "high": 6, "last": 3},
    ),
    "diffusion": Stranger(  # half of the groups of each norm: a norm over groups keeps those whole of which one channel lives
        pictures.Diffusion, [PICTURE, (1,)], ((16, 24), (10, 14), (18, 8)),
        {"embed1": 6, "embed2": 7, "enter": 4, "block1.conv1": 8, "block1.time": 8, "block1.conv2": 8, "block1.skip": 8,
         "down": 6, "block2.conv1": 8, "block2.time": 8, "block2.conv2": 8, "block2.skip": 8, "up": 12, "block3.conv1": 9,
         "block3.time": 9, "block3.conv2": 12, "block3.skip": 12, "leave": 3},
        {"embed1": range(5), "embed2": range(6), "enter": range(4, 8), "block1.norm1": range(4, 8),
         **dict.fromkeys(("block1.conv1", "block1.time", "block1.norm2"), range(4)),
         **dict.fromkeys(("block1.conv2", "block1.skip"), range(4, 8)), **dict.fromkeys(("down", "block2.norm1"), (2, 3, 6, 7)),
         **dict.fromkeys(("block2.conv1", "block2.time", "block2.norm2"), (0, 1, 2, 3, 8, 9, 10, 11)),
         **dict.fromkeys(("block2.conv2", "block2.skip"), range(1, 16, 2)), "up": (4, 5, 6, 7, 16, 17, 18, 19),
         "block3.norm1": (4, 5, 6, 7, 16, 17, 18, 19, 24, 25, 26, 27),
         **dict.fromkeys(("block3.conv1", "block3.time", "block3.norm2"), (0, 1, 2, 9, 10, 11, 15, 16, 17)),
         **dict.fromkeys(("block3.conv2", "block3.skip", "norm"), range(6, 12))},
    ),
    "stylegan": Stranger(
        pictures.StyleGAN, [(2, 6)], (1, 2, 3),
        {"map1": 6, "map2": 5, "layer1.style": 10, "conv1": 4, "layer2.style": 8, "conv2": 4, "layer3.style": 8, "to_rgb": 3},
        {"map1": range(5), "map2": (1, 2, 6, 8), **dict.fromkeys(("constant", "layer1.strength", "layer1.bias"), range(0, 10, 2)),
         "layer1.style": _both(range(0, 10, 2), 10), **dict.fromkeys(("conv1", "layer2.strength", "layer2.bias"), (1, 3, 5, 7)),
         "layer2.style": _both((1, 3, 5, 7), 8), **dict.fromkeys(("conv2", "layer3.strength", "layer3.bias"), (0, 3, 6)),
         "layer3.style": _both((0, 3, 6), 7)},
        parameters={"constant": (1, 5, 4, 5), "layer1.strength": (1, 5, 1, 1), "layer2.bias": (4,), "layer3.bias": (4,)},
    ),
    "dcgan": Stranger(
        pictures.DCGAN, [(2, 7)], (1, 2, 3), {"project": 6 * 20, "up1": 5, "up2": 3, "up3": 3},
        {"project": [20 * c + i for c in (0, 1, 4, 7, 8, 11) for i in range(20)], "norm0": (0, 1, 4, 7, 8, 11),
         **dict.fromkeys(("up1", "norm1"), (2, 3, 5, 8)), **dict.fromkeys(("up2", "norm2"), (0, 4, 5))},
    ),
    "mobilenet v2": Stranger(
        sight.MobileNetV2, [PICTURE], SIZES,
        {"stem.0": 4, "first.0.0": 4, "first.1.0": 3, "blocks.0.expand.0": 7, "blocks.0.depthwise.0": 7, "blocks.0.project.0": 4,
         "blocks.1.expand.0": 9, "blocks.1.depthwise.0": 9, "blocks.1.project.0": 4, "blocks.2.expand.0": 8,
         "blocks.2.depthwise.0": 8, "blocks.2.project.0": 5, "blocks.3.expand.0": 10, "blocks.3.depthwise.0": 10,
         "blocks.3.project.0": 5, "last.0": 11, "classifier.1": 6},
    ),
    "mobilenet v3": Stranger(
        sight.MobileNetV3, [PICTURE], SIZES,
        {"stem.0": 3, "blocks.0.expand.0": 6, "blocks.0.depthwise.0": 6, "blocks.0.gate.fc1": 2, "blocks.0.gate.fc2": 6,
         "blocks.0.project.0": 4, "blocks.1.expand.0": 9, "blocks.1.depthwise.0": 9, "blocks.1.gate.fc1": 3,
         "blocks.1.gate.fc2": 9, "blocks.1.project.0": 4, "last.0": 7, "classifier.0": 8, "classifier.3": 7},
    ),
    "efficientnet": Stranger(
        sight.EfficientNet, [PICTURE], SIZES,
        {"stem.0": 3, "blocks.0.expand.0": 6, "blocks.0.depthwise.0": 6, "blocks.0.gate.fc1": 2, "blocks.0.gate.fc2": 6,
         "blocks.0.project.0": 5, "blocks.1.expand.0": 10, "blocks.1.depthwise.0": 10, "blocks.1.gate.fc1": 2,
         "blocks.1.gate.fc2": 10, "blocks.1.project.0": 5, "last.0": 7, "classifier": 7},
    ),
    "vgg16": Stranger(
        sight.VGG16, [(1, 3, 32, 48)], ((32, 48), (19, 29), (40, 33)),
        {"features.0": 2, "features.2": 3, "features.5": 3, "features.7": 4, "features.10": 4, "features.12": 5, "features.14": 5,
         "features.17": 6, "features.19": 6, "features.21": 7, "features.24": 7, "features.26": 8, "features.28": 9,
         "classifier.0": 10, "classifier.3": 8, "classifier.6": 6},
    ),
    # The stem's 12 and the first two of `down`'s 16 make up the first group that `keep` reads: 6 + 1 go there, 7 of the rest.
    "shufflenet v1": Stranger(
        sight.ShuffleNetV1, [PICTURE], SIZES,
        {"stem.0": 6, "down.reduce.0": 8, "down.depthwise.0": 8, "down.expand.0": 8, "keep.reduce.0": 4, "keep.depthwise.0": 4,
         "keep.expand.0": 14, "head": 5},
        _normed({"stem": (1, 3, 5, 6, 8, 10), "down.reduce": (0, 3, 5, 6, 8, 11, 13, 14),
                 "down.depthwise": (0, 1, 6, 7, 10, 11, 12, 13), "down.expand": (0, 3, 4, 7, 9, 10, 12, 15),
                 "keep.reduce": (1, 2, 5, 6), "keep.depthwise": (2, 3, 4, 5),
                 "keep.expand": (1, 3, 5, 6, 8, 10, 12, 15, 16, 19, 21, 22, 24, 27)}),
    ),
    # A column of the shuffle is channel j of both branches, and channels 2j and 2j + 1 of the next unit's branch.
    "shufflenet v2": Stranger(
        sight.ShuffleNetV2, [PICTURE], SIZES,
        {"stem.0": 3, "stage.0.one.0.0": 3, "stage.0.one.1.0": 4, "stage.0.two.0.0": 4, "stage.0.two.1.0": 4,
         "stage.0.two.2.0": 4, "stage.1.branch.0.0": 4, "stage.1.branch.1.0": 4, "stage.1.branch.2.0": 4, "last.0": 8, "head": 5},
        _normed({**dict.fromkeys(("stem", "stage.0.one.0"), (0, 2, 5)),
                 **dict.fromkeys(("stage.0.one.1", "stage.0.two.2"), (1, 2, 4, 7)),
                 **dict.fromkeys(("stage.0.two.0", "stage.0.two.1"), (0, 3, 5, 6)), "stage.1.branch.2": (2, 3, 4, 5),
                 **dict.fromkeys(("stage.1.branch.0", "stage.1.branch.1"), (1, 4, 6, 7)), "last": range(0, 14, 2)}),
    ),
    "densenet": Stranger(
        sight.DenseNet, [PICTURE], SIZES,
        {"stem.0": 4, "a.conv1": 5, "a.conv2": 2, "b.conv1": 4, "b.conv2": 3, "c.conv1": 5, "c.conv2": 3, "transition": 6,
         "d.conv1": 7, "d.conv2": 2, "classifier": 8},
    ),
    "hrnet": Stranger(
        sight.HRNet, [PICTURE], SIZES,
        {"stem.0": 3, "split.0.0": 3, "split.1.0": 5, "third.0": 7, "up.01.0": 3, "up.02.0": 3, "up.12.0": 5, "down.10.0": 5,
         "down.21.0": 7, "down20.0.0": 4, "down20.1.0": 7, "head.0.0": 8, "head.1": 2},
    ),
    "ghostnet": Stranger(
        sight.GhostNet, [PICTURE], SIZES,
        {"stem.0": 3, "blocks.0.ghost1.primary.0": 4, "blocks.0.ghost1.cheap.0": 4, "blocks.0.depthwise.0": 8,
         "blocks.0.gate.fc1": 3, "blocks.0.gate.fc2": 8, "blocks.0.ghost2.primary.0": 3, "blocks.0.ghost2.cheap.0": 3,
         "blocks.0.shortcut.0.0": 3, "blocks.0.shortcut.1.0": 6, "blocks.1.ghost1.primary.0": 5, "blocks.1.ghost1.cheap.0": 5,
         "blocks.1.gate.fc1": 2, "blocks.1.gate.fc2": 10, "blocks.1.ghost2.primary.0": 3, "blocks.1.ghost2.cheap.0": 3,
         "head": 2},
    ),
    "resnet": Stranger(
        sight.ResNet, [PICTURE], SIZES,
        {"stem.0.0": 5, "layer1.0.conv1.0": 2, "layer1.0.conv2.0": 3, "layer1.0.conv3.0": 7, "layer1.0.downsample.0": 7,
         "layer1.1.conv1.0": 3, "layer1.1.conv2.0": 4, "layer1.1.conv3.0": 7, "layer2.conv1.0": 5, "layer2.conv2.0": 4,
         "layer2.conv3.0": 9, "layer2.downsample.0": 9, "fc": 6},
    ),
    "resnext": Stranger(  # four groups, of 3, 5, 4, 6, 7 and 8: 1, 2, 2, 3, 3 and 4 go from each
        partial(sight.ResNet, groups=4), [PICTURE], SIZES,
        {"stem.0.0": 5, "layer1.0.conv1.0": 8, "layer1.0.conv2.0": 12, "layer1.0.conv3.0": 7, "layer1.0.downsample.0": 7,
         "layer1.1.conv1.0": 8, "layer1.1.conv2.0": 12, "layer1.1.conv3.0": 7, "layer2.conv1.0": 16, "layer2.conv2.0": 16,
         "layer2.conv3.0": 9, "layer2.downsample.0": 9, "fc": 6},
    ),
    "convnext": Stranger(
        sight.ConvNeXt, [PICTURE], SIZES,
        {"stem.0": 6, "stage1.depthwise": 6, "stage1.wide": 9, "stage1.narrow": 6, "down.1": 10, "stage2.depthwise": 10,
         "stage2.wide": 12, "stage2.narrow": 10, "head": 5},
        stays={"stem.0": "over channels counts them", "down.1": "layer_norm mixes its channels"},
    ),
    "inception": Stranger(
        sight.Inception, [PICTURE], SIZES,
        {"stem.0": 4, "one.0": 3, "five.0.0": 2, "five.1.0": 3, "long.0": 4, "wide.0": 5, "high.0": 2, "pooled.0": 5, "head": 4},
    ),
    "sknet": Stranger(
        sight.SKNet, [PICTURE], SIZES,
        {"stem.0": 3, "unit.convs.0.0": 6, "unit.convs.1.0": 6, "unit.fc": 3, "unit.fcs.0": 6, "unit.fcs.1": 6, "last.0": 5,
         "head": 4},
    ),
    "wavenet": Stranger(
        further.WaveNet, [(1, 1, 40)], ((40,), (37,), (64,)),
        {"enter": 3, "blocks.0.both": 2 * 4, "blocks.0.on": 3, "blocks.0.skip": 5, "blocks.1.both": 2 * 4, "blocks.1.on": 3,
         "blocks.1.skip": 5, "blocks.2.both": 2 * 3, "blocks.2.on": 3, "blocks.2.skip": 5, "end": 5, "leave": 4},
    ),
    "vnet": Stranger(  # the input lives in each channel that `enter` adds to
        further.VNet, [(1, 1, 6, 8, 10)], ((6, 8, 10), (8, 6, 4), (4, 10, 8)),
        {"enter": 6, "down": 5, "inner.0": 4, "inner.2": 5, "up": 4, "merge": 5, "leave": 2},
    ),
    "nafnet": Stranger(
        further.NAFNet, [PICTURE], ((16, 24), (10, 14), (18, 8)),
        {"intro": 6, "block1.conv1": 2 * 4, "block1.conv2": 2 * 4, "block1.attend": 4, "block1.conv3": 6, "block1.conv4": 2 * 5,
         "block1.conv5": 6, "down": 10, "block2.conv1": 2 * 4, "block2.conv2": 2 * 4, "block2.attend": 4, "block2.conv3": 10,
         "block2.conv4": 2 * 6, "block2.conv5": 10, "up.0": 24, "ending": 3},
        stays={"intro": "over channels counts them", "down": "over channels counts them"},
    ),
    "imdn": Stranger(
        further.IMDN, [SMALL], UPSCALED, {"first": 4, "c1": 12, "c2": 12, "c3": 2, "fuse": 4, "up.0": 12},
        stays=dict.fromkeys(("c1[0:3]", "c1[3:12]", "c2[0:3]", "c2[3:12]"), "split_sizes=[3, 9]"),
    ),
    "stylegan 2": Stranger(
        further.StyleGAN2, [(2, 6)], (2, 1, 3),
        {"map1": 6, "map2": 5, "conv1.style": 10, "plain": 6, "middle": 7, "conv2.style": 7, "to_rgb": 3},
        stays={"conv1.style": "sum over channels", "middle": "computes its own weights", "conv2.style": "sum over channels"},
    ),
}  # fmt: skip
