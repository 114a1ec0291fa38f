"""Stranger networks prove the strip: half of the channels zeroed, every width as counted by hand, the same output at any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from compress.channels.graph import trace
from compress.channels.strip import Stripped, strip
from tests.stranger_cases import STRANGERS, Stranger, zero_
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
    """Only outputs and what the case says stays."""
    stay = {s.name: s.reason for s in done.report.spaces if s.reason and s.reason != "an output of the network"}
    assert stay.keys() == case.stays.keys(), stay
    assert all(word in stay[name] for name, word in case.stays.items()), stay
    assert not done.report.not_understood
    assert not done.report.left_alone


@pytest.mark.parametrize("name", STRANGERS)
def test_half_of_the_channels_go(name: str) -> None:
    case = STRANGERS[name]
    net = randomise_(case.build())
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
    net = randomise_(case.build(), seed=1)
    graph = trace(net, case.inputs())
    zero_(net, case, graph, seed=1)
    net = net.float()
    done = strip(net, case.inputs(dtype=torch.float32))
    assert widths_of(done.module) == case.widths
    same_output(net, done.module, case, torch.float32)
