"""The channel spaces of networks: names, widths, what writes and reads them, what they cost, what is left alone and why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels.cost import measure
from compress.channels.graph import ChannelGraph, trace
from compress.channels.labels import FIXED, Labels
from compress.channels.strip import strip
from compress.errors import TraceError
from compress.networks.johnson import Johnson
from tests.strip_cases import make_constant_, randomise_


class Two(nn.Module):
    """conv(3 -> 7), what is to be tried, conv(7 -> 2)."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 7) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(width, 2, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))


def traced(module: nn.Module, *shape: int) -> ChannelGraph:
    return trace(module, [torch.rand(shape or (1, 3, 12, 16))])


def test_labels_tie_and_pin() -> None:
    labels = Labels()
    a, b, c = labels.fresh(3), labels.fresh(3), labels.fresh(2)
    labels.tie(a, b[::-1], "")
    labels.tie(b[:2], np.array([c[0], FIXED]), "tied to something fixed")
    units = labels.settle()
    assert units(np.array([*a, *b, *c, FIXED])).tolist() == [0, 1, 2, 2, 1, 0, 2, 3, FIXED]
    assert units.reasons == (None, "tied to something fixed", None, None)


def test_long_chains_settle() -> None:
    labels = Labels()
    atoms = labels.fresh(5000)
    labels.tie(atoms[:-1], atoms[1:], "")
    assert len(labels.settle()) == 1


def test_johnson_spaces() -> None:
    graph = traced(Johnson(widths=[5, 7, 11], hidden=9, blocks=2, norm="batch"))
    assert [(s.name, s.width, s.prunable, s.group) for s in graph.spaces] == [
        ("down1.conv", 5, True, 1),
        ("down2.conv", 7, True, 1),
        ("down3.conv", 11, True, 1),
        ("residual.0.first.conv", 9, True, 1),
        ("residual.1.first.conv", 9, True, 1),
        ("up1.conv", 7, True, 1),
        ("up2.conv", 5, True, 1),
        ("out", 3, False, 1),
    ]
    trunk = graph.space("down3.conv")
    writers = {f"{name}.{kind}" for name in ("down3", "residual.0.second", "residual.1.second") for kind in _KINDS}
    assert {binding.tensor for binding in trunk.writers} == writers
    readers = {"residual.0.first.conv.weight", "residual.1.first.conv.weight", "up1.conv.weight"}
    assert {(binding.tensor, binding.axis) for binding in trunk.readers} == {(name, 1) for name in readers}
    assert {binding.tensor.rpartition(".")[2] for binding in trunk.followers} == {"running_mean", "running_var"}
    assert graph.space("out").reason == "an output of the network"
    assert graph.not_understood == ()


_KINDS = ("conv.weight", "conv.bias", "norm.weight", "norm.bias")


def test_space_that_is_not_there() -> None:
    with pytest.raises(KeyError, match=r"no channel space 'c'; there are a, b"):
        traced(Two(F.relu)).space("c")


def test_rows_are_what_writes_each_channel() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = traced(net)
    tensors = dict(net.named_parameters())
    assert torch.equal(graph.rows(graph.space("0"), tensors)[0], net[0].weight.flatten(1))
    rows = graph.rows(graph.space("1"), tensors)[0]
    assert rows.shape == (4, 3 * 4)
    assert torch.equal(rows[3], net[1].weight[3:, 1].flatten())  # the second of group 1, from the inputs of group 1


