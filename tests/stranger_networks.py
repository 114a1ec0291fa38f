"""Networks that make pictures, written from their papers: narrow, but wired as published, baked-in habits included.

No two widths are equal, so that a swapped axis shows. What is left of each after a strip is counted by hand in stranger_cases.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Wrap = Callable[[nn.Module], nn.Module]


class Bottleneck(nn.Module):
    """MSG-Net's pre-activated residual unit: norms before convolutions; `scale` 2 goes up, `stride` 2 down."""

    def __init__(self, inputs: int, middle: Sequence[int], outputs: int, stride: int = 1, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.norm1, self.norm2, self.norm3 = (nn.InstanceNorm2d(n) for n in (inputs, *middle))
        self.conv1 = nn.Conv2d(inputs, middle[0], 1)
        self.conv2 = nn.Conv2d(middle[0], middle[1], 3, stride, 1, padding_mode="reflect")
        self.conv3 = nn.Conv2d(middle[1], outputs, 1)
        self.residual = nn.Conv2d(inputs, outputs, 1, stride)

    def up(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale) if self.scale > 1 else x

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        y = self.conv2(self.up(F.relu(self.norm2(y))))
        return self.residual(self.up(x)) + self.conv3(F.relu(self.norm3(y)))


class MSGNet(nn.Module):
    """Multi-style generative network (Zhang and Dana 2017): the style's Gram matrix transforms the features (CoMatch)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 7, padding=3, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(6)
        self.down1 = Bottleneck(6, (4, 5), 11, stride=2)
        self.down2 = Bottleneck(11, (7, 8), 10, stride=2)
        self.inspiration = nn.Parameter(torch.eye(10)[None])
        self.up1 = Bottleneck(10, (9, 12), 13, scale=2)
        self.up2 = Bottleneck(13, (14, 15), 16, scale=2)
        self.last = nn.InstanceNorm2d(16)
        self.leave = nn.Conv2d(16, 3, 7, padding=3, padding_mode="reflect")

    def encode(self, x: Tensor) -> Tensor:
        return self.down2(self.down1(F.relu(self.norm(self.enter(x)))))

    def forward(self, picture: Tensor, style: Tensor) -> Tensor:
        x = self.encode(picture)
        b, c, h, w = x.shape
        flat = self.encode(style).view(b, c, -1)
        gram = torch.bmm(flat, flat.transpose(1, 2)) / (c * flat.shape[2])
        match = torch.bmm(self.inspiration.expand_as(gram), gram)
        x = torch.bmm(match.transpose(1, 2), x.view(b, c, -1)).view(b, c, h, w)
        return self.leave(F.relu(self.last(self.up2(self.up1(x)))))


def mean_and_std(x: Tensor) -> tuple[Tensor, Tensor]:
    """Over space, as the public code writes it."""
    n, c = x.size()[:2]
    std = (x.view(n, c, -1).var(dim=2) + 1e-5).sqrt().view(n, c, 1, 1)
    return x.view(n, c, -1).mean(dim=2).view(n, c, 1, 1), std


class AdaIN(nn.Module):
    """Huang and Belongie 2017: one encoder for both pictures; the content's statistics become the style's; a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 3, 1), nn.ReflectionPad2d(1), nn.Conv2d(3, 7, 3), nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True), nn.ReflectionPad2d(1), nn.Conv2d(7, 10, 3), nn.ReLU(),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.Upsample(scale_factor=2),
            nn.ReflectionPad2d(1), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(4, 3, 3),
        )  # fmt: skip

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        x, y = self.encoder(content), self.encoder(style)
        (mean, std), (wanted_mean, wanted_std) = mean_and_std(x), mean_and_std(y)
        moved = (x - mean.expand(x.size())) / std.expand(x.size()) * wanted_std.expand(x.size()) + wanted_mean.expand(x.size())
        return self.decoder(0.8 * moved + 0.2 * x)


class StyledNorm(nn.Module):
    """AdaIN whose scale and shift a linear layer makes of the style code (StarGAN v2)."""

    def __init__(self, code: int, width: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width)
        self.fc = nn.Linear(code, width * 2)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        h = self.fc(code)
        gamma, beta = torch.chunk(h.view(h.size(0), h.size(1), 1, 1), chunks=2, dim=1)
        return (1 + gamma) * self.norm(x) + beta


