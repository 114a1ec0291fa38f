"""Networks as users write them: several inputs, widths baked into code, shared parts, outputs of all kinds, code that fails.

Each has channels that are dead from the start; no two widths of a network are equal. `EXPECTED`: widths of its spaces after a
strip, counted by hand; what is left alone has its full width.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = namedtuple("Pair", "picture mean")


def dead(layer: Any, *channels: int) -> Any:
    """The layer, with these output channels zero."""
    with torch.no_grad():
        for channel in channels:
            layer.weight[channel] = 0
            if layer.bias is not None:
                layer.bias[channel] = 0
    return layer


class Net(nn.Module):
    """`a` (6, two dead), something between, `c`."""

    shapes: tuple[tuple[int, ...], ...] = ((1, 3, 12, 16),)

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.c = dead(nn.Conv2d(3, width, 3, padding=1, padding_mode="reflect"), 1, 4), nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.a(x)))

    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(torch.rand(shape, generator=torch.Generator().manual_seed(9)) for shape in self.shapes)


class ContentAndStyle(Net):
    """Two pictures of different channels and sizes. Channel 2 is dead in the style alone, which is enough for a product."""

    shapes = ((1, 3, 12, 16), (1, 5, 10, 9))

    def __init__(self) -> None:
        super().__init__()
        self.b = dead(nn.Conv2d(5, 6, 3), 1, 2)

    def forward(self, x: Tensor, style: Tensor) -> Any:
        return self.c(F.relu(self.a(x) * self.b(style).mean((2, 3), keepdim=True)))


class Timestep(Net):
    """A picture and a whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.shift = nn.Embedding(10, 9), dead(nn.Linear(9, 6), 1, 4)

    def forward(self, x: Tensor, step: Tensor) -> Any:
        return self.c(F.silu(self.a(x) + self.shift(self.time(step))[:, :, None, None]))

    def inputs(self) -> tuple[Tensor, ...]:
        return (*super().inputs(), torch.tensor([7]))


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.c(torch.where(mask, F.relu(self.a(x)), 0.0))

    def inputs(self) -> tuple[Tensor, ...]:
        return (*super().inputs(), torch.rand(1, 1, 12, 16) > 0.5)


class OneSize(Net):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(6 * 12 * 16, 5)

    def forward(self, x: Tensor) -> Any:
        assert x.shape[2:] == (12, 16), "one size only"
        return self.c(F.relu(self.a(x)).flatten(1))


class Keywords(Net):
    """Defaults, keyword-only arguments, and a dict of tensors and other things."""

    def forward(self, x: Tensor, skip: Tensor | None = None, *, alpha: float = 0.5, as_dict: bool = True) -> Any:
        y = self.c(F.relu(self.a(x))) * alpha
        return {"y": (y, [y.mean()]), "n": 3, "text": "words", "none": skip} if as_dict else y


class NamedTuple(Net):
    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.a(x))
        return Pair(self.c(y), x.mean())


class SharedModule(Net):
    """One convolution under two names, run twice; channels 1 and 4 are dead before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.m = dead(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"), 1, 4)
        self.again = self.m

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.again(F.relu(self.m(F.relu(self.a(x)))))))


class TiedWeights(Net):
    def __init__(self) -> None:
        super().__init__()
        self.m, self.n = dead(nn.Conv2d(6, 6, 1), 1, 4), nn.Conv2d(6, 6, 1)
        self.n.weight, self.n.bias = self.m.weight, self.m.bias

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.n(F.relu(self.m(F.relu(self.a(x)))))))


class OddNames(Net):
    def __init__(self) -> None:
        super().__init__()
        self.add_module("conv-1 x", dead(nn.Conv2d(3, 7, 1), 2))
        self.parts = nn.ModuleDict({"a/b": dead(nn.Conv2d(7, 5, 1), 1), "weight": nn.Conv2d(5, 4, 1)})

    def forward(self, x: Tensor) -> Any:
        return self.parts["weight"](F.relu(self.parts["a/b"](F.relu(getattr(self, "conv-1 x")(x)))))


class TrainingHead(Net):
    """What only a training sees has no part in it."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.drop = nn.Conv2d(6, 8, 1), nn.Dropout2d()

    def forward(self, x: Tensor) -> Any:
        y = self.drop(F.relu(self.a(x)))
        return (self.c(y), self.head(y)) if self.training else self.c(y)


