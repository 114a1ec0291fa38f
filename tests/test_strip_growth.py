"""What the analysis does grows in proportion to the network: counted in calls, not in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from compress.channels import export, facts
from compress.channels.cut import cut
from compress.channels.decide import decide
from compress.channels.graph import of_program
from tests.strip_cases import randomise_


class Deep(nn.Module):
    """Blocks of a grouped convolution, one behind a gate, and one on a trunk; every one with constants that need carriers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.ModuleList(nn.Conv2d(12, 16, 3, padding=1, groups=4) for _ in range(blocks))
        self.gated = nn.ModuleList(nn.Conv2d(16, 14, 3, padding=1) for _ in range(blocks))
        self.back = nn.ModuleList(nn.Conv2d(7, 12, 3, padding=1) for _ in range(blocks))
        self.leave = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for grouped, gated, back in zip(self.grouped, self.gated, self.back, strict=True):
            one, two = gated(torch.relu(grouped(x))).chunk(2, 1)
            x = x + back(one * torch.sigmoid(two))
        return self.leave(x)


def deep(blocks: int) -> nn.Module:
    net = randomise_(Deep(blocks))
    with torch.no_grad():
        for conv in (net.enter, *net.grouped, *net.gated, *net.back):
            conv.weight[::2] = 0
    return net


def calls(function: Callable[[], Any]) -> tuple[int, Any]:
    """How many Python functions it calls, and functions of C from Python."""
    count = 0

    def seen(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        found = function()
    finally:
        sys.setprofile(before)
    return count, found


def work(blocks: int) -> dict[str, int]:
    """Calls of each stage; torch.export's own are not counted."""
    net, example = deep(blocks), torch.rand(1, 3, 8, 6, dtype=torch.float64)
    program = export.program(net, [example])
    tensors = {name: tensor.detach() for name, tensor in net.named_parameters()}
    counted = {}
    counted["graph"], graph = calls(lambda: of_program(program, net))
    counted["facts"], found = calls(lambda: facts.find(graph, tensors))
    counted["decision"], removal = calls(lambda: decide(graph, found, tensors))
    counted["cut"], _ = calls(lambda: cut(graph, removal, net, tensors))
    assert removal.gone.sum() >= 4 * blocks
    assert removal.held.sum() >= blocks
    return counted


def test_ten_blocks_more_are_always_the_same_work() -> None:
    few, more, most = (work(blocks) for blocks in (10, 20, 30))
    for stage in few:
        second, third = more[stage] - few[stage], most[stage] - more[stage]
        assert third <= 1.1 * second + 200, f"{stage}: ten blocks more are {second} calls, and ten more {third}"
