"""Which input sizes a network takes, found by trying: its forward is run on tensors without numbers, which costs next to nothing.

In: a module and its example shapes. Out: `Accepted`. Never here: receptive fields, how a picture is brought to such a size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils import _pytree as pytree

from compress.channels.export import RUN_ERRORS, quiet

MOST = 64  # pixels beyond the example's size that are tried

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Accepted:
    """Squares were tried, from the example's longer side on. `step`, `offset`: sides n with n % step == offset are taken (1, 0:
    all); None, None: no two sizes were. `smallest`: the smallest side of these; None: not below the example's.

    `scale`: how much larger the picture is that comes out, exactly so at multiples of `scaled_at`; None: what comes out is no
    picture, or its size is no plain multiple of what went in.
    """

    step: int | None
    offset: int | None
    smallest: int | None
    scale: float | None
    scaled_at: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def accepted(module: nn.Module, shapes: Sequence[Shape]) -> Accepted | None:
    """`shapes`: of the example inputs; the first has height and width last, and so have those of the same size as it.

    None: there is no picture (the first shape is not (N, C, H, W)), or the code cannot run without numbers.
    """
    run, usual = next(((run, found) for run in (_meta, _faked) if (found := run(module, shapes))), (_meta, None))
    if usual is None or len(shapes[0]) != 4:
        return None
    size, start = shapes[0][2:], max(shapes[0][2:])

    def square(side: int) -> Shape | None:
        return run(module, [(*s[:2], side, side) if len(s) == 4 and s[2:] == size else s for s in shapes])

    results: dict[int, Shape] = {}
    for side in range(start, start + MOST + 1):
        found = square(side)
        if found is not None:
            results[side] = found
        if _settled(results, side) and (len(usual) != 4 or _settled(_to_scale(results), side)):
            break
    scaled = _to_scale(results)
    scale, at = (float(scaled[min(scaled)]), _apart(scaled, side)) if scaled else (None, None)
    step = _apart(results, side)
    if step is None:
        return Accepted(None, None, None, scale, at)
    offset = min(results) % step
    smallest = next((side for side in range(offset or step, min(start, MOST), step) if square(side) is not None), None)
    return Accepted(step, offset, smallest, scale, at)


def _to_scale(results: Mapping[int, Shape]) -> dict[int, Fraction]:
    """The results that are pictures of the same whole multiple, or whole part, of what went in; none when it is only one."""
    found: dict[int, Fraction] = {}
    for side, result in results.items():
        if len(result) == 4 and result[2] == result[3]:
            scale = Fraction(result[2], side)
            if 1 in (scale.numerator, scale.denominator):
                found[side] = scale
    twice = [scale for scale, count in Counter(found.values()).items() if count > 1]
    return {side: scale for side, scale in found.items() if scale == twice[0]} if twice else {}


def _apart(sides: Mapping[int, object], last: int) -> int | None:
    """The smallest step at which all are taken, from the first one to the `last` that was tried."""
    first, *others = [*sorted(sides), 0]
    steps = (side - first for side in others if side > first)
    return next((step for step in steps if all(side in sides for side in range(first, last + 1, step))), None)


def _settled(sides: Mapping[int, object], last: int) -> bool:
    """Two sides alone tell no step: the next one was tried as well."""
    step = _apart(sides, last)
    return step is not None and last >= min(sides) + 2 * step


def _meta(module: nn.Module, shapes: Sequence[Shape]) -> Shape | None:
    """The shape of the first tensor that comes out, by torch's meta device, which is quickest; None: it does not run on these."""
    tensors = {name: torch.empty_like(t, device="meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
    dtype = _dtype(module)
    try:
        with quiet(), torch.no_grad():
            return _first(functional_call(module, tensors, tuple(torch.empty(s, dtype=dtype, device="meta") for s in shapes)))
    except RUN_ERRORS:
        return None


def _faked(module: nn.Module, shapes: Sequence[Shape]) -> Shape | None:
    """The same by fake tensors, which mix with those that the network's code makes or holds."""
    dtype = _dtype(module)
    try:
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            return _first(module(*(torch.empty(shape, dtype=dtype) for shape in shapes)))
    except RUN_ERRORS:
        return None


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def _first(found: object) -> Shape | None:
    return next((tuple(leaf.shape) for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)), None)
