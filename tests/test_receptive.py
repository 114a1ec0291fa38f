"""The receptive field that is computed is the one that gradients find, on random networks; sums done by hand for the rest."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels import export, reach
from compress.channels.receptive import Field, fields
from compress.networks.johnson import Johnson


def field_of(network: nn.Module, *shapes: tuple[int, ...], number: int = 0) -> Field:
    """Of the (only) output."""
    program = export.program(network, [torch.rand(shape) for shape in shapes])
    (name,) = program.graph_signature.user_outputs
    return fields(program, number)[name]


def seen_by_gradient(network: nn.Module, shape: tuple[int, ...], stride: Fraction, axis: int, positions: int) -> tuple[int, int]:
    """The largest extent and margin that the gradients of `positions` output pixels in the middle show along a spatial axis."""
    x = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    y = network(x)
    middle = [size // 2 for size in y.shape[2:]]
    size, margin = 0, Fraction(0)
    start = max(middle[axis] - positions // 2, 0)
    for here in range(start, min(start + positions, y.shape[axis + 2])):
        place = [here if a == axis else n for a, n in enumerate(middle)]
        (gradient,) = torch.autograd.grad(y[(0, slice(None), *place)].sum(), x, retain_graph=True)
        rows = gradient.abs().sum([a for a in range(len(shape)) if a != axis + 2]).nonzero().ravel()
        if len(rows):
            first, last = int(rows[0]), int(rows[-1])
            size = max(size, last - first + 1)
            margin = max(margin, here * stride - first, last - here * stride)
    return size, -(-margin.numerator // margin.denominator)


class Skip(nn.Module):
    def __init__(self, inner: nn.Module, joins: str) -> None:
        super().__init__()
        self.inner, self.joins = inner, joins

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + y if self.joins == "add" else torch.cat((x[..., : y.shape[2], : y.shape[3]], y), 1)[:, ::2]


class Even(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]


class Slice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:-2, 3:]


def random_layer(choose: random.Random, width: int) -> nn.Module:
    """A layer that keeps the number of channels; no two of its sizes need to be equal."""
    k, d = (choose.choice([1, 2, 3, 5]), choose.choice([1, 3, 4])), choose.choice([1, 1, 2])
    inner = nn.Conv2d(width, width, (3, 5), padding=(1, 2), dilation=1)
    return choose.choice(
        [
            nn.Conv2d(width, width, k, dilation=d, padding=(choose.randrange(3), 1)),
            nn.Conv2d(width, width, (3, 4), stride=(2, 3), padding=1),
            nn.Conv2d(width, width, (3, 2), padding="same"),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect", groups=width),
            nn.AvgPool2d((2, 3), (2, 1), padding=1),
            nn.AvgPool2d(2),
            nn.ConvTranspose2d(width, width, (4, 3), stride=(2, 1), padding=1),
            nn.ConvTranspose2d(width, width, (3, 5), stride=2, padding=(1, 2), output_padding=1),
            nn.Upsample(scale_factor=2),
            nn.Upsample(scale_factor=(3, 2), mode="nearest-exact"),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Upsample(scale_factor=1.5, mode="bilinear"),
            nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2)),
            nn.Sequential(Even(), nn.PixelUnshuffle(2), nn.Conv2d(4 * width, width, (1, 2))),
            nn.ReplicationPad2d((3, 1, 0, 2)),
            Slice(),
            nn.ChannelShuffle(2),
            Skip(inner, "add"),
            Skip(nn.Sequential(inner, nn.Conv2d(width, width, 3, padding=1)), "cat"),
            nn.PReLU(width),
        ]
    )


def positive_(network: nn.Module) -> nn.Module:
    """Weights above zero in float64: no path cancels another, so every pixel that is read has a gradient."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5
    return network.eval()


@pytest.mark.parametrize("seed", range(24))
def test_random_networks_see_what_their_gradients_say(seed: int) -> None:
    choose = random.Random(seed)
    network = positive_(nn.Sequential(nn.Conv2d(3, 2, 1), *(random_layer(choose, 2) for _ in range(choose.randint(2, 6)))))
    shape = (1, 3, 120, 132)
    program = export.program(network, [torch.rand(shape, dtype=torch.float64)])
    (name,) = program.graph_signature.user_outputs
    found = fields(program)[name]
    assert not found.whole
    assert not found.unknown
    assert found.exact
    for axis in range(2):
        stride, size, margin = found.stride[axis], found.size[axis], found.margin[axis]
        assert stride is not None
        assert size is not None
        if size > 50:  # the borders would show
            continue
        assert seen_by_gradient(network, shape, stride, axis, positions=18) == (size, margin), network


