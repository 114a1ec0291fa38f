"""A network's answer to one small input that every machine makes alike: saved with its weights, asked again when it is loaded.

Weights that fit say nothing about the code around them: another activation, another order, a number that is not saved. The answer
does. Never here: proofs that two networks agree (channels/proof.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compress.channels.export import copied, place_of, quiet
from compress.checkpoint import Checkpoint
from compress.errors import CheckpointError, CompressError, NetworkError, TheirCode, TraceError, said_by
from compress.image_format import ImageFormat
from compress.spec import ModelSpec, Shape

TOLERANCE = 1e-4  # of an output's range: far above rounding on another machine, far below another activation
WORST = 0.05  # a network that multiplies rounding by so much has no answer worth keeping
MOST_NUMBERS = 1 << 20  # of all inputs together: what a file can ask for
_GOLDEN = 0.6180339887498949  # its multiples, without their whole part, lie evenly between 0 and 1
_OTHER = 0.7548776662466927  # so do this one's, in another order
_SAMPLES = 8


@dataclass(frozen=True)
class Input:
    """A tensor of this shape with numbers from `low` to `high`."""

    shape: Shape
    low: float
    high: float

    def __post_init__(self) -> None:
        if len(self.shape) > 8 or not all(type(n) is int and n > 0 for n in self.shape):
            raise ValueError(f"no shape {self.shape!r:.60}")
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            raise ValueError("a range must be finite")

    def tensor(self, number: int, nudge: float = 0.0) -> Tensor:
        """The same numbers everywhere; other ones for each `number`. `nudge`: how far each moves, as a share of the range."""
        counted = torch.arange(1, math.prod(self.shape) + 1, dtype=torch.float64)
        even, moved = (counted * _GOLDEN + number * 0.37).frac(), (counted * _OTHER).frac() - 0.5
        return (self.low + (self.high - self.low) * (even + nudge * moved)).float().view(self.shape)


@dataclass(frozen=True)
class Output:
    """What there is to know of a tensor: its shape; of fractions also the lowest, highest and mean, and some of them evenly
    spread. Whole numbers (the index of a maximum) can hang on the last bit.
    """

    shape: Shape
    low: float
    high: float
    mean: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Output:
        """Numbers are rounded to six digits: what is saved does not change with the last bit."""
        flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).double().flatten()
        if not flat.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            return cls(tuple(tensor.shape), 0.0, 0.0, 0.0, ())
        places = [int(len(flat) * math.modf((n + 1) * _GOLDEN)[0]) for n in range(_SAMPLES)]
        numbers = [flat.min(), flat.max(), flat.mean(), *flat[places]]
        low, high, mean, *values = (float(f"{float(number):.6g}") for number in numbers)
        return cls(tuple(tensor.shape), low, high, mean, tuple(values))

    @classmethod
    def from_json(cls, value: Any) -> Output:
        """Raises LookupError, TypeError or ValueError for what is none."""
        low, high, mean = (float(value[name]) for name in ("low", "high", "mean"))
        return cls(tuple(value["shape"]), low, high, mean, tuple(map(float, value["values"])))

    @property
    def numbers(self) -> tuple[float, ...]:
        return (self.low, self.high, self.mean, *self.values)

    def gap(self, other: Output) -> float:
        """Largest difference as a share of this one's range; inf for another shape."""
        if self.shape != other.shape or len(self.values) != len(other.values):
            return math.inf
        scale = max(self.high - self.low, 0.1 * max(map(abs, self.numbers))) or 1.0
        return max(abs(a - b) for a, b in zip(self.numbers, other.numbers, strict=True)) / scale


