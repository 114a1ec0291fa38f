"""Stranger networks prove the strip: half of the channels zeroed, every width as counted by hand, the same output at any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.channels.graph import trace
from compress.channels.strip import Stripped, strip
from tests.stranger_cases import STRANGERS, Stranger, kill_, made, zero_
from tests.stranger_networks import DCGAN
from tests.stranger_networks_2 import GhostNet
from tests.strip_cases import randomise_

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}


def widths_of(net: nn.Module) -> dict[str, int]:
    """Layer -> channels that it writes."""
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            found[name] = module.weight.shape[1] * module.groups if getattr(module, "transposed", False) else len(module.weight)
    return found


def same_output(net: nn.Module, small: nn.Module, case: Stranger, dtype: torch.dtype = torch.float64) -> None:
    """At the three sizes of the case, in units of the output's range."""
    for size in case.sizes:
        with torch.no_grad():
            one, two = (pytree.tree_leaves(each(*case.inputs(size, dtype))) for each in (net, small))
        for wanted, found in zip(one, two, strict=True):
            span = float(wanted.max() - wanted.min())
            assert span > 1e-3, "this network says nothing"
            assert wanted.shape == found.shape
            gap = float((wanted - found).abs().max()) / span
            assert gap <= LIMITS[dtype], f"{gap:.1e} at {size}"


def understood(done: Stripped, case: Stranger) -> None:
    """No space stays whole but outputs, and what the case says, for the reason that it says."""
    whole = {space.name: space.reason for space in done.report.spaces if space.reason and space.after == space.before}
    stay = {name: reason for name, reason in whole.items() if reason != "an output of the network"}
    assert stay.keys() == case.stays.keys(), stay
    assert all(word in stay[name] for name, word in case.stays.items()), stay
    computes = any("computes its own weights" in word for word in case.stays.values())
    assert {"with computed weights" in text for text in done.report.not_understood} == ({True} if computes else set())
    assert done.report.left_alone.keys() <= case.stays.keys()


@pytest.mark.parametrize("name", STRANGERS)
def test_half_of_the_channels_go(name: str) -> None:
    case = STRANGERS[name]
    net = made(case)
    zero_(net, case, trace(net, case.inputs()))
    done = strip(net, case.inputs())
    assert widths_of(done.module) == case.widths
    shapes = {key: tuple(parameter.shape) for key, parameter in done.module.named_parameters()}
    assert {key: shapes[key] for key in case.parameters} == case.parameters
    understood(done, case)
    same_output(net, done.module, case)
    assert strip(done.module, case.inputs()).report.removed == 0, "a second strip found more"


@pytest.mark.parametrize("name", STRANGERS)
def test_in_float32(name: str) -> None:
    case = STRANGERS[name]
    net = made(case, seed=1)
    graph = trace(net, case.inputs())
    zero_(net, case, graph, seed=1)
    net = net.float()
    done = strip(net, case.inputs(dtype=torch.float32))
    assert widths_of(done.module) == case.widths
    same_output(net, done.module, case, torch.float32)


# -- constants that are not zero, and filters that only look dead ------------------------------------------------------------


def stripped(name: str, net: nn.Module) -> Stripped:
    """Strip a network of that stranger's kind, and hold its outputs against the strip's."""
    done = strip(net, STRANGERS[name].inputs())
    assert not done.report.left_alone
    same_output(net, done.module, STRANGERS[name])
    return done


@torch.no_grad()
def constant_(net: nn.Module, values: Mapping[str, Mapping[int, float]]) -> None:
    """Layers and norms whose channels have nothing but a bias or a shift: layer -> channel -> its value."""
    for name, channels in values.items():
        module = net.get_submodule(name)
        for channel, value in channels.items():
            module.weight[channel] = 0
            module.bias[channel] = value


def changed(before: nn.Module, done: Stripped) -> dict[str, int]:
    """Widths of the layers that shrank."""
    old = widths_of(before)
    return {name: width for name, width in widths_of(done.module).items() if width != old[name]}


@pytest.mark.parametrize("name", ["vgg16", "cyclegan", "unet", "mobilenet v2", "densenet", "rrdb", "espcn"])
def test_filters_that_sum_to_zero_stay(name: str) -> None:
    """A Laplacian answers to edges: every filter of every layer is made one, and nothing goes."""
    net = made(STRANGERS[name])
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 4 and parameter[0, 0].numel() > 1:
                parameter -= parameter.mean((2, 3), keepdim=True)
    assert stripped(name, net).report.removed == 0


