"""What bounds prove goes, and nothing else: channels one rounding short of dead stay, counted by hand on both sides."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from compress import checkpoint
from compress.channels import proof
from compress.channels.export import copied
from compress.channels.proof import Witness
from compress.channels.ranges import Range, ranges_of
from compress.channels.report import Report, UpTo
from compress.channels.strip import Stripped, strip
from compress.cli import main
from compress.errors import ParityError, TraceError, UsageError
from compress.image_format import PRESETS
from compress.networks.load import NetOptions, open_network, snapshot
from compress.spec import ModelSpec
from tests.strip_cases import gap, randomise_

EXAMPLE = (1, 3, 12, 14)
UNIT = Range(0, 1)


class Net(nn.Module):
    """One layer of known numbers, a function of it, a convolution that reads it."""

    def __init__(self, width: int, function: nn.Module, rows: Sequence[Sequence[float]], bias: Sequence[float]) -> None:
        super().__init__()
        self.a, self.function, self.b = nn.Conv2d(3, width, 1), function, nn.Conv2d(width, 2, 3, padding=1)
        randomise_(self)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor(rows, dtype=torch.float64).view(width, 3, 1, 1))
            self.a.bias.copy_(torch.tensor(bias, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def went(report: Report, name: str = "a") -> dict[str, tuple[int, ...]]:
    space = next(space for space in report.spaces if space.name == name)
    found = {kind: getattr(space.proved, kind) for kind in ("weights", "bounds", "size")}
    return {kind: channels for kind, channels in found.items() if channels}


def stripped(net: nn.Module, *ranges: Range | None, **options: Any) -> Stripped:
    return strip(net, [torch.rand(EXAMPLE, dtype=torch.float64)], ranges=ranges or (UNIT,), **options)


def close(net: nn.Module, done: Stripped, low: float = 0.0, high: float = 1.0) -> float:
    """Largest difference on inputs in the range, some at its ends."""
    share = torch.rand(2, 3, 15, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return max(float((net(x) - done.module(x)).abs().max()) for x in (low + (high - low) * s for s in (share, share.round())))


# -- bounds from the range of the input ----------------------------------------------------------------------------------------


def test_a_relu_is_dead_exactly_when_its_bound_is_zero() -> None:
    """0.5 + 0.25 at most: a bias of -0.75 is dead, 1e-9 less is not; the weights alone prove the last one."""
    rows = [[0.5, 0.25, -2.0]] * 4 + [[0.0, 0.0, 0.0]]
    net = Net(5, nn.ReLU(), rows, [-0.75, -0.75 + 1e-9, -0.8, 1.0, -1.0])
    done = stripped(net)
    assert went(done.report) == {"weights": (4,), "bounds": (0, 2)}
    assert done.module.a.out_channels == 2
    assert close(net, done) <= 1e-12
    assert strip(done.module, [torch.rand(EXAMPLE, dtype=torch.float64)], ranges=[UNIT]).report.removed == 0


def test_without_a_range_only_what_holds_for_every_input_goes() -> None:
    net = Net(3, nn.ReLU(), [[0.5, 0.25, -2.0]] * 2 + [[0.0] * 3], [-0.75, 1.0, -1.0])
    done = strip(net, [torch.rand(EXAMPLE, dtype=torch.float64)])
    assert went(done.report) == {"weights": (2,)}
    assert done.report.bounded == (False,)
    assert done.report.conditions == {}


def test_each_channel_has_its_own_range() -> None:
    """Red reaches 1, green 2, blue only 0.5; weights that read one each, and the same bias."""
    net = Net(3, nn.ReLU(), [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [-0.9, -2.0, -0.5])
    done = stripped(net, Range((0, 0, -1), (1, 2, 0.5)))
    assert went(done.report) == {"bounds": (1, 2)}


def test_relu_of_a_relu_needs_no_range() -> None:
    """Sums of what is not negative, by weights that are not positive."""
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    randomise_(net)
    with torch.no_grad():
        net[2].weight[[0, 3]] = -net[2].weight[[0, 3]].abs()
        net[2].bias[[0, 3]] = torch.tensor([-0.1, 0.1], dtype=torch.float64)
    done = strip(net, [torch.rand(EXAMPLE, dtype=torch.float64)])
    assert went(done.report, "2") == {"bounds": (0,)}
    assert gap(net, done.module, (1, 3, 9, 8)) <= 1e-12


SATURATED = {
    "relu6": (nn.ReLU6(), 6.0), "hardtanh": (nn.Hardtanh(-0.5, 0.25), 0.25), "hardsigmoid": (nn.Hardsigmoid(), 3.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SATURATED)
def test_saturation_at_the_upper_end(name: str) -> None:
    """A channel that is never below the upper knot is a constant, and folded as one; a little below, it lives."""
    function, knot = SATURATED[name]
    net = Net(3, function, [[0.5, 0.25, 1.0]] * 3, [knot, knot - 1e-9, knot + 1.0])
    done = stripped(net)
    assert went(done.report) == {"bounds": (2,)}, "one of both constants carries the other through zero padding"
    assert next(s for s in done.report.spaces if s.name == "a").held == 1
    assert close(net, done) <= 1e-12


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x.clamp(min=0.1), torch.full((), 0.1, dtype=x.dtype)) - 0.1


class Minimum(nn.Module):
    """The smaller of two branches, one of which is always below."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(x.sigmoid(), 2 + x.abs()).clamp(max=0)


