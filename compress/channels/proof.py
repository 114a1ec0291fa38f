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

from compress.channels.export import copied
from compress.channels.extents import MULTIPLES, fits, scaled, spatial
from compress.channels.ranges import Range
from compress.errors import ParityError, TheirCode, TraceError

Size = tuple[int, ...]
Outputs = list[Tensor]

LIMIT_64 = 1e-12  # of the output's range; or ten times what the network itself makes of some roundings in each weight, where
WORST_64 = 1e-9  # that is more (a norm of a nearly constant channel amplifies it), but never more than this
SHAKES = (1, 8, 64)  # so many roundings: what a norm makes of a constant hangs on its last bits, so one try says little
LIMIT_32 = 1e-5  # or three times the network's own rounding, where that is more: a norm of a nearly constant channel amplifies it


@dataclass(frozen=True)
class Check:
    """One comparison. `gap`: largest difference as a share of the output's `range`, at most `limit`.

    `rounding`: the gap between the network itself in this precision and in float64; in float64, where the limit depends on it,
    between the network and itself with every weight moved by a few roundings, else 0.
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

    `sizes`: spatial sizes of the first input that has any (the others scale with it), beside the examples' own. None: one
    smaller, one larger, where the network takes them. `ranges`: of the inputs; None: the example's. `largest`: no size is larger.
    Raises TraceError for a size that the network does not take.
    """

    def __init__(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        sizes: Sequence[Size] | None = None,
        *,
        ranges: Sequence[Range | None] = (),
        largest: Size | None = None,
    ) -> None:
        self._examples = [example.detach() for example in examples]
        self._ranges = [*ranges, *(None,) * (len(examples) - len(ranges))]
        self._largest = largest
        self.dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
        self._own, self._double = copied(module).eval(), copied(module).double().eval()
        self.exact = torch.float64  # the precision that decides; a network with float32 constants in its code has no other
        self.answers: dict[Size, Outputs] = {}
        self._begin()
        for size in sizes or ():
            if said := self._ask(tuple(size)):
                raise TraceError(f"the network does not run at {_named(size)}: {said}")
        for choices in self._ladder() if sizes is None else []:
            next((size for size in choices if not self._ask(size)), None)

    @property
    def sizes(self) -> list[Size]:
        return list(self.answers)

    def inputs(self, size: Size, dtype: torch.dtype) -> list[Tensor]:
        """Random inputs in their ranges, or the examples' (0..1 for examples that are all one value); whole numbers are the
        example's own, drawn anew where the shape is another.
        """
        generator = torch.Generator().manual_seed(0)
        shapes = scaled([tuple(example.shape) for example in self._examples], size)
        every = zip(self._examples, shapes, self._ranges, strict=True)
        return [_like(e, s, r, generator, dtype) if e.is_floating_point() else _drawn(e, s, generator) for e, s, r in every]

    def compare(self, candidate: nn.Module) -> list[Check] | Fault:
        """Hold `candidate` against the answers in the precision `exact`, size by size; the first fault ends it."""
        checks = []
        for size, answer in self.answers.items():
            try:
                gap, span = distance(answer, _run(candidate, self.inputs(size, self.exact)))
            except TraceError as error:
                return Fault(size, f"it fails with {_short(error)}")
            limit, rounding = self._limit(size, gap)
            if not gap <= limit:
                return Fault(size, f"the output moves by {gap:.1e} of its range")
            checks.append(Check(size, _name(self.exact), gap, limit, span, rounding))
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
            answer = _run(module, self.inputs(size, self.exact))
        except TraceError as error:
            return _short(error)
        if not any(bool(leaf.isfinite().any()) for leaf in answer if leaf.numel()):
            return "it gives nothing but NaN or inf, which compares with nothing"
        self.answers[size] = answer
        return ""

    def _limit(self, size: Size, gap: float) -> tuple[float, float]:
        """(limit, the rounding that it comes from) for a gap in the precision `exact`."""
        if self.exact != torch.float64:
            return LIMIT_32, 0.0
        if gap <= LIMIT_64:
            return LIMIT_64, 0.0
        shaken = (_run(_shaken(self._double, roundings), self.inputs(size, self.exact)) for roundings in SHAKES)
        rounding = max(distance(self.answers[size], answer)[0] for answer in shaken)
        return max(LIMIT_64, min(10 * rounding, WORST_64)), rounding

    def _begin(self) -> None:
        """Ask at the examples' size; where the largest is smaller, there or a little below."""
        base = spatial([tuple(example.shape) for example in self._examples])
        choices, said = [base], ""
        if self._largest is not None and not fits(base, self._largest):
            below = [tuple(n // multiple * multiple for n in self._largest) for multiple in MULTIPLES]
            choices = [size for size in below if min(size) > 0]
        for precision in (self.exact, self.dtype):
            self.exact = precision
            for size in choices:
                if not (said := self._ask(size)):
                    return
        raise TraceError(f"the network does not run at {_named(choices[0])}: {said}")

    def _ladder(self) -> list[list[Size]]:
        """Sizes to try in turn: odd ones first, for what they bring out, then rounder ones."""
        (base,) = self.answers
        choices = [list(_near(base, factors)) for factors in ((0.6, 0.9), (1.06, 1.3))] if base else []
        return [[size for size in found if fits(size, self._largest)] for found in choices]


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


def _like(example: Tensor, shape: Size, known: Range | None, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    low, high = example.min().double().cpu(), example.max().double().cpu()
    if known is not None:
        low, high = (torch.from_numpy(end).clamp(-1e6, 1e6) for end in known.along(len(shape)))
    elif low == high:
        low, high = torch.zeros(()), torch.ones(())
    random = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * random).to(dtype=dtype, device=example.device)


def _drawn(example: Tensor, shape: Size, generator: torch.Generator) -> Tensor:
    if tuple(example.shape) == shape:
        return example
    return example.cpu().flatten()[torch.randint(example.numel(), shape, generator=generator)].to(example.device)


@torch.no_grad()
def _shaken(module: nn.Module, roundings: int) -> nn.Module:
    """A copy in which every weight is moved by so many roundings, up or down."""
    generator, moved = torch.Generator().manual_seed(1), copied(module)
    for tensor in (*moved.parameters(), *moved.buffers()):
        if tensor.dtype == torch.float64:
            signs = torch.randint(2, tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device) * 2 - 1
            tensor.mul_(1 + signs * roundings * 2.0**-52)
    return moved


@torch.no_grad()
def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Outputs:
    """Raises TraceError for whatever the network's code raises: it may be anything."""
    with TheirCode(lambda error: TraceError(_short(error))):
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