class UnsavedBuffer(Net):
    """Its numbers come from the code, in their full width, each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.linspace(0.5, 1, 6).view(6, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.a(x)) * self.gain)


class TensorAttribute(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.linspace(0.5, 1, 6).view(6, 1, 1)

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.a(x)) * self.gain)


class Chain(Net):
    """Convolutions of 5, 6, 7 ... channels, the second of each dead."""

    count = 5

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            dead(nn.Conv2d(3 if n == 0 else 4 + n, 5 + n, 3, padding=1, padding_mode="reflect"), 1) for n in range(self.count)
        )
        self.channels = [5 + n for n in range(self.count)]
        self.c = nn.Conv2d(4 + self.count, 2, 1)

    def between(self, x: Tensor, number: int) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Any:
        for number, conv in enumerate(self.convs):
            x = self.between(F.elu(conv(x)), number)
        return self.c(x)


class Mirrored(Chain):
    """Attributes that mirror widths, in three places that know nothing of each other."""

    def between(self, x: Tensor, number: int) -> Tensor:
        return x.view(x.shape[0], self.channels[number], -1).view(x.shape) if number in (0, 2, 4) else x


class Silent(Chain):
    """It runs at any width, and computes something else: the share of a width, which no error tells."""

    def between(self, x: Tensor, number: int) -> Tensor:
        return x * (x.shape[1] / 8) if number in (1, 3) else x


class AtOtherSizes(Chain):
    """Its code names a width for large pictures only."""

    def between(self, x: Tensor, number: int) -> Tensor:
        return x.view(-1, 7, *x.shape[2:]) if number == 2 and x.shape[2] > 12 else x


class WidthError(Exception):
    """Not one of Python's own errors."""


class OwnError(Chain):
    def between(self, x: Tensor, number: int) -> Tensor:
        if x.shape[1] != self.channels[number] and number == 3:
            raise WidthError(f"width {x.shape[1]}?")
        if x.shape[2] > 40:
            raise WidthError("too large for me")
        return x


class Long(Chain):
    """24 spaces; every fourth bakes its width in."""

    count = 24
    runs = 0

    def between(self, x: Tensor, number: int) -> Tensor:
        type(self).runs += number == 0
        return x.view(-1, 5 + number, *x.shape[2:]) if number % 4 == 1 else x


