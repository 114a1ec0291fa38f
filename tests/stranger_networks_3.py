"""Further afield, written from their papers: sound, volumes, restoration, and habits of code that a strip must leave alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.stranger_networks_2 import ChannelNorm


class WaveBlock(nn.Module):
    """A causal, dilated convolution through tanh and a gate; what comes out goes on, and to the sum of all blocks."""

    def __init__(self, width: int, hidden: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.past = dilation
        self.both = nn.Conv1d(width, 2 * hidden, 2, dilation=dilation)
        self.on, self.skip = nn.Conv1d(hidden, width, 1), nn.Conv1d(hidden, skip, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        filtered, gate = self.both(F.pad(x, (self.past, 0))).chunk(2, dim=1)
        y = torch.tanh(filtered) * torch.sigmoid(gate)
        return x + self.on(y), self.skip(y)


class WaveNet(nn.Module):
    """Van den Oord et al. 2016: sound in, scores of the next sample out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, 6, 1)
        self.blocks = nn.ModuleList([WaveBlock(6, 7, 9, 1), WaveBlock(6, 8, 9, 2), WaveBlock(6, 5, 9, 4)])
        self.end, self.leave = nn.Conv1d(9, 10, 1), nn.Conv1d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.enter(x), torch.zeros(())
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.leave(F.relu(self.end(F.relu(total))))


class VNet(nn.Module):
    """Milletari et al. 2016: volumes. The input, laid over itself, is added to the first layer: its width stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.act = nn.Conv3d(1, 6, 3, padding=1), nn.BatchNorm3d(6), nn.PReLU(6)
        self.down, self.act1 = nn.Conv3d(6, 9, 2, 2), nn.PReLU(9)
        self.inner = nn.Sequential(nn.Conv3d(9, 8, 3, padding=1), nn.ELU(), nn.Conv3d(8, 9, 3, padding=1))
        self.up, self.act2 = nn.ConvTranspose3d(9, 7, 2, 2), nn.PReLU(7)
        self.merge, self.leave = nn.Conv3d(6 + 7, 10, 3, padding=1), nn.Conv3d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.act(self.norm(self.enter(x)) + x.repeat(1, 6, 1, 1, 1))
        b = self.act1(self.down(a))
        b = b + self.inner(b)
        x = torch.cat([self.act2(self.up(b)), a], 1)
        return self.leave(F.elu(self.merge(x)))


class NAFBlock(nn.Module):
    """Two residuals, each scaled by a learned number a channel; gates instead of activations."""

    def __init__(self, width: int, hidden: int, wide: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.conv1, self.conv2 = (
            nn.Conv2d(width, 2 * hidden, 1),
            nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden),
        )
        self.attend, self.conv3 = nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, width, 1)
        self.conv4, self.conv5 = nn.Conv2d(width, 2 * wide, 1), nn.Conv2d(wide, width, 1)
        self.beta, self.gamma = nn.Parameter(torch.ones(1, width, 1, 1)), nn.Parameter(torch.ones(1, width, 1, 1))

    @staticmethod
    def gate(x: Tensor) -> Tensor:
        one, two = x.chunk(2, dim=1)
        return one * two

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.conv3(y * self.attend(F.adaptive_avg_pool2d(y, 1))) * self.beta
        return x + self.conv5(self.gate(self.conv4(self.norm2(x)))) * self.gamma


class NAFNet(nn.Module):
    """Chen et al. 2022: restoration without activations; a norm over channels keeps each trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.intro, self.block1, self.down = nn.Conv2d(3, 6, 3, padding=1), NAFBlock(6, 7, 9), nn.Conv2d(6, 10, 2, 2)
        self.block2 = NAFBlock(10, 8, 11)
        self.up = nn.Sequential(nn.Conv2d(10, 24, 1, bias=False), nn.PixelShuffle(2))
        self.ending = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.intro(x)
        y = self.block1(y)
        return self.ending(self.up(self.block2(self.down(y))) + y) + x


class IMDN(nn.Module):
    """Hui et al. 2019: of 12 channels each step keeps 3 and works on 9; both numbers stand in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.c1, self.c2, self.c3 = (nn.Conv2d(n, out, 3, padding=1) for n, out in ((8, 12), (9, 12), (9, 3)))
        self.fuse, self.up = nn.Conv2d(9, 8, 1), nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        kept1, rest = torch.split(F.leaky_relu(self.c1(x), 0.05), (3, 9), dim=1)
        kept2, rest = torch.split(F.leaky_relu(self.c2(rest), 0.05), (3, 9), dim=1)
        return self.up(self.fuse(torch.cat([kept1, kept2, self.c3(rest)], dim=1)) + x)


class Modulated(nn.Module):
    """StyleGAN2's convolution: the style scales the weights, filters get length one, and groups stand for the batch."""

    def __init__(self, code: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.ones(1, outputs, inputs, 3, 3)), nn.Linear(code, inputs)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.weight * self.style(code).view(b, 1, c, 1, 1) / math.sqrt(9 * c)
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        return F.conv2d(x.reshape(1, b * c, h, w), weight.view(-1, c, 3, 3), padding=1, groups=b).view(b, -1, h, w)


class StyleGAN2(nn.Module):
    """Karras et al. 2020: modulated convolutions around a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.map1, self.map2 = nn.Linear(6, 11), nn.Linear(11, 9)
        self.constant = nn.Parameter(torch.ones(1, 10, 4, 5))
        self.conv1, self.plain, self.middle = Modulated(9, 10, 8), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 7, 1)
        self.conv2, self.to_rgb = Modulated(9, 7, 13), nn.Conv2d(13, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        code = F.leaky_relu(self.map2(F.leaky_relu(self.map1(z), 0.2)), 0.2)
        x = F.leaky_relu(self.conv1(self.constant.repeat(z.size(0), 1, 1, 1), code), 0.2)
        x = F.leaky_relu(self.middle(F.leaky_relu(self.plain(x), 0.2)), 0.2)
        return self.to_rgb(F.leaky_relu(self.conv2(x, code), 0.2))
