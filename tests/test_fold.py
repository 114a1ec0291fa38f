"""Computed weights become plain ones: every kind, exactly, on a copy, through a file, before anything is pruned or stripped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import compress
from compress import checkpoint
from compress.channels import export
from compress.channels.fold import FOLDED, computed, fold_, folded, is_computed, unwrapped
from compress.channels.graph import trace
from compress.channels.rebuild import load_strictly, rebuild, record_of
from compress.channels.strip import strip
from compress.errors import CheckpointError, NetworkError, ParityError, PlanError, TraceError
from compress.networks.load import NetOptions, open_network, snapshot
from compress.spec import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils:FutureWarning")
X = torch.rand(1, 3, 13, 17, generator=torch.Generator().manual_seed(1))


class Symmetric(nn.Module):
    def forward(self, kernel: Tensor) -> Tensor:
        return (kernel + kernel.flip(-1)) / 2


def symmetric(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Symmetric())


def both(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(symmetric(layer))


def pruned_twice(layer: nn.Module) -> nn.Module:
    return prune.ln_structured(prune.l1_unstructured(layer, "weight", 0.4), "weight", 0.3, 2, 0)


def masked_direction(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(weight_norm(layer), "weight_v", 0.4)


def masked_original(layer: nn.Module) -> nn.Module:
    layer = parametrizations.weight_norm(layer)
    prune.l1_unstructured(layer.parametrizations.weight, "original1", 0.4)  # type: ignore[union-attr, index]
    return layer


def masked_bias(layer: nn.Module) -> nn.Module:
    return prune.random_unstructured(layer, "bias", 0.5)


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "a parametrization of the user's": symmetric,
    "one after the other": both,
    "old weight_norm": weight_norm,
    "old weight_norm of the whole": lambda layer: weight_norm(layer, dim=None),
    "old spectral_norm": spectral_norm,
    "pruning masks": pruned_twice,
    "a mask on the old weight_norm": masked_direction,
    "a mask on weight_norm": masked_original,
    "a mask on a bias": masked_bias,
}


def make(kind: str = "weight_norm") -> nn.Sequential:
    """The same weights each time; the first, the transposed and the last layer are of this kind, one between them is not."""
    torch.manual_seed(5)
    net = nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 1), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), nn.Conv2d(5, 4, 3)
    )
    for number in (0, 3, 5):
        net[number] = KINDS[kind](net[number])
    return net


def trained(net: nn.Module) -> nn.Module:
    """As after training: run in train mode (spectral norm learns of it), every parameter somewhere else, then eval.

    Run once more: a mask on what weight norm reads is in time for the next run only.
    """
    net.train()(X)
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.mul_(1.1).add_(0.01 * number)
        net.eval()(X)
    return net


@pytest.mark.parametrize("kind", KINDS)
def test_folding_is_exact_and_leaves_the_network_as_it_is(kind: str) -> None:
    net = trained(make(kind))
    before, expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}, net(X)
    kinds = [type(layer) for layer in net]
    plain = folded(net)
    assert torch.equal(plain(X), expected)
    assert [type(layer).__name__ for layer in plain] == ["Conv2d", "ReLU", "Conv2d", "ConvTranspose2d", "ReLU", "Conv2d"]
    assert plain.state_dict().keys() == nn.Sequential(*map(_whole, net)).state_dict().keys()
    assert not is_computed(plain)
    tensor = "bias" if kind == "a mask on a bias" else "weight"
    assert record_of(plain) == {name: {FOLDED: [tensor]} for name in ("0", "3", "5")}
    assert [type(layer) for layer in net] == kinds
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert torch.equal(net(X), expected)


def _whole(layer: nn.Module) -> nn.Module:
    """A fresh layer of the same kind, plain."""
    return nn.Conv2d(1, 1, 1) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else nn.ReLU()


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_network_is_folded_by_the_record(kind: str) -> None:
    plain = folded(trained(make(kind)))
    fresh = rebuild(make(kind), record_of(plain), {name: tensor.shape for name, tensor in plain.state_dict().items()})
    assert torch.equal(load_strictly(fresh, plain.state_dict()).eval()(X), plain(X))
    assert record_of(fresh) == record_of(plain)


def test_values_are_those_of_the_loaded_weights() -> None:
    """The old hooks keep the weight of the last run beside what it is made of: of before loading."""
    for kind in ("old weight_norm", "old spectral_norm", "pruning masks"):
        net, fresh = trained(make(kind)), make(kind)
        fresh.load_state_dict(net.state_dict())
        assert torch.equal(folded(fresh.eval())(X), net(X))


def test_a_network_without_computed_weights_is_not_copied() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    assert folded(net) is net
    assert computed(net) == ()


def test_recurrent_layers_use_their_plain_weights() -> None:
    net = weight_norm(nn.LSTM(4, 6), "weight_hh_l0")
    steps = torch.rand(3, 1, 4)
    expected = net(steps)[0]
    plain = folded(net)
    assert torch.equal(plain(steps)[0], expected)
    with torch.no_grad():
        plain.weight_hh_l0.zero_()
    assert not torch.equal(plain(steps)[0], expected)


def test_a_computed_buffer_stays_a_buffer() -> None:
    net = nn.BatchNorm1d(5)
    parametrize.register_parametrization(net, "running_var", nn.Softplus(), unsafe=True)
    plain = folded(net.eval())
    assert "running_var" in dict(plain.named_buffers())
    assert torch.equal(plain(torch.ones(2, 5)), net(torch.ones(2, 5)))


def test_in_place_an_optimizer_keeps_its_weights() -> None:
    """The parameter of the weight's shape becomes the weight; one that two layers share does not, for they differ then."""
    net = nn.Sequential(
        nn.Linear(5, 5), nn.Linear(5, 5), weight_norm(nn.Linear(5, 3)), parametrizations.spectral_norm(nn.Linear(3, 3))
    )
    net[1].weight = net[0].weight
    parametrizations.spectral_norm(net[0])
    parametrizations.orthogonal(net[1])
    net.eval()
    known, expected = {id(p) for p in net.parameters()}, net(torch.ones(1, 5))
    fold_(net)
    assert torch.equal(net(torch.ones(1, 5)), expected)
    assert [id(layer.weight) in known for layer in net] == [False, False, True, True]
    assert all(isinstance(layer.weight, nn.Parameter) and layer.weight.requires_grad for layer in net)


