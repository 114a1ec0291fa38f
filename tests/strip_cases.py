"""What the tests of stripping share: make channels constant, strip in float64, and compare without the strip's own proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.channels.strip import Stripped, strip


def make_constant_(conv: nn.Module, channels: Sequence[int], values: Sequence[float] | None = None) -> None:
    """Output channels of a convolution become constants: zero weights, and `values` (or zero) in the bias."""
    with torch.no_grad():
        for number, channel in enumerate(channels):
            conv.weight[channel] = 0
            if conv.bias is not None:
                conv.bias[channel] = values[number] if values is not None else 0


def randomise_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic away from its default, so that nothing holds by accident; eval mode, float64."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            if "var" in name or tensor.dim() < 2:
                tensor.copy_(0.3 + noise)
            else:
                tensor.copy_((noise - 0.48) * 3 / tensor[0].numel() ** 0.5)
    return module


def gap(a: nn.Module, b: nn.Module, shape: Sequence[int], seed: int = 7) -> float:
    """Largest difference of the outputs on random inputs, as a share of the first one's range."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(a.parameters()).dtype
    x = torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        one, two = a(x), b(x)
    assert one.shape == two.shape
    span = float(one.max() - one.min())
    assert span > 1e-3, "this network says nothing"
    return float((one - two).abs().max()) / span


def stripped_to(
    module: nn.Module,
    widths: Mapping[str, int],
    shape: Sequence[int] = (1, 3, 12, 16),
    sizes: Sequence[tuple[int, int]] = ((12, 16), (11, 9), (19, 21)),
) -> Stripped:
    """Strip, and hold the widths against those counted by hand (spaces not named keep theirs), the outputs at several sizes."""
    dtype = next(module.parameters()).dtype
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    done = strip(module, [torch.rand(tuple(shape), dtype=dtype)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items()), "the input was changed"
    found = {space.name: space.after for space in done.report.spaces}
    expected = {space.name: space.before for space in done.report.spaces} | dict(widths)
    assert found == expected
    assert not done.report.left_alone
    for size in sizes:
        worst = gap(module, done.module, (*shape[:2], *size))
        assert worst <= (1e-12 if dtype == torch.float64 else 1e-5), f"{worst:.1e} at {size}"
    assert strip(done.module, [torch.rand(tuple(shape), dtype=dtype)]).report.removed == 0, "a second strip found more"
    return done


def state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


class Every(nn.Module):
    """Every kind of module whose record says more than its shapes: for round trips through a file."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1, padding_mode="reflect", bias=False)
        self.plain = nn.InstanceNorm2d(width)
        self.grouped = nn.Conv2d(width, 8, 3, padding=1, groups=4, bias=False)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(16, 10, 2, 2, groups=2)
        self.norm = nn.BatchNorm2d(10)
        self.bare = nn.Conv2d(10, 6, 1, bias=False)
        self.slope = nn.PReLU(6)
        self.leave = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.plain(self.enter(x)))
        x = self.depthwise(torch.relu(self.grouped(x)))
        x = torch.relu(self.norm(self.up(x)))
        return self.leave(self.slope(self.bare(x)))