@dataclass(frozen=True)
class KnownAnswer:
    """`tolerance`: largest gap that still counts as the same, as a share of the output's range."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    tolerance: float

    def __post_init__(self) -> None:
        if sum(math.prod(one.shape) for one in self.inputs) > MOST_NUMBERS:
            raise ValueError(f"more than {MOST_NUMBERS:,} numbers to ask with")

    @classmethod
    def from_json(cls, value: Any) -> KnownAnswer:
        """Inverse of `dataclasses.asdict`. Raises CheckpointError for anything else."""
        try:
            inputs = tuple(Input(tuple(one["shape"]), float(one["low"]), float(one["high"])) for one in value["inputs"])
            return cls(inputs, tuple(map(Output.from_json, value["outputs"])), float(value["tolerance"]))
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"the checkpoint has a damaged check: {said_by(error)[:80]}") from error

    def gap(self, found: Sequence[Output]) -> float:
        """Of the output that is furthest off."""
        if len(found) != len(self.outputs):
            return math.inf
        return max((a.gap(b) for a, b in zip(self.outputs, found, strict=True)), default=0.0)


def ask(module: nn.Module, spec: ModelSpec) -> dict[str, Any] | None:
    """What a checkpoint keeps of `module`: its answer in float32, in eval mode, at the smallest of some sizes that it takes.

    None when it has no answer to keep: it does not run on inputs of `spec`, it is random, or its answer hangs on rounding.
    """
    try:
        asked = copied(module).float().cpu().eval()
    except TraceError:
        return None
    for inputs in _sizes(spec):
        try:
            first, again, nudged = (_outputs(asked, inputs, nudge) for nudge in (0.0, 0.0, 1e-6))
        except TraceError:
            continue
        known = KnownAnswer(inputs, first, TOLERANCE)
        known = replace(known, tolerance=max(TOLERANCE, float(f"{10 * known.gap(nudged):.2g}")))
        is_finite = all(math.isfinite(number) for one in first for number in one.numbers)
        if first and is_finite and known.gap(again) <= TOLERANCE / 10 and known.tolerance <= WORST:
            return asdict(known)
    return None


def check(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Ask `module` what was asked when `checkpoint` was saved. Raises NetworkError when the answer is another one."""
    if checkpoint.check is None:
        return
    known, name = KnownAnswer.from_json(checkpoint.check), checkpoint.spec.network
    try:
        gap = known.gap(_outputs(copied(module).eval(), known.inputs))
    except TraceError as error:
        raise NetworkError(f"{name} no longer runs as it did when it was saved: {error.message}", _CHANGED) from error
    if not gap <= known.tolerance:
        said = f"its output is off by {gap:.2g} of its range" if math.isfinite(gap) else "its outputs have other shapes"
        raise NetworkError(f"{name} no longer computes what was saved: {said}", _CHANGED)


_CHANGED = "its code has changed since, or it holds numbers that are not saved with it"


def _sizes(spec: ModelSpec) -> Iterator[tuple[Input, ...]]:
    """The examples' shapes, smaller ones first: all height and width by the same factor."""
    spatial = [n for shape in spec.examples for n in shape[2:]]
    for divisor in (8, 4, 2, 1):
        if divisor > 1 and (not spatial or any(n % divisor or n // divisor < 16 for n in spatial)):
            continue
        shapes = [(*shape[:2], *(n // divisor for n in shape[2:])) for shape in spec.examples]
        if sum(map(math.prod, shapes)) <= MOST_NUMBERS:
            yield tuple(Input(shape, *_range(form)) for shape, form in zip(shapes, spec.inputs, strict=True))


def _range(form: ImageFormat | None) -> tuple[float, float]:
    """Of what the network is used to: encoded pixels, or -1..1."""
    if form is None:
        return (-1.0, 1.0)
    ends = [(pixel - mean) / std for pixel in (0.0, 255.0) for mean, std in zip(form.mean, form.std, strict=True)]
    return (min(ends), max(ends))


@torch.no_grad()
def _outputs(module: nn.Module, inputs: Sequence[Input], nudge: float = 0.0) -> tuple[Output, ...]:
    """Raises TraceError for whatever the network's code raises."""
    with TheirCode(_does_not_run), quiet():
        made = module(*(one.tensor(number, nudge) for number, one in enumerate(inputs)))
        return tuple(Output.of(leaf) for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor))


def _does_not_run(error: BaseException) -> CompressError:
    place = place_of(error)
    return TraceError(said_by(error)[:120] + (f", at {place}" if place else ""))
