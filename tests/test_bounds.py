"""Every number that a network computes lies inside its bounds, for every input in its range. And the bounds are worth having."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from compress.channels import export
from compress.channels.facts import Facts, Known, Label, find
from compress.channels.graph import ChannelGraph, of_program
from compress.channels.observe import arguments_of
from compress.channels.ranges import Range, check_ranges, ranges_of
from compress.errors import UsageError
from compress.image_format import PRESETS, ImageFormat
from tests.strip_cases import randomise_

FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Traced:
    """A network, its graph, and what it computes on the way."""

    def __init__(self, module: nn.Module, *shapes: Sequence[int], dtype: torch.dtype = torch.float64) -> None:
        module = module.to(dtype).eval()
        self.program = export.program(module, [torch.rand(tuple(shape), dtype=dtype) for shape in shapes])
        self.graph: ChannelGraph = of_program(self.program, module)
        self.tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def facts(self, *ranges: Range | None, **known: object) -> Facts:
        return find(self.graph, self.tensors, Known(ranges, **known))  # type: ignore[arg-type]

    def hold(self, facts: Facts, inputs: Sequence[Tensor], slack: float = 0.0) -> int:
        """Every value inside its bounds; returns how many bounds were finite. `slack`: of a bound's own size.

        A constant may be off by a rounding.
        """
        values: dict[str, Tensor] = {}

        class Noting(fx.Interpreter):
            def run_node(self, n: fx.Node) -> object:
                value = super().run_node(n)
                if isinstance(value, Tensor):
                    values[n.name] = value.detach().double().clone()
                return value

        Noting(self.program.graph_module).run(*arguments_of(self.program, inputs))
        finite = 0
        for name in self.graph.labels:
            if name not in values or values[name].isnan().any():
                continue
            low, high = torch.tensor(facts.low[name]), torch.tensor(facts.high[name])
            room = torch.where(low == high, max(slack, 1e-12), slack) * (low.abs() + high.abs()).nan_to_num(posinf=0)
            assert (values[name] >= low - room).all(), f"{name} is {values[name].min()}, at least {low.min()}"
            assert (values[name] <= high + room).all(), f"{name} is {values[name].max()}, at most {high.max()}"
            finite += int(low.isfinite().sum() + high.isfinite().sum())
        return finite


def inside(
    ranges: Sequence[Range], shapes: Sequence[Sequence[int]], seed: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Inputs in their ranges; some numbers at the very ends, some pictures nearly flat."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for known, shape in zip(ranges, shapes, strict=True):
        low, high = (torch.from_numpy(end) for end in known.along(len(shape)))
        share = torch.rand(tuple(shape), generator=generator, dtype=torch.float64)
        kind = seed % 4
        share = share.round() if kind == 1 else share.pow(30) if kind == 2 else (share > 0.97).double() if kind == 3 else share
        found.append((low + (high - low) * share).clamp(low, high).to(dtype))
    return found


# -- single operators ----------------------------------------------------------------------------------------------------------

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name)
    for name in (
        "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1",
        "floor", "frac", "log", "log10", "log1p", "log2", "logit", "neg", "reciprocal", "relu", "round", "rsqrt", "sgn",
        "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc", "logical_not",
    )
}  # fmt: skip
UNARY |= {
    name: getattr(F, name)
    for name in (
        "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid", "mish", "relu6",
        "selu", "silu", "softplus", "softshrink",
    )
}  # fmt: skip
UNARY |= {
    "approximate gelu": lambda x: F.gelu(x, approximate="tanh"),
    "clamp": lambda x: x.clamp(-0.3, 0.8),
    "clamp below": lambda x: x.clamp(min=0.1),
    "clamp above": lambda x: x.clamp(max=-0.1),
    "cube": lambda x: x**3,
    "fourth power": lambda x: x**4,
    "inverse square": lambda x: x**-2,
    "root": lambda x: x**0.5,
    "falling leaky relu": lambda x: F.leaky_relu(x, -0.7),
    "falling elu": lambda x: F.elu(x, -1.5),
    "threshold": lambda x: F.threshold(x, 0.2, 3.0),
    "threshold at 0": lambda x: F.threshold(x, 0.0, 0.0),
    "softplus that gives way": lambda x: F.softplus(x, 2.0, 0.5),
    "affine": lambda x: 0.3 - 2 * x,
    "inverse": lambda x: 1 / x,
    "less": lambda x: (x < 0.25).to(x.dtype),
    "where": lambda x: torch.where(x > 0.25, x, -x),
    "masked": lambda x: x.masked_fill(x < 0, 0.7),
    "floor division": lambda x: x // 0.3,
    "square by itself": lambda x: x * x,
    "twice": lambda x: x + x,
    "nothing": lambda x: x - x,
    "swish": lambda x: x * torch.sigmoid(x),
    "soft sign": lambda x: x / (1 + x.abs()),
    "rms": lambda x: F.rms_norm(x, (6,)),
    "layer": lambda x: F.layer_norm(x, (5, 6)),
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: x.log_softmax(-1),
    "instance": lambda x: F.instance_norm(x),
    "group": lambda x: F.group_norm(x, 1),
    "batch": lambda x: F.batch_norm(x, None, None, training=True),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "flat mean": lambda x: x.mean((2, 3)),
    "mean of all": lambda x: x.mean(),
    "variance": lambda x: x.var((2, 3)),
    "deviation": lambda x: x.std((2, 3), correction=0),
    "sum": lambda x: x.sum((2, 3)),
    "largest": lambda x: x.amax((2, 3)),
    "average pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average pool of what is there": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average pool with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "ceiling pool": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "largest pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    "zero pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad with a number": lambda x: F.pad(x, (1, 2), value=5.0),
    "reflect": lambda x: F.pad(x, (1, 2, 1, 0), mode="reflect"),
    "circular": lambda x: F.pad(x, (1, 2, 1, 1), mode="circular"),
    "crop": lambda x: F.pad(x, (-1, 0)),
    "channel pad": lambda x: F.pad(x, (0, 0, 0, 0, 1, 2), value=-4.0),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "bicubic": lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"),
    "smooth bicubic": lambda x: F.interpolate(x, (3, 3), mode="bicubic", antialias=True),
    "slice": lambda x: x[:, 1:],
    "backwards": lambda x: x.flip(1),
    "rolled": lambda x: x.roll(1, 1),
    "turned": lambda x: x.transpose(1, 2),
    "flattened": lambda x: x.flatten(1),
    "beside itself": lambda x: torch.cat([x, -x], 1),
    "repeated": lambda x: x.repeat(1, 2, 1, 1),
    "matrix product": lambda x: x @ x.transpose(2, 3),
}


BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum, torch.hypot, torch.atan2, torch.fmod,
    torch.remainder, torch.pow, torch.copysign, torch.floor_divide, torch.logical_and, torch.heaviside, torch.xlogy,
    lambda x, y: torch.where(x > y, x, y), lambda x, y: x.lerp(y, 0.3), lambda x, y: x.lerp(y, x), lambda x, y: x - 2 * y,
    lambda x, y: torch.addcmul(x, x, y, value=-2), lambda x, y: torch.addcmul(x, y, y), lambda x, y: torch.addcdiv(x, y, x),
    lambda x, y: torch.clamp(x, min=y), lambda x, y: torch.add(x, y, alpha=-3), torch.rsub,
)  # fmt: skip


class Each(nn.Module):
    """Every operator on the same inputs."""

    def forward(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [*(function(x) for function in UNARY.values()), *(function(x, y) for function in BINARY)]


SHAPES = ((2, 3, 5, 6), (2, 3, 5, 6))
ENDS = st.floats(-6, 6).map(lambda x: round(x, 2)) | st.sampled_from([-1e4, -3.0, -1.5, -1.0, 0.0, 0.25, 1.0, 3.0, 50.0, 1e4])


@pytest.fixture(scope="module")
def each() -> Traced:
    class Wrapped(Each):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

    return Traced(Wrapped(), *SHAPES)


@FEW
@given(ends=st.lists(ENDS, min_size=8, max_size=8), seed=st.integers(0, 99))
def test_every_operator_stays_inside_its_bounds(each: Traced, ends: list[float], seed: int) -> None:
    """One range for each channel of x, one for all of y."""
    pairs = [sorted(pair) for pair in zip(ends[::2], ends[1::2], strict=True)]
    ranges = [Range(tuple(p[0] for p in pairs[:3]), tuple(p[1] for p in pairs[:3])), Range(pairs[3][0], pairs[3][1])]
    each.hold(each.facts(*ranges), inside(ranges, SHAPES, seed))


def test_without_ranges_only_what_holds_anyway(each: Traced) -> None:
    facts = each.facts()
    for scale in (1e-3, 1.0, 1e6):
        each.hold(facts, [scale * torch.randn(shape, dtype=torch.float64) for shape in SHAPES])
    assert np.isinf(facts.high["add"]).all()
    assert (facts.low["sigmoid"], facts.high["sigmoid"]) == (0, 1)


TIGHT = {
    "relu": (0, 3), "abs": (0, 3), "neg": (-3, 2), "square": (0, 9), "hardtanh": (-1, 1), "sigmoid": (0.1192, 0.95257),
    "gelu": (-0.16997, 2.99595), "silu": (-0.27846, 2.85772), "mish": (-0.30884, 2.98653), "hardswish": (-0.375, 3),
    "clamp": (-0.3, 0.8), "threshold": (0.2, 3), "celu": (-0.86466, 3), "cube": (-8, 27), "fourth power": (0, 81),
    "tanh": (-0.96403, 0.99505), "affine": (-5.7, 4.3), "square by itself": (0, 9), "falling leaky relu": (0, 3),
    "mean": (-2, 3), "zero pad": (-2, 3), "pad with a number": (-2, 5), "bilinear": (-2, 3), "flattened": (-2, 3),
    "beside itself": (-3, 3), "deviation": (0, 5 / math.sqrt(2)), "channel pad": (-4, 3), "softmax": (0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", TIGHT)
def test_bounds_are_as_tight_as_the_function(each: Traced, name: str) -> None:
    facts, output = each.facts(Range(-2, 3), None), each.graph.outputs[list(UNARY).index(name)]
    assert (facts.low[output].min(), facts.high[output].max()) == pytest.approx(TIGHT[name], abs=2e-5)


# -- layers and networks -------------------------------------------------------------------------------------------------------

LAYERS: tuple[Callable[[int, random.Random], tuple[nn.Module, int]], ...] = (
    lambda n, r: (nn.Conv2d(n, 4, 3, padding=1), 4),
    lambda n, r: (nn.Conv2d(n, 5, 3, 2, padding=2, dilation=2, bias=False), 5),
    lambda n, r: (nn.Conv2d(n, n, 3, padding=1, groups=n, padding_mode="reflect"), n),
    lambda n, r: (nn.Conv2d(n, 2 * n, (3, 1), padding="same", groups=n), 2 * n),
    lambda n, r: (nn.ConvTranspose2d(n, 3, 4, 2, 1), 3),
    lambda n, r: (nn.ConvTranspose2d(n, 4, 3, 2, 1, 1, dilation=2), 4),
    lambda n, r: (nn.ConvTranspose2d(n, n, 1, 3, groups=n), n),
    lambda n, r: (nn.BatchNorm2d(n), n),
    lambda n, r: (nn.InstanceNorm2d(n, affine=True, eps=r.choice((1e-5, 0.1))), n),
    lambda n, r: (nn.InstanceNorm2d(n, affine=True, track_running_stats=True), n),
    lambda n, r: (nn.GroupNorm(1 if n % 2 else 2, n), n),
    lambda n, r: (nn.PReLU(n), n),
    lambda n, r: (nn.ReLU(inplace=True), n),
    lambda n, r: (nn.Sequential(nn.Hardsigmoid(), nn.Dropout()), n),
    lambda n, r: (nn.SiLU(), n),
    lambda n, r: (nn.ReLU6(), n),
    lambda n, r: (nn.Sequential(nn.Conv2d(n, 4 * n, 1), nn.PixelShuffle(2), nn.AvgPool2d(2)), n),
    lambda n, r: (Gated(n), n),
    lambda n, r: (Split(), 2 * (n // 2)),
    lambda n, r: (Norm(n), n),
)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, 2), nn.Linear(2, width)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        return x * gate[:, :, None, None] + x


class Split(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        a, b = x[:, :half], x[:, half : 2 * half]
        return torch.cat([a - b, torch.maximum(a, b)], 1)


class Norm(nn.Module):
    """Over channels, which are last for the time being."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def wired(seed: int) -> nn.Module:
    draw, width, layers = random.Random(seed), 3, []
    for _ in range(draw.randint(4, 8)):
        layer, width = draw.choice([kind for kind in LAYERS if width > 1 or kind is LAYERS[0]])(width, draw)
        layers.append(layer)
    return randomise_(nn.Sequential(*layers), seed)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**6))
