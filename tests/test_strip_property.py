"""Networks that nobody thought of: random wiring, random constants. The strip is exact, complete, and leaves nothing alone."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.channels.graph import trace
from compress.channels.strip import strip
from tests.strip_cases import randomise_

PADDINGS = ("zeros", "reflect", "replicate", "circular")
ACTIVATIONS = (F.relu, F.hardswish, torch.sigmoid, torch.tanh, F.leaky_relu, lambda x: 1 - 2 * x, torch.abs)


class Wired(nn.Module):
    """A chain of blocks drawn from `seed`, each of which may read any earlier tensor of its size."""

    def __init__(self, seed: int, length: int) -> None:
        super().__init__()
        self.draw = random.Random(seed)
        self.layers = nn.ModuleList()
        self.plan: list[tuple[str, tuple[int, ...]]] = []
        width, past = 3, [3]
        for _ in range(length):
            kind = self.draw.choice(KINDS)
            width = getattr(self, f"_{kind}")(width, past)
            past.append(width)
        self.layers.append(nn.Conv2d(width, 2, 1))

    def _note(self, kind: str, width: int, layer: nn.Module | None = None, *extra: int) -> int:
        if layer is not None:
            self.layers.append(layer)
        self.plan.append((kind, extra))
        return width

    def _conv(self, width: int, past: list[int]) -> int:
        groups = self.draw.choice([g for g in (1, 1, 1, 2, 3) if width % g == 0])
        out, kernel = groups * self.draw.randint(2, 4), self.draw.choice((1, 3))
        mode, bias = self.draw.choice(PADDINGS), self.draw.random() < 0.7
        layer = nn.Conv2d(width, out, kernel, padding=kernel // 2, padding_mode=mode, groups=groups, bias=bias)
        return self._note("layer", out, layer)

    def _depthwise(self, width: int, past: list[int]) -> int:
        times = self.draw.choice((1, 1, 2))
        layer = nn.Conv2d(width, width * times, 3, padding=1, padding_mode=self.draw.choice(PADDINGS), groups=width)
        return self._note("layer", width * times, layer)

    def _transposed(self, width: int, past: list[int]) -> int:
        groups = self.draw.choice([g for g in (1, 2) if width % g == 0])
        out = groups * self.draw.randint(2, 3)
        return self._note(
            "layer", out, nn.ConvTranspose2d(width, out, 3, padding=1, groups=groups, bias=self.draw.random() < 0.5)
        )

    def _norm(self, width: int, past: list[int]) -> int:
        running = self.draw.random() < 0.3
        kinds = (
            nn.BatchNorm2d(width), nn.InstanceNorm2d(width), nn.InstanceNorm2d(width, affine=True, track_running_stats=running),
            nn.GroupNorm(1, width),
        )  # fmt: skip
        return self._note("layer", width, self.draw.choice(kinds))

    def _activation(self, width: int, past: list[int]) -> int:
        return self._note("activation", width, None, self.draw.randrange(len(ACTIVATIONS)))

    def _add(self, width: int, past: list[int]) -> int:
        """A residual: an earlier tensor, projected when its width differs."""
        source = self.draw.randrange(len(past))
        if past[source] == width:
            return self._note("add", width, None, source)
        return self._note("project", width, nn.Conv2d(past[source], width, 1), source)

    def _cat(self, width: int, past: list[int]) -> int:
        source = self.draw.randrange(len(past))
        return self._note("cat", width + past[source], None, source)

    def _gate(self, width: int, past: list[int]) -> int:
        return self._note("gate", width // 2) if width % 2 == 0 and width > 2 else self._activation(width, past)

    def _excite(self, width: int, past: list[int]) -> int:
        return self._note("excite", width, nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid()))

    def _shuffle(self, width: int, past: list[int]) -> int:
        return self._note("shuffle", width // 4) if width % 4 == 0 and width > 4 else self._conv(width, past)

    def _scale(self, width: int, past: list[int]) -> int:
        return self._note("layer", width, nn.PReLU(width))

    def forward(self, x: Tensor) -> Tensor:
        seen, layers = [x], iter(self.layers)
        for kind, extra in self.plan:
            x = self._step(kind, extra, x, seen, layers)
            seen.append(x)
        return next(layers)(x)

    def _step(self, kind: str, extra: tuple[int, ...], x: Tensor, seen: list[Tensor], layers: object) -> Tensor:
        if kind == "layer":
            return next(layers)(x)  # type: ignore[call-overload, no-any-return]
        if kind == "activation":
            return ACTIVATIONS[extra[0]](x)
        if kind == "add":
            return x + seen[extra[0]]
        if kind == "project":
            return x + next(layers)(seen[extra[0]])  # type: ignore[call-overload, no-any-return]
        if kind == "cat":
            return torch.cat([x, seen[extra[0]]], 1)
        if kind == "gate":
            one, two = x.chunk(2, 1)
            return one * torch.sigmoid(two)
        if kind == "excite":
            return x * next(layers)(x.mean((2, 3)))[:, :, None, None]  # type: ignore[call-overload, no-any-return]
        small = F.pixel_shuffle(x, 2)
        return F.max_pool2d(small, 2)


KINDS = (
    "conv", "conv", "conv", "depthwise", "transposed", "norm", "norm", "activation", "activation", "add", "cat", "gate", "excite",
    "shuffle", "scale",
)  # fmt: skip


@torch.no_grad()
def make_constants_(net: nn.Module, seed: int) -> None:
    """Some rows zero, their biases zero or not; some norms without scale; some columns unread."""
    draw = random.Random(seed)
    for layer in net.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or isinstance(layer, nn.PReLU):
            continue
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        for channel in range(weight.shape[axis]):
            if draw.random() < 0.4:
                weight.select(axis, channel).zero_()
                if getattr(layer, "bias", None) is not None and layer.bias.numel() > channel:
                    layer.bias[channel] = draw.choice((0.0, 0.0, 0.5, -0.75, 1.25))
        if weight.dim() > 1:
            for channel in range(weight.shape[1 - axis]):
                if draw.random() < 0.15:
                    weight.select(1 - axis, channel).zero_()


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_random_networks(seed: int, length: int) -> None:
    net = randomise_(Wired(seed, length), seed)
    make_constants_(net, seed)
    example = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    done = strip(net, [example])
    assert done.report.left_alone == {}
    assert done.report.not_understood == ()
    x = torch.randn(2, 3, 9, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        one, two = net(x), done.module(x)
    assert torch.allclose(one, two, rtol=0, atol=1e-10 * max(1.0, float(one.abs().max())))
    again = strip(done.module, [example])
    assert again.report.removed == 0, "a second strip found more"
    cost = trace(done.module, [example]).predict({})
    assert (cost.parameters, cost.macs) == (done.report.after.parameters, done.report.after.macs)
