"""Run two networks on the same random inputs, at several sizes and in two precisions, and say how far apart their outputs are.

Never here: what makes them differ, and what to do then (strip.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.channels.export import RUN_ERRORS, copied
from compress.errors import ParityError, TraceError

Size = tuple[int, ...]
Outputs = list[Tensor]

LIMIT_64 = 1e-9  # of the output's range: rounding of float64, amplified by what the network does to it
LIMIT_32 = 1e-5  # or three times the network's own rounding, where that is more: a norm of a nearly constant channel amplifies it


@dataclass(frozen=True)
class Check:
    """One comparison. `gap`: largest difference as a share of the output's `range`, at most `limit`.

    `rounding`: the gap between the network itself in this precision and in float64.
    """

    size: Size
    dtype: str
    gap: float
    limit: float
    range: float
    rounding: float

    @property
    def holds(self) -> bool:
        return self.gap <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "size": list(self.size)}


@dataclass(frozen=True)
class Fault:
    """The first size at which two networks differ, and how: an error, or a gap."""

    size: Size
    said: str


class Witness:
    """What the network as given answers, at each size, to inputs from a fixed seed; later networks are held against it.

    `sizes`: spatial sizes of the first input that has any (the others scale with it). Without: the examples' own, one
    smaller, one larger, where the network takes them. Raises TraceError for a size that it does not take.
    """

    def __init__(self, module: nn.Module, examples: Sequence[Tensor], sizes: Sequence[Size] | None = None) -> None:
        self._examples = [example.detach() for example in examples]
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self._own, self._double = copied(module).eval(), copied(module).double().eval()
        self.exact = torch.float64  # the precision that decides; a network with float32 constants in its code has no other
        self.answers: dict[Size, Outputs] = {}
        if self._ask(self._base()):
            self.exact = self.dtype
        for size in sizes or ():
            if said := self._ask(tuple(size)):
                raise TraceError(f"the network does not run at {_named(size)}: {said}")
        for choices in [] if sizes else self._ladder():
            next((size for size in choices if not self._ask(size)), None)

    @property
    def sizes(self) -> list[Size]:
        return list(self.answers)

    def inputs(self, size: Size, dtype: torch.dtype) -> list[Tensor]:
        """Random inputs in the examples' range (0..1 for examples that are all one value); whole numbers are kept."""
        generator = torch.Generator().manual_seed(0)
        return [self._like(example, size, generator, dtype) for example in self._examples]

    def compare(self, candidate: nn.Module) -> list[Check] | Fault:
        """Hold `candidate` against the answers in the precision `exact`, size by size; the first fault ends it."""
        checks = []
        for size, answer in self.answers.items():
            try:
                gap, span = distance(answer, _run(candidate, self.inputs(size, self.exact)))
            except RUN_ERRORS as error:
                return Fault(size, f"it fails with {_short(error)}")
            limit = LIMIT_64 if self.exact == torch.float64 else LIMIT_32
            if not gap <= limit:
                return Fault(size, f"the output moves by {gap:.1e} of its range")
            checks.append(Check(size, _name(self.exact), gap, limit, span, 0.0))
        return checks

    def rounded(self, stripped: nn.Module) -> list[Check]:
        """The same in the network's own precision, where that is another one."""
        if self.dtype == self.exact:
            return []
        checks = []
        for size, answer in self.answers.items():
            reference = _run(self._own, self.inputs(size, self.dtype))
            rounding, _ = distance(answer, reference)
            gap, span = distance(reference, _run(stripped, self.inputs(size, self.dtype)))
            checks.append(Check(size, _name(self.dtype), gap, max(LIMIT_32, 3 * rounding), span, rounding))
        return checks

    def _ask(self, size: Size) -> str:
        """Run at `size` and keep the answer; what went wrong, if it did."""
        if size in self.answers:
            return ""
        module = self._double if self.exact == torch.float64 else self._own
        try:
            self.answers[size] = _run(module, self.inputs(size, self.exact))
        except RUN_ERRORS as error:
            return _short(error)
        return ""

    def _ladder(self) -> list[list[Size]]:
        """The examples' size; then sizes to try in turn: odd ones first, for what they bring out, then rounder ones."""
        base = self._base()
        return [[base], list(_near(base, (0.6, 0.9))), list(_near(base, (1.06, 1.3)))] if base else [[base]]

    def _base(self) -> Size:
        spatial = [tuple(example.shape[2:]) for example in self._examples if example.dim() > 2]
        return spatial[0] if spatial else ()

    def _like(self, example: Tensor, size: Size, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        if not example.is_floating_point():
            return example
        base, shape = self._base(), list(example.shape)
        if example.dim() == len(base) + 2:
            shape[2:] = [max(1, round(n * new / old)) for n, new, old in zip(shape[2:], size, base, strict=True)]
        low, high = float(example.min()), float(example.max())
        low, high = (low, high) if low < high else (0.0, 1.0)
        random = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (low + (high - low) * random).to(dtype=dtype, device=example.device)


def check_same(before: nn.Module, after: nn.Module, examples: Sequence[Tensor], change: str) -> None:
    """Run both in eval mode, in their own precision, on the examples. Raises ParityError that names the `change` between them."""
    gap, _ = distance(*(_run(copied(module).eval(), examples) for module in (before, after)))
    if not gap <= LIMIT_32:
        raise ParityError(f"{change} moved the output by {gap:.1e} of its range (limit {LIMIT_32:.1e})")


def distance(reference: Outputs, found: Outputs) -> tuple[float, float]:
    """(largest difference as a share of the reference's range, that range) of the worst output; inf where shapes differ."""
    if [tensor.shape for tensor in reference] != [tensor.shape for tensor in found]:
        return float("inf"), 0.0
    worst = (0.0, 0.0)
    for a, b in zip(reference, found, strict=True):
        if a.numel():
            worst = max(worst, _distance(a.double(), b.double()))
    return worst


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf"), 0.0
    a, b = a[finite], b[finite]
    if not a.numel():
        return 0.0, 0.0
    span = float(a.max() - a.min())
    scale = span or float(a.abs().max()) or 1.0
    return float((a - b).abs().max()) / scale, span


@torch.no_grad()
def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Outputs:
    return [leaf.detach() for leaf in pytree.tree_leaves(module(*inputs)) if isinstance(leaf, Tensor)]


def _near(base: Size, factors: Sequence[float]) -> Iterator[Size]:
    for factor in factors:
        for rounded in (_odd, _multiple(4), _multiple(32)):
            size = tuple(rounded(n * factor + step) for step, n in enumerate(base))
            if size != base and min(size) > 0 and (factor < 1) == (size < base):
                yield size


def _odd(number: float) -> int:
    return 2 * int(number // 2) + 1


def _multiple(unit: int) -> Callable[[float], int]:
    return lambda number: unit * round(number / unit)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _named(size: Size) -> str:
    return "x".join(map(str, size))


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
