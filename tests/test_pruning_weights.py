"""Single weights: which can go, which do, in exact numbers, and that they stay away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from compress.errors import PlanError, UsageError
from compress.networks.johnson import Johnson
from compress.networks.load import open_network
from compress.pruning.iterative import Increments
from compress.pruning.magnitude import remove_smallest, smallest
from compress.pruning.masks import HeldMasks, hold_masks
from compress.pruning.plan import plan
from compress.pruning.schedules import iterative, one_shot, starts
from compress.pruning.target import Target
from compress.pruning.weights import prunable_weights


def tiny() -> nn.Module:
    """23 * 3 * 3 * 3 = 621 and 23 * 5 * 5 * 5 = 2,875 convolution weights and 5 * 7 = 35 linear ones: 3,531 in all."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 23, 3), nn.BatchNorm2d(23), nn.ReLU(), nn.Conv2d(23, 5, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 7),
    )  # fmt: skip


def zeros(module: nn.Module) -> int:
    return prunable_weights(module).zeros


def test_the_weights_of_convolutions_and_linear_layers_are_prunable_and_nothing_else() -> None:
    found = prunable_weights(tiny())
    assert {name: w.numel() for name, w in found.tensors.items()} == {"0.weight": 621, "3.weight": 2875, "6.weight": 35}
    assert found.total == 3531
    assert prunable_weights(Johnson()).total == 1_674_432


def test_a_shared_weight_counts_once() -> None:
    layer = nn.Linear(3, 3)
    assert prunable_weights(nn.Sequential(layer, nn.ReLU(), layer)).total == 9
    other = nn.Linear(3, 3)
    other.weight = layer.weight
    assert list(prunable_weights(nn.Sequential(layer, other)).tensors) == ["0.weight"]


def test_a_computed_weight_is_named_not_pruned() -> None:
    module = nn.Sequential(weight_norm(nn.Conv2d(2, 3, 1)), nn.Conv2d(3, 4, 1))
    found = prunable_weights(module)
    assert list(found.tensors) == ["1.weight"]
    assert "weight or spectral norm" in found.skipped["0.weight"]
    with pytest.raises(PlanError, match=r"no convolution or linear weights to prune \(0\.weight is computed"):
        plan(module[:1], [torch.rand(1, 2, 3, 3)], Target(sparsity=0.5))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.777, 0.95, 0.999])
def test_sparsity_is_exact_and_takes_the_smallest(share: float) -> None:
    module = tiny()
    before = torch.cat([w.detach().abs().flatten() for w in prunable_weights(module).tensors.values()])
    remove_smallest(prunable_weights(module).tensors, share)
    after = torch.cat([w.detach().abs().flatten() for w in prunable_weights(module).tensors.values()])
    assert zeros(module) == round(share * 3531)
    if share > 0:
        assert before[after == 0].max() <= before[after != 0].min()
    torch.testing.assert_close(after[after != 0], before[after != 0], rtol=0, atol=0)


def test_johnson_at_95_percent_leaves_83_722() -> None:
    torch.manual_seed(0)
    module = Johnson()
    remove_smallest(prunable_weights(module).tensors, 0.95)
    assert 1_674_432 - zeros(module) == 83_722


def test_ties_go_in_the_order_of_the_network() -> None:
    weights = {"a": torch.tensor([[1.0, -1.0]]), "b": torch.tensor([1.0, 0.5, -1.0])}
    gone = smallest(weights, 0.6)
    assert gone["a"].tolist() == [[True, True]]
    assert gone["b"].tolist() == [False, True, False]


def test_shares_are_of_the_total_not_of_what_remains() -> None:
    stepwise, at_once = tiny(), tiny()
    for share in iterative(0.95, 0.1):
        remove_smallest(prunable_weights(stepwise).tensors, share)
        assert zeros(stepwise) == round(share * 3531)
    remove_smallest(prunable_weights(at_once).tensors, 0.95)
    for ours, theirs in zip(stepwise.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_schedules_of_the_paper() -> None:
    assert iterative(0.95, 0.1) == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    assert iterative(0.9, 0.3) == (0.3, 0.6, 0.9)
    assert iterative(0.3, 0.1) == (0.1, 0.2, 0.3)
    assert iterative(0.05, 0.1) == (0.05,)
    assert one_shot(0.95, 0.1) == (0.95,)
    assert starts(4, 10) == (0, 2, 5, 7)
    with pytest.raises(UsageError, match="increment must be between"):
        iterative(0.5, 0)
    with pytest.raises(UsageError, match="10 increments need at least 10 steps, got --steps 9"):
        starts(10, 9)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.01, nesterov=True),
}


