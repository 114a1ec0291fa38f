"""Constants of every kind through every consumer: the widths counted by hand, the output to 1e-12 in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.strip_cases import make_constant_, randomise_, stripped_to

NORMS = {
    "none": lambda n: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": nn.InstanceNorm2d,
    "instance-affine": lambda n: nn.InstanceNorm2d(n, affine=True),
    "instance-running": lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True),
}
PADDINGS = ("zeros", "reflect", "replicate", "circular")
VALUES = (0.75, 1.5, 0.5, 1.25, 1.0, 2.25, 0.625, 1.75)  # short in binary: their mean over a picture is exact


class Net(nn.Module):
    """conv -> norm -> relu -> consumer -> 1x1: the first convolution's 12 channels are what is counted."""

    def __init__(self, norm: str, consumer: nn.Module, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = NORMS[norm](12)
        self.consumer = consumer
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.consumer(F.relu(self.norm(self.first(x))))))


def net(norm: str, consumer: nn.Module, width: int, constants: list[int]) -> Net:
    made = randomise_(Net(norm, consumer, width))
    if "running" in norm or norm == "batch":
        made.norm.running_mean.sub_(2)  # constants stay positive behind the norm
    make_constant_(made.first, constants, VALUES)
    return made


def are_zero(norm: str) -> bool:
    return norm == "instance"  # without a shift, a constant becomes zero, and is gone whatever comes


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("padding", PADDINGS)
def test_convolution(norm: str, padding: str) -> None:
    """Folded into the bias; behind zero padding one stays and carries the other two."""
    made = net(norm, nn.Conv2d(12, 5, 3, padding=1, padding_mode=padding), 5, [1, 4, 9])
    stripped_to(made, {"first": 10 if padding == "zeros" and not are_zero(norm) else 9})


@pytest.mark.parametrize(
    ("norm", "kernel"), [*((norm, (3, 2, 1, 1)) for norm in NORMS), ("none", (4, 2, 1, 0)), ("none", (2, 2, 0, 0))]
)
def test_transposed_convolution(norm: str, kernel: tuple[int, int, int, int]) -> None:
    made = net(norm, nn.ConvTranspose2d(12, 5, *kernel), 5, [1, 4, 9])
    stripped_to(made, {"first": 9 if are_zero(norm) else 10})


@pytest.mark.parametrize("norm", ["none", "instance", "instance-running"])
@pytest.mark.parametrize(("padding", "multiplier"), [*((padding, 1) for padding in PADDINGS), ("zeros", 2), ("reflect", 2)])
def test_depthwise(norm: str, padding: str, multiplier: int) -> None:
    """A constant inside zeros is no constant behind a depthwise convolution; otherwise it goes with its outputs."""
    consumer = nn.Conv2d(12, 12 * multiplier, 3, padding=1, padding_mode=padding, groups=12)
    made = net(norm, consumer, 12 * multiplier, [1, 4, 9])
    stays = padding == "zeros" and not are_zero(norm)
    found = stripped_to(made, {"first": 12 if stays else 9})
    assert found.module.consumer.groups == (12 if stays else 9)


