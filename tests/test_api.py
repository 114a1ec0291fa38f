"""The Python API: every example in its docstrings and its page runs, and it refuses what it must."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

import compress
import compress.api
from compress.errors import CheckpointError, NetworkError, OutputError, PlanError, UsageError
from compress.networks.johnson import Johnson

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
FUNCTIONS = ("load", "save", "plan", "apply", "hold_masks", "strip")


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)


class Net(nn.Module):
    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_each_function_runs(name: str) -> None:
    function = getattr(compress, name)
    found = doctest.DocTestFinder(recurse=False).find(function, name, compress.api, globs={})
    assert found[0].examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(found[0]).failed == 0


def test_the_page_runs_and_names_every_function() -> None:
    assert doctest.testfile(str(PAGE), module_relative=False).failed == 0
    text = PAGE.read_text()
    for name in FUNCTIONS:
        assert f"compress.{name}(" in text
        assert inspect.getdoc(getattr(compress, name))


def test_a_stripped_network_comes_back_at_its_widths() -> None:
    net, example = Net().eval(), torch.rand(1, 3, 17, 19)
    compress.apply(net, compress.plan(net, example, ratio=0.5, multiple=1))
    small = compress.strip(net, example).module
    compress.save(small, "small.safetensors", Net, examples=[(1, 3, 17, 19)])
    again = compress.load(Net, "small.safetensors")
    assert again.first.out_channels == 12
    assert torch.equal(again(example), small(example))


def test_a_foreign_state_dict_loads_with_its_factory() -> None:
    net = Net(10).eval()
    torch.save(net.state_dict(), "net.pth")
    assert torch.equal(compress.load(Net, "net.pth", width=10).first.weight, net.first.weight)
    with pytest.raises(NetworkError, match="do not fit"):
        compress.load(Net, "net.pth")


def test_another_network_is_refused() -> None:
    compress.save(Johnson(width=4), "j.safetensors", "johnson", {"width": 4})
    with pytest.raises(NetworkError, match="holds 'johnson'"):
        compress.load(Net, "j.safetensors")
    compress.save(Net(), "n.safetensors", Net)
    with pytest.raises(NetworkError, match="was saved with arguments"):
        compress.load(Net, "n.safetensors", width=3)
    with pytest.raises(CheckpointError, match="no such file"):
        compress.load(Net, "nothing.safetensors")


def test_saving_replaces_nothing_and_no_nan() -> None:
    compress.save(Net(), "n.safetensors", Net)
    with pytest.raises(OutputError, match="exists"):
        compress.save(Net(), "n.safetensors", Net)
    net = Net()
    with torch.no_grad():
        net.last.bias[2] = float("nan")
    with pytest.raises(NetworkError, match=r"NaN or inf in last\.bias"):
        compress.save(net, "nan.safetensors", Net)
    assert not Path("nan.safetensors").exists()
    with pytest.raises(NetworkError, match=r"NaN or inf in last\.bias"):
        compress.plan(net, torch.rand(1, 3, 9, 9), sparsity=0.5)


def test_a_factory_without_a_name_cannot_be_recorded() -> None:
    with pytest.raises(UsageError, match="not a network name"):
        compress.save(Net(), "n.safetensors", lambda: Net())


def test_a_plan_of_another_network_touches_nothing() -> None:
    plan = compress.plan(Net(), torch.rand(1, 3, 9, 9), ratio=0.5)
    other = Net(width=16)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(PlanError, match=r"another network: first\.weight is \(24, 3, 3, 3\) there and is \(16, 3, 3, 3\) here"):
        compress.apply(other, plan)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_channels_are_held_through_training_then_stripped() -> None:
    net, example = Net(), torch.rand(2, 3, 13, 13)
    nn.init.normal_(net.norm.bias)
    plan = compress.plan(net, example, ratio=0.5, multiple=1)
    compress.apply(net, plan)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    with compress.hold_masks(net, optimizer, plan):
        for _ in range(4):
            optimizer.zero_grad()
            net(example).square().mean().backward()
            optimizer.step()
    gone = list(plan.channels["first"])
    assert len(gone) == 12
    for tensor in (net.first.weight, net.first.bias, net.norm.weight, net.norm.bias):
        assert not tensor[gone].any()
    assert compress.strip(net.eval(), example).module.first.out_channels == 12