def learn(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    torch.manual_seed(steps)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(2, 3, 9, 9)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_hold_though_momentum_pulls(name: str) -> None:
    module = tiny()
    optimizer = OPTIMIZERS[name](module.parameters())
    learn(module, optimizer, 3)  # momentum is there before the pruning
    remove_smallest(prunable_weights(module).tensors, 0.8)
    masks = {n: w == 0 for n, w in prunable_weights(module).tensors.items()}
    kept = {n: w.detach().clone() for n, w in prunable_weights(module).tensors.items()}
    with hold_masks(module, optimizer):
        learn(module, optimizer, 5)
    for n, weight in prunable_weights(module).tensors.items():
        assert torch.equal(weight == 0, masks[n])
        assert not torch.equal(weight, kept[n])  # and what is kept does learn
    learn(module, optimizer, 1)
    assert zeros(module) < round(0.8 * 3531)  # let go: momentum revives


def test_gradients_of_pruned_weights_are_zero() -> None:
    module = tiny()
    optimizer = torch.optim.Adam(module.parameters())
    remove_smallest(prunable_weights(module).tensors, 0.5)
    hold_masks(module, optimizer)
    learn(module, optimizer, 1)
    for weight in prunable_weights(module).tensors.values():
        assert weight.grad is not None
        assert not weight.grad[weight == 0].any()
        assert weight.grad.any()
        assert not optimizer.state[weight]["exp_avg"][weight == 0].any()


def test_a_kept_weight_that_lands_on_zero_stays_kept() -> None:
    weight = nn.Parameter(torch.tensor([0.0, 0.5, 1.0]))
    optimizer = torch.optim.SGD([weight], 0.5)
    HeldMasks([weight], optimizer)
    weight.grad = torch.ones(3)
    optimizer.step()
    assert weight[0] == 0
    assert 0 < weight[1] < 1e-37
    assert weight[2] == 0.5


def test_increments_prune_at_their_steps_and_hold_between() -> None:
    module = tiny()
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    hook = Increments(dict(zip(starts(3, 7), (0.3, 0.6, 0.9), strict=True)))
    seen = []
    for step in range(7):
        hook(step, module, optimizer)
        learn(module, optimizer, 1)
        seen.append(zeros(module))
    at = [round(share * 3531) for share in (0.3, 0.6, 0.9)]
    assert seen == [at[0], at[0], at[1], at[1], at[2], at[2], at[2]]


def test_increments_taken_up_in_the_middle_find_their_masks_in_the_weights() -> None:
    module = tiny()
    remove_smallest(prunable_weights(module).tensors, 0.4)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    hook = Increments({0: 0.4, 9: 0.9})
    hook(3, module, optimizer)
    learn(module, optimizer, 2)
    assert zeros(module) == round(0.4 * 3531)


def test_candy_keeps_what_was_measured(data: Path) -> None:
    module = open_network(data / "weights" / "johnson" / "candy.pth").module
    remove_smallest(prunable_weights(module).tensors, 0.95)
    kept = {n: 100 * float((w != 0).float().mean()) for n, w in prunable_weights(module).tensors.items()}
    assert prunable_weights(module).total - zeros(module) == 83_722
    wanted = {
        "down1.conv.weight": 5.4,
        "down2.conv.weight": 7.3,
        "residual.0.first.conv.weight": 6.8,
        "residual.4.second.conv.weight": 3.8,
        "up2.conv.weight": 2.8,
        "out.weight": 13.5,
    }
    for name, percent in wanted.items():
        assert kept[name] == pytest.approx(percent, abs=0.06)
