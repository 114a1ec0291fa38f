"""Networks that nobody thought of: random wiring, random constants. The strip is exact, complete, and leaves nothing alone.

`COMPRESS_STRIP_EXAMPLES=N` tries N networks in place of the few of a normal run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.channels.graph import trace
from compress.channels.strip import strip
from tests.strip_cases import randomise_

PADDINGS = ("zeros", "reflect", "replicate", "circular")
ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    F.relu, F.hardswish, torch.sigmoid, torch.tanh, F.leaky_relu, lambda x: 1 - 2 * x, torch.abs, F.gelu,
    lambda x: torch.clamp(x, -0.5, 1.0), lambda x: x / (1 + x * x), lambda x: torch.where(x > 0.2, x, 0.25),
)  # fmt: skip
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
POOLS = {
    1: (F.max_pool1d, F.avg_pool1d),
    2: (F.max_pool2d, F.avg_pool2d),
    3: (F.max_pool3d, F.avg_pool3d),
}
SIZES = {1: ((8,), (14,)), 2: ((8, 8), (10, 6)), 3: ((4, 4, 8), (6, 8, 4))}
WIDEST = 24

Call = Callable[..., Tensor]  # (step, x, all earlier tensors) -> tensor


class Step(nn.Module):
    """One step: a function of what came before, and the layers that it uses."""

    def __init__(self, call: Call, *layers: nn.Module) -> None:
        super().__init__()
        self.call, self.layers = call, nn.ModuleList(layers)

    def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
        return self.call(self.layers, x, seen)


class Affine(nn.Module):
    """Parameters outside of any layer that is known."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.gain, self.offset = (nn.Parameter(torch.ones(width, *(1,) * rank)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain + self.offset