def test_networks_stay_inside_their_bounds(seed: int) -> None:
    traced = Traced(wired(seed), (2, 3, 12, 10))
    for ranges in ([Range.of(PRESETS["imagenet"])], [Range((-1.0, 0.0, 2.0), (1.0, 0.0, 2.5))]):
        facts = traced.facts(*ranges)
        finite = [traced.hold(facts, inside(ranges, [(2, 3, 12, 10)], n)) for n in range(4)]
        assert min(finite) > 6, "bounds of the input alone"


def test_float32_stays_inside_but_for_its_own_rounding() -> None:
    for seed in (3, 4, 5):
        traced = Traced(wired(seed), (1, 3, 12, 10), dtype=torch.float32)
        ranges = [Range.of(PRESETS["caffe"])]
        for n in range(4):
            traced.hold(traced.facts(*ranges), inside(ranges, [(1, 3, 12, 10)], n, torch.float32), slack=1e-5)


def test_norms_are_bounded_up_to_a_size() -> None:
    """One pixel in HW that differs is sqrt(HW - 1) deviations from the mean: the bound is met, and by nothing exceeded."""
    traced = Traced(nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2, affine=True, eps=1e-12)), (1, 1, 5, 13))
    assert np.isinf(traced.facts().high["instance_norm"]).all()
    facts = traced.facts(pixels={"instance_norm": 65})
    assert facts.high["instance_norm"].ravel() == pytest.approx([8, 8])
    x = torch.zeros(1, 1, 5, 13, dtype=torch.float64)
    x[..., 2, 3] = 1e3
    traced.hold(facts, [x])
    run = nn.InstanceNorm2d(2, eps=1e-12)(torch.cat([x, -x], 1))
    assert run.abs().max() == pytest.approx(8, rel=1e-9)


