"""The answer that a checkpoint keeps: the same everywhere, cheap, and another one when the code around the weights changes."""

from __future__ import annotations

import json
import math
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compress
from compress import checkpoint
from compress.errors import CheckpointError, NetworkError
from compress.image_format import PRESETS
from compress.networks import known_answer
from compress.networks.johnson import Johnson
from compress.networks.load import NetOptions, build, open_network, snapshot
from compress.spec import ModelSpec
from tests.test_checkpoint import with_header

SPEC = ModelSpec("tests.test_known_answer:Net", {}, ((1, 3, 64, 96),))


class Net(nn.Module):
    """What its code does besides its weights is a class attribute, as if somebody had edited it."""

    activation = staticmethod(F.relu)
    scale = 1.0
    extra: int | None = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.norm, self.b = nn.Conv2d(3, 7, 3), nn.InstanceNorm2d(7, affine=True), nn.Conv2d(7, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.activation(self.norm(self.a(x)))) * self.scale  # type: ignore[no-any-return]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.write(tmp_path / "net", snapshot(Net().eval(), SPEC))
    return tmp_path / "net"


def load(path: Path) -> nn.Module:
    return open_network(path, NetOptions(SPEC.network)).module


def test_what_is_kept(saved: Path) -> None:
    """The smallest size that is whole and at least 16 on each side; the numbers are few, and each is what it says."""
    check: Any = checkpoint.read(saved).check
    assert check["inputs"] == [{"shape": [1, 3, 16, 24], "low": -1.0, "high": 1.0}]
    assert check["tolerance"] == 1e-4
    assert len(json.dumps(check)) < 1000
    (output,) = check["outputs"]
    asked = known_answer.Input((1, 3, 16, 24), -1.0, 1.0).tensor(0)
    answer = Net().eval()(asked).detach()
    assert output["shape"] == list(answer.shape)
    assert output["mean"] == pytest.approx(float(answer.mean()), abs=1e-5)
    assert (output["low"], output["high"]) == pytest.approx((float(answer.min()), float(answer.max())), abs=1e-5)
    assert asked.flatten()[:3].tolist() == pytest.approx([0.23606798, -0.52786405, 0.70820393])  # 2 n (sqrt(5) - 1) / 2 - 1
    assert -1 <= float(asked.min()) < -0.99
    assert 0.99 < float(asked.max()) <= 1
    assert abs(float(asked.mean())) < 0.01


