"""Widths out of a checkpoint's record: what it may set, what it may not, and what stays with the module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compress.channels.rebuild import ADDED_BIAS, rebuild, record_of
from compress.errors import CheckpointError


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(6, 8, 3, groups=2, bias=False), nn.InstanceNorm2d(8), nn.PReLU(8), nn.ConvTranspose2d(8, 5, 2))


RECORD = {
    "0": {"in_channels": 4, "out_channels": 6, "groups": 2, ADDED_BIAS: 6},
    "1": {"num_features": 6},
    "2": {"num_parameters": 6},
    "3": {"in_channels": 6, "out_channels": 5, "groups": 1},
}
SHAPES = {
    name: torch.Size(shape)
    for name, shape in (("0.weight", (6, 2, 3, 3)), ("0.bias", (6,)), ("2.weight", (6,)), ("3.weight", (6, 5, 2, 2)))
}


def test_widths_biases_and_norms_without_tensors() -> None:
    made = rebuild(net(), RECORD, SHAPES)
    assert {name: tensor.shape for name, tensor in made.state_dict().items() if name in SHAPES} == SHAPES
    assert made[1].num_features == 6
    assert made(torch.rand(1, 4, 9, 9)).shape == (1, 5, 8, 8)
    assert record_of(made) == RECORD


def test_the_record_stays_with_the_module_and_adds_up() -> None:
    made = copy.deepcopy(rebuild(net(), {"1": {"num_features": 6}, "2": {"num_parameters": 6}}, SHAPES))
    rebuild(made, {"1": {"num_features": 4}}, {})
    assert record_of(made) == {"1": {"num_features": 4}, "2": {"num_parameters": 6}}
    assert record_of(net()) == {}


def test_the_added_bias_has_the_weights_precision() -> None:
    made = rebuild(net().double(), RECORD, SHAPES)
    assert made[0].bias.dtype == torch.float64


def test_tied_tensors_stay_tied() -> None:
    made = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 6))
    made[1].weight = made[0].weight
    shapes = {
        name: torch.Size(shape)
        for name, shape in (("0.weight", (5, 4)), ("1.weight", (5, 4)), ("0.bias", (5,)), ("1.bias", (5,)))
    }
    rebuild(made, {"0": {"out_features": 5}, "1": {"out_features": 5}}, shapes)
    assert made[0].weight is made[1].weight
    assert made[0].bias is not made[1].bias


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"7": {}}, "shrinks a module '7' that the network does not have"),
        ({"0": {"forward": 3}}, "sets forward=3 on '0': not understood"),
        ({"0": {"padding": 3}}, "sets padding=3 on '0': not understood"),
        ({"0": {"num_features": 3}}, "sets num_features=3 on '0': not understood"),
        ({"0": {"out_channels": "6"}}, "sets out_channels='6' on '0': not understood"),
        ({"0": {"out_channels": -6}}, "sets out_channels=-6 on '0': not understood"),
        ({"0": {ADDED_BIAS: 10**12}}, "on '0': not understood"),
        ({"0": {"out_channels": 6}}, "the checkpoint's record of '0' contradicts its weight"),
    ],
)
def test_records_that_lie(record: dict[str, dict[str, object]], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        rebuild(net(), record, {})
    assert message in caught.value.message
    assert caught.value.exit_code == 1
