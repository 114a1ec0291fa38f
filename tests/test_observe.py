"""What is observed is what the network computes: every tensor and channel against torch's own hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.channels.graph import trace
from compress.channels.observe import observe
from compress.errors import TraceError

SHAPE = (2, 3, 11, 14)


class Mixed(nn.Module):
    """In-place activations, a chunk, a write into a view, a constant of the code and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.InstanceNorm2d(6, affine=True)
        self.second = nn.Conv2d(6, 10, 3, stride=2)
        self.third = nn.Conv2d(5, 4, 1)
        self.register_buffer("gains", torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.first(x)))
        left, right = self.second(x).chunk(2, 1)
        y = self.third(left * torch.sigmoid(right))
        y[:, 1] = 0
        assert isinstance(self.gains, Tensor)
        return y * self.gains + torch.tensor([0.5])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def batches() -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(SHAPE, generator=generator) * scale] for scale in (1, 3, 0.1)]


def test_every_tensor_of_the_graph_is_observed_in_the_shape_of_its_labels(
    network: nn.Module, batches: list[list[Tensor]]
) -> None:
    graph, found = trace(network, batches[0]), observe(network, iter(batches))
    assert found.count == 6
    assert set(found.low) == set(found.high) == set(graph.labels)
    assert {name: array.shape for name, array in found.high.items()} == {n: labels.shape for n, labels in graph.labels.items()}
    assert all((found.low[name] <= found.high[name]).all() for name in found.low)


def test_lows_and_highs_are_those_of_the_modules(network: nn.Module, batches: list[list[Tensor]]) -> None:
    seen: dict[str, list[Tensor]] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.setdefault(name, []).append(out.clone()))
        for name, module in network.named_children()
    ]
    with torch.no_grad():
        for batch in batches:
            network(*batch)
    for hook in hooks:
        hook.remove()
    found = observe(network, batches)
    for tensor, module in (("conv2d", "first"), ("instance_norm", "norm"), ("conv2d_1", "second"), ("conv2d_2", "third")):
        values = torch.cat(seen[module])
        if tensor == "conv2d_2":  # noted before `y[:, 1] = 0` writes into it
            assert found.high[tensor][0, 1, 0, 0] != 0
            values = values[:, [0, 2, 3]]
            kept = [array[:, [0, 2, 3]] for array in (found.low[tensor], found.high[tensor])]
        else:
            kept = [found.low[tensor], found.high[tensor]]
        for array, reduced in zip(kept, (values.amin((0, 2, 3)), values.amax((0, 2, 3))), strict=True):
            np.testing.assert_allclose(array.ravel(), reduced, rtol=1e-6, atol=1e-6)
    assert found.low["relu"].min() == 0
    largest = np.maximum(found.high["conv2d"], -found.low["conv2d"])
    assert np.array_equal(found.largest("conv2d"), largest)


def test_responses_are_means_over_pixels_one_row_an_input(network: nn.Module, batches: list[list[Tensor]]) -> None:
    found = observe(network, batches, responses=["conv2d", "getitem_1"])
    assert set(found.responses) == {"conv2d", "getitem_1"}
    assert found.responses["conv2d"].shape == (6, 6)
    assert found.responses["getitem_1"].shape == (6, 5)
    with torch.no_grad():
        expected = torch.cat([network.first(*batch) for batch in batches]).abs().mean((2, 3))  # type: ignore[operator]
    np.testing.assert_allclose(found.responses["conv2d"], expected, rtol=1e-5)


def test_the_network_and_the_inputs_stay_as_they_are(batches: list[list[Tensor]]) -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mul_(2).relu_()

    network, before = Greedy().train(), batches[0][0].clone()
    found = observe(network, batches[:1])
    assert network.training
    assert torch.equal(batches[0][0], before)
    assert found.high["relu_"].item() == pytest.approx(2 * float(before.max()))


def test_several_inputs_and_linear_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 1), nn.Linear(7, 5)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) * self.b(y)[:, :, None, None]

    batch = [torch.randn(1, 3, 4, 6), torch.randn(1, 7)]
    network = Two()
    found = observe(network, [batch])
    with torch.no_grad():
        expected = network.b(batch[1])
    np.testing.assert_allclose(found.low["linear"], expected, rtol=1e-5)


def test_not_a_number_is_not_hidden() -> None:
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.log(self.conv(x))

    network = Log()
    with torch.no_grad():
        network.conv.weight.zero_()
        assert network.conv.bias is not None
        network.conv.bias.copy_(torch.tensor([1.0, -1, 2, 3]))
    found = observe(network, [[torch.randn(1, 3, 4, 5)]] * 2)
    assert np.isnan(found.high["log"].ravel()).tolist() == [False, True, False, False]


def test_batches_of_another_shape_and_none_at_all(network: nn.Module, batches: list[list[Tensor]]) -> None:
    with pytest.raises(TraceError, match=r"shapes \[\(2, 3, 11, 14\)\] were expected, and \[\(1, 3, 11, 14\)\] came") as caught:
        observe(network, [batches[0], [batches[0][0][:1]]])
    assert caught.value.exit_code == 1
    with pytest.raises(ValueError, match="no batch"):
        observe(network, [])