def test_constants_fold_into_a_reflected_network() -> None:
    """Johnson: filters of zeros behind which a norm still adds something. Each goes, wherever the next convolution reflects."""
    net = made(STRANGERS["johnson"])
    kill_(net, {"down1.conv": [2, 4], "residual.0.first.conv": [1, 5, 8], "up2.conv": [0]})  # their norms shift them still
    done = stripped("johnson", net)
    assert changed(net, done) == {"down1.conv": 4, "residual.0.first.conv": 6, "up2.conv": 5}
    assert {space.name: space.constant for space in done.report.spaces if space.constant} == {
        "down1.conv": 2, "residual.0.first.conv": 3, "up2.conv": 1}  # fmt: skip


def test_constants_share_a_carrier_where_zeros_pad() -> None:
    """VGG: of three constants before a zero-padded convolution one stays, and carries the others. Before a linear layer, none."""
    net = made(STRANGERS["vgg16"])
    constant_(net, {"features.12": {0: 0.5, 3: 0.25, 7: 0.125}, "features.28": {2: 0.75, 11: 1.5, 16: -1.0}})
    done = stripped("vgg16", net)
    assert changed(net, done) == {"features.12": 9 - 2, "features.28": 17 - 3}
    held = {space.name: space.held for space in done.report.spaces if space.held}
    assert held == {"features.12": 1}


def test_a_norm_without_parameters_forgets_a_constant() -> None:
    """CycleGAN: a bias alone becomes nothing behind an InstanceNorm: zero, whatever pads the next convolution."""
    net = made(STRANGERS["cyclegan"])
    constant_(net, {"model.1": {0: 0.7, 4: -2.0}, "model.10.conv_block.1": {3: 1.0}})
    assert changed(net, stripped("cyclegan", net)) == {"model.1": 4, "model.10.conv_block.1": 10}


def test_what_norms_make_of_constants_by_rounding_is_no_fault() -> None:
    """MSG-Net, half of its filters zero, all biases left: behind norms that is nothing, but for what float64 makes of it."""
    case = STRANGERS["msgnet"]
    net = made(case)
    biases = {name: tensor.clone() for name, tensor in net.state_dict().items() if name.endswith("bias")}
    zero_(net, case, trace(net, case.inputs()))
    net.load_state_dict(biases, strict=False)
    done = strip(net, case.inputs())
    assert not done.report.left_alone
    assert widths_of(done.module) == case.widths
    assert all(check.holds and check.gap < 1e-10 for check in done.report.checks)


def test_constants_through_depthwise_convolutions() -> None:
    """MobileNetV2: behind ReLU6, minus is zero, stays zero through the filter, and what its norm adds then is folded.

    Plus is a constant that meets zeros at the border of a depthwise filter: no constant any more, so it stays.
    """
    net = made(STRANGERS["mobilenet v2"])
    constant_(net, {"stem.1": {1: -0.5, 6: 0.5}, "blocks.1.expand.1": {0: -1.0, 5: -0.1, 9: 0.1}})
    assert changed(net, stripped("mobilenet v2", net)) == {
        "stem.0": 6, "first.0.0": 6, "blocks.1.expand.0": 15, "blocks.1.depthwise.0": 15}  # fmt: skip


def test_a_constant_in_one_branch_alone_is_no_constant_of_the_sum() -> None:
    """HRNet: channel 2 of one of three branches adds a constant to two that live: it stays; all three dead, it goes."""
    net = made(STRANGERS["hrnet"])
    branches = {"split.0.1": {2: 0.5}, "up.01.1": {2: 0.25}, "up.02.1": {2: -0.125}}
    constant_(net, {"up.01.1": branches["up.01.1"]})
    assert changed(net, stripped("hrnet", net)) == {}
    constant_(net, branches)
    assert changed(net, stripped("hrnet", net)) == {}  # down.10 and down20 read 0.5 through zero padding: it carries itself
    constant_(net, {**branches, "split.0.1": {2: -0.5}})  # zero behind its ReLU; the head's 1x1 convolution takes the sum over
    assert changed(net, stripped("hrnet", net)) == {"split.0.0": 4, "up.01.0": 4, "up.02.0": 4}


def test_a_pad_by_nothing_may_be_one_by_something_elsewhere() -> None:
    """U-Net pads what went up to the size of its skip, here by nothing: a constant meets zeros at odd sizes, so it stays.

    A zero goes all the same, and so does a constant in the skip.
    """
    net = made(STRANGERS["unet"])
    with torch.no_grad():
        net.up1.weight[:, [1, 3, 6]] = 0
        net.up1.bias[[1, 3, 6]] = torch.tensor([0.5, 0.0, -0.25], dtype=torch.float64)
    constant_(net, {"down1.4": {2: 0.5, 5: 0.75, 8: 0.25}})
    done = stripped("unet", net)  # the skip's constants are read by two convolutions with zeros around: one carries all
    assert changed(net, done) == {"up1": 7, "down1.3": 10 - 2}


