"""The receptive field: which pixels of an input one pixel of a tensor looks at, and how many input pixels apart neighbours are.

Followed through the exported program along each axis (reach.py), by what each operator does to windows (sight.py); the widest
path counts. What looks at the whole picture (norms with the picture's own statistics, global pools, linear layers over space) is
named beside the windows, since windows still tell how far detail travels. An operator that is not known is named, and nothing is
said beyond it. Never here: channels, weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch.export import ExportedProgram

from compress.channels import reach
from compress.channels.sight import Eye, Seen
from compress.channels.walk import shape_of


@dataclass(frozen=True)
class Field:
    """What one pixel of a tensor sees of an input, one entry a spatial axis of that input (its axes from the third on).

    `size`: pixels, None along an axis that the tensor has lost. `stride`: input pixels from one pixel to the next. `margin`: how
    far it looks beyond its own place. `exact`: False when the size is an upper bound. `whole`: operators through which it depends
    on the whole picture as well; `unknown`: operators that were not understood, behind which no window is known.
    """

    size: tuple[int | None, ...]
    stride: tuple[Fraction | None, ...]
    margin: tuple[int | None, ...]
    exact: bool
    whole: tuple[str, ...]
    unknown: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Strides as numbers."""
        return {
            "size": list(self.size),
            "stride": [None if stride is None else float(stride) for stride in self.stride],
            "margin": list(self.margin),
            "exact": self.exact,
            "whole_picture_through": list(self.whole),
            "unknown": list(self.unknown),
        }


def fields(program: ExportedProgram, number: int = 0) -> dict[str, Field]:
    """Tensor of the graph -> its field, for all that depend on input `number` of the program."""
    inputs = set(program.graph_signature.user_inputs)
    given = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    source, spatial = given[number], tuple(range(2, len(shape_of(given[number]))))
    eye = Eye()
    eye.note(source, Seen(tuple((axis, reach.START) if axis in spatial else None for axis in range(len(shape_of(source))))))
    for node in program.graph.nodes:
        if node.op == "call_function":
            eye.look(node)
    return {name: _field(seen, spatial) for name, seen in eye.first.items()}


def _field(seen: Seen, spatial: Sequence[int]) -> Field:
    found = dict(axis for axis in seen.axes if axis)
    reaches = [found.get(axis) for axis in spatial]
    return Field(
        tuple(None if r is None else r.size for r in reaches),
        tuple(None if r is None else r.stride for r in reaches),
        tuple(None if r is None else r.margin for r in reaches),
        all(r is None or r.exact for r in reaches),
        seen.whole,
        seen.unknown,
    )
