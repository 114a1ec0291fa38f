"""Whole networks with half of their channels zeroed, and the ways of wiring that break naive pruners. Widths counted by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels.graph import trace
from compress.channels.strip import strip
from compress.networks.johnson import Johnson
from compress.networks.load import open_network
from tests.strip_cases import gap, make_constant_, randomise_, stripped_to


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 5},
        {"widths": [6, 10, 14], "hidden": 9, "norm": "batch", "blocks": 2},
        {"widths": [5, 9, 12], "hidden": 7, "upsampling": "transposed", "blocks": 1},
        {"width": 4, "norm": "batch", "upsampling": "transposed", "blocks": 0},
    ],
    ids=str,
)
def test_johnson(arguments: dict[str, object]) -> None:
    """Zero every second channel of every space: exactly these go, and the prediction was right."""
    net = randomise_(Johnson(**arguments))
    example = torch.rand(1, 3, 24, 20, dtype=torch.float64)
    graph = trace(net, [example])
    widths = {space.name: space.width for space in graph.spaces if space.prunable}
    blocks = int(arguments.get("blocks", 5))
    assert len(widths) == 5 + blocks  # down1..3 (the third is the trunk's), one inside each block, up1, up2
    graph.zero_(net, {name: range(1, width, 2) for name, width in widths.items()})
    predicted = graph.predict({name: width // 2 for name, width in widths.items()})
    done = stripped_to(net, {name: width - width // 2 for name, width in widths.items()}, example.shape, [(24, 20), (19, 23)])
    assert sum(p.numel() for p in done.module.parameters()) == predicted.parameters == done.report.after.parameters
    assert predicted.macs == done.report.after.macs == trace(done.module, [example]).predict({}).macs


class UNet(nn.Module):
    """Two levels, skips by cat; strides down, transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 7, 3, padding=1)
        self.down = nn.Conv2d(7, 10, 4, 2, 1)
        self.deep = nn.Conv2d(10, 16, 4, 2, 1)
        self.up1 = nn.ConvTranspose2d(16, 11, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(11 + 10, 6, 4, 2, 1)
        self.leave = nn.Conv2d(6 + 7, 2, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.enter(x), 0.2)
        b = F.leaky_relu(self.norm(self.down(a)), 0.2)
        c = F.leaky_relu(self.deep(b), 0.2)
        d = torch.cat([F.relu(self.up1(c)), b], 1)
        return torch.tanh(self.leave(torch.cat([F.relu(self.up2(d)), a], 1)))


def test_unet() -> None:
    """Zeroed channels go from both sides of each cat."""
    net = randomise_(UNet())
    make_constant_(net.enter, [0, 3])
    make_constant_(net.deep, [1, 2, 15])
    with torch.no_grad():
        for name, channels in (("norm", [4, 9]),):
            getattr(net, name).weight[channels] = 0
            getattr(net, name).bias[channels] = 0
        net.up1.weight[:, [0, 10]] = 0
        net.up1.bias[[0, 10]] = 0
        net.up2.weight[:, 5] = 0
        net.up2.bias[5] = 0
    widths = {"enter": 5, "down": 8, "deep": 13, "up1": 9, "up2": 5}
    done = stripped_to(net, widths, (1, 3, 16, 24), [(16, 24), (12, 8), (20, 36)])
    assert done.module.up2.in_channels == 9 + 8
    sizes = {check.size for check in done.report.checks}
    assert len(sizes) == 3
    assert all(side % 4 == 0 for size in sizes for side in size)  # others it refuses


def test_constants_across_a_cat_share_a_carrier() -> None:
    """`up1` and the skip are read by one transposed convolution: their three constants need one carrier between them."""
    net = randomise_(UNet())
    make_constant_(net.down, [2], [0.5])  # constant behind the norm as well
    net.up1.weight.data[:, [3, 8]] = 0
    net.up1.bias.data[[3, 8]] = torch.tensor([0.6, 0.9], dtype=torch.float64)
    done = strip(net, [torch.rand(1, 3, 16, 24, dtype=torch.float64)])
    widths = {space.name: space.after for space in done.report.spaces}
    assert widths["down"] + widths["up1"] == 10 + 11 - 2  # and `deep`, which reads the skip too, needs the skip's own
    assert widths["down"] == 10
    assert gap(net, done.module, (1, 3, 20, 28)) <= 1e-12


class Upscaler(nn.Module):
    """ESPCN-like: a pixel shuffle in the middle, and one at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 3, padding=1)
        self.b = nn.Conv2d(5, 6 * 4, 3, padding=1, padding_mode="replicate")
        self.c = nn.Conv2d(6, 2 * 9, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(torch.tanh(self.b(torch.tanh(self.a(x)))), 2)
        return F.pixel_shuffle(self.c(x), 3)


def test_pixel_shuffle_goes_in_blocks() -> None:
    """Zeroing channels 8..11 of b kills channel 2 behind the shuffle; of 13..15 and of 16, only parts of 3 and 4: they stay."""
    net = randomise_(Upscaler())
    make_constant_(net.b, [8, 9, 10, 11, 13, 14, 15, 16])
    net.a.weight.data[1], net.a.bias.data[1] = 0, 0
    done = stripped_to(net, {"a": 4, "b": 5})
    assert done.module.b.out_channels == 20
    space = next(space for space in trace(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)]).spaces if space.name == "b")
    assert (space.width, tuple(space.writers[0].index.shape)) == (6, (6, 4))


class Gated(nn.Module):
    """A gated unit: halves of one convolution multiplied, one through a sigmoid."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a = nn.Conv2d(3, 14, 3)
        self.b = nn.Conv2d(7, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.how == "chunk":
            one, two = x.chunk(2, 1)
        elif self.how == "slice":
            one, two = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        else:
            one, two = torch.split(x, x.shape[1] // 2, 1)
        return self.b(one * torch.sigmoid(two))


@pytest.mark.parametrize("how", ["chunk", "slice", "split"])
def test_halves_go_together(how: str) -> None:
    """Channel 4 of the first half is zero, so the product is: 4 and 11 go. Channel 9 alone is 0.5 in the gate: 2 and 9 stay."""
    net = randomise_(Gated(how))
    make_constant_(net.a, [4, 9])
    done = stripped_to(net, {"a": 6})
    assert done.module.a.out_channels == 12


def test_halves_that_lead_apart_stay_equal() -> None:
    """Three channels of the first half and two of the second are zero: two of each go."""

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 14, 3)
            self.b, self.c = nn.Conv2d(7, 2, 3), nn.Conv2d(7, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            one, two = self.a(x).chunk(2, 1)
            return self.b(one)[:, :, 1:-1, 1:-1].mean((2, 3)) + self.c(two).amax((2, 3))

    net = randomise_(Apart())
    make_constant_(net.a, [0, 3, 5, 8, 13])
    graph = trace(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)])
    assert next((space.name, space.width, space.group) for space in graph.spaces) == ("a", 14, 2)
    stripped_to(net, {"a": 10})


class SqueezeExcite(nn.Module):
    """Inverted residual with a gate over channels, by linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.expand = nn.Conv2d(6, 15, 1, bias=False)
        self.expanded = nn.BatchNorm2d(15)
        self.depthwise = nn.Conv2d(15, 15, 5, 1, 2, groups=15, bias=False)
        self.depth = nn.BatchNorm2d(15)
        self.squeeze, self.excite = nn.Linear(15, 4), nn.Linear(4, 15)
        self.project = nn.Conv2d(15, 6, 1, bias=False)
        self.head = nn.Conv2d(6, 8, 1)
        self.classify = nn.Linear(8, 5)
        self.act = nn.Hardswish(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.act(self.expanded(self.expand(x)))
        y = self.act(self.depth(self.depthwise(y)))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1).flatten(1)))))
        y = y * gate.view(gate.shape[0], -1, 1, 1)
        x = x + self.project(y)
        return self.classify(F.adaptive_avg_pool2d(F.hardswish(self.head(x)), 1).flatten(1))


def test_squeeze_and_excite() -> None:
    """Zeroing a depthwise channel's norms kills the channel from expansion to projection, gate included."""
    net = randomise_(SqueezeExcite())
    with torch.no_grad():
        for norm in (net.expanded, net.depth):
            norm.weight[[1, 7, 8]] = 0
            norm.bias[[1, 7, 8]] = 0
        net.squeeze.weight[2], net.squeeze.bias[2] = 0, -1.0  # dead behind its ReLU
    make_constant_(net.head, [3], [2.0])  # a constant through hardswish and pooling, folded into the classifier
    done = stripped_to(net, {"expand": 12, "squeeze": 3, "head": 7})
    assert (done.module.excite.out_features, done.module.depthwise.groups) == (12, 12)


class Flat(nn.Module):
    """VGG-like: a fixed picture size, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(7, 5, 3, padding=1)
        self.c, self.d = nn.Linear(5 * 3 * 4, 11), nn.Linear(11, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.b(F.max_pool2d(F.relu(self.a(x)), 2))), 2)
        return self.d(F.relu(self.c(torch.flatten(x, 1))))


def test_flatten_repeats_channels() -> None:
    net = randomise_(Flat())
    make_constant_(net.a, [2, 3])
    make_constant_(net.b, [4, 1], [0.5, 0.75])
    make_constant_(net.c, [10], [1.5])
    done = stripped_to(net, {"a": 5, "b": 3, "c": 10}, sizes=[(12, 16)])
    assert done.module.c.in_features == 3 * 3 * 4
    assert {check.size for check in done.report.checks} == {(12, 16), (13, 17)}  # pooled to the same 3x4: it takes no other


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.c, self.d = nn.Conv2d(9, 6, 3, padding=1), nn.Conv2d(15, 2, 1)
        self.n = nn.BatchNorm2d(9)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.a(x))
        two = torch.cat([one, F.relu(self.b(one))], 1)
        three = torch.cat([two, F.relu(self.c(F.relu(self.n(two))))], 1)
        return self.d(three)


def test_dense_block() -> None:
    """A zero stays zero until a norm shifts it; the norm's 9 channels belong to two spaces."""
    net = randomise_(Dense())
    make_constant_(net.a, [0, 2])
    make_constant_(net.b, [3])
    with torch.no_grad():
        net.n.running_mean[[0, 8]] = 9.0  # relu(n(0)) is zero for these two, not for channel 2
    done = stripped_to(net, {"a": 4, "b": 3})
    assert done.module.n.num_features == 7
    # channel 2, not zero before a zero-padded convolution, would need a carrier: it is its own


class Shared(nn.Module):
    """One convolution called twice, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 7, 1)
        self.twice = nn.Conv2d(7, 7, 3, padding=1, padding_mode="reflect")
        self.one, self.two = nn.Conv2d(7, 4, 1), nn.Conv2d(7, 4, 1, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.twice(self.enter(x)))))
        return torch.cat([self.one(x), self.two(x.flip(3))], 1).mean((2, 3))


def test_shared_modules_and_tied_weights() -> None:
    """Zeros go; a constant that differs from call to call stays; tied weights stay tied."""
    net = randomise_(Shared())
    for conv in (net.enter, net.twice):
        make_constant_(conv, [1, 6])
    make_constant_(net.enter, [4], [0.5])
    make_constant_(net.twice, [4], [0.75])
    done = stripped_to(net, {"enter": 5})
    assert done.module.one.weight is done.module.two.weight
    make_constant_(net.enter, [4], [0.75])  # now it is the same in both calls, and can be folded once
    done = stripped_to(net, {"enter": 4})


class SharedHead(nn.Module):
    """One zero-padded convolution on two branches, as in siamese and recurrent networks and in detectors."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 9, 1), nn.Conv2d(3, 9, 1)
        self.head = nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.one(x))) - self.head(F.relu(self.two(x.flip(3))))