def test_johnson_counted_by_hand() -> None:
    """9x9, two 3x3 with stride 2, ten 3x3 at stride 4: 9 + 2*1 + 2*2 + 10*2*4 = 95; then up: 95 + 2*2 = 99, 103, 111."""
    found = field_of(Johnson(width=2).eval(), (1, 3, 64, 72))
    assert found.size == (111, 111)
    assert found.stride == (1, 1)
    assert found.margin == (57, 57)
    assert len(found.whole) == 15
    assert found.whole[0] == "instance_norm in down1.norm"
    assert not found.unknown
    plain = field_of(Johnson(width=2, norm="batch").eval(), (1, 3, 64, 72))
    assert plain == Field(found.size, found.stride, found.margin, True, (), ())


def test_a_gate_sees_the_whole_picture_beside_the_window() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.squeeze = nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x * torch.sigmoid(self.squeeze(self.pool(x)))

    found = field_of(Gate(), (1, 3, 12, 16))
    assert found.size == (3, 3)
    assert found.stride == (2, 2)
    assert found.whole == ("adaptive_avg_pool2d in pool",)
    assert found.to_json() == {
        "size": [3, 3],
        "stride": [2.0, 2.0],
        "margin": [1, 1],
        "exact": True,
        "whole_picture_through": ["adaptive_avg_pool2d in pool"],
        "unknown": [],
    }


def test_a_classifier_sees_everything() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 5 * 7, 6))
    found = field_of(network, (1, 3, 12, 16))
    assert found.size == found.stride == (None, None)
    assert found.whole == ("flatten in 2",)


def test_gram_matrices_and_attention_see_everything() -> None:
    class Gram(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(2)
            return torch.matmul(flat, flat.transpose(1, 2))

    found = field_of(Gram(), (1, 3, 4, 5))
    assert found.size == (None, None)
    assert found.whole


def test_what_is_not_known_is_named_with_its_module() -> None:
    class Sort(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x, dim=2).values

    network = nn.Sequential(nn.Conv2d(3, 4, 3), Sort(), nn.Conv2d(4, 5, 3))
    found = field_of(network, (1, 3, 12, 16))
    assert found.size == (None, None)
    assert found.unknown == ("sort in 1",)


def test_beside_what_is_not_known_windows_are_still_told() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + torch.sort(x, dim=2).values

    found = field_of(Beside(), (1, 3, 12, 16))
    assert found.size == (5, 5)
    assert found.unknown[0].startswith("sort")


def test_paths_of_different_stride_are_named() -> None:
    class Uneven(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool2d(x, 2)[:, :, :4, :4] + x[:, :, :4, :4]

    found = field_of(Uneven(), (1, 3, 8, 10))
    assert found.size == (None, None)
    assert found.unknown[0].endswith("strides differ")


@pytest.mark.parametrize("number", [0, 1])
def test_each_input_has_a_field_of_its_own(number: int) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(2, 4, 4, stride=2, padding=1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    found = field_of(Two(), (1, 3, 8, 10), (1, 2, 16, 20), number=number)
    assert found.size == ((5, 5), (4, 4))[number]
    assert found.stride == ((1, 1), (2, 2))[number]


def test_weights_that_are_computed_from_the_whole_picture() -> None:
    class Styled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            scale = self.scale(x.mean((2, 3)))[0]
            styled = F.batch_norm(self.conv(x), torch.zeros(4), torch.ones(4), scale, scale)
            return F.conv2d(styled, scale.view(4, 1, 1, 1).expand(4, 1, 3, 1), groups=4)

    found = field_of(Styled(), (1, 3, 8, 10))
    assert found.size == (5, 3)
    assert found.whole == ("mean (test_receptive.py:" + found.whole[0].rpartition(":")[2],)


def test_other_dimensions() -> None:
    assert field_of(nn.Sequential(nn.Conv1d(3, 4, 7, 2), nn.MaxPool1d(3)), (1, 3, 40)).size == (11,)
    assert field_of(nn.Conv3d(3, 4, (1, 3, 5)), (1, 3, 4, 6, 8)).size == (1, 3, 5)
    assert field_of(nn.Linear(7, 2), (1, 7)).size == ()


def test_corner_aligned_resizes_are_bounded_from_above() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
    found = field_of(network, (1, 3, 24, 32))
    assert not found.exact
    measured, _ = seen_by_gradient(positive_(network), (1, 3, 24, 32), Fraction(1, 2), 0, 8)
    size = found.size[0]
    assert size is not None
    assert measured <= size <= measured + 2


def test_in_place_additions_count() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            y += self.conv(x)
            return y

    assert field_of(InPlace(), (1, 3, 8, 10)).size == (5, 5)


def test_reach_of_a_transposed_convolution_with_holes() -> None:
    """Kernel 1, stride 2: every other pixel reads nothing at all."""
    found = reach.through(reach.START, reach.transposed(1, 2, 1, 0))
    assert found is not None
    assert found.size == 1
    assert found.low.tolist() == [0, float("inf")]
    assert found.stride == Fraction(1, 2)


def test_periods_that_get_too_long_are_given_up() -> None:
    found: reach.Reach | None = reach.START
    for prime in (101, 103, 107):
        assert found is not None
        found = reach.through(found, reach.nearest(Fraction(prime - 1, prime)))
    assert found is None