@pytest.mark.parametrize(
    ("function", "dead", "alive"),
    [
        (nn.Hardswish(), -3.75, -3.74),
        (nn.Threshold(0.3, 0.0), -0.46, -0.44),
        (nn.Hardtanh(0.0, 5.0), -0.75, -0.74),
        (Clamp(), -0.65, -0.64),
        (nn.Hardshrink(0.2), -0.2, 0.5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_saturation_at_the_lower_end(function: nn.Module, dead: float, alive: float) -> None:
    rows = [[0.5, 0.25, -0.25 if isinstance(function, nn.Hardshrink) else -2.0]] * 2
    if isinstance(function, nn.Hardshrink):  # silent in the middle: between -0.2 and 0.2
        rows, dead = [[0.1, 0.0, 0.0], [0.5, 0.25, 0.0]], 0.0
    net = Net(2, function, rows, [dead, alive])
    done = stripped(net)
    assert went(done.report) == {"bounds": (0,)}
    assert close(net, done) <= 1e-12


def test_a_jump_is_kept_away_from() -> None:
    """Where float32 could fall on the other side of a threshold, the channel stays: the bound lies 1e-8 below it."""
    net = Net(2, nn.Threshold(0.3, 0.0), [[0.5, 0.25, 0.0]] * 2, [-0.45 - 1e-8, -0.46])
    assert went(stripped(net).report) == {"bounds": (1,)}


def test_min_of_two_branches() -> None:
    net = Net(2, Minimum(), [[0.5, 0.25, 0.0]] * 2, [0.0, 1.0])
    assert stripped(net).report.spaces[0].after == 1, "both are 0 for all inputs, and one must stay"


def test_image_formats_are_ranges() -> None:
    """Of Caffe's blue-green-red pixels minus their means, blue reaches 151.061."""
    net = Net(3, nn.ReLU(), [[1, 0, 0], [1, 0, 0], [0, 1, 0]], [-151.07, -151.06, -138.5])
    done = stripped(net, *ranges_of([PRESETS["caffe"]]))
    assert went(done.report) == {"bounds": (0, 2)}
    assert done.report.bounded == (True,)
    assert done.report.conditions == {"inputs_in_range": True}


def test_float32_is_zero_where_a_relu_is_proved_dead() -> None:
    """Not at the very edge, where it may leave a rounding: 1e-5 of the terms beyond it."""
    draw = np.random.default_rng(3)
    net = nn.Sequential(nn.Conv2d(3, 40, 5), nn.ReLU()).eval()
    with torch.no_grad():
        weight = torch.from_numpy(draw.normal(size=(40, 3, 5, 5)).astype(np.float32))
        top = weight.clamp(min=0).double().sum((1, 2, 3)) * 255
        net[0].weight.copy_(weight)
        net[0].bias.copy_((-top * (1 + 1e-5)).float())
        bright = torch.where(weight > 0, 255.0, 0.0)  # the inputs that reach furthest
        assert net(bright).diagonal(dim1=0, dim2=1).max() == 0


# -- norms over space, and the largest size ------------------------------------------------------------------------------------


class Normed(nn.Module):
    """What a norm over space makes, in channels that are dead up to 26, 17 and no pixels of the input; each pixel counts four."""

    def __init__(self, bias: Sequence[float] = (-5.0, -8.0, 1.0), norm: type[nn.Module] = nn.InstanceNorm2d) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.InstanceNorm2d(3, affine=True) if norm is nn.InstanceNorm2d else nn.GroupNorm(3, 3)
        self.b = nn.Conv2d(3, 2, 1)
        randomise_(self)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.0, -2.0, 1.0]))
            self.norm.bias.copy_(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x))))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.GroupNorm])