def test_a_norm_of_what_hardly_varies_is_bounded_at_every_size() -> None:
    traced = Traced(nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2, eps=1e-2)), (1, 1, 5, 13))
    with torch.no_grad():
        traced.tensors["0.weight"].copy_(torch.tensor([0.03, 2.0]).view(2, 1, 1, 1))
    high = traced.facts(Range(0, 1)).high["instance_norm"].ravel()
    assert high == pytest.approx([0.3, 20.0])
    assert traced.facts(Range(0, 1), pixels={"instance_norm": 65}).high["instance_norm"][0, 1, 0, 0] < 8


def test_layer_norm_is_bounded_by_its_own_width() -> None:
    traced = Traced(nn.Sequential(nn.Linear(3, 17), nn.LayerNorm(17, elementwise_affine=False)), (2, 3))
    assert traced.facts().high["layer_norm"].max() == pytest.approx(4)


def test_zeros_around_the_picture_count() -> None:
    """1 + 1 inside, 1 at the border: with zero padding a sum of ones lies anywhere between."""
    traced = Traced(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.Conv2d(2, 1, 1)), (1, 1, 5, 6))
    with torch.no_grad():
        traced.tensors["0.weight"].fill_(1).view(2, 9)[1] = 0
        traced.tensors["0.weight"][1, 0, 1, 1] = -1
    facts = traced.facts(Range(1, 2))
    assert facts.low["conv2d"].ravel() == pytest.approx([1, -2])
    assert facts.high["conv2d"].ravel() == pytest.approx([18, -1])


