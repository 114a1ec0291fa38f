"""The Johnson network against the published table: parameters, layers, sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from compress import networks
from compress.errors import NetworkError
from compress.image_format import PRESETS
from compress.networks.johnson import MOST_BLOCKS, Johnson

# layer: (in, out, kernel, stride, padding); all have a bias and reflection padding
TABLE = {
    "down1.conv": (3, 32, 9, 1, 4),
    "down2.conv": (32, 64, 3, 2, 1),
    "down3.conv": (64, 128, 3, 2, 1),
    **{f"residual.{i}.{part}.conv": (128, 128, 3, 1, 1) for i in range(5) for part in ("first", "second")},
    "up1.conv": (128, 64, 3, 1, 1),
    "up2.conv": (64, 32, 3, 1, 1),
    "out": (32, 3, 9, 1, 4),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_as_published() -> None:
    network = Johnson()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.InstanceNorm2d)]
    assert parameters(network) == 1_679_235
    assert sum(map(parameters, convs)) == 1_676_035
    assert sum(map(parameters, norms)) == 3_200
    assert sum(m.weight.numel() for m in convs) == 1_674_432
    assert parameters(Johnson(width=16)) == 424_899


def test_layers_as_published() -> None:
    found = {
        name: (m.in_channels, m.out_channels, *m.kernel_size[:1], *m.stride[:1], *m.padding[:1])
        for name, m in Johnson().named_modules()
        if isinstance(m, nn.Conv2d)
    }
    assert found == TABLE
    assert list(found) == list(TABLE)
    for module in Johnson().modules():
        if isinstance(module, nn.Conv2d):
            assert module.padding_mode == "reflect"
            assert module.bias is not None
            assert len({*module.kernel_size}) == len({*module.stride}) == 1


def test_norms_as_published() -> None:
    norms = [m for m in Johnson().modules() if isinstance(m, nn.InstanceNorm2d)]
    assert [n.num_features for n in norms] == [32, 64, 128, *[128] * 10, 64, 32]
    assert all(n.affine and not n.track_running_stats and n.eps == 1e-5 for n in norms)
    norms = [m for m in Johnson(norm="batch").modules() if isinstance(m, nn.BatchNorm2d)]
    assert [n.num_features for n in norms] == [32, 64, 128, *[128] * 10, 64, 32]
    assert parameters(Johnson(norm="batch")) == 1_679_235


def test_transposed_upsampling() -> None:
    network = Johnson(upsampling="transposed")
    ups = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels, m.stride) for m in ups] == [(128, 64, (2, 2)), (64, 32, (2, 2))]
    assert parameters(network) == 1_679_235


@torch.no_grad()
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize("size", [(64, 48), (36, 44), (33, 47), (30, 45), (9, 17)])
def test_output_size(upsampling: str, size: tuple[int, int]) -> None:
    network = Johnson(widths=(5, 7, 11), upsampling=upsampling, blocks=1).eval()
    expected = [4 * math.ceil(math.ceil(side / 2) / 2) for side in size]
    assert list(network(torch.rand(2, 3, *size)).shape) == [2, 3, *expected]


@torch.no_grad()
def test_what_is_between_the_layers() -> None:
    """The same computed by hand: ReLU after each norm but the last of a block, none after the sum, none at the end."""
    torch.manual_seed(1)
    network = Johnson(widths=(5, 7, 11), hidden=13, blocks=2).eval()
    for parameter in network.parameters():
        parameter.uniform_(-0.5, 0.5)
    x = picture = torch.randn(1, 3, 24, 32)

    def step(unit: Any, x: torch.Tensor) -> torch.Tensor:
        pad = unit.conv.kernel_size[0] // 2
        y = nn.functional.conv2d(nn.functional.pad(x, (pad,) * 4, "reflect"), unit.conv.weight, unit.conv.bias, unit.conv.stride)
        y = (y - y.mean((2, 3), True)) / (y.var((2, 3), False, keepdim=True) + 1e-5).sqrt()
        return y * unit.norm.weight.view(1, -1, 1, 1) + unit.norm.bias.view(1, -1, 1, 1)

    for unit in (network.down1, network.down2, network.down3):
        x = step(unit, x).relu()
    for block in network.residual:
        x = x + step(block.second, step(block.first, x).relu())
    for unit in (network.up1, network.up2):
        x = step(unit, x.repeat_interleave(2, 2).repeat_interleave(2, 3)).relu()
    x = nn.functional.conv2d(nn.functional.pad(x, (4,) * 4, "reflect"), network.out.weight, network.out.bias)
    assert torch.allclose(network(picture), x, atol=1e-4)
    assert x.min() < 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"norm": "layer"}, "no norm 'layer'"),
        ({"upsampling": "bilinear"}, "no upsampling 'bilinear'"),
        ({"width": 0}, "must be positive"),
        ({"widths": (3, 0, 5)}, "must be positive"),
        ({"hidden": -1}, "must be positive"),
        ({"blocks": -1}, "must be positive"),
        ({"blocks": MOST_BLOCKS + 1}, "at most 64"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(NetworkError, match=words) as caught:
        Johnson(**arguments)
    assert caught.value.exit_code == 1


def test_no_blocks_at_all() -> None:
    assert Johnson(width=3, blocks=0)(torch.rand(1, 3, 16, 20)).shape == (1, 3, 16, 20)


@pytest.mark.parametrize("name", networks.names())
def test_every_registered_network_can_be_laid_out_without_memory(name: str) -> None:
    """Loading builds on the meta device and fills in the file's tensors: what is not in the state dict would stay empty."""
    network = networks.get(name)
    with torch.device("meta"):
        module = network.factory()
        module(torch.empty(network.example))
    held = {*(n for n, _ in module.named_parameters()), *(n for n, _ in module.named_buffers())}
    assert held == set(module.state_dict())
    for owner in module.modules():
        assert not [n for n, value in vars(owner).items() if isinstance(value, torch.Tensor)]


def test_the_registry_lists_what_there_is() -> None:
    assert networks.get("johnson").format == PRESETS["imagenet"]
    with pytest.raises(NetworkError, match="no network named 'resnet'") as caught:
        networks.get("resnet")
    assert "johnson" in str(caught.value.hint)