@pytest.mark.parametrize("norm", ["none", "instance", "batch"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_grouped(norm: str, padding: str) -> None:
    """Two of three channels of each group are constant: both go, or one carries the other; the odd one in group 0 stays."""
    consumer = nn.Conv2d(12, 8, 3, padding=1, padding_mode=padding, groups=4)
    made = net(norm, consumer, 8, [0, 1, 3, 5, 7, 8, 9, 11])
    carried = padding == "zeros" and not are_zero(norm)
    found = stripped_to(made, {"first": 8 if carried else 4})
    assert found.module.consumer.groups == 4


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_grouped_unequal(padding: str) -> None:
    """Constants in three of four groups: groups stay equal, so none goes."""
    done = stripped_to(net("none", nn.Conv2d(12, 8, 3, padding=1, padding_mode=padding, groups=4), 8, [0, 1, 4, 8]), {})
    assert [space.held for space in done.report.spaces] == [4, 0, 0]


def test_grouped_transposed() -> None:
    made = net("batch", nn.ConvTranspose2d(12, 8, 3, 2, 1, 1, groups=4), 8, [0, 1, 3, 5, 7, 8, 9, 11])
    found = stripped_to(made, {"first": 8})
    assert found.module.consumer.weight.shape == (8, 2, 3, 3)


def test_whole_group_goes() -> None:
    """A group that is dead on both sides goes whole: 12 -> 9 in, 8 -> 6 out, 4 -> 3 groups."""
    made = net("none", nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect", groups=4), 8, [3, 4, 5])
    make_constant_(made.consumer, [2, 3], [0.3, 0.8])
    found = stripped_to(made, {"first": 9, "consumer": 6})
    assert (found.module.consumer.groups, found.module.consumer.in_channels) == (3, 9)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_group_norm_keeps(padding: str) -> None:
    consumer = nn.Sequential(nn.GroupNorm(3, 12), nn.Conv2d(12, 5, 3, padding=1, padding_mode=padding))
    done = stripped_to(net("none", consumer, 5, [1, 4, 9]), {})
    assert "group_norm counts its channels" in {space.reason for space in done.report.spaces}


@pytest.mark.parametrize("padding", PADDINGS)
def test_cancels_in_instance_norm(padding: str) -> None:
    """A convolution without bias before a norm over space needs no fold, and gets no bias; zero padding still needs a carrier."""
    consumer = nn.Sequential(nn.Conv2d(12, 5, 3, padding=1, padding_mode=padding, bias=False), nn.InstanceNorm2d(5))
    done = stripped_to(net("none", consumer, 5, [1, 4, 9]), {"first": 10 if padding == "zeros" else 9})
    assert done.module.consumer[0].bias is None


def test_a_bias_is_added_where_there_was_none() -> None:
    done = stripped_to(net("none", nn.Conv2d(12, 5, 3, bias=False), 5, [1, 4, 9]), {"first": 9})
    assert done.module.consumer.bias is not None


def test_centre_tap_sees_no_padding() -> None:
    """A zero-padded kernel that is zero but for its centre lets a constant through: folded, no carrier."""
    made = net("none", nn.Conv2d(12, 5, 3, padding=1), 5, [1, 4, 9])
    with torch.no_grad():
        centre = made.consumer.weight[:, :, 1, 1].clone()
        made.consumer.weight.zero_()
        made.consumer.weight[:, :, 1, 1] = centre
    stripped_to(made, {"first": 9})


def test_separate_zero_pad_is_carried_through() -> None:
    """ZeroPad2d and a convolution without padding are a convolution with zero padding."""
    consumer = nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(12, 5, 3))
    stripped_to(net("none", consumer, 5, [1, 4, 9]), {"first": 10})


def test_pad_with_the_constant_itself_changes_nothing() -> None:
    consumer = nn.Sequential(nn.ConstantPad2d(1, 0.75), nn.Conv2d(12, 5, 3))
    made = net("none", consumer, 5, [1, 4])  # 0.75 stays a constant behind the pad, 1.5 does not
    stripped_to(made, {"first": 11})


class Trunk(nn.Module):
    """x = a(x); twice x = x + block(x), with zero pads: constants differ from tensor to tensor of one space."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 9, 3, padding=1)
        self.b = nn.Conv2d(9, 9, 3, padding=1)
        self.c = nn.Conv2d(9, 9, 3, padding=1)
        self.out = nn.Conv2d(9, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x + torch.sigmoid(self.b(x))
        x = x + self.c(F.relu(x))
        return self.out(x)


def test_ratio_is_taken_per_reader() -> None:
    """Four channels constant all along the trunk, with other constants in each tensor: one carries three."""
    made = randomise_(Trunk())
    for conv, values in ((made.a, (0.5, 1.5, 0.8, 2.0)), (made.b, (0.1, -0.4, 0.9, 1.2)), (made.c, (1.0, 0.7, -0.2, 0.3))):
        make_constant_(conv, [0, 3, 5, 8], values)
    done = stripped_to(made, {"a": 6})
    assert next(space.held for space in done.report.spaces if space.name == "a") == 1


def test_a_carrier_that_a_relu_kills_is_not_enough() -> None:
    """Channel 0 is the largest constant, but negative: zero behind the ReLU. Where it is zero another one must carry."""
    made = randomise_(Trunk())
    with torch.no_grad():
        made.b.weight[:] *= 1
    for conv, values in (
        (made.a, (-9.0, -8.0, 1.0, 1.5)),
        (made.b, (-60.0, -60.0, -60.0, -60.0)),
        (made.c, (0.0, 0.0, 0.0, 0.0)),
    ):
        make_constant_(conv, [0, 3, 5, 8], values)
    stripped_to(made, {"a": 6})  # 5 or 8 is non-zero in every reader, and carries all


def test_no_single_carrier_serves_all() -> None:
    """0 and 3 are positive only before the block, 5 and 8 only behind it (by way of the block): two carriers stay."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 9, 1)
            self.up, self.down = nn.Conv2d(9, 4, 3, padding=1), nn.Conv2d(9, 2, 3, padding=1)
            self.mix = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.mix(self.up(F.relu(x))) + self.down(F.relu(-x))

    made = randomise_(Two())
    make_constant_(made.a, [0, 3, 5, 8], (1.0, 2.0, -1.0, -2.0))
    stripped_to(made, {"a": 7})


def test_laplacian_stays() -> None:
    """Weights that sum to zero are no zero weights."""
    made = net("none", nn.Conv2d(12, 5, 3, padding=1), 5, [])
    with torch.no_grad():
        laplacian = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
        made.first.weight[4] = laplacian
        made.first.bias[4] = 0
    stripped_to(made, {})


@pytest.mark.parametrize("by", ["bias", "shift"])
def test_zero_weights_are_a_constant_not_dead(by: str) -> None:
    """Zero weights with a bias, or with a norm's shift behind them, contribute; leaving that out would move the output."""
    made = net("batch", nn.Conv2d(12, 5, 1), 5, [])
    with torch.no_grad():
        made.first.weight[4] = 0
        made.first.bias[4] = 3.0 if by == "bias" else 0.0
        made.norm.weight[4] = 1.0 if by == "bias" else 0.0
        made.norm.bias[4] = 2.0
    done = stripped_to(made, {"first": 11})
    assert next(space.constant for space in done.report.spaces if space.name == "first") == 1


def test_unread_channels_go_and_so_does_what_only_they_read() -> None:
    """Nobody reads channels 2 and 7 of the consumer; nobody but these reads channel 6 of the first convolution."""
    made = net("batch", nn.Conv2d(12, 9, 3, padding=1), 9, [])
    with torch.no_grad():
        made.out.weight[:, [2, 7]] = 0
        keep = [0, 1, 3, 4, 5, 6, 8]
        made.consumer.weight[keep, 6] = 0
    done = stripped_to(made, {"first": 11, "consumer": 7})
    assert [space.unread for space in done.report.spaces] == [1, 2, 0]


def test_the_last_channel_stays() -> None:
    """All twelve are constant, so all behind them are, and so is the output."""
    made = net("none", nn.Conv2d(12, 5, 3), 5, [])
    with torch.no_grad():
        made.first.weight.zero_()
    done = stripped_to(made, {"first": 1, "consumer": 1}, sizes=())
    x = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    assert torch.allclose(done.module(x), made(x), rtol=0, atol=1e-14)


def test_float32_at_three_sizes() -> None:
    """And the numbers in the report are those of the runs."""
    made = net("batch", nn.Conv2d(12, 5, 3, padding=1), 5, [1, 4, 9]).float()
    done = stripped_to(made, {"first": 10})
    kinds = {(check.dtype, check.size) for check in done.report.checks}
    assert len(kinds) == 6
    assert {dtype for dtype, _ in kinds} == {"float64", "float32"}
    assert all(check.gap <= 1e-5 for check in done.report.checks if check.dtype == "float32")
    assert all(check.gap <= 1e-12 for check in done.report.checks if check.dtype == "float64")
    assert any(side % 4 for _, size in kinds for side in size)


def test_multiplier_shrinks() -> None:
    """The second output of every group is dead: 24 outputs become 12, from as many inputs; the space is of input channels."""
    made = net("none", nn.Conv2d(12, 24, 3, padding=1, groups=12), 24, [])
    make_constant_(made.consumer, range(1, 24, 2))
    done = stripped_to(made, {})
    assert (done.module.consumer.in_channels, done.module.consumer.out_channels, done.module.out.in_channels) == (12, 12, 12)
