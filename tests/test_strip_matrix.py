"""The whole product of paddings, norms, consumers, constants and wirings: exact, and as small as it can be.

Many cases are branches of one network, so that they share a trace. What each must shrink to is found here by trying every subset
of its constant channels against the rules of the arithmetic; nothing of the strip's own analysis is used. The sample that runs
by default holds every three values together; `COMPRESS_STRIP_MATRIX=all` runs the whole product.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields

import pytest
import torch
from torch import Tensor, nn

from compress.channels.strip import strip
from tests.strip_cases import randomise_

WIDTH = 12  # of the space that is counted
GROUPS = 4
SIZES = ((12, 16), (11, 9), (19, 21))
VALUES = (0.75, -1.5, 0.5, 1.25, -1.0, 2.25, -0.625, 1.75)  # short in binary: their mean over a picture is exact
EPS = 0.1  # a norm divides the rounding of a constant by the root of it, in the network as given too
PER_TRACE = 40

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda n: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "instance": lambda n: nn.InstanceNorm2d(n, EPS),
    "instance affine": lambda n: nn.InstanceNorm2d(n, EPS, affine=True),
    "instance running": lambda n: nn.InstanceNorm2d(n, EPS, track_running_stats=True),
    "instance affine running": lambda n: nn.InstanceNorm2d(n, EPS, affine=True, track_running_stats=True),
    "group": lambda n: nn.GroupNorm(GROUPS, n),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}
CONSUMERS = ("conv", "depthwise", "depthwise x2", "grouped", "transposed k3", "transposed k4", "transposed grouped")
PADDINGS = ("zeros", "reflect", "replicate", "circular")
CONSTANTS = ("none", "mixed", "equal", "zero", "negative", "groups")
WIRINGS = ("plain", "instance norm behind", "residual", "two readers")


@dataclass(frozen=True)
class Case:
    consumer: str
    padding: str
    norm: str
    activation: str
    constants: str
    wiring: str
    bias: bool


def product() -> list[Case]:
    """All that make sense: torch's transposed convolutions pad with zeros only, a residual needs the sizes to agree."""
    every = itertools.product(CONSUMERS, PADDINGS, NORMS, ACTIVATIONS, CONSTANTS, WIRINGS, (True, False))
    return [case for case in itertools.starmap(Case, every) if _makes_sense(case)]


def _makes_sense(case: Case) -> bool:
    if case.consumer.startswith("transposed") and case.padding != "zeros":
        return False
    return case.wiring != "residual" or case.consumer in ("conv", "depthwise", "grouped")


