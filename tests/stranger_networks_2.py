"""Networks that see, written from their papers: narrow, but wired as published. Widths after a strip: stranger_cases.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int, act: nn.Module | None = None, **options: int) -> nn.Sequential:
    """Convolution without bias (`same` padding unless said), BatchNorm, activation."""
    padding = options.pop("padding", kernel // 2)
    layers = [nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False, **options), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([act] if act else []))


class Inverted(nn.Module):
    """MobileNetV2's block: widen, filter each channel by itself, narrow without activation; a skip where it fits."""

    def __init__(self, inputs: int, wide: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.skip = stride == 1 and inputs == outputs
        self.expand = conv_norm(inputs, wide, 1, nn.ReLU6(inplace=True))
        self.depthwise = conv_norm(wide, wide, 3, nn.ReLU6(inplace=True), stride=stride, groups=wide)
        self.project = conv_norm(wide, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


class MobileNetV2(nn.Module):
    """Sandler et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 7, 3, nn.ReLU6(inplace=True), stride=2)
        self.first = nn.Sequential(conv_norm(7, 7, 3, nn.ReLU6(inplace=True), groups=7), conv_norm(7, 5, 1))
        self.blocks = nn.Sequential(Inverted(5, 14, 8, 2), Inverted(8, 17, 8), Inverted(8, 16, 10, 2), Inverted(10, 19, 10))
        self.last = conv_norm(10, 21, 1, nn.ReLU6(inplace=True))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(21, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.blocks(self.first(self.stem(x)))).mean([2, 3]))


class Gate(nn.Module):
    """Squeeze-and-excitation by 1x1 convolutions."""

    def __init__(self, width: int, squeezed: int, inner: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.inner, self.gate = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1), inner, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.inner(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class Gated(nn.Module):
    """MobileNetV3's and EfficientNet's block: an inverted residual with a gate before it narrows."""

    def __init__(self, inputs: int, wide: int, outputs: int, squeezed: int, stride: int, kernel: int, kind: str) -> None:
        super().__init__()
        self.skip = stride == 1 and inputs == outputs
        act, gates = {"v3": (nn.Hardswish, (nn.ReLU(), nn.Hardsigmoid())), "swish": (nn.SiLU, (nn.SiLU(), nn.Sigmoid()))}[kind]
        self.expand = conv_norm(inputs, wide, 1, act(inplace=True))
        self.depthwise = conv_norm(wide, wide, kernel, act(inplace=True), stride=stride, groups=wide)
        self.gate = Gate(wide, squeezed, *gates)
        self.project = conv_norm(wide, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + y if self.skip else y


class MobileNetV3(nn.Module):
    """Howard et al. 2019: hardswish, gates, a classifier of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6, 3, nn.Hardswish(inplace=True), stride=2)
        self.blocks = nn.Sequential(Gated(6, 11, 8, 4, 2, 3, "v3"), Gated(8, 18, 8, 5, 1, 5, "v3"))
        self.last = conv_norm(8, 13, 1, nn.Hardswish(inplace=True))
        self.classifier = nn.Sequential(nn.Linear(13, 15), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(15, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(self.last(self.blocks(self.stem(x))), 1), 1))


class EfficientNet(nn.Module):
    """Tan and Le 2019: the same with swish and sigmoid gates."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 5, 3, nn.SiLU(inplace=True), stride=2)
        self.blocks = nn.Sequential(Gated(5, 12, 9, 3, 2, 3, "swish"), Gated(9, 20, 9, 4, 1, 5, "swish"))
        self.last = conv_norm(9, 14, 1, nn.SiLU(inplace=True))
        self.classifier = nn.Linear(14, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.last(self.blocks(self.stem(x))).mean((2, 3)))


class VGG16(nn.Module):
    """Simonyan and Zisserman 2015: thirteen convolutions, flattened into three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers, last = [], 3
        for width in (4, 5, "pool", 6, 7, "pool", 8, 9, 10, "pool", 11, 12, 13, "pool", 14, 15, 17, "pool"):
            if width == "pool":
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            else:
                layers += [nn.Conv2d(last, int(width), 3, padding=1), nn.ReLU(inplace=True)]
                last = int(width)
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 3))
        self.classifier = nn.Sequential(
            nn.Linear(17 * 2 * 3, 20),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(20, 16),
            nn.ReLU(True),
            nn.Dropout(),
            nn.Linear(16, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: side by side becomes in turns."""
    b, c, h, w = x.size()
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


class ShuffleUnit1(nn.Module):
    """Grouped 1x1, shuffle, depthwise, grouped 1x1; added to its input, or laid beside the pooled input when it strides."""

    def __init__(self, inputs: int, hidden: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        self.reduce = conv_norm(inputs, hidden, 1, nn.ReLU(), groups=groups)
        self.depthwise = conv_norm(hidden, hidden, 3, stride=stride, groups=hidden)
        self.expand = conv_norm(hidden, outputs - inputs if stride > 1 else outputs, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(shuffled(self.reduce(x), self.groups)))
        return F.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1) if self.stride > 1 else x + y)


class ShuffleNetV1(nn.Module):
    """Zhang et al. 2018, two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 12, 3, nn.ReLU(), stride=2)
        self.down, self.keep = ShuffleUnit1(12, 16, 28, 2, 2), ShuffleUnit1(28, 8, 28, 2, 1)
        self.head = nn.Linear(28, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.keep(self.down(self.stem(x))).mean((2, 3)))


class ShuffleUnit2(nn.Module):
    """Half of the channels pass by, the other half is worked on; both are shuffled together."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(half, half, 1, nn.ReLU(inplace=True)), conv_norm(half, half, 3, groups=half),
            conv_norm(half, half, 1, nn.ReLU(inplace=True)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        return shuffled(torch.cat((one, self.branch(two)), dim=1), 2)


class ShuffleDown2(nn.Module):
    def __init__(self, inputs: int, half: int) -> None:
        super().__init__()
        self.one = nn.Sequential(
            conv_norm(inputs, inputs, 3, stride=2, groups=inputs), conv_norm(inputs, half, 1, nn.ReLU(inplace=True))
        )
        self.two = nn.Sequential(
            conv_norm(inputs, half, 1, nn.ReLU(inplace=True)), conv_norm(half, half, 3, stride=2, groups=half),
            conv_norm(half, half, 1, nn.ReLU(inplace=True)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(torch.cat((self.one(x), self.two(x)), dim=1), 2)


class ShuffleNetV2(nn.Module):
    """Ma et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6, 3, nn.ReLU(inplace=True), stride=2)
        self.stage = nn.Sequential(ShuffleDown2(6, 8), ShuffleUnit2(8))
        self.last, self.head = conv_norm(16, 15, 1, nn.ReLU(inplace=True)), nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.stage(self.stem(x))).mean([2, 3]))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, squeezed: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, squeezed, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(squeezed), nn.Conv2d(squeezed, growth, 3, padding=1, bias=False)

    def forward(self, found: Sequence[Tensor]) -> Tensor:
        y = self.conv1(F.relu(self.norm1(torch.cat(list(found), 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseNet(nn.Module):
    """Huang et al. 2017: every layer reads all before it, through a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 7, 3, nn.ReLU(), stride=2)
        self.a, self.b, self.c = DenseLayer(7, 9, 4), DenseLayer(11, 8, 5), DenseLayer(16, 10, 6)
        self.norm, self.transition = nn.BatchNorm2d(22), nn.Conv2d(22, 12, 1, bias=False)
        self.d, self.last = DenseLayer(12, 13, 3), nn.BatchNorm2d(15)
        self.classifier = nn.Linear(15, 8)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in (self.a, self.b, self.c):
            found.append(layer(found))
        x = F.avg_pool2d(self.transition(F.relu(self.norm(torch.cat(found, 1)))), 2)
        x = F.relu(self.last(torch.cat([x, self.d([x])], 1)))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class HRNet(nn.Module):
    """Sun et al. 2019: three resolutions side by side, each the sum of all, at last laid beside one another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6, 3, nn.ReLU())
        self.split = nn.ModuleList([conv_norm(6, 5, 3, nn.ReLU()), conv_norm(6, 9, 3, nn.ReLU(), stride=2)])
        self.third = conv_norm(9, 13, 3, nn.ReLU(), stride=2)
        self.up = nn.ModuleDict({"01": conv_norm(9, 5, 1), "02": conv_norm(13, 5, 1), "12": conv_norm(13, 9, 1)})
        self.down = nn.ModuleDict({"10": conv_norm(5, 9, 3, stride=2), "21": conv_norm(9, 13, 3, stride=2)})
        self.down20 = nn.Sequential(conv_norm(5, 7, 3, nn.ReLU(), stride=2), conv_norm(7, 13, 3, stride=2))
        self.head = nn.Sequential(conv_norm(27, 16, 1, nn.ReLU()), nn.Conv2d(16, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        def to(y: Tensor, like: Tensor) -> Tensor:
            return F.interpolate(y, size=like.shape[-2:], mode="bilinear", align_corners=True)

        x = self.stem(x)
        a, b = (branch(x) for branch in self.split)
        c = self.third(b)
        fused = [
            F.relu(a + to(self.up["01"](b), a) + to(self.up["02"](c), a)),
            F.relu(self.down["10"](a) + b + to(self.up["12"](c), b)),
            F.relu(self.down20(a) + self.down["21"](b) + c),
        ]
        return self.head(torch.cat([to(y, fused[0]) for y in fused], 1))


class Ghost(nn.Module):
    """Half of the channels by a convolution, their ghosts by cheap depthwise ones; cut to the width wanted, as published."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.outputs, own = outputs, -(-outputs // 2)
        self.primary = conv_norm(inputs, own, 1, nn.ReLU(inplace=True) if relu else None)
        self.cheap = conv_norm(own, own, 3, nn.ReLU(inplace=True) if relu else None, groups=own)

    def forward(self, x: Tensor) -> Tensor:
        one = self.primary(x)
        return torch.cat([one, self.cheap(one)], dim=1)[:, : self.outputs, :, :]


class GhostBottleneck(nn.Module):
    def __init__(self, inputs: int, wide: int, outputs: int, squeezed: int, stride: int) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = Ghost(inputs, wide), Ghost(wide, outputs, relu=False)
        self.depthwise = conv_norm(wide, wide, 3, stride=stride, groups=wide) if stride > 1 else None
        self.gate = Gate(wide, squeezed, nn.ReLU(), nn.Hardsigmoid())
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv_norm(inputs, inputs, 3, stride=stride, groups=inputs), conv_norm(inputs, outputs, 1)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        y = self.gate(self.depthwise(y) if self.depthwise else y)
        return self.ghost2(y) + (self.shortcut(x) if self.shortcut else x)


class GhostNet(nn.Module):
    """Han et al. 2020. `last`: width of the last bottleneck; an odd one loses a ghost to the cut."""

    def __init__(self, last: int = 12) -> None:
        super().__init__()
        self.stem = conv_norm(3, 6, 3, nn.ReLU(), stride=2)
        self.blocks = nn.Sequential(GhostBottleneck(6, 14, last, 5, 2), GhostBottleneck(last, 18, last, 4, 1))
        self.head = nn.Conv2d(last, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class ResidualBottleneck(nn.Module):
    """1x1, 3x3 (perhaps in groups), 1x1, and a projected shortcut where shapes change."""

    def __init__(self, inputs: int, middle: tuple[int, int], outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_norm(inputs, middle[0], 1, nn.ReLU(inplace=True))
        self.conv2 = conv_norm(middle[0], middle[1], 3, nn.ReLU(inplace=True), stride=stride, groups=groups)
        self.conv3 = conv_norm(middle[1], outputs, 1)
        self.downsample = conv_norm(inputs, outputs, 1, stride=stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv3(self.conv2(self.conv1(x))) + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    """He et al. 2016, bottlenecks. With `groups` ResNeXt (Xie et al. 2017)."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        middles = [(4, 5), (6, 7), (9, 8)] if groups == 1 else [(12, 20), (16, 24), (28, 32)]
        self.stem = nn.Sequential(conv_norm(3, 10, 7, nn.ReLU(inplace=True), stride=2), nn.MaxPool2d(3, 2, 1))
        self.layer1 = nn.Sequential(
            ResidualBottleneck(10, middles[0], 13, 1, groups), ResidualBottleneck(13, middles[1], 13, 1, groups)
        )
        self.layer2 = ResidualBottleneck(13, middles[2], 17, 2, groups)
        self.fc = nn.Linear(17, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layer2(self.layer1(self.stem(x))), (1, 1)), 1))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of every pixel, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.wide, self.narrow = nn.Linear(width, wide), nn.Linear(wide, width)
        self.gamma = nn.Parameter(1e-1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Liu et al. 2022: every wide space can shrink; what a norm over channels reads cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 4, 4), ChannelNorm(6))
        self.stage1 = ConvNeXtBlock(6, 17)
        self.down = nn.Sequential(ChannelNorm(6), nn.Conv2d(6, 10, 2, 2))
        self.stage2, self.norm, self.head = ConvNeXtBlock(10, 23), nn.LayerNorm(10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stage2(self.down(self.stage1(self.stem(x)))).mean([-2, -1])))


class Inception(nn.Module):
    """Szegedy et al. 2016: four branches of different depth, one of them split once more, laid beside one another."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.ReLU(inplace=True)
        self.stem = conv_norm(3, 7, 3, act, padding=0)
        self.one = conv_norm(7, 5, 1, act)
        self.five = nn.Sequential(conv_norm(7, 4, 1, act), conv_norm(4, 6, 5, act))
        self.long = conv_norm(7, 8, 1, act)
        self.wide = nn.Sequential(nn.Conv2d(8, 9, (1, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(9), act)
        self.high = nn.Sequential(nn.Conv2d(8, 3, (3, 1), padding=(1, 0), bias=False), nn.BatchNorm2d(3), act)
        self.pooled = conv_norm(7, 10, 1, act)
        self.head = nn.Linear(5 + 6 + 9 + 3 + 10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), kernel_size=3, stride=2)
        y = self.long(x)
        branches = [self.one(x), self.five(x), torch.cat([self.wide(y), self.high(y)], 1)]
        branches.append(self.pooled(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)))
        return self.head(F.dropout(F.adaptive_avg_pool2d(torch.cat(branches, 1), 1), training=self.training).flatten(1))


class SKUnit(nn.Module):
    """Selective kernels (Li et al. 2019): two branches, weighed against each other channel by channel by a softmax."""

    def __init__(self, inputs: int, width: int, squeezed: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv_norm(inputs, width, 3, nn.ReLU(), padding=n, dilation=n) for n in (1, 2))
        self.fc, self.fcs = nn.Linear(width, squeezed), nn.ModuleList(nn.Linear(squeezed, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.stack([conv(x) for conv in self.convs], dim=1)
        z = F.relu(self.fc(found.sum(dim=1).mean(-1).mean(-1)))
        weights = torch.softmax(torch.cat([fc(z).unsqueeze(1) for fc in self.fcs], dim=1), dim=1)
        return (found * weights.unsqueeze(-1).unsqueeze(-1)).sum(dim=1)


class SKNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unit = conv_norm(3, 6, 3, nn.ReLU(), stride=2), SKUnit(6, 11, 5)
        self.last, self.head = conv_norm(11, 9, 1, nn.ReLU()), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.unit(self.stem(x))).mean((2, 3)))