@pytest.mark.parametrize(
    ("size", "dead"), [((2, 13), (0,)), ((3, 9), ()), ((1, 17), (0, 1)), ((1, 18), (0,)), ((4, 4), (0, 1)), ((7, 7), ())]
)
def test_a_norm_is_dead_up_to_a_size(norm: type[nn.Module], size: tuple[int, int], dead: tuple[int, ...]) -> None:
    """b = -|g| sqrt(HW - 1): -5 is dead up to 26 pixels, -8 of 2 up to 17, both at once."""
    net = Normed(norm=norm)
    done = strip(net, [torch.rand(1, 3, 3, 5, dtype=torch.float64)], max_size=size)
    assert went(done.report) == ({"size": dead} if dead else {})
    assert done.report.max_size == size
    assert done.report.conditions == {"max_size": list(size)}
    assert all(h <= size[0] and w <= size[1] for h, w in (check.size for check in done.report.checks))
    peak = torch.zeros(1, 3, *size, dtype=torch.float64)
    peak[..., size[0] // 2, size[1] // 2] = 1e3
    with torch.no_grad():
        assert (net(peak) - done.module(peak)).abs().max() <= 1e-9


def test_up_to_which_size_is_said_without_one() -> None:
    """Of those that are dead at the example's size, in pixels of the input; nothing goes."""
    done = strip(Normed(), [torch.rand(1, 3, 4, 5, dtype=torch.float64)])
    assert done.report.removed == 0
    assert done.report.spaces[0].proved_up_to == (UpTo(0, 26, False),)
    document = json.loads(json.dumps(done.report.to_json()))
    assert document["spaces"][0]["proved_up_to"] == [{"channel": 0, "pixels": 26, "removed": False}]
    assert document["max_size"] is None


def test_the_size_that_counts_is_that_of_the_norms_own_picture() -> None:
    """Behind a stride of two, 8x8 becomes 4x4: dead up to 17 pixels there, up to 68 of the input."""
    net = Normed(bias=(-4.0, 0.0, 1.0))
    net.a = randomise_(nn.Conv2d(3, 3, 2, 2))
    assert went(strip(net, [torch.rand(1, 3, 6, 4, dtype=torch.float64)], max_size=(8, 8)).report) == {"size": (0,)}
    assert went(strip(net, [torch.rand(1, 3, 6, 4, dtype=torch.float64)], max_size=(8, 10)).report) == {}
    (found,) = strip(net, [torch.rand(1, 3, 6, 4, dtype=torch.float64)]).report.spaces[0].proved_up_to
    assert found == UpTo(0, 17 * 4, False)


def test_a_norm_that_hardly_varies_is_dead_at_every_size() -> None:
    """|z| <= width / sqrt(eps): a range of 1 times 0.01, an epsilon of 0.01 and a bias of -0.1 need no largest size."""
    net = Normed(bias=(-0.11, -8.0, 1.0))
    net.norm.eps = 0.01
    with torch.no_grad():
        net.a.weight[0] = 0
        net.a.weight[0, 0, 1, 1] = 0.01
    assert went(strip(net, [torch.rand(EXAMPLE, dtype=torch.float64)], ranges=[UNIT]).report) == {"bounds": (0,)}


def test_a_network_that_does_other_things_at_the_largest_size() -> None:
    class Other(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.shape[2] < 6 else super().forward(x[:, :, ::2])

    with pytest.raises(TraceError, match="the network does other things at 8x8 than on its example"):
        strip(Other(), [torch.rand(1, 3, 4, 5, dtype=torch.float64)], max_size=(8, 8))


def test_a_largest_size_that_the_network_does_not_take() -> None:
    """It takes even sides only: what holds at 4x6 holds at 3x5, and there it is compared where it runs."""

    class Even(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.nn.functional.pixel_unshuffle(x, 2)[:, :3])

    net, example = Even(bias=(-math.sqrt(5), -math.sqrt(4), 1.0)), [torch.rand(1, 3, 8, 8, dtype=torch.float64)]
    done = strip(net, example, max_size=(3, 5))
    assert went(done.report) == {"size": (0,)}, "2x3 pixels inside"
    assert {check.size for check in done.report.checks}
    assert all(check.size[0] <= 3 and check.size[1] <= 5 for check in done.report.checks)
    with pytest.raises(TraceError, match="the network does not run at 1x1"):
        strip(net, example, max_size=(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": (4,)}, "a largest size of 4 does not fit inputs of 1x3x12x14"),
        ({"max_size": (0, 4)}, "a largest size of 0x4 does not fit"),
        ({"max_size": 16}, "a largest size of 16 does not fit"),
        ({"sizes": [(8, 8), (8,)]}, "a size of 8 does not fit inputs of 1x3x12x14"),
        ({"sizes": [(8, -8)]}, "a size of 8x-8 does not fit"),
        ({"sizes": (8, 8)}, "a size of 8 does not fit"),
        ({"max_size": (9, 9), "sizes": [(8, 8), (8, 10)]}, "8x10 is compared, but the largest size is 9x9"),
        ({"ranges": [UNIT, UNIT]}, "2 ranges were given for 1 inputs"),
        ({"ranges": [Range((0, 0), (1, 1))]}, "a range of 2 channels does not fit"),
        ({"threshold": 0.1}, "a threshold needs an observation"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        strip(Normed(), [torch.rand(EXAMPLE, dtype=torch.float64)], **options)
    assert message in caught.value.message
    assert caught.value.exit_code == 2


class Unbounded(nn.Module):
    """The logarithm of what is never above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (-torch.relu(self.a(x)) - 1).log()


@pytest.mark.parametrize(
    ("net", "example", "message"),
    [
        (Unbounded(), torch.rand(1, 3, 4, 5), "the network does not run at 4x5: it gives nothing but NaN or inf"),
        (nn.Conv2d(3, 4, 1), torch.full((1, 3, 4, 5), math.nan), "an input of 1x3x4x5 has NaN or inf in it"),
        (nn.Conv2d(3, 4, 1), torch.rand(0, 3, 4, 5), "an input of 0x3x4x5 has no numbers in it"),
    ],
    ids=["unbounded", "NaN", "empty"],
)
def test_what_compares_with_nothing_proves_nothing(net: nn.Module, example: Tensor, message: str) -> None:
    with pytest.raises(TraceError) as caught:
        strip(net.eval(), [example])
    assert message in caught.value.message
    assert caught.value.exit_code == 1


# -- exactness -----------------------------------------------------------------------------------------------------------------


def test_a_carrier_that_cancels_goes_too() -> None:
    """Both constants are 0.5 and their weights opposite: merged into one, nobody reads it."""
    net = Net(4, nn.Identity(), [[0.0] * 3, [0.0] * 3, [0.5, 0.25, 1.0], [1.0, 0.0, 2.0]], [0.5, 0.5, 0.1, 0.2])
    with torch.no_grad():
        net.b.weight[:, 1] = -net.b.weight[:, 0]
    done = strip(net, [torch.rand(EXAMPLE, dtype=torch.float64)])
    assert done.module.a.out_channels == 2
    assert went(done.report) == {"weights": (0, 1)}
    assert gap(net, done.module, (1, 3, 9, 10)) <= 1e-12


def test_constants_that_are_merged_narrow_bounds() -> None:
    """Behind zero padding, 2 and -1.9 of two constants may each be missing, the 0.1 of the merged one alone cannot reach 1."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
            randomise_(self)
            with torch.no_grad():
                self.a.weight[:2] = 0
                self.a.weight[2] = 0.01
                self.a.bias.copy_(torch.tensor([1.0, 1.0, 0.1]))
                self.b.weight[0] = 0
                self.b.weight[0, :2, 0, 0] = torch.tensor([2.0, -1.9])
                self.b.bias[0] = -1.0

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(self.a(x))))

    net = Chain()
    done = stripped(net)
    assert {space.name: space.after for space in done.report.spaces} == {"a": 2, "b": 1, "c": 2}
    assert went(done.report, "b") == {"bounds": (0,)}
    assert stripped(done.module).report.removed == 0
    assert close(net, done) <= 1e-12


def test_the_limit_in_float64_is_what_is_promised() -> None:
    net = randomise_(Normed())
    witness = Witness(net, [torch.rand(EXAMPLE, dtype=torch.float64)])
    (check, *_) = witness.compare(copied(net))
    assert (check.limit, check.rounding) == (1e-12, 0.0)
    other = copied(net)
    with torch.no_grad():
        other.b.weight[0, 0, 0, 0] *= 1 + 1e-9
    assert isinstance(witness.compare(other), proof.Fault)


@pytest.mark.parametrize(("scale", "holds"), [(1e-3, True), (1e-6, False)])
def test_a_network_that_amplifies_rounding_has_a_wider_limit_but_no_blank_cheque(scale: float, holds: bool) -> None:
    """A norm of a channel that varies by `scale` on top of a thousand multiplies what float64 rounds."""
    net = Normed(bias=(0.0, 0.0, 0.0))
    with torch.no_grad():
        net.a.weight.mul_(scale)
        net.a.bias.fill_(1e3)
        net.norm.weight.fill_(1.0)
    net.norm.eps = 1e-20
    witness = Witness(net, [torch.rand(EXAMPLE, dtype=torch.float64)])
    other, wrong = copied(net), copied(net)
    with torch.no_grad():
        other.a.bias.mul_(1 + 2.0**-52)  # one rounding
        wrong.b.weight.mul_(1 + 1e-8)
    found = witness.compare(other)
    if holds:
        assert isinstance(found, list)
        assert all(1e-12 < check.gap <= check.limit <= 1e-9 and check.rounding > 0 for check in found)
    else:
        assert isinstance(found, proof.Fault), "no rounding excuses more than 1e-9"
    assert isinstance(witness.compare(wrong), proof.Fault)


# -- the command ---------------------------------------------------------------------------------------------------------------


def normed() -> nn.Module:
    return Normed().float()


def pixels() -> nn.Module:
    return Net(3, nn.ReLU(), [[0.5, 0.25, -2.0]] * 3, [-0.8, 1.0, 0.5]).float()


def saved(path: Path, factory: str, form: str | None = "0..1") -> Path:
    pictures = (PRESETS[form] if form else None,)
    spec = ModelSpec(f"tests.test_strip_proofs:{factory}", {}, ((1, 3, 4, 5),), pictures, (None,))
    checkpoint.write(path, snapshot(globals()[factory](), spec))
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["strip", *map(str, arguments)])


def run_on(path: Path, factory: str, *arguments: object) -> Any:
    return run(path, "--network", f"tests.test_strip_proofs:{factory}", *arguments)


def last_entry(path: Path, factory: str) -> dict[str, Any]:
    history = open_network(path, NetOptions(f"tests.test_strip_proofs:{factory}")).checkpoint.history
    return dict(history[-1])


def test_command_with_a_largest_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "net", "normed")
    plain = run_on(path, "normed", "-o", tmp_path / "plain")
    assert "1 channel more is proved for inputs of up to 26 pixels: see --max-size" in plain.stdout
    assert "nothing removed (compared at 4x5 all the same)" in plain.stdout
    document = json.loads(run_on(path, "normed", "-o", tmp_path / "small", "--max-size", "2x13", "--json").stdout)
    assert document["max_size"] == [2, 13]
    assert document["spaces"][0]["proved"] == {"weights": [], "bounds": [], "size": [0]}
    assert document["spaces"][0]["proved_up_to"] == [{"channel": 0, "pixels": 26, "removed": True}]
    assert all(h <= 2 and w <= 13 for h, w in (check["size"] for check in document["checks"]))
    assert last_entry(tmp_path / "small", "normed")["max_size"] == [2, 13]


def test_command_uses_the_image_format(tmp_path: Path) -> None:
    """0.5 + 0.25 - 0.8 at most, where pixels are 0..1."""
    done = run_on(saved(tmp_path / "net", "pixels"), "pixels", "-o", tmp_path / "a")
    assert "1 channel by bounds: proved for inputs made of pixels 0..255" in done.stdout
    assert last_entry(tmp_path / "a", "pixels")["inputs_in_range"] is True
    blind = run_on(saved(tmp_path / "blind", "pixels", None), "pixels", "-o", tmp_path / "b")
    assert "nothing removed" in blind.stdout
    assert "inputs_in_range" not in last_entry(tmp_path / "b", "pixels")


def test_command_refuses_sizes_beyond_the_largest(tmp_path: Path) -> None:
    path = saved(tmp_path / "net", "normed")
    done = run_on(path, "normed", "-o", tmp_path / "a", "--max-size", 9, "--size", "9x10")
    assert done.exit_code == 2
    assert "9x10 is compared, but the largest size is 9x9" in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_random_network_with_nothing_to_remove_is_refused_too() -> None:
    class Noisy(Normed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(1)

    with pytest.raises(ParityError, match="gives different outputs for the same input"):
        strip(Noisy(), [torch.rand(EXAMPLE, dtype=torch.float64)])