class Branch(nn.Module):
    """first -> norm -> activation -> consumer -> sigmoid -> 1x1, and perhaps another reader."""

    def __init__(self, case: Case, seed: int) -> None:
        super().__init__()
        self.case = case
        out = WIDTH if case.wiring == "residual" else 8
        if case.consumer.startswith("depthwise"):
            out = 2 * WIDTH if "x2" in case.consumer else WIDTH
        self.first = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = NORMS[case.norm](WIDTH)
        self.consumer = _consumer(case, out)
        self.behind = nn.InstanceNorm2d(out, EPS) if case.wiring == "instance norm behind" else nn.Identity()
        self.leave = nn.Conv2d(out, 2, 1)
        if case.wiring == "two readers":
            self.side = nn.Conv2d(WIDTH, 5, 3, padding=1)
        randomise_(self, seed)
        self.constant = self._make_constants_(random.Random(seed))
        self.ends = self._end_rows_(random.Random(seed + 1)) if case.wiring == "residual" else set()

    def _make_constants_(self, draw: random.Random) -> set[int]:
        kind = self.case.constants
        size = WIDTH // GROUPS
        chosen = set() if kind == "none" else set(draw.sample(range(WIDTH), draw.randint(2, WIDTH - 3)))
        if kind == "groups":  # two whole groups, and as many of the others
            whole = draw.sample(range(GROUPS), 2)
            place = draw.randrange(size)
            chosen = {n for n in range(WIDTH) if n // size in whole or n % size == place}
        for channel in chosen:
            value = {"equal": 1.5, "zero": 0.0, "negative": -draw.choice((0.5, 0.75))}.get(kind, draw.choice((0.0, *VALUES)))
            with torch.no_grad():
                self.first.weight[channel] = 0
                self.first.bias[channel] = value
        return chosen

    def _end_rows_(self, draw: random.Random) -> set[int]:
        """Most of the constant channels are constant in what the consumer adds, too; so is one that is not constant before."""
        chosen = {n for n in range(WIDTH) if draw.random() < (0.75 if n in self.constant else 0.1)}
        if self.case.consumer != "depthwise":
            for channel in chosen:
                with torch.no_grad():
                    self.consumer.weight[channel] = 0
                    if self.consumer.bias is not None:
                        self.consumer.bias[channel] = draw.choice((0.0, 0.5, -0.25))
        return chosen

    def head(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.case.activation](self.norm(self.first(x)))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.head(x)
        y = self.behind(self.consumer(x))
        y = y + x if self.case.wiring == "residual" else y
        y = self.leave(torch.sigmoid(y))
        return [y, self.side(torch.relu(x))] if self.case.wiring == "two readers" else [y]


def _consumer(case: Case, out: int) -> nn.Module:
    options = {"padding_mode": case.padding, "bias": case.bias}
    if case.consumer == "transposed k3":
        return nn.ConvTranspose2d(WIDTH, out, 3, 2, 1, 1, bias=case.bias)
    if case.consumer == "transposed k4":
        return nn.ConvTranspose2d(WIDTH, out, 4, 2, 1, bias=case.bias)
    if case.consumer == "transposed grouped":
        return nn.ConvTranspose2d(WIDTH, out, 3, 2, 1, 1, groups=GROUPS, bias=case.bias)
    groups = {"conv": 1, "grouped": GROUPS}.get(case.consumer, WIDTH)
    return nn.Conv2d(WIDTH, out, 3, padding=1, groups=groups, **options)


class Branches(nn.Module):
    def __init__(self, cases: list[Case], seed: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(case, 1000 * seed + number) for number, case in enumerate(cases))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        return [branch(x) for branch in self.branches]


# -- what must be left ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def smallest(branch: Branch) -> int:
    """The fewest channels of `first` that the same function can be computed with, by trying every subset of the constant ones."""
    x = torch.rand(1, 3, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    value = [round(n, 9) for n in branch.head(x)[0, :, 0, 0].tolist()]  # a norm leaves rounding of a zero
    constant = _constant(branch)
    most = 0
    for count in range(len(constant), 0, -1):
        if any(_may_go(branch, set(chosen), constant, value) for chosen in itertools.combinations(sorted(constant), count)):
            most = count
            break
    return WIDTH - most


def _constant(branch: Branch) -> set[int]:
    """A GroupNorm leaves a constant only where its whole group is."""
    if branch.case.norm != "group":
        return branch.constant
    return {n for n in range(WIDTH) if _group(n) <= branch.constant}


def _group(channel: int) -> set[int]:
    size = WIDTH // GROUPS
    return {n for n in range(WIDTH) if n // size == channel // size}


def _may_go(branch: Branch, gone: set[int], constant: set[int], value: list[float]) -> bool:
    case = branch.case
    by_groups = {n // (WIDTH // GROUPS): gone & _group(n) for n in range(WIDTH)}
    if case.norm == "group" and any(0 < len(found) < WIDTH // GROUPS for found in by_groups.values()):
        return False
    if case.consumer.startswith("depthwise") and any(_spills(case) and value[n] != 0 for n in gone):
        return False  # a constant inside zeros is none behind a window of its own
    if case.wiring == "residual" and case.consumer != "depthwise" and not gone <= branch.ends | _fed_by_constants(branch, value):
        return False
    grouped = case.consumer in ("grouped", "transposed grouped")
    if grouped and not _stay_equal(branch, by_groups, _fed_by_constants(branch, value)):
        return False
    if _spills(case) and not case.consumer.startswith("depthwise"):
        for members in [_group(n) for n in range(0, WIDTH, WIDTH // GROUPS)] if grouped else [set(range(WIDTH))]:
            if not _carried({n for n in members if n in constant and value[n] != 0 and _reads(branch, members)}, gone):
                return False
    return case.wiring != "two readers" or _carried({n for n in constant if value[n] > 0}, gone)


def _spills(case: Case) -> bool:
    """Zeros lie beside the picture, or between its pixels: no bias can stand for a constant."""
    return case.padding == "zeros"


def _reads(branch: Branch, members: set[int]) -> bool:
    """Some row of the consumer that is not zero reads these channels."""
    return branch.case.wiring != "residual" or not members <= branch.ends or branch.case.consumer == "conv"


def _carried(nonzero: set[int], gone: set[int]) -> bool:
    """Constants other than zero can be merged into one of them that stays."""
    return not nonzero & gone or bool(nonzero - gone)


def _fed_by_constants(branch: Branch, value: list[float]) -> set[int]:
    """Of a grouped consumer: the groups that come out constant because all that goes in is, and nothing spills."""
    fine = {n for n in _constant(branch) if value[n] == 0 or not _spills(branch.case)}
    return {n for n in range(WIDTH) if branch.case.consumer != "conv" and _group(n) <= fine}


def _stay_equal(branch: Branch, by_groups: dict[int, set[int]], fed: set[int]) -> bool:
    """A group whose outputs are constant may go whole; the others lose equally many, and keep one."""
    size = WIDTH // GROUPS
    ends = fed | branch.ends
    counts = {len(found) for found in by_groups.values() if not (len(found) == size and found <= ends)}
    return len(counts) == 1 and max(counts) < size


# -- the sample ----------------------------------------------------------------------------------------------------------------


def sample(cases: list[Case]) -> list[Case]:
    """Some that hold every three values together: shuffled, those that bring three that were not there."""
    cases = random.Random(0).sample(cases, len(cases))
    seen: set[tuple[object, ...]] = set()
    found = []
    for case in cases:
        threes = set(_threes(case))
        if not threes <= seen:
            seen |= threes
            found.append(case)
    return found


def _threes(case: Case) -> Iterator[tuple[object, ...]]:
    return itertools.combinations(zip((field.name for field in fields(Case)), astuple(case), strict=True), 3)


EVERY = product()
CHOSEN = EVERY if os.environ.get("COMPRESS_STRIP_MATRIX") == "all" else sample(EVERY)


@pytest.mark.parametrize("start", range(0, len(CHOSEN), PER_TRACE))
def test_exact_and_smallest(start: int) -> None:
    net = Branches(CHOSEN[start : start + PER_TRACE], start).eval()
    done = strip(net, [torch.rand(1, 3, 12, 16, dtype=torch.float64)])
    assert done.report.left_alone == {}
    widths = {space.name: space.after for space in done.report.spaces}
    wrong = {
        (number, branch.case): (widths[f"branches.{number}.first"], smallest(branch))
        for number, branch in enumerate(net.branches)
        if widths[f"branches.{number}.first"] != smallest(branch)
    }
    assert not wrong, "(case): (width, smallest)"
    assert list(moved(net, done.module)) == []


@torch.no_grad()
def moved(net: Branches, stripped: nn.Module) -> Iterator[tuple[Case, torch.dtype, float]]:
    """Every output that moves by more than 1e-12 (float64) or 1e-5 (float32) of its range, at any size."""
    rough, stripped_rough = copy.deepcopy(net).float(), copy.deepcopy(stripped).float()
    for size in SIZES:
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(size[0]), dtype=torch.float64)
        exact, exact_after = _outputs(net, x), _outputs(stripped, x)
        rounded, rounded_after = _outputs(rough, x.float()), _outputs(stripped_rough, x.float())
        for (case, one), (_, two), (_, low), (_, low_after) in zip(exact, exact_after, rounded, rounded_after, strict=True):
            for dtype, gap, limit in ((one.dtype, _gap(one, two), 1e-12), (low.dtype, _gap(low, low_after), 1e-5)):
                if not gap <= limit:
                    yield case, dtype, gap


def _outputs(net: nn.Module, x: Tensor) -> list[tuple[Case, Tensor]]:
    return [(branch.case, output) for branch, found in zip(net.branches, net(x), strict=True) for output in found]


def _gap(one: Tensor, two: Tensor) -> float:
    return float((one.double() - two.double()).abs().max()) / float(one.double().max() - one.double().min())
