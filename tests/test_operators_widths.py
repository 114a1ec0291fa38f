"""What a strip may take behind every operator: widths counted by hand, the output to 1e-12 in float64 at three sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels.graph import trace
from compress.channels.strip import strip
from tests.strip_cases import make_constant_, randomise_, stripped_to

ZEROS = [1, 4, 9]  # of 12 channels
Between = Callable[["Middle", Tensor], Tensor]


class Middle(nn.Module):
    """conv(3 -> 12), what is to be tried, conv(width -> 2) with reflection padding, so that every constant can be folded."""

    def __init__(self, between: Between, width: int = 12) -> None:
        super().__init__()
        self.a, self.between = nn.Conv2d(3, 12, 3, padding=1), between
        self.b = nn.Conv2d(width, 2, 3, padding=1, padding_mode="reflect")
        self.group, self.matrix = nn.GroupNorm(4, 12), nn.Parameter(torch.rand(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def by_hand(groups: int) -> Between:
    def shuffle(net: Middle, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)

    return shuffle


def pixel_shuffle(net: Middle, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


def space_to_depth(net: Middle, x: Tensor) -> Tensor:
    x = F.interpolate(x, scale_factor=2)
    b, c, h, w = x.shape
    x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, c * 4, h // 2, w // 2)


def normed(net: Middle, x: Tensor) -> Tensor:
    b, c = x.shape[:2]
    mean, std = x.view(b, c, -1).mean(2).view(b, c, 1, 1), x.view(b, c, -1).var(2).add(1e-5).sqrt().view(b, c, 1, 1)
    return (x - mean.expand_as(x)) / std.expand_as(x)


def attended(net: Middle, x: Tensor) -> Tensor:
    """Channels of query and key are summed over, those of the value pass."""
    tokens = x.flatten(2)
    return (tokens @ (tokens.mT @ tokens).softmax(-1)).view(x.shape)


def by_gram(net: Middle, x: Tensor) -> Tensor:
    flat = x.flatten(2)
    return ((flat @ flat.mT / flat.shape[2]) @ flat).view(x.shape)


def to_linear(net: Middle, x: Tensor) -> Tensor:
    return F.linear(x.permute(0, 2, 3, 1), net.matrix).permute(0, 3, 1, 2)


def bilinear(net: Middle, x: Tensor) -> Tensor:
    x = x.movedim(1, -1)
    return F.bilinear(x, x, net.matrix[:, None] * net.matrix[..., None]).movedim(-1, 1)


def rows_written(net: Middle, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, :, 0], x[..., -1] = 0, x[..., 1]
    return x


def _style(x: Tensor) -> Tensor:
    return x.mean((2, 3))[:, :, None, None]


# name: (what lies between, width behind it, channels that are zero, width of the space of `a` after)
FREE: dict[str, tuple[Between, int, list[int], int]] = {
    "shuffle, a column": (by_hand(3), 12, [2, 6, 10], 9),
    "shuffle, one of each group": (by_hand(3), 12, [0, 6, 11], 9),
    "shuffle, two of each group and one more": (by_hand(3), 12, [0, 3, 4, 6, 7, 9, 10], 6),
    "shuffle, one group without": (by_hand(3), 12, [0, 1, 6, 7], 12),
    "channel_shuffle": (lambda n, x: F.channel_shuffle(x, 2), 12, [0, 1, 9, 10], 8),
    "native_channel_shuffle": (lambda n, x: torch.native_channel_shuffle(x, 2), 12, [0, 1, 2, 10], 10),
    "two shuffles": (lambda n, x: by_hand(2)(n, F.relu(by_hand(2)(n, x))), 12, [0, 5, 7, 10], 8),
    "pixel shuffle by hand": (pixel_shuffle, 3, [1, 4, 5, 6, 7, 9], 2),
    "space to depth by hand": (space_to_depth, 48, ZEROS, 9),
    "stack and add": (lambda n, x: torch.stack([x, x.flip(3)], 1).sum(1), 12, ZEROS, 9),
    "stack and choose": (lambda n, x: torch.stack([x, -x], 2).select(2, 1), 12, ZEROS, 9),
    "unbind": (lambda n, x: torch.unbind(torch.stack([x, -x]), 0)[1], 12, ZEROS, 9),
    "tensor_split": (lambda n, x: torch.cat(x.tensor_split(3, 1)[::-1], 1), 12, [0, 5, 8], 9),
    "hsplit": (lambda n, x: torch.cat(x.hsplit(2)[::-1], 1), 12, [0, 1, 8], 10),
    "movedim": (lambda n, x: torch.tanh(x.movedim(1, -1)).movedim(-1, 1), 12, ZEROS, 9),
    "swapaxes": (lambda n, x: torch.tanh(x.swapaxes(1, 3)).swapaxes(3, 1), 12, ZEROS, 9),
    "mT": (lambda n, x: x.flatten(2).mT.mT.unflatten(2, x.shape[2:]), 12, ZEROS, 9),
    "repeat_interleave": (lambda n, x: x.repeat_interleave(2, dim=1), 24, ZEROS, 9),
    "flip": (lambda n, x: x.flip(1), 12, ZEROS, 9),
    "roll over space": (lambda n, x: x.roll(3, 2), 12, ZEROS, 9),
    "expand": (lambda n, x: x + x.mean((2, 3), keepdim=True).expand_as(x), 12, ZEROS, 9),
    "gate": (lambda n, x: x * torch.sigmoid(x.amax((2, 3), keepdim=True)), 12, ZEROS, 9),
    "statistics over space": (normed, 12, ZEROS, 9),
    "group_norm, whole groups": (lambda n, x: n.group(x), 12, [0, 1, 2, 4, 9, 10, 11], 6),
    "group_norm, none whole": (lambda n, x: n.group(x), 12, [0, 1, 4, 9, 10], 12),
    "glu": (lambda n, x: F.glu(x, 1), 6, [1, 2, 7, 9], 4),
    "maxout": (lambda n, x: x.view(len(x), x.shape[1] // 3, 3, *x.shape[2:]).amax(2), 4, [1, 6, 7, 8, 10], 3),
    "linear on the last axis": (to_linear, 12, ZEROS, 9),
    "matmul": (lambda n, x: (x.flatten(2).mT @ n.matrix).mT.unflatten(2, x.shape[2:]), 12, ZEROS, 9),
    "einsum": (lambda n, x: torch.einsum("bchw,cd->bdhw", x, n.matrix), 12, ZEROS, 9),
    "attention over pixels": (attended, 12, ZEROS, 9),
    "unfold": (lambda n, x: F.unfold(x, 3, padding=1).view(len(x), x.shape[1], 9, -1).amax(2).view(x.shape), 12, ZEROS, 9),
    "fold": (lambda n, x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1), 12, ZEROS, 9),
    "pad circular": (lambda n, x: F.pad(x, (2, 1, 1, 1), mode="circular"), 12, ZEROS, 9),
    "max_pool with indices": (lambda n, x: F.max_pool2d(x, 2, 1, return_indices=True)[0], 12, ZEROS, 9),
    "adaptive_max_pool": (lambda n, x: x * F.adaptive_max_pool2d(x, 1), 12, ZEROS, 9),
    "lp_pool": (lambda n, x: F.lp_pool2d(x, 2, 2), 12, ZEROS, 9),
    "unpool": (lambda n, x: F.max_unpool2d(*F.max_pool2d(x, 2, 1, return_indices=True), 2, 1), 12, ZEROS, 9),
    "std_mean": (lambda n, x: x - torch.std_mean(x, (2, 3), keepdim=True)[1], 12, ZEROS, 9),
    "norm": (lambda n, x: x / (torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True) + 1), 12, ZEROS, 9),
    "cumsum over space": (lambda n, x: x.cumsum(2) / 8, 12, ZEROS, 9),
    "sort over space": (lambda n, x: x.sort(3)[0], 12, [], 12),
    "rows written": (rows_written, 12, ZEROS, 9),
    "tensors made in the code": (
        lambda n, x: x * torch.ones_like(x) + torch.zeros(1, x.shape[1], 1, 1, dtype=x.dtype),
        12,
        ZEROS,
        9,
    ),
}
STAYS: dict[str, tuple[Between, int, str]] = {
    "select": (lambda n, x: x * x.select(1, 2)[:, None], 12, "select takes channels one by one"),
    "index": (lambda n, x: x[:, [3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 5, 4]], 12, "index picks channels by number"),
    "index_select": (lambda n, x: x.index_select(1, torch.arange(12)), 12, "picks channels by"),
    "roll": (lambda n, x: x.roll(3, 1), 12, "roll picks channels by number"),
    "write": (lambda n, x: x.clone().index_fill_(1, torch.tensor([2]), 0.5), 12, "index_fill is not understood"),
    "normalize": (lambda n, x: F.normalize(x, dim=1), 12, "linalg_vector_norm over channels counts them"),
    "local response norm": (lambda n, x: F.local_response_norm(x, 3), 12, "avg_pool3d works along channels"),
    "group_norm of one group": (lambda n, x: F.group_norm(x, 1), 12, "group_norm counts its channels"),
    "rms_norm": (lambda n, x: F.rms_norm(x.movedim(1, -1), (12,)).movedim(-1, 1), 12, "rms_norm mixes its channels"),
    "Gram matrix": (by_gram, 12, "matmul pairs channels with channels"),
    "bilinear": (bilinear, 12, "bilinear pairs or counts channels"),
    "sort": (lambda n, x: x.sort(1)[0], 12, "sort compares or counts channels"),
    "cumsum": (lambda n, x: x.cumsum(1), 12, "cumsum compares or counts channels"),
    "computed weights": (lambda n, x: F.conv2d(x, _style(x).expand(12, 12, 1, 1)), 12, "computes its own weights"),
    "modulated weights": (
        lambda n, x: F.conv2d(x, _style(x) * n.matrix[..., None, None]), 12, "mul pairs channels with channels"
    ),
    "attention over channels": (
        lambda n, x: F.scaled_dot_product_attention(*[x.flatten(2)] * 3).view(x.shape), 12, "attention over channels"
    ),
    "scaled attention": (
        lambda n, x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3).mT.reshape(x.shape), 12, "scaled by the number"
    ),
    "channels and space in one axis": (lambda n, x: (x.reshape(len(x), 3, -1) * 2).view(x.shape), 12, "channels and space"),
}  # fmt: skip


def middle(between: Between, width: int, zeros: list[int]) -> Middle:
    net = randomise_(Middle(between, width))
    make_constant_(net.a, zeros)
    with torch.no_grad():
        net.group.bias[zeros] = 0
    return net


@pytest.mark.parametrize("name", FREE)
def test_zero_channels_go(name: str) -> None:
    between, width, zeros, left = FREE[name]
    net = middle(between, width, zeros)
    report = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)]).report
    stripped_to(net, {space.name: left if space.name == "a" else space.after for space in report.spaces})


@pytest.mark.parametrize("name", STAYS)
def test_what_counts_or_mixes_channels_keeps_them(name: str) -> None:
    between, width, reason = STAYS[name]
    net = middle(between, width, ZEROS)
    report = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)]).report
    found = [space for space in report.spaces if space.name.startswith("a")]
    assert sum(space.before for space in found) == sum(space.after for space in found) == 12
    assert all(reason in str(space.reason) for space in found)
    assert not report.left_alone


# -- networks with channel shuffles ------------------------------------------------------------------------------------------


class ShuffleV1(nn.Module):
    """A unit of ShuffleNet v1 (Zhang et al. 2018): grouped 1x1, shuffle, depthwise, grouped 1x1, residual."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.groups, trunk = groups, 2 * groups * groups
        self.enter = nn.Conv2d(3, trunk, 1)
        self.squeeze, self.norm = nn.Conv2d(trunk, width, 1, groups=groups, bias=False), nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.grow, self.leave = nn.Conv2d(width, trunk, 1, groups=groups), nn.Conv2d(trunk, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.enter(x))
        y = F.relu(self.norm(self.squeeze(x)))
        b, c, h, w = y.shape
        y = y.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.leave(F.relu(x + self.grow(self.depthwise(y))))