class StyledBlock(nn.Module):
    def __init__(self, code: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = StyledNorm(code, inputs), StyledNorm(code, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        y = self.conv1(F.interpolate(F.leaky_relu(self.norm1(x, code), 0.2), scale_factor=2, mode="nearest"))
        y = self.conv2(F.leaky_relu(self.norm2(y, code), 0.2))
        return (y + self.shortcut(F.interpolate(x, scale_factor=2, mode="nearest"))) / math.sqrt(2)


class StarGAN2(nn.Module):
    """Choi et al. 2020, and MUNIT's idea: a residual generator between InstanceNorm on the way down and AdaIN on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.norm1, self.norm2 = nn.InstanceNorm2d(6, affine=True), nn.InstanceNorm2d(6, affine=True)
        self.conv1, self.conv2 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(6, 8, 1, bias=False)
        self.up = StyledBlock(5, 8, 10)
        self.last = nn.InstanceNorm2d(10, affine=True)
        self.leave = nn.Conv2d(10, 3, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        x = self.enter(x)
        y = F.avg_pool2d(self.conv1(F.leaky_relu(self.norm1(x), 0.2)), 2)
        y = self.conv2(F.leaky_relu(self.norm2(y), 0.2))
        x = (F.avg_pool2d(self.shortcut(x), 2) + y) / math.sqrt(2)
        return self.leave(F.leaky_relu(self.last(self.up(x, code)), 0.2))


class CycleGANBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(width, hidden, 3), nn.InstanceNorm2d(hidden), nn.ReLU(True), nn.Dropout(0.5),
            nn.ReflectionPad2d(1), nn.Conv2d(hidden, width, 3), nn.InstanceNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class CycleGAN(nn.Module):
    """Zhu et al. 2017: strided convolutions with zeros, reflected blocks, transposed convolutions; norms without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 6, 7), nn.InstanceNorm2d(6), nn.ReLU(True),
            nn.Conv2d(6, 9, 3, 2, 1), nn.InstanceNorm2d(9), nn.ReLU(True),
            nn.Conv2d(9, 12, 3, 2, 1), nn.InstanceNorm2d(12), nn.ReLU(True),
            CycleGANBlock(12, 11), CycleGANBlock(12, 13),
            nn.ConvTranspose2d(12, 8, 3, 2, 1, 1), nn.InstanceNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 5, 3, 2, 1, 1), nn.InstanceNorm2d(5), nn.ReLU(True),
            nn.ReflectionPad2d(3), nn.Conv2d(5, 3, 7), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class DoubleConv(nn.Sequential):
    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


