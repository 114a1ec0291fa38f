"""How large the pictures inside a network are when the input has a given size: what bounds of norms over space depend on.

The network is traced again at that size, without being run. Never here: what follows from a size (bounds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from compress.channels import export
from compress.channels.graph import ChannelGraph, of_program
from compress.errors import TraceError

Size = tuple[int, ...]
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # sides that networks with strides take
NORMS = ("instance_norm", "group_norm")  # their statistics are those of one picture


def pixels_at(module: nn.Module, graph: ChannelGraph, examples: Sequence[Tensor], size: Size) -> dict[str, int]:
    """For each norm over space its picture's pixels, when the first input with a spatial size has `size` (others in proportion).

    A picture inside must not be larger where the input is smaller; a network in which one is counts as not understood, and so do
    norms that the trace at `size` does not have. A network that takes only multiples is traced at the next one. Raises TraceError
    where it can be traced neither at `size` nor a little above.
    """
    here = pixels_of(graph)
    if not here:
        return {}
    there = _traced(module, examples, size)
    if [(step.name, step.op, step.inputs) for step in there.steps] != [(s.name, s.op, s.inputs) for s in graph.steps]:
        raise TraceError(
            f"the network does other things at {'x'.join(map(str, size))} than on its example", "leave the largest size out"
        )
    base = spatial([tuple(example.shape) for example in examples])
    return {name: pixels for name, pixels in pixels_of(there).items() if _grows(here[name], pixels, base, size)}


def pixels_of(graph: ChannelGraph) -> dict[str, int]:
    """Tensor that a norm over space makes -> pixels of its picture, at the traced size."""
    return {s.name: prod(s.call.shape[2:]) for s in graph.steps if s.op in NORMS and len(s.call.shape) > 2}


def _traced(module: nn.Module, examples: Sequence[Tensor], size: Size) -> ChannelGraph:
    first: TraceError | None = None
    for multiple in MULTIPLES:
        shapes = scaled([tuple(example.shape) for example in examples], tuple(-(-n // multiple) * multiple for n in size))
        inputs = [e.new_zeros(shape) if shape != tuple(e.shape) else e for e, shape in zip(examples, shapes, strict=True)]
        try:
            with torch.no_grad():
                return of_program(export.program(module, inputs, run=False), module)
        except TraceError as error:
            first = first or error
    assert first is not None
    raise first


def spatial(shapes: Sequence[Size]) -> Size:
    """The spatial size of the first input that has one; () when none has."""
    return next((shape[2:] for shape in shapes if len(shape) > 2), ())


def scaled(shapes: Sequence[Size], size: Size) -> list[Size]:
    """Input shapes when the first spatial one is `size`, the others in proportion."""
    base = spatial(shapes)
    return [
        (*shape[:2], *(max(1, round(n * new / old)) for n, new, old in zip(shape[2:], size, base, strict=True)))
        if len(shape) == len(base) + 2 and base
        else shape
        for shape in shapes
    ]


def _grows(traced: int, found: int, base: Size, size: Size) -> bool:
    if all(a <= b for a, b in zip(base, size, strict=True)):
        return traced <= found
    return traced >= found or not all(a >= b for a, b in zip(base, size, strict=True))


def fits(size: Size, largest: Size | None) -> bool:
    """No side longer than that of the largest size."""
    return largest is None or (len(size) == len(largest) and all(a <= b for a, b in zip(size, largest, strict=True)))