class Wired(nn.Module):
    """A chain of steps drawn from `seed`, each of which may read any earlier tensor: all have the same size in space."""

    def __init__(self, seed: int, length: int, rank: int = 2) -> None:
        super().__init__()
        self.draw, self.rank = random.Random(seed), rank
        self.steps = nn.ModuleList()
        self.widths = [3]
        kinds = [name for name in KINDS if rank == 2 or name not in PLANAR]
        while len(self.steps) < length:
            call, width, *layers = getattr(self, f"_{self.draw.choice(kinds)}")(self.widths[-1])
            if width <= WIDEST:
                self.steps.append(Step(call, *layers))
                self.widths.append(width)
        self.leave = CONV[rank](self.widths[-1], 2, 1)
        self.side, self.beside = None, self.draw.randrange(len(self.widths))
        if self.draw.random() < 0.3:
            self.side = CONV[rank](self.widths[self.beside], 1, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen = [x]
        for step in self.steps:
            seen.append(step(seen[-1], seen))
        outputs = (self.leave(seen[-1]),)
        return outputs if self.side is None else (*outputs, self.side(seen[self.beside]))

    # -- the kinds of steps: width of the tensor so far -> (call, new width, layers) ---------------------------------------

    def _conv(self, width: int) -> tuple:
        groups = self._divisor(width, (1, 1, 1, 2, 3))
        out = groups * self.draw.randint(2, 4)
        return _chain, out, self._layer(CONV[self.rank], width, out, groups)

    def _layer(self, kind: type[nn.Module], width: int, out: int, groups: int) -> nn.Module:
        """Any odd kernel and dilation, padded so that the size stays."""
        kernel = [self.draw.choice((1, 3, 3, 5)) for _ in range(self.rank)]
        dilation = [self.draw.choice((1, 1, 2)) if k == 3 else 1 for k in kernel]
        padding = [d * (k // 2) for d, k in zip(dilation, kernel, strict=True)]
        mode = "zeros" if kind is TRANSPOSED[self.rank] else self.draw.choice(PADDINGS)
        bias = self.draw.random() < 0.6
        return kind(
            width, out, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias, padding_mode=mode
        )  # fmt: skip

    def _strided(self, width: int) -> tuple:
        out = self.draw.randint(3, 7)
        layer = CONV[self.rank](width, out, 4, 2, 1, bias=self.draw.random() < 0.6, padding_mode=self.draw.choice(PADDINGS))
        return (lambda own, x, seen: F.interpolate(own[0](x), x.shape[2:])), out, layer

    def _valid(self, width: int) -> tuple:
        """A pad of its own, then a convolution without."""
        out, mode = self.draw.randint(3, 7), self.draw.choice(("constant", "constant", "reflect", "replicate"))
        amounts = (1, 1) * self.rank
        return (
            (lambda own, x, seen: own[0](F.pad(x, amounts, mode))),
            out, CONV[self.rank](width, out, 3, bias=self.draw.random() < 0.6),
        )  # fmt: skip

    def _depthwise(self, width: int) -> tuple:
        times = self.draw.choice((1, 1, 2))
        return _chain, width * times, self._layer(CONV[self.rank], width, width * times, width)

    def _transposed(self, width: int) -> tuple:
        groups = self._divisor(width, (1, 1, 2, 3))
        out = groups * self.draw.randint(2, 3)
        if self.draw.random() < 0.5:
            return _chain, out, self._layer(TRANSPOSED[self.rank], width, out, groups)
        layer = TRANSPOSED[self.rank](width, out, 4, 2, 1, groups=groups, bias=self.draw.random() < 0.5)
        pool = self.draw.choice(POOLS[self.rank])
        return (lambda own, x, seen: pool(own[0](x), 2)), out, layer

    def _norm(self, width: int) -> tuple:
        running, affine = self.draw.random() < 0.4, self.draw.random() < 0.5
        kinds = (
            BATCH[self.rank](width),
            INSTANCE[self.rank](width, 0.1, affine=affine, track_running_stats=running),
            nn.GroupNorm(self._divisor(width, (1, 2, 3, 4)), width),
        )
        return _chain, width, self.draw.choice(kinds)

    def _activation(self, width: int) -> tuple:
        function = self.draw.choice(ACTIVATIONS)
        return (lambda own, x, seen: function(x)), width

    def _in_place(self, width: int) -> tuple:
        return (lambda own, x, seen: F.relu_(own[0](x))), 5, CONV[self.rank](width, 5, 1)

    def _scale(self, width: int) -> tuple:
        return _chain, width, self.draw.choice((nn.PReLU(width), Affine(width, self.rank)))

    def _add(self, width: int) -> tuple:
        """A residual: an earlier tensor, projected when its width differs."""
        source = self.draw.randrange(len(self.widths))
        if self.widths[source] == width:
            return (lambda own, x, seen: x + seen[source]), width
        layer = CONV[self.rank](self.widths[source], width, 1)
        return (lambda own, x, seen: x + own[0](seen[source])), width, layer

    def _multiply(self, width: int) -> tuple:
        same = [n for n, other in enumerate(self.widths) if other == width]
        source = self.draw.choice(same)
        return (lambda own, x, seen: x * torch.tanh(seen[source])), width

    def _stack(self, width: int) -> tuple:
        """Two tensors on an axis of their own, one of them chosen or both interleaved."""
        source = self.draw.choice([n for n, other in enumerate(self.widths) if other == width])
        if self.draw.random() < 0.5:
            return (lambda own, x, seen: torch.stack([x, seen[source]], 1).sum(1)), width
        return (lambda own, x, seen: torch.stack([torch.tanh(x), seen[source]], 2).flatten(1, 2)), 2 * width

    def _cat(self, width: int) -> tuple:
        source = self.draw.randrange(len(self.widths))
        return (lambda own, x, seen: torch.cat([seen[source], x], 1)), width + self.widths[source]

    def _gate(self, width: int) -> tuple:
        if width % 2 or width < 4:
            return self._activation(width)
        return self.draw.choice((_gate_by_chunk, _gate_by_slices)), width // 2

    def _excite(self, width: int) -> tuple:
        layers = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width), nn.Sigmoid())
        return (lambda own, x, seen: x * own[0](x.flatten(2).mean(2)).view(x.shape[:2] + (1,) * (x.dim() - 2))), width, layers

    def _mix(self, width: int) -> tuple:
        """Channels last, as a ConvNeXt does."""
        out = self.draw.randint(3, 7)
        norm = nn.LayerNorm(width) if self.draw.random() < 0.3 else nn.Identity()
        return (lambda own, x, seen: own[1](own[0](x.transpose(1, -1))).transpose(1, -1)), out, norm, nn.Linear(width, out)

    def _pool(self, width: int) -> tuple:
        pool = self.draw.choice(POOLS[self.rank])
        return (lambda own, x, seen: pool(x, 3, 1, 1)), width

    def _twice(self, width: int) -> tuple:
        """One layer, called twice."""
        layer = self._layer(CONV[self.rank], width, width, 1)
        return (lambda own, x, seen: own[0](torch.tanh(own[0](x)))), width, layer

    def _tied(self, width: int) -> tuple:
        """Two layers with one weight."""
        one, two = (CONV[self.rank](width, 5, 3, padding=1, bias=self.draw.random() < 0.6) for _ in range(2))
        two.weight = one.weight
        source = self.draw.choice([n for n, other in enumerate(self.widths) if other == width])
        return (lambda own, x, seen: own[0](x) - own[1](torch.sigmoid(seen[source]))), 5, one, two

    def _mean_gate(self, width: int) -> tuple:
        """Counts channels: they stay."""
        return (lambda own, x, seen: x * torch.sigmoid(x.mean(1, keepdim=True))), width

    def _shuffle(self, width: int) -> tuple:
        """Groups of channels interleave."""
        groups = self._divisor(width, (2, 3))
        if groups == 1 or width == groups:
            return self._conv(width)
        return (lambda own, x, seen: x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)), width

    def _pixels(self, width: int) -> tuple:
        if width % 4 or width == 4:
            return self._conv(width)
        return (lambda own, x, seen: F.max_pool2d(F.pixel_shuffle(x, 2), 2)), width // 4

    def _unpixels(self, width: int) -> tuple:
        return (lambda own, x, seen: F.interpolate(F.pixel_unshuffle(x, 2), scale_factor=2)), width * 4

    def _divisor(self, width: int, wanted: tuple[int, ...]) -> int:
        return self.draw.choice([n for n in wanted if width % n == 0] or [1])