class UNet(nn.Module):
    """Ronneberger et al. 2015, as people write it today: what went up is padded to the size of its skip, so any size goes."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down1, self.down2 = DoubleConv(3, 5, 6), DoubleConv(6, 7, 10), DoubleConv(10, 13, 15)
        self.up1, self.up2 = nn.ConvTranspose2d(15, 8, 2, 2), nn.ConvTranspose2d(11, 4, 2, 2)
        self.merge1, self.merge2 = DoubleConv(10 + 8, 12, 11), DoubleConv(6 + 4, 9, 14)
        self.leave = nn.Conv2d(14, 2, 1)

    @staticmethod
    def join(skip: Tensor, x: Tensor) -> Tensor:
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        return torch.cat([skip, F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.down1(F.max_pool2d(a, 2))
        c = self.down2(F.max_pool2d(b, 2))
        x = self.merge1(self.join(b, self.up1(c)))
        return self.leave(self.merge2(self.join(a, self.up2(x))))


class Pix2PixLevel(nn.Module):
    """One level around the next: its in-place LeakyReLU also changes the skip, as in the public code."""

    def __init__(self, outer: int, up: int, inner: int, inside: nn.Module | None, wide: int) -> None:
        super().__init__()
        down = [nn.LeakyReLU(0.2, True), nn.Conv2d(outer, inner, 4, 2, 1, bias=False)]
        back = [nn.ReLU(True), nn.ConvTranspose2d(wide, up, 4, 2, 1, bias=False), nn.BatchNorm2d(up)]
        middle = [nn.BatchNorm2d(inner), inside, *back, nn.Dropout(0.5)] if inside else back
        self.model = nn.Sequential(*down, *middle)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class Pix2Pix(nn.Module):
    """Isola et al. 2017: U-Net of nested levels, skips by cat, 4x4 convolutions with stride 2 all the way."""

    def __init__(self) -> None:
        super().__init__()
        innermost = Pix2PixLevel(9, 7, 11, None, 11)
        middle = Pix2PixLevel(6, 8, 9, innermost, 9 + 7)
        self.model = nn.Sequential(
            nn.Conv2d(3, 6, 4, 2, 1), middle, nn.ReLU(True), nn.ConvTranspose2d(6 + 8, 3, 4, 2, 1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ESPCN(nn.Module):
    """Shi et al. 2016: three convolutions on the small picture, then r * r channels become pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 9, 5, padding=2), nn.Conv2d(9, 5, 3, padding=1)
        self.conv3 = nn.Conv2d(5, 1 * 3**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pixel_shuffle(self.conv3(torch.tanh(self.conv2(torch.tanh(self.conv1(x))))))


class MeanShift(nn.Conv2d):
    """EDSR's way to subtract the mean colour: a 1x1 convolution that is never trained."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias.data = sign * torch.tensor([0.45, 0.44, 0.40])
        self.requires_grad_(False)


class EDSRBlock(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, hidden, 3, padding=1), nn.ReLU(True), nn.Conv2d(hidden, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mul(0.1) + x


class EDSR(nn.Module):
    """Lim et al. 2017: no norms, scaled residuals, one long skip, two convolutions each with a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
        self.body = nn.Sequential(EDSRBlock(8, 11), EDSRBlock(8, 9), nn.Conv2d(8, 8, 3, padding=1))
        self.tail = nn.Sequential(
            nn.Conv2d(8, 7 * 4, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(7, 5 * 4, 3, padding=1), nn.PixelShuffle(2),
            nn.Conv2d(5, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.body(x) + x))


class WDSR(nn.Module):
    """Yu et al. 2018 (WDSR-A): wide activations, weight normalisation on every convolution. `wrap`: which kind of it."""

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.head = wrap(nn.Conv2d(3, 6, 3, padding=1))
        self.wide1, self.narrow1 = wrap(nn.Conv2d(6, 16, 3, padding=1)), wrap(nn.Conv2d(16, 6, 3, padding=1))
        self.wide2, self.narrow2 = wrap(nn.Conv2d(6, 13, 3, padding=1)), wrap(nn.Conv2d(13, 6, 3, padding=1))
        self.tail, self.skip = wrap(nn.Conv2d(6, 12, 3, padding=1)), wrap(nn.Conv2d(3, 12, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.5
        y = self.head(x)
        y = y + self.narrow1(F.relu(self.wide1(y)))
        y = y + self.narrow2(F.relu(self.wide2(y)))
        return F.pixel_shuffle(self.tail(y) + self.skip(x), 2) * 0.5 + self.mean


class DenseBlock5(nn.Module):
    """ESRGAN's residual dense block: five convolutions, each reads all before it."""

    def __init__(self, width: int, growth: Sequence[int]) -> None:
        super().__init__()
        total = [width + sum(growth[:n]) for n in range(len(growth) + 1)]
        self.convs = nn.ModuleList(nn.Conv2d(total[n], g, 3, padding=1) for n, g in enumerate(growth))
        self.last = nn.Conv2d(total[-1], width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for conv in self.convs:
            found.append(F.leaky_relu(conv(torch.cat(found, 1)), 0.2))
        return self.last(torch.cat(found, 1)) * 0.2 + x


class RRDBNet(nn.Module):
    """ESRGAN (Wang et al. 2018): residual-in-residual dense blocks, nearest upsampling before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.block1, self.block2 = DenseBlock5(8, (4, 5, 3, 6)), DenseBlock5(8, (7, 2, 4, 3))
        self.up1, self.up2 = nn.Conv2d(8, 9, 3, padding=1), nn.Conv2d(9, 10, 3, padding=1)
        self.high, self.last = nn.Conv2d(10, 11, 3, padding=1), nn.Conv2d(11, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.body(self.block2(self.block1(x)) * 0.2 + x)
        x = F.leaky_relu(self.up1(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        x = F.leaky_relu(self.up2(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.high(x), 0.2))


class TimedBlock(nn.Module):
    """A diffusion network's residual block: GroupNorm, SiLU, and the time added to every pixel between two convolutions."""

    def __init__(self, time: int, inputs: int, outputs: int, groups: tuple[int, int]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups[0], inputs), nn.GroupNorm(groups[1], outputs)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class Diffusion(nn.Module):
    """The U-Net of denoising diffusion (Ho et al. 2020), without attention: the step's sinusoids enter every block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed1, self.embed2 = nn.Linear(6, 11), nn.Linear(11, 13)
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.block1, self.down = TimedBlock(13, 8, 12, (2, 3)), nn.Conv2d(12, 10, 3, 2, 1)
        self.block2 = TimedBlock(13, 10, 16, (5, 4))
        self.up = nn.Conv2d(16, 20, 3, padding=1)
        self.block3 = TimedBlock(13, 20 + 12, 18, (8, 6))
        self.norm, self.leave = nn.GroupNorm(3, 18), nn.Conv2d(18, 3, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        angles = step[:, None] * torch.exp(-math.log(1e4) * torch.arange(3, dtype=step.dtype) / 3)[None]
        time = self.embed2(F.silu(self.embed1(torch.cat([angles.sin(), angles.cos()], dim=-1))))
        a = self.block1(self.enter(x), time)
        b = self.block2(self.down(a), time)
        b = self.up(F.interpolate(b, scale_factor=2, mode="nearest"))
        return self.leave(F.silu(self.norm(self.block3(torch.cat([b, a], dim=1), time))))


class StyledLayer(nn.Module):
    """Noise with a learned strength a channel, bias, LeakyReLU, norm, and the style's scale and shift, in StyleGAN's order."""

    def __init__(self, code: int, width: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.strength, self.bias = nn.Parameter(torch.ones(1, width, 1, 1)), nn.Parameter(torch.zeros(width))
        self.register_buffer("noise", torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1)))
        self.norm, self.style = nn.InstanceNorm2d(width), nn.Linear(code, 2 * width)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        x = F.leaky_relu(x + self.strength * self.noise + self.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)
        style = self.style(code).view(-1, 2, x.size(1), 1, 1)
        return self.norm(x) * (style[:, 0] + 1.0) + style[:, 1]


class StyleGAN(nn.Module):
    """Karras et al. 2019: a learned constant instead of an input picture; a mapped code styles every layer; a fixed blur."""

    def __init__(self) -> None:
        super().__init__()
        self.map1, self.map2 = nn.Linear(6, 11), nn.Linear(11, 9)
        self.constant = nn.Parameter(torch.ones(1, 10, 4, 5))
        self.layer1, self.layer2 = StyledLayer(9, 10, (4, 5)), StyledLayer(9, 8, (8, 10))
        self.conv1, self.conv2 = nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 7, 3, padding=1)
        self.layer3, self.to_rgb = StyledLayer(9, 7, (8, 10)), nn.Conv2d(7, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        code = F.leaky_relu(self.map2(F.leaky_relu(self.map1(z), 0.2)), 0.2)
        x = self.layer1(self.constant.expand(z.size(0), -1, -1, -1), code)
        x = self.conv1(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        return self.to_rgb(self.layer3(self.conv2(self.layer2(x, code)), code))


class DCGAN(nn.Module):
    """Radford et al. 2016, with a linear layer whose rows become a small picture. `baked`: its width stands in the code."""

    def __init__(self, baked: bool = False) -> None:
        super().__init__()
        self.baked = baked
        self.project = nn.Linear(7, 12 * 4 * 5)
        self.norm0, self.norm1, self.norm2 = nn.BatchNorm2d(12), nn.BatchNorm2d(9), nn.BatchNorm2d(6)
        self.up1 = nn.ConvTranspose2d(12, 9, 4, 2, 1, bias=False)
        self.up2 = nn.ConvTranspose2d(9, 6, 4, 2, 1, bias=False)
        self.up3 = nn.ConvTranspose2d(6, 3, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.project(z).view(z.size(0), 12 if self.baked else -1, 4, 5)
        x = F.relu(self.norm1(self.up1(F.relu(self.norm0(x)))))
        return torch.tanh(self.up3(F.relu(self.norm2(self.up2(x)))))