def test_a_transposed_convolution_meets_the_taps_of_one_remainder() -> None:
    """4x4 with stride 2: each pixel meets 4 of the 16 taps."""
    traced = Traced(nn.Sequential(nn.ConvTranspose2d(1, 2, 4, 2, 1, bias=False), nn.Conv2d(2, 1, 1)), (1, 1, 5, 6))
    with torch.no_grad():
        traced.tensors["0.weight"].fill_(1)
    assert traced.facts(Range(0, 1)).high["conv_transpose2d"].ravel() == pytest.approx([4, 4])


# -- facts and their labels ----------------------------------------------------------------------------------------------------


def test_each_constant_says_what_it_rests_on() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([0.0, 1e-4, 1.0, 1.0]).view(4, 1, 1, 1))
        net[1].bias.copy_(torch.tensor([-1.0, -1.0, -5.0, -4.9]))
    traced = Traced(net, (1, 1, 5, 6))
    facts = traced.facts(Range(0, 1), pixels={"instance_norm": 26})
    assert facts.labels("relu").ravel().tolist() == [Label.WEIGHTS, Label.BOUNDS, Label.SIZE, Label.NONE]
    assert [known.label for known in facts.chain()] == [Label.SIZE, Label.BOUNDS, Label.WEIGHTS]
    assert facts.stretch["relu"].ravel()[2:] * 30 == pytest.approx([26, 1 + 4.9**2])
    seen = traced.facts(Range(0, 1), observed={"relu": np.array([np.nan, np.nan, np.nan, 0.25]).reshape(1, 4, 1, 1)})
    assert seen.labels("relu").ravel().tolist() == [Label.WEIGHTS, Label.BOUNDS, Label.NONE, Label.OBSERVED]