def zero_rows_(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, channels: list[int]) -> None:
    make_constant_(conv, channels)
    if norm is not None:
        with torch.no_grad():
            norm.weight[channels] = norm.bias[channels] = 0


@pytest.mark.parametrize(
    ("zeros", "left"),
    [
        # of the six places in each group, 0..2 lead to the first group of `grow`, 3..5 to the second
        ([0, 2, 4, 6, 8, 10], 8),  # two and one of each group: one and one go
        ([0, 1, 4, 5, 6, 8, 9, 11], 4),  # two and two of each
        ([0, 1, 4, 5, 7, 8, 9, 10], 4),  # the same, from other places of the second group: they change places
        ([0, 1, 2, 7, 8, 9], 12),  # three and none, two and one
    ],
)
def test_shufflenet_v1(zeros: list[int], left: int) -> None:
    net = randomise_(ShuffleV1(2, 12))
    zero_rows_(net.squeeze, net.norm, zeros)
    stripped_to(net, {"squeeze": left})


def test_shufflenet_v1_with_three_groups_of_odd_length() -> None:
    """Groups of 5: the second conv's groups straddle the columns, and a column of them goes with its whole width."""
    net = randomise_(ShuffleV1(3, 15))
    zero_rows_(net.squeeze, net.norm, [0, 4, 5, 9, 10, 14, 2, 7, 12])  # columns 0, 2 and 4
    stripped_to(net, {"squeeze": 6})