def test_pictures_are_asked_with_in_their_own_range() -> None:
    spec = replace(SPEC, inputs=(PRESETS["imagenet"],))
    check: Any = known_answer.ask(Net(), spec)
    assert check["inputs"][0]["low"] == pytest.approx((0 - 123.675) / 58.395, abs=1e-3)
    assert check["inputs"][0]["high"] == pytest.approx((255 - 103.53) / 57.375, abs=0.05)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("activation", staticmethod(F.gelu), "its output is off by"),
        ("activation", staticmethod(lambda x: F.leaky_relu(x, 0.01)), "its output is off by"),
        ("activation", staticmethod(lambda x: F.relu(x)[..., 1:]), "its outputs have other shapes"),
        (
            "activation",
            staticmethod(lambda x: torch.cat([x, x], 1)),
            "no longer runs as it did when it was saved: Given groups=1",
        ),
        ("activation", staticmethod(lambda x: {}["gone"]), "no longer runs as it did when it was saved: KeyError: 'gone'"),
        ("scale", 1.01, "its output is off by"),
    ],
)
def test_changed_code_is_told_when_loading(
    attribute: str, value: Any, words: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(saved)
    monkeypatch.setattr(Net, attribute, value)
    for loading in (load, lambda path: compress.load(Net, path)):
        with pytest.raises(NetworkError, match=r"tests\.test_known_answer:Net no longer") as caught:
            loading(saved)
        assert words in caught.value.message
        assert "\n" not in caught.value.message
        assert caught.value.hint == "its code has changed since, or it holds numbers that are not saved with it"
        assert caught.value.exit_code == 1


def test_rounding_of_another_machine_is_not_another_network(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "scale", 1 + 1e-5)
    load(saved)


def test_whatever_changes_the_weights_renews_it(saved: Path, tmp_path: Path) -> None:
    before = checkpoint.read(saved)
    net = build(before, Net)
    with torch.no_grad():
        net.b.weight.mul_(2)
    compress.save(net, tmp_path / "again", Net, examples=SPEC.examples)
    assert checkpoint.read(tmp_path / "again").check != before.check
    assert torch.equal(compress.load(Net, tmp_path / "again").b.weight, net.b.weight)
    small = before.astype(torch.float16)
    assert small.check is None
    assert before.astype(torch.float32).check == before.check
    assert before.then(command="x").check == before.check


def test_a_file_without_one_loads(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "scale", 3.0)
    load(with_header(saved, lambda header: {name: value for name, value in header.items() if name != "check"}))


class Random(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.1 * torch.rand(())


class Trembling(Net):
    """Multiplies rounding by a million."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.sin(y * 1e6)


class Overflowing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0


class Nothing(Net):
    def forward(self, x: Tensor) -> Tensor:
        return "nothing"  # type: ignore[return-value]


class Refusing(Net):
    def forward(self, x: Tensor) -> Tensor:
        raise SystemExit


@pytest.mark.parametrize("kind", [Random, Trembling, Overflowing, Nothing, Refusing])
def test_networks_without_an_answer_have_none(kind: type[Net]) -> None:
    assert known_answer.ask(kind(), SPEC) is None
    assert known_answer.ask(Net(), replace(SPEC, examples=((1, 4, 8, 8),))) is None


class Picky(Net):
    """Takes one size."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (64, 96)
        return super().forward(x)


class Index(Net):
    """The index of a maximum may hang on the last bit: only its shape counts. None and a number are no tensors."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return {"class": y.argmax(), "y": [y, None, 3], "none": y[:0], "wave": torch.fft.fft(y.mean(1))}


def test_the_size_that_a_network_takes_and_outputs_of_every_kind() -> None:
    picky: Any = known_answer.ask(Picky(), SPEC)
    assert picky["inputs"][0]["shape"] == (1, 3, 64, 96)
    index: Any = known_answer.ask(Index(), SPEC)
    assert [one["shape"] for one in index["outputs"]] == [(), (1, 4, 12, 20), (0, 4, 12, 20), (1, 12, 20)]
    assert index["outputs"][0]["values"] == ()
    assert len(index["outputs"][3]["values"]) == 8


class Counting(Net):
    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.shape
        type(self).runs += 1
        print("a network that talks")
        return super().forward(x)


def test_asking_leaves_the_network_and_the_screen_alone(capsys: pytest.CaptureFixture[str]) -> None:
    net, state = Counting().double().train(), torch.get_rng_state()
    known_answer.ask(net, SPEC)
    assert Counting.runs == 3
    assert not hasattr(net, "last")
    assert net.training
    assert net.a.weight.dtype == torch.float64
    assert torch.equal(state, torch.get_rng_state())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "check",
    [
        {"inputs": [{"shape": [1, 3, 10**5, 10**5], "low": 0, "high": 1}], "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": [1] * 9, "low": 0, "high": 1}], "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": [1, 3, -16, 24], "low": 0, "high": 1}], "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": [1, 3, 16.0, 24], "low": 0, "high": 1}], "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": [1, 3, 16, 24], "low": "nan", "high": 1}], "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": [1, 3, 16, 24], "low": 0}], "outputs": [], "tolerance": 1},
        {"inputs": 3, "outputs": [], "tolerance": 1},
        {"inputs": [{"shape": 3, "low": 0, "high": 1}], "outputs": [{}], "tolerance": 1},
        {"outputs": []},
        {"inputs": [], "outputs": {"a": 1}, "tolerance": []},
        {"inputs": [{"shape": [1 << 20, 1 << 20], "low": 0, "high": 1}] * 99, "outputs": [], "tolerance": 1},
    ],
)
def test_hostile_checks_are_refused_without_memory(check: Any, saved: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="the checkpoint has a damaged check") as caught:
        load(with_header(saved, lambda header: {**header, "check": check}))
    assert "\n" not in caught.value.message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("check", [3, "text", [1], True])
def test_a_check_that_is_no_record_is_a_damaged_header(check: Any, saved: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged header"):
        load(with_header(saved, lambda header: {**header, "check": check}))


def test_a_check_of_another_network_does_not_pass(saved: Path) -> None:
    other: Any = known_answer.ask(Johnson(width=4).eval(), SPEC)
    with pytest.raises(NetworkError, match="no longer computes what was saved: its outputs have other shapes"):
        load(with_header(saved, lambda header: {**header, "check": other}))
    none = {"inputs": [{"shape": [1, 3, 16, 24], "low": 0, "high": 1}], "outputs": [], "tolerance": 1e9}
    with pytest.raises(NetworkError, match="its outputs have other shapes"):
        load(with_header(saved, lambda header: {**header, "check": none}))


def test_gaps() -> None:
    one = known_answer.Output((2,), 0.0, 4.0, 1.0, (0.0, 4.0))
    assert one.gap(replace(one, mean=1.2)) == pytest.approx(0.05)
    assert one.gap(replace(one, values=(0.0,))) == math.inf
    assert one.gap(replace(one, shape=(1, 2))) == math.inf
    flat = known_answer.Output((2,), 50.0, 50.0, 50.0, (50.0, 50.0))
    assert flat.gap(replace(flat, mean=50.5)) == pytest.approx(0.1)
    zero = known_answer.Output((2,), 0.0, 0.0, 0.0, (0.0, 0.0))
    assert zero.gap(replace(zero, mean=0.5)) == pytest.approx(0.5)