# -- what cannot be understood, or cannot be cut -------------------------------------------------------------------------------


class Spectral(nn.Module):
    """LaMa's Fourier unit: a convolution over the spectrum, real and imaginary parts side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = torch.view_as_real(torch.fft.rfft2(x)).unbind(-1)
        real, imaginary = F.relu(self.conv(torch.cat([real, imaginary], 1))).chunk(2, 1)
        return torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:])


class Inverse(nn.Module):
    """Glow's way back: the inverse of an invertible 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        mixing = self.weight + 2 * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(mixing, x.flatten(2)).view_as(x)


@torch.library.custom_op("strangers::tilt", mutates_args=())
def tilt(x: Tensor) -> Tensor:
    """An operator of somebody's own library: nobody knows that it mixes each channel with the one before."""
    return x + 0.5 * x.roll(1, 1)


@tilt.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Tilted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tilt(x)


class Around(nn.Module):
    """Something strange between convolutions: `enter` and `leave` are out of its reach, `before` and `after` are not."""

    def __init__(self, strange: nn.Module) -> None:
        super().__init__()
        self.enter, self.before = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.strange = strange
        self.after, self.leave = nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.strange(F.relu(self.before(F.relu(self.enter(x)))))
        return self.leave(F.relu(self.after(x)))


@pytest.mark.parametrize(
    ("strange", "operator"), [(Spectral(8), "fft_rfft2"), (Inverse(8), "linalg_solve"), (Tilted(), "strangers.tilt")], ids=str
)
def test_an_unknown_operator_is_named_and_only_its_channels_stay(strange: nn.Module, operator: str) -> None:
    net = randomise_(Around(strange))
    kill_(net, {"enter": [0, 2, 5], "before": [1, 3, 4, 7], "after": [0, 3, 6, 8, 9]})
    done = strip(net, STRANGERS["unet"].inputs())
    same_output(net, done.module, STRANGERS["unet"])
    assert {name: width for name, width in widths_of(done.module).items() if "strange" not in name} == {
        "enter": 3, "before": 8, "after": 5, "leave": 2}  # fmt: skip
    named = [text for text in done.report.not_understood if operator in text]
    assert named
    assert all("in strange" in text and "test_strip_strangers.py:" in text for text in named)
    reason = next(space.reason for space in done.report.spaces if space.name == "before")
    assert "not understood" in str(reason)


def test_a_width_in_the_code_is_found_and_named() -> None:
    """DCGAN with `view(n, 12, 4, 5)`: the picture's 12 channels stay, all others go."""
    case = STRANGERS["dcgan"]
    net = randomise_(DCGAN(baked=True))
    kill_(net, case.dead)
    done = strip(net, case.inputs())
    same_output(net, done.module, case)
    assert widths_of(done.module) == {"project": 240, "up1": 5, "up2": 3, "up3": 3}
    assert list(done.report.left_alone) == ["project"]
    assert "12" in done.report.left_alone["project"]


@pytest.mark.parametrize(("dead", "left"), [((6,), 12), ((0, 7), 13)])
def test_a_slice_in_the_code_may_or_may_not_bear_a_cut(dead: Sequence[int], left: int) -> None:
    """GhostNet, 13 wide: seven channels and seven ghosts, the last of which `[:, :13]` drops.

    Without channel 6, twelve stay and the slice drops nothing: right. Without channel 0 and its ghost (7) it would have to drop
    the twelfth of twelve: the code still says 13, so they stay, and the report says why.
    """
    net = randomise_(GhostNet(last=13))
    layers = [f"blocks.{n}.ghost2.{part}" for n in (0, 1) for part in ("primary", "cheap")]
    own = [channel for channel in dead if channel < 7]
    kill_(net, {f"{layer}.{part}": own for layer in layers for part in (0, 1)})
    kill_(net, {f"blocks.0.shortcut.1.{part}": dead for part in (0, 1)})
    done = strip(net, STRANGERS["ghostnet"].inputs())
    same_output(net, done.module, STRANGERS["ghostnet"])
    assert widths_of(done.module)["blocks.0.shortcut.1.0"] == left
    assert bool(done.report.left_alone) == (left == 13)