class ShuffleV2(nn.Module):
    """Three units of ShuffleNet v2 (Ma et al. 2018): half of the channels pass, half are worked on, then both are shuffled."""

    def __init__(self, half: int = 8, units: int = 3) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 2 * half, 1)
        self.first, self.norms = nn.ModuleList(), nn.ModuleList()
        self.last = nn.ModuleList(nn.Conv2d(half, half, 1) for _ in range(units))
        for _ in range(units):
            self.first.append(nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False))
            self.norms.append(nn.BatchNorm2d(half))
        self.leave = nn.Conv2d(2 * half, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for first, norm, last in zip(self.first, self.norms, self.last, strict=True):
            passed, worked = x.chunk(2, 1)
            x = F.channel_shuffle(torch.cat([passed, F.relu(last(norm(first(worked))))], 1), 2)
        return self.leave(x)


def test_shufflenet_v2() -> None:
    """Every other channel of every writer: half of them go, and the shuffles weave the others as before."""
    net = randomise_(ShuffleV2())
    for conv in (net.enter, *net.last):
        make_constant_(conv, list(range(1, len(conv.weight), 2)))
    with torch.no_grad():
        for norm in net.norms:
            norm.bias.zero_()
            norm.running_mean.zero_()
    graph = trace(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)])
    assert len(graph.grids) == 3
    done = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)])
    assert [len(conv.weight) for conv in (done.module.enter, *done.module.last)] == [8, 4, 4, 4]
    assert not done.report.left_alone
    assert all(check.gap <= 1e-12 for check in done.report.checks)