# -- ranges --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_range_of_a_format_holds_its_pixels_exactly(name: str) -> None:
    found = Range.of(PRESETS[name])
    encoded = PRESETS[name].encode(np.random.default_rng(0).integers(0, 256, (50, 40, 3)))
    encoded[0, 0], encoded[0, 1] = PRESETS[name].encode(np.zeros(3)), PRESETS[name].encode(np.full(3, 255))
    assert encoded.reshape(-1, 3).min(0).tolist() == list(found.low)
    assert encoded.reshape(-1, 3).max(0).tolist() == list(found.high)


def test_ranges_of_formats() -> None:
    assert ranges_of([None, ImageFormat.parse("-1..1")]) == (None, Range((-1, -1, -1), (1, 1, 1)))


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((1, 0), "a range must go from low to high, got (1.0,) to (0.0,)"),
        ((math.nan, 1), "must go from low to high"),
        (((0, 0), (1,)), "as many low as high ends, got 2 and 1"),
        (((), ()), "as many low as high ends, got 0 and 0"),
    ],
)
def test_ranges_refuse_nonsense(ends: tuple, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Range(*ends)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


def test_ranges_must_fit_the_inputs() -> None:
    rgb = Range((0, 0, 0), (1, 1, 1))
    check_ranges([rgb, None], [(1, 3, 4, 4), (1, 5)])
    with pytest.raises(UsageError, match="a range of 3 channels does not fit an input of shape 1x4x9x9"):
        check_ranges([rgb], [(1, 4, 9, 9)])
    with pytest.raises(UsageError, match="2 ranges were given for 1 inputs"):
        check_ranges([None, rgb], [(1, 3, 9, 9)])
