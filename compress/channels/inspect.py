"""Look into a network: what its layers are and cost, what its channels do, what it sees, and what a phone will make of it.

In: a module, examples and, if there are any, inputs to observe. Out: an `Inspection`, plain data. The module is not touched.
Never here: removal (strip.py), printing and drawing (cli).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels import advice, export, receptive
from compress.channels.accepted import Accepted, accepted
from compress.channels.activity import KINDS, Activity, Seen, idle
from compress.channels.advice import Remark
from compress.channels.fold import folded
from compress.channels.graph import ChannelSpace, of_program
from compress.channels.labels import Array
from compress.channels.layers import Layer, layers
from compress.channels.observe import observe
from compress.channels.ranges import ranges_of
from compress.channels.receptive import Field
from compress.channels.report import SpaceReport, Totals, UpTo
from compress.channels.spaces import Binding
from compress.channels.strip import preview
from compress.channels.walk import is_data
from compress.checkpoint import check_finite
from compress.image_format import ImageFormat


@dataclass(frozen=True)
class Space:
    """A channel space, and what its channels do. Channels are numbers, 0 <= channel < width.

    `writers`, `readers`: layers. `zero`, `constant`, `unread`: idle channels, proved for every input in its range at every size.
    `up_to`: idle too, proved up to so many pixels of the input. `goes`, `why`: how many a strip would take, and why in words.
    `reason`: why the space stays whole, or None. `seen`: what inputs showed, or None.
    """

    name: str
    width: int
    group: int
    reason: str | None
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    zero: tuple[int, ...]
    constant: tuple[int, ...]
    unread: tuple[int, ...]
    up_to: tuple[UpTo, ...]
    goes: int
    why: str
    seen: Seen | None

    @property
    def idle(self) -> int:
        """Channels that are proved idle at every size."""
        return len(self.zero) + len(self.constant) + len(self.unread)

    def to_json(self) -> dict[str, Any]:
        found = {**asdict(self), "before": self.width, "after": self.width - self.goes, "prunable": self.reason is None}
        if self.seen is not None:
            found["seen"] = {
                "inputs": self.seen.count,
                "largest": [float(value) if np.isfinite(value) else None for value in self.seen.largest],
                "zero": np.flatnonzero(self.seen.dead).tolist(),
                "constant": np.flatnonzero(self.seen.still & ~self.seen.dead).tolist(),
            }
        return found


@dataclass(frozen=True)
class Inspection:
    """Everything there is to see. `inputs`, `outputs`: shapes. `after`: what a strip would leave, unless the network's code names
    a width (strip tries that; here nothing is run). `seen_after`: the same when channels go that were silent on the inputs seen.
    `fields`: what the (first) output sees of each input. `accepted`: None: not known. `unused`: parameters that no operator
    reads. `responses`: space -> (inputs, width), how strongly each channel responds; of what was observed.
    """

    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    totals: Totals
    after: Totals
    seen_after: Totals | None
    layers: tuple[Layer, ...]
    spaces: tuple[Space, ...]
    fields: tuple[Field | None, ...]
    accepted: Accepted | None
    remarks: tuple[Remark, ...]
    unused: tuple[str, ...]
    not_understood: tuple[str, ...]
    uncounted: tuple[str, ...]
    responses: Mapping[str, Array]

    def to_json(self) -> dict[str, Any]:
        """All but the responses."""
        return {
            "inputs": [list(shape) for shape in self.inputs],
            "outputs": [list(shape) for shape in self.outputs],
            "before": asdict(self.totals),
            "after": asdict(self.after),
            "after_as_observed": asdict(self.seen_after) if self.seen_after else None,
            "layers": [layer.to_json() for layer in self.layers],
            "spaces": [space.to_json() for space in self.spaces],
            "removed": [{"space": s.name, "channels": s.goes, "why": s.why} for s in self.spaces if s.goes],
            "receptive_field": [field.to_json() if field else None for field in self.fields],
            "sizes": self.accepted.to_json() if self.accepted else None,
            "remarks": [remark.to_json() for remark in self.remarks],
            "unused": list(self.unused),
            "not_understood": list(self.not_understood),
            "uncounted": list(self.uncounted),
        }


def inspect(
    module: nn.Module,
    examples: Sequence[Tensor],
    *,
    formats: Sequence[ImageFormat | None] = (),
    batches: Iterable[Sequence[Tensor]] | None = None,
) -> Inspection:
    """Look into `module` (in eval mode; it is left as it is).

    `examples`: one input tensor each; MACs, sizes and windows are at their size. `formats`: image format of each input, which
    says its range. `batches`: inputs to observe, as `observe` takes them. Raises TraceError, NetworkError (NaN in weights).
    """
    check_finite(module.state_dict())
    module = folded(module)
    program = export.program(module, examples)
    graph = of_program(program, module)
    total = graph.predict({})
    windows = [receptive.fields(program, number) for number in range(len(examples))]
    seeing = {
        name: field for found in reversed(windows) for name, field in found.items()
    }  # of the first input that it depends on
    rows = layers(program, graph, module, seeing, total.macs)
    activity = Activity(graph)
    wanted = {name for names in activity.signals.values() for name in names}
    observed = observe(module, batches, responses=wanted, program=program) if batches is not None else None
    seen = activity.seen(observed) if observed else {}
    resting = export.copied(module).eval() if any(part.training for part in module.modules()) else module
    ahead = preview(module, graph, examples, ranges=ranges_of(formats), observed=observed)
    kinds = idle(graph, ahead.facts)
    return Inspection(
        inputs=tuple(tuple(example.shape) for example in examples),
        outputs=tuple(tuple(map(int, node.meta["val"].shape)) for node in _output_nodes(program)),
        totals=ahead.report.before,
        after=ahead.report.after,
        seen_after=ahead.seen.after if ahead.seen else None,
        layers=rows,
        spaces=tuple(
            _space(space, told, activity.by_channel(space, kinds), seen.get(space.name))
            for space, told in zip(graph.spaces, ahead.report.spaces, strict=True)
        ),
        fields=tuple(found.get(graph.outputs[0]) if graph.outputs else None for found in windows),
        accepted=accepted(resting, [tuple(example.shape) for example in examples]),
        remarks=advice.remarks(program, rows, formats[0] if formats else None),
        unused=_unused(program, module),
        not_understood=tuple(map(str, graph.not_understood)),
        uncounted=total.uncounted,
        responses={space.name: activity.responses(observed, space) for space in graph.spaces} if observed else {},
    )


def _space(space: ChannelSpace, told: SpaceReport, kinds: Array, seen: Seen | None) -> Space:
    """`kinds`: for each channel the number in KINDS of why it is idle."""
    channels = {kind: tuple(np.flatnonzero(kinds == number).tolist()) for number, kind in enumerate(KINDS)}
    return Space(
        name=space.name,
        width=space.width,
        group=space.group,
        reason=told.reason,
        writers=_modules(space.writers),
        readers=_modules(space.readers),
        zero=channels["zero"],
        constant=channels["constant"],
        unread=channels["unread"],
        up_to=told.proved_up_to,
        goes=told.before - told.after,
        why=told.why,
        seen=seen,
    )


def _output_nodes(program: ExportedProgram) -> list[Node]:
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    return [node for node in output.all_input_nodes if is_data(node)]


def _unused(program: ExportedProgram, module: nn.Module) -> tuple[str, ...]:
    read = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    used = {name for node, name in program.graph_signature.inputs_to_parameters.items() if node in read}
    tied = {id(tensor) for name, tensor in module.named_parameters(remove_duplicate=False) if name in used}
    return tuple(name for name, tensor in module.named_parameters() if id(tensor) not in tied)


def _modules(bindings: Sequence[Binding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(binding.tensor.rpartition(".")[0] or binding.tensor for binding in bindings))