# -- GroupNorm, whose groups go whole --------------------------------------------------------------------------------------


def test_group_norm_remembers_its_groups() -> None:
    """Constants, not zeros: a group of equal ones is its shift, one of several is computed from them; both go, with one fold."""
    net = middle(lambda n, x: F.relu(n.group(x)), 12, [])
    make_constant_(net.a, [0, 1, 2, 6, 7, 8], [0.5, 0.5, 0.5, 1.0, 2.0, 4.0])
    done = stripped_to(net, {"a": 6})
    assert (done.module.group.num_groups, done.module.group.num_channels) == (2, 6)


def test_group_norm_that_nobody_reads() -> None:
    net = middle(lambda n, x: n.group(x), 12, [])
    with torch.no_grad():
        net.b.weight[:, 3:6] = 0
        net.b.weight[:, 9:11] = 0  # two of a group of three
    stripped_to(net, {"a": 9})


def test_group_norm_with_its_groups_in_the_code() -> None:
    """The number of groups cannot be changed from outside: the space is found by running it, and stays."""
    net = middle(lambda n, x: F.group_norm(x, 4), 12, [0, 1, 2])
    report = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)]).report
    assert report.removed == 0
    assert list(report.left_alone) == ["a"]


# -- parameters outside modules, and other numbers of axes -----------------------------------------------------------------