def test_one_channel_carries_the_constants_of_all_calls() -> None:
    """Of constants that are the same in every call one stays; others, and those of one call only, stay all."""
    net = randomise_(SharedHead())
    for conv in (net.one, net.two):
        make_constant_(conv, [0, 3, 5, 7, 8], [0.5, 0.25, 0.75, 0.125, -1.0])
    stripped_to(net, {"one": 5})
    make_constant_(net.two, [3, 5], [0.3, 0.6])  # not what they are in the other call
    stripped_to(net, {"one": 7})
    randomise_(net.two)  # constant in one call only: nothing goes, and what is constant there carries nothing
    stripped_to(net, {"one": 9})
    make_constant_(net.two, [0, 8], [0.5, -1.0])  # 0 carries itself alone
    stripped_to(net, {"one": 8})


class Casts(nn.Module):
    """A weight that follows the precision of what it meets; a layer in another precision by autocast, or not."""

    def __init__(self, low: bool = False) -> None:
        super().__init__()
        self.low = low
        self.enter, self.between, self.leave = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 7, 1), nn.Conv2d(12, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.ones(12, 7, 3, 3)), nn.Parameter(torch.ones(12))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.low):
            y = F.relu(self.between(F.relu(self.enter(x))))
        y = F.conv2d(y.to(x.dtype), self.weight.to(x.dtype).contiguous(), self.bias.type_as(x))
        return self.leave(F.relu(y))