def test_zeroing_leaves_the_module_strips_can_find() -> None:
    """What `zero_` zeroes is gone after the strip, and the cost is the predicted one: a grouped and a depthwise network."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, groups=12), nn.Conv2d(24, 5, 1),
    )  # fmt: skip
    graph = traced(randomise_(net).float())
    groups = {space.name: (space.width, space.group) for space in graph.spaces}
    assert groups == {"0": (8, 4), "1": (12, 4), "5": (5, 1)}
    graph.zero_(net, {"0": [1, 2, 4, 7], "1": [0, 3, 6, 9]})
    predicted = graph.predict({"0": 4, "1": 4})
    done = strip(net, [torch.rand(1, 3, 12, 16)])
    assert {s.name: s.after for s in done.report.spaces} == {"0": 4, "1": 8, "5": 5}
    assert measure(done.module, [torch.rand(1, 3, 12, 16)]) == predicted
    assert predicted.parameters == sum(p.numel() for p in done.module.parameters())
    assert (done.module[4].groups, done.module[1].groups) == (8, 4)


def test_predict_refuses_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="cannot remove 7 of 7 channels of a"):
        traced(Two(F.relu)).predict({"a": 7})


def test_cost_by_hand() -> None:
    """3x12x16 -> 7 (3x3, padded) -> 2 (3x3): (27 * 7 * 192) + (63 * 2 * 140) multiply-adds."""
    net = Two(F.relu)
    cost = measure(net, [torch.rand(1, 3, 12, 16)])
    assert (cost.parameters, cost.macs) == (3 * 7 * 9 + 7 + 7 * 2 * 9 + 2, 27 * 7 * 192 + 63 * 2 * 140)
    assert cost.uncounted == ()
    up = nn.Sequential(nn.ConvTranspose2d(3, 5, 4, 2, 1, bias=False), nn.Flatten(), nn.Linear(5 * 24 * 32, 2))
    assert measure(up, [torch.rand(1, 3, 12, 16)]).macs == 3 * 5 * 16 * 192 + 5 * 24 * 32 * 2


def test_what_counts_channels_multiplies_nothing() -> None:
    """Norms, reductions and pools of channels have no multiply-adds, as those over space."""

    def between(x: Tensor) -> Tensor:
        return F.group_norm(x, 1) * x.mean(1, keepdim=True) + F.local_response_norm(x, 3) + x.sort(1)[0]

    assert measure(Two(between), [torch.rand(1, 3, 12, 16)]).uncounted == ()


def test_matrix_products_count_and_others_are_named() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(2)
            return torch.matmul(flat, flat.transpose(1, 2)) + torch.cdist(flat, flat).mean()

    cost = measure(nn.Sequential(nn.Conv2d(3, 7, 1), Attention()), [torch.rand(1, 3, 4, 5)])
    assert cost.macs == 21 * 20 + 7 * 7 * 20
    assert [name.split()[0] for name in cost.uncounted] == ["_cdist_forward"] or "cdist" in cost.uncounted[0]


@pytest.mark.parametrize(
    "between",
    [
        F.relu, F.leaky_relu, F.hardswish, torch.sigmoid, torch.tanh, F.silu, F.elu, F.gelu, F.softplus, F.hardtanh, F.mish,
        lambda x: x.clamp(-1, 2), lambda x: 3 - x / 2 + x * x, lambda x: x.abs().sqrt(), lambda x: torch.maximum(x, 1 - x),
        lambda x: F.interpolate(x, scale_factor=2), lambda x: F.interpolate(x, size=(9, 9), mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic"), lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2), lambda x: F.pad(x, (1, 2, 3, 4), "reflect"), lambda x: F.pad(x, (1, 2, 0, 1), "replicate"),
        lambda x: F.pad(x, (2, 1, 1, 0), "circular"), lambda x: F.pad(x, (-1, -1, 0, 0)),
        lambda x: x - x.mean((2, 3), keepdim=True),
        lambda x: x.flip(3), lambda x: x[:, :, 1:, ::2], lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2),
        lambda x: torch.cat([x, x], 3), lambda x: F.relu_(x).mul_(2),
        lambda x: F.dropout(x, 0.5, False), lambda x: x.view(x.shape),
        lambda x: (x.flatten(2) * 2).unflatten(2, x.shape[2:]),
        lambda x: torch.where(x > 0, x, -x), lambda x: x.contiguous().float(),
        lambda x: x / (0.1 + x.std((2, 3), keepdim=True)), lambda x: x.expand(2, -1, -1, -1), lambda x: x.softmax(2),
    ],
)  # fmt: skip
def test_operators_that_keep_channels_apart(between: Callable[[Tensor], Tensor]) -> None:
    """One space of 7, prunable; and a zeroed channel, or a constant one, goes or stays without moving the output."""
    net = randomise_(Two(between)).float()
    graph = traced(net)
    assert [(s.name, s.width, s.prunable) for s in graph.spaces] == [("a", 7, True), ("b", 2, False)]
    make_constant_(net.a, [1, 4], [0.5, -0.25])
    done = strip(net, [torch.rand(1, 3, 12, 16)])
    assert done.report.left_alone == {}
    assert done.report.not_understood == ()


@pytest.mark.parametrize(
    ("between", "width", "reason"),
    [
        (lambda x: x.mean(1, keepdim=True) + x, 7, "mean over channels counts them"),
        (lambda x: x.softmax(1), 7, "softmax mixes channels"),
        (lambda x: F.group_norm(x, 7), 7, "group_norm counts its channels"),
        (lambda x: F.layer_norm(x, x.shape[1:]), 7, "layer_norm mixes its channels"),
        (lambda x: x.flip(1), 7, None),
        (lambda x: x.cumsum(1), 7, "cumsum compares or counts channels"),
        (lambda x: x.view(-1, 7, 1, 12, 16).squeeze(2) * torch.rand(7, 1, 1), 7, "tied to a tensor made in the code"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), 9, None),
        (lambda x: x[:, ::2], 4, None),
    ],
)
def test_what_keeps_a_space(between: Callable[[Tensor], Tensor], width: int, reason: str | None) -> None:
    graph = traced(Two(between, width))
    assert graph.spaces[0].reason == reason
    assert graph.spaces[0].prunable == (reason is None)


def test_an_unknown_operator_is_named_with_module_and_line() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.digamma(x)

    net = Two(Odd())
    graph = traced(net)
    assert [str(unknown).split(" (")[0] for unknown in graph.not_understood] == ["digamma in between"]
    assert graph.not_understood[0].line is not None
    assert graph.not_understood[0].line.startswith("test_channels_graph.py:")
    make_constant_(net.a, [2], [0.5])
    report = strip(net, [torch.rand(1, 3, 12, 16)]).report
    assert report.removed == 0
    assert report.not_understood == (str(graph.not_understood[0]),)


def test_writes_into_views_and_no_grad_blocks() -> None:
    """These make torch.export's graph one that is not functional: it is made so first."""

    def between(x: Tensor) -> Tensor:
        x = F.relu(x)
        x[:, 3] = 0.5
        with torch.no_grad():
            return x * 2

    net = randomise_(Two(between)).float()
    make_constant_(net.a, [1])
    report = strip(net, [torch.rand(1, 3, 12, 16)]).report
    assert report.removed == 0
    assert report.spaces[0].reason == "select takes channels one by one"


def test_modules_stay_as_they_are() -> None:
    net = Johnson(width=4, blocks=1).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    traced(net)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


def test_control_flow_that_depends_on_data_names_the_line() -> None:
    with pytest.raises(TraceError, match=r"torch\.export cannot follow the network") as caught:
        traced(Branching())
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None
    assert "x.sum() > 0" in caught.value.hint


def test_wrong_example_shape() -> None:
    with pytest.raises(TraceError, match=r"the network does not run on 1x4x12x16") as caught:
        traced(Two(F.relu), 1, 4, 12, 16)
    assert caught.value.hint == "--example gives its input shape"


def test_two_inputs_and_two_outputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 7, 1), nn.Conv2d(2, 7, 1)
            self.c, self.d = nn.Conv2d(7, 4, 1), nn.Conv2d(7, 5, 3)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            z = F.relu(self.a(x)) + self.b(y)
            return {"c": self.c(z), "d": self.d(z)}

    graph = trace(Pair(), [torch.rand(1, 3, 9, 9), torch.rand(1, 2, 9, 9)])
    assert [(s.name, s.width, s.prunable) for s in graph.spaces] == [("a", 7, True), ("c", 4, False), ("d", 5, False)]