class Keeps(Net):
    """Keeps what it has seen, and a grid of the last size."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.a(x))
        self.seen.append(y)
        if self.grid is None or self.grid.shape != y.shape[2:]:
            self.grid = torch.linspace(0, 1, y.shape[2] * y.shape[3], dtype=y.dtype).view(y.shape[2:])
        return self.c(y * self.grid)


class CountsByData(Net):
    """How many there are depends on the numbers: what touches them stays, the rest goes."""

    def __init__(self) -> None:
        super().__init__()
        self.b = dead(nn.Conv2d(2, 5, 1), 3)
        self.d = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Any:
        y = self.c(F.relu(self.a(x)))
        return self.d(F.relu(self.b(y))), torch.nonzero(y > 0).shape[0] * y


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.c = self.c.bfloat16()

    def forward(self, x: Tensor) -> Any:
        return self.c(F.relu(self.a(x)).bfloat16())


EXPECTED: dict[type[Net], dict[str, int]] = {
    ContentAndStyle: {"a": 3, "c": 2},
    Timestep: {"a": 4, "c": 2},
    Masked: {"a": 4, "c": 2},
    OneSize: {"a": 4, "c": 5},
    Keywords: {"a": 4, "c": 2},
    NamedTuple: {"a": 4, "c": 2},
    SharedModule: {"a": 4, "c": 2},
    TiedWeights: {"a": 4, "c": 2},
    OddNames: {"conv-1 x": 6, "parts.a/b": 4, "parts.weight": 4},
    TrainingHead: {"a": 4, "c": 2},
    UnsavedBuffer: {"a": 6, "c": 2},
    TensorAttribute: {"a": 6, "c": 2},
    Mirrored: {"convs.0": 5, "convs.1": 5, "convs.2": 7, "convs.3": 7, "convs.4": 9, "c": 2},
    Silent: {"convs.0": 4, "convs.1": 6, "convs.2": 6, "convs.3": 8, "convs.4": 8, "c": 2},
    AtOtherSizes: {"convs.0": 4, "convs.1": 5, "convs.2": 7, "convs.3": 7, "convs.4": 8, "c": 2},
    OwnError: {"convs.0": 4, "convs.1": 5, "convs.2": 6, "convs.3": 8, "convs.4": 8, "c": 2},
    Long: {**{f"convs.{n}": 5 + n - (n % 4 != 1) for n in range(24)}, "c": 2},
    Keeps: {"a": 4, "c": 2},
    CountsByData: {"a": 4, "c": 2, "b": 4, "d": 4},
    Mixed: {"a": 4, "c": 2},
}
# What is left alone, and a word of why.
LEFT_ALONE: dict[type[Net], dict[str, str]] = {
    Mirrored: {f"convs.{n}": f"without its channels it fails with shape '[1, {5 + n}, -1]' is invalid" for n in (0, 2, 4)},
    Silent: {f"convs.{n}": "the output moves by" for n in (1, 3)},
    AtOtherSizes: {"convs.2": "it fails with shape '[-1, 7,"},
    OwnError: {"convs.3": "it fails with width 7?"},
    Long: {f"convs.{n}": "is invalid" for n in range(1, 24, 4)},
}


# -- code that fails -----------------------------------------------------------------------------------------------------------


class Branch(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if y.mean() > 0:
            y = -y
        return self.c(y)


class Loop(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        while y.abs().max() > 0.1:
            y = y / 2
        return self.c(y)


class Item(Net):
    def forward(self, x: Tensor) -> Any:
        return self.c(self.a(x))[:, :, int(x.sum().item()) % 3 :]


class Numpy(Net):
    def forward(self, x: Tensor) -> Any:
        return self.c(torch.from_numpy(self.a(x).detach().numpy() * 2))


class Asserts(Net):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        assert bool((y.abs() < 100).all())
        return self.c(y)


class Opaque:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class GivesAnObject(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return y, Opaque(y)


class GivesNothing(Net):
    def forward(self, x: Tensor) -> Any:
        super().forward(x)


class NoSuchKey(Net):
    def forward(self, x: Tensor) -> Any:
        return {"y": self.a(x)}["z"]


class Endless(Net):
    def forward(self, x: Tensor) -> Any:
        return self.forward(x)


class Ends(Net):
    def forward(self, x: Tensor) -> Any:
        raise SystemExit("usage: train.py")


class Raises(Net):
    def forward(self, x: Tensor) -> Any:
        raise WidthError("first line\nsecond line")


class Random(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) + torch.rand(1)


def with_list(x: list[Tensor]) -> Tensor:
    return x[0] + x[1]


# -- factories -----------------------------------------------------------------------------------------------------------------


def wrapped(width: int = 6) -> nn.Module:
    return nn.DataParallel(Net(width))


def normed(width: int = 6) -> nn.Module:
    net = Net(width)
    net.a.reset_parameters()
    nn.utils.parametrizations.weight_norm(net.a)  # type: ignore[no-untyped-call]
    nn.utils.spectral_norm(net.c)
    return net


def talking(width: int = 6) -> nn.Module:
    print("building")
    net = Net(width)
    net.register_forward_pre_hook(lambda *_: print("running"))
    return net


def failing() -> nn.Module:
    raise WidthError("no weights for you\nand more")


def ending() -> nn.Module:
    raise SystemExit(3)


def empty() -> nn.Module:
    return next(iter([]))


def number() -> int:
    return 7


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3))


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1)))  # type: ignore[no-any-return]