def test_frozen_weights_stay_frozen() -> None:
    net = parametrizations.weight_norm(nn.Linear(5, 3)).requires_grad_(False)
    assert not folded(net).weight.requires_grad


def test_wrappers_come_off() -> None:
    net = nn.Conv2d(3, 4, 1)
    assert unwrapped(nn.DataParallel(nn.DataParallel(net))) is net
    compiled = nn.Module()  # as torch.compile makes one, without the seconds that it takes
    compiled._orig_mod = net
    assert unwrapped(compiled) is net
    average = torch.optim.swa_utils.AveragedModel(net)
    assert unwrapped(average) is average.module


class Keeps(nn.Module):
    """Keeps a tensor of its last run, with its history, as style losses do; and a hook of its own makes its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        self.seen, self.last = [y, y], y
        return self.b(torch.relu(y))


def test_tensors_that_a_network_keeps_of_a_run_are_copied() -> None:
    net = Keeps()
    with torch.no_grad():
        net.a.weight[2] = 0
        net.a.bias[2] = 0
    expected = net(X)
    with pytest.raises(RuntimeError):
        copy.deepcopy(net)
    twin = export.copied(net)
    assert twin.last.grad_fn is None
    assert net.last.grad_fn is not None
    assert twin.seen[0] is twin.seen[1]
    assert torch.allclose(strip(net, [X]).module(X), expected, atol=1e-6)


def test_networks_that_nothing_can_be_done_with_are_named() -> None:
    with pytest.raises(TraceError, match=r"the network has no shapes yet: 1\.weight is lazy") as caught:
        folded(nn.Sequential(nn.ReLU(), nn.LazyConv2d(4, 3)))
    assert caught.value.exit_code == 1
    with pytest.raises(TraceError, match=r"no shapes yet: 0\.running_mean is lazy"):
        strip(nn.Sequential(nn.LazyBatchNorm2d(affine=False)), [X])
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(TraceError, match="a scripted network cannot be traced"):
        compress.strip(scripted, X)

    with pytest.raises(TraceError, match=r"a scripted network cannot be traced \(here 1\)"):
        folded(nn.Sequential(nn.ReLU(), scripted))
    with pytest.raises(TraceError, match=r"the network has no numbers: 0\.weight is on the meta device"):
        compress.strip(nn.Sequential(nn.Conv2d(3, 4, 1, device="meta")), X)

    class NoCopy(nn.Conv2d):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise OSError("a file handle cannot be copied")

    with pytest.raises(TraceError, match="the network cannot be copied: a file handle cannot be copied"):
        trace(NoCopy(3, 4, 1), [X])


# -- what is done with them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weight_norm", "old weight_norm", "spectral_norm", "old spectral_norm", "orthogonal"])
def test_plan_apply_strip_save_load(kind: str, tmp_path: Path) -> None:
    """Half of each width goes (3 of 7, 3 of 6, 2 of 5), and the small network loads back into the factory's class."""
    net = trained(make(kind))
    plan = compress.plan(net, X, ratio=0.5, multiple=1)
    assert {name: len(gone) for name, gone in plan.channels.items()} == {"0": 3, "2": 3, "3": 2}
    assert is_computed(net)
    compress.apply(net, plan)
    assert not is_computed(net)
    small = compress.strip(net, X).module
    assert [small[n].out_channels for n in (0, 2, 3, 5)] == [4, 3, 3, 4]
    assert torch.allclose(small(X), net(X), atol=1e-5)
    compress.save(small, tmp_path / "small", make, {"kind": kind}, examples=[tuple(X.shape)])
    assert torch.equal(compress.load(make, tmp_path / "small")(X), small(X))
    again = open_network(tmp_path / "small", NetOptions("tests.test_fold:make")).module
    assert torch.equal(compress.strip(again, X).module(X), small(X))