def _chain(own: nn.ModuleList, x: Tensor, seen: list[Tensor]) -> Tensor:
    return own[0](x)


def _gate_by_chunk(own: nn.ModuleList, x: Tensor, seen: list[Tensor]) -> Tensor:
    one, two = x.chunk(2, 1)
    return one * torch.sigmoid(two)


def _gate_by_slices(own: nn.ModuleList, x: Tensor, seen: list[Tensor]) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] * torch.sigmoid(x[:, half:])


PLANAR = ("pixels", "unpixels")
KINDS = (
    "conv", "conv", "conv", "strided", "valid", "depthwise", "transposed", "norm", "norm", "activation", "activation",
    "in_place", "scale", "add", "add", "multiply", "stack", "cat", "gate", "excite", "mix", "pool", "twice", "tied", "mean_gate",
    "shuffle", "pixels", "unpixels",
)  # fmt: skip


@torch.no_grad()
def make_constants_(net: nn.Module, seed: int) -> None:
    """Some rows zero, their biases zero or not; some norms without scale; some columns unread; often alike in every group."""
    draw = random.Random(seed)
    done: set[int] = set()
    for layer in net.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or isinstance(layer, nn.PReLU) or id(weight) in done:
            continue
        done.add(id(weight))
        groups = getattr(layer, "groups", 1)
        if groups > 1 and getattr(layer, "transposed", False):
            _zero_rows_(weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1), layer, groups, draw)
            continue
        axis = 1 if getattr(layer, "transposed", False) else 0
        _zero_rows_(weight.movedim(axis, 0), layer, groups, draw)
        if weight.dim() > 1:
            _zero_rows_(weight.movedim(1 - axis, 0), None, 1, draw, 0.15)


def _zero_rows_(rows: Tensor, layer: nn.Module | None, groups: int, draw: random.Random, share: float = 0.4) -> None:
    size = len(rows) // groups
    alike = {n for n in range(size) if draw.random() < share} if draw.random() < 0.5 else set()
    for row in range(len(rows)):
        if row % size in alike or draw.random() < share / 2:
            rows[row] = 0
            if layer is not None and getattr(layer, "bias", None) is not None:
                layer.bias[row] = draw.choice((0.0, 0.0, 0.5, -0.75, 1.25))


def made(seed: int, length: int, rank: int) -> tuple[Wired, Tensor]:
    net = randomise_(Wired(seed, length, rank), seed)
    make_constants_(net, seed)
    return net, torch.rand(1, 3, *SIZES[rank][0], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(seed: int, length: int, rank: int) -> None:
    net, inputs = made(seed, length, rank)
    done = strip(net, [inputs])
    assert done.report.left_alone == {}
    assert done.report.not_understood == ()
    x = torch.randn(2, 3, *SIZES[rank][1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        for one, two in zip(net(x), done.module(x), strict=True):
            assert torch.allclose(one, two, rtol=0, atol=1e-11 * max(1.0, float(one.abs().max())))
    again = strip(done.module, [inputs])
    assert again.report.removed == 0, "a second strip found more"
    cost = trace(done.module, [inputs]).predict({})
    assert (cost.parameters, cost.macs) == (done.report.after.parameters, done.report.after.macs)


EXAMPLES = int(os.environ.get("COMPRESS_STRIP_EXAMPLES", "25"))


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from((1, 2, 2, 2, 3)))
@example(5061, 1, 2)  # a PReLU on the input itself, whose channels are not tracked
def test_random_networks(seed: int, length: int, rank: int) -> None:
    check(seed, length, rank)