class Loose(nn.Module):
    """A convolution by hand, noise of a learned strength, a layer scale and a learned picture, without a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.rand(6, 8, 3, 3)), nn.Parameter(torch.rand(6))
        self.strength, self.scale = nn.Parameter(torch.rand(1, 6, 1, 1)), nn.Parameter(torch.rand(6, 1, 1))
        self.picture = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.a(x)), self.weight, self.bias)
        noise = self.strength * torch.ones(1, 1, *x.shape[2:], dtype=x.dtype)
        x = F.leaky_relu(x + noise) * self.scale
        return self.o(x + self.picture.expand(1, -1, *x.shape[2:]).sign())


def test_parameters_outside_modules_are_cut() -> None:
    """Channel 3 of the loose convolution is a constant, by every parameter that it meets; 1 and 5 of the first one are zero."""
    net = randomise_(Loose())
    make_constant_(net.a, [1, 5])
    with torch.no_grad():
        net.weight[3] = 0
    done = stripped_to(net, {"a": 6, "weight": 5})
    assert {name: tuple(tensor.shape) for name, tensor in done.module.named_parameters() if "." not in name} == {
        "weight": (5, 6, 3, 3), "bias": (5,), "strength": (1, 5, 1, 1), "scale": (5, 1, 1), "picture": (5, 1, 1),
    }  # fmt: skip


class Axes(nn.Module):
    """The same network for signals, pictures and volumes."""

    def __init__(self, count: int) -> None:
        super().__init__()
        modules = vars(nn)

        def of(name: str, *arguments: int, **options: object) -> nn.Module:
            made = modules[f"{name}{count}d"](*arguments, **options)
            assert isinstance(made, nn.Module)
            return made

        self.a, self.norm = of("Conv", 3, 8, 3, padding=1, padding_mode="replicate"), of("InstanceNorm", 8, affine=True)
        self.up, self.batch, self.pool = of("ConvTranspose", 8, 6, 4, 2, 1), of("BatchNorm", 6), of("AvgPool", 2)
        self.c, self.one, self.dense, self.o = of("Conv", 6, 5, 1), of("AdaptiveAvgPool", 1), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.batch(self.up(F.relu(self.norm(self.a(x)))))))
        return self.o(F.relu(self.dense(torch.flatten(self.one(self.c(x)), 1))))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_signals_pictures_and_volumes(count: int) -> None:
    net = randomise_(Axes(count))
    with torch.no_grad():
        for conv, channels in ((net.a, [1, 3]), (net.c, [0, 4]), (net.dense, [2])):
            make_constant_(conv, channels)
        net.norm.bias[[1, 3]] = 0
        net.up.weight[:, 2] = net.up.bias[2] = 0
    done = strip(net, [torch.rand(1, 3, *(8,) * count, dtype=torch.float64)])
    widths = {space.name: space.after for space in done.report.spaces}
    assert widths == {"a": 6, "up": 5, "c": 3, "dense": 3, "o": 3}
    assert all(check.gap <= 1e-12 for check in done.report.checks)


class Heads(nn.Module):
    """Attention by hand in two heads: the same places of each head go, of query and key together, of the value by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.e = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 2, 1)
        self.qkv, self.o = nn.Linear(8, 36), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        query, key, value = self.qkv(x.flatten(2).mT).reshape(b, h * w, 3, 2, -1).permute(2, 0, 3, 1, 4)
        found = (query @ key.transpose(-1, -2) * 0.3).softmax(-1) @ value
        return self.e(x + self.o(found.transpose(1, 2).reshape(b, h * w, -1)).mT.reshape(x.shape))


def test_heads_of_attention() -> None:
    """Three parts of two heads of six: two of each go; what is zero in one head alone stays, for the heads to be equal."""
    net = randomise_(Heads())
    make_constant_(net.qkv, [12 * part + 6 * head + place for part in range(3) for head in range(2) for place in (1, 3)])
    make_constant_(net.qkv, [4])  # of the query's first head alone
    done = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)])
    assert done.module.qkv.weight.shape == (24, 8)
    assert done.module.o.weight.shape == (8, 8)
    assert not done.report.left_alone