def test_single_weights_of_computed_layers_are_pruned_and_held() -> None:
    net = trained(make("old weight_norm"))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)  # made before: it has the parameters that become the weights
    compress.apply(net, compress.plan(net, X, sparsity=0.75))
    zeros = {name: int((p == 0).sum()) for name, p in net.named_parameters() if p.dim() == 4}
    assert sum(zeros.values()) == round(0.75 * (7 * 3 * 9 + 6 * 7 + 6 * 5 * 4 + 4 * 5 * 9))
    before = net[0].weight.detach().clone()
    with compress.hold_masks(net, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            net(X).square().mean().backward()
            optimizer.step()
    assert {name: int((p == 0).sum()) for name, p in net.named_parameters() if p.dim() == 4} == zeros
    assert not torch.equal(net[0].weight, before)


def test_a_plan_that_does_not_fit_leaves_computed_weights_alone() -> None:
    plan = compress.plan(nn.Sequential(nn.Conv2d(3, 9, 1), nn.ReLU(), nn.Conv2d(9, 2, 1)), X, ratio=0.5)
    net = make()
    with pytest.raises(PlanError, match="made for another network"):
        compress.apply(net, plan)
    assert is_computed(net)


def test_strip_takes_wrapped_networks(tmp_path: Path) -> None:
    net = nn.DataParallel(trained(make()))
    assert type(compress.strip(net, X).module) is nn.Sequential
    compress.save(net, tmp_path / "net", make, examples=[tuple(X.shape)])
    assert torch.equal(compress.load(make, tmp_path / "net")(X), net.module(X))


def test_what_is_saved_unfolded_comes_back_unfolded_and_commands_fold_it(tmp_path: Path) -> None:
    net = trained(make("spectral_norm"))
    compress.save(net, tmp_path / "net", make, {"kind": "spectral_norm"}, examples=[tuple(X.shape)])
    again = compress.load(make, tmp_path / "net")
    assert is_computed(again)
    assert torch.equal(again(X), net(X))
    opened = open_network(tmp_path / "net", NetOptions("tests.test_fold:make")).module
    assert not is_computed(opened)
    assert torch.equal(opened(X), net(X))


def test_a_weight_that_comes_out_as_nan_is_named() -> None:
    net = make("old weight_norm")
    with torch.no_grad():
        net[3].weight_v[2] = 0  # the direction of nothing
    with pytest.raises(NetworkError, match=r"NaN or inf in 3\.weight"):
        compress.strip(net.eval(), X)


class Wobbles(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.rand(())


def test_a_weight_that_is_another_each_time_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1))
    parametrize.register_parametrization(net[0], "weight", Wobbles())
    with pytest.raises(ParityError, match=r"making its computed weights plain moved the output by") as caught:
        compress.strip(net, X)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("value", [3, "weight", None, ["nothing"], [["weight"]], ["__class__"], {"weight": 1}, [3]])
def test_records_that_fold_nonsense_are_refused(value: object, tmp_path: Path) -> None:
    plain = folded(make())
    found = snapshot(plain, ModelSpec("tests.test_fold:make", {}, (tuple(X.shape),)))
    checkpoint.write(tmp_path / "net", replace(found, modules={"0": {FOLDED: value}}))
    with pytest.raises(CheckpointError, match=r"sets folded=.* on '0': not understood") as caught:
        open_network(tmp_path / "net", NetOptions("tests.test_fold:make"))
    assert "\n" not in caught.value.message


def test_a_class_that_has_become_plain_still_loads(tmp_path: Path) -> None:
    """The record folds what is plain already: nothing to do."""
    plain = folded(trained(make()))
    fresh = nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 6, 1), nn.ConvTranspose2d(6, 5, 2), nn.ReLU(), nn.Conv2d(5, 4, 3)
    )
    rebuild(fresh, record_of(plain), {name: tensor.shape for name, tensor in plain.state_dict().items()})
    assert torch.equal(load_strictly(fresh, plain.state_dict())(X), plain(X))