def test_casts_of_weights() -> None:
    """A cast weight is that weight: zeros and constants go behind it and before it, and in layers under autocast."""
    net = randomise_(Casts())
    with torch.no_grad():
        net.weight[[1, 5, 8]], net.bias[[1, 5]] = 0, 0
    make_constant_(net.enter, [0, 4], [0.5, 0.0])
    make_constant_(net.between, [2, 3, 6], [0.25, 0.0, -1.0])
    stripped_to(net, {"enter": 7, "between": 4, "weight": 9})
    low = Casts(low=True)
    low.load_state_dict(net.float().state_dict())
    make_constant_(low.enter, [0])
    make_constant_(low.between, [2])
    report = strip(low.eval(), [torch.rand(1, 3, 12, 16)]).report
    assert {space.name: space.after for space in report.spaces} == {"enter": 7, "between": 4, "weight": 9, "leave": 2}
    assert (report.not_understood, report.uncounted) == ((), ())


class Equalised(nn.Module):
    """ProGAN's and StyleGAN's layers: weights, and biases, times numbers."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, rate: float = 0.25) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(outputs, inputs, kernel, kernel))
        self.bias, self.rate, self.fan = nn.Parameter(torch.ones(outputs)), rate, inputs * kernel**2

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.rate / self.fan**0.5
        return F.conv2d(x, weight, self.bias * self.rate, padding=self.weight.shape[-1] // 2)


def equalised(*dead: Sequence[int]) -> nn.Sequential:
    layers = Equalised(3, 9, 3), Equalised(9, 12, 3), Equalised(12, 7), Equalised(7, 2)
    net = randomise_(nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.ReLU(), layers[2], nn.Tanh(), layers[3]))
    with torch.no_grad():
        for layer, channels in zip(layers, dead, strict=False):
            layer.weight[list(channels)] = 0
            layer.bias[list(channels)] = torch.arange(len(channels), dtype=torch.float64)
    return net


def test_weights_times_numbers() -> None:
    """Zeros go (the first of each), constants into the bias, at its rate, or one carries them through zero padding."""
    stripped_to(equalised([1, 4, 8], [0, 3, 7], [2, 5]), {"0": 7, "2": 9, "4": 5})


def test_weights_that_are_computed_are_named() -> None:
    """Where the layers cannot be followed, the report does not say that all is alive."""
    net = equalised([1, 4, 8])
    net[0].rate = -0.25
    report = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)]).report
    assert report.removed == 0
    assert [text.partition(" (")[0] for text in report.not_understood] == ["conv2d with computed weights in 0"]


class Parameters(nn.Module):
    """Parameters and buffers used outside modules, layer scale and learned offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 7, 1), nn.Conv2d(7, 2, 3)
        self.scale, self.offset = nn.Parameter(torch.ones(7, 1, 1)), nn.Parameter(torch.zeros(7))
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.slope = nn.PReLU(7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a((x - self.mean) / 0.25) * self.scale + self.offset[None, :, None, None]
        return self.b(self.slope(x))


def test_parameters_outside_modules() -> None:
    """Zero scale leaves the offset: a constant, through the PReLU."""
    net = randomise_(Parameters())
    with torch.no_grad():
        net.scale[[2, 5]] = 0
        net.offset[5] = -1.5
    done = stripped_to(net, {"a": 5})
    assert done.module.scale.shape == (5, 1, 1)
    assert done.module.slope.num_parameters == 5
    assert done.module.mean.shape == (1, 3, 1, 1)


def test_zeroed_candy_is_the_same_network(data: Path) -> None:
    """Half of the channels of the real network, at random: 1e-5 of the output's range at three sizes, in float32."""
    net = open_network(next((data / "weights" / "johnson").glob("*candy*"))).module
    example = torch.randn(1, 3, 64, 64)
    graph = trace(net, [example])
    torch.manual_seed(0)
    widths = {space.name: space.width for space in graph.spaces if space.prunable}
    graph.zero_(net, {name: torch.randperm(width)[: width // 2].tolist() for name, width in widths.items()})
    done = stripped_to(net, {name: width // 2 for name, width in widths.items()}, (1, 3, 64, 64), [(64, 64), (39, 41), (67, 70)])
    assert max(check.gap for check in done.report.checks if check.dtype == "float32") <= 1e-5
    assert done.report.after.parameters == 424_899
