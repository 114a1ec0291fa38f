"""Run a network on inputs and note what every channel does: the smallest and largest value it takes, how strongly it responds.

The exported program is interpreted, operator by operator, and each tensor reduced as soon as it is there: nothing else is kept.
What comes out is an observation on these inputs, never a proof. Never here: reading photos, what follows from it (facts.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels import export
from compress.channels.labels import Array
from compress.channels.operators import HANDLERS
from compress.channels.walk import Walk, is_data, shape_of
from compress.errors import TraceError


@dataclass(frozen=True)
class Observed:
    """What `count` inputs showed, by name of the tensor in the graph (as in ChannelGraph.labels), in float64.

    `low`, `high`: the smallest and largest value of each channel over all inputs and pixels, in the shape of the tensor's label
    array; NaN where a channel was NaN once. `responses`: for the tensors that were asked for, (inputs, channels): the mean
    absolute value over the pixels of each input.
    """

    count: int
    low: Mapping[str, Array]
    high: Mapping[str, Array]
    responses: Mapping[str, Array] = field(default_factory=dict)

    def largest(self, name: str) -> Array:
        """The largest absolute value of each channel of a tensor, in the shape of its label array."""
        return np.maximum(np.abs(self.low[name]), np.abs(self.high[name]))


@torch.no_grad()
def observe(
    module: nn.Module,
    batches: Iterable[Sequence[Tensor]],
    *,
    responses: Collection[str] = (),
    program: ExportedProgram | None = None,
) -> Observed:
    """Run `module` (in eval mode; it is left as it is) on every batch. `responses`: tensors whose responses are kept.

    `batches`: each has one tensor for each input of the network, all batches in the shapes of the first, batch axis first; they
    are consumed one at a time. `program`: of `module`, when the caller has it; used if it takes these shapes. Raises TraceError:
    torch.export cannot follow the network, or a batch has another shape; ValueError: there is no batch.
    """
    watch, first, count = None, [], 0
    for batch in batches:
        if watch is None:
            first = [tuple(tensor.shape) for tensor in batch]
            program = export.program(
                module, [tensor.clone() for tensor in batch]
            )  # operators in place may write into their input
            walk = Walk(program, module, HANDLERS)
            watch = _Watch(program, {name: labels.shape for name, labels in walk.labels_of.items()}, responses)
        shapes = [tuple(tensor.shape) for tensor in batch]
        if shapes != first:
            raise TraceError(f"inputs of shapes {first} were expected, and {shapes} came", "give all in one size")
        watch.see(batch)
        count += first[0][0] if first and first[0] else 1
    if watch is None:
        raise ValueError("there is nothing to observe: no batch was given")
    kept = {name: np.concatenate(rows) for name, rows in watch.responses.items() if rows}
    return Observed(count, watch.low, watch.high, kept)


class _Watch(fx.Interpreter):
    """Interprets the program, and reduces each result before the next operator may overwrite it in place."""

    def __init__(self, program: ExportedProgram, shapes: Mapping[str, tuple[int, ...]], responses: Collection[str]) -> None:
        super().__init__(program.graph_module)
        self.low: dict[str, Array] = {}
        self.high: dict[str, Array] = {}
        self.responses: dict[str, list[Array]] = {name: [] for name in responses}
        self._program, self._shapes = program, shapes
        self._batch = 1

    def see(self, batch: Sequence[Tensor]) -> None:
        self._batch = len(batch[0]) if batch and batch[0].dim() else 1
        self.run(*arguments_of(self._program, batch))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        shape = self._shapes.get(n.name)
        if shape is not None and isinstance(value, Tensor) and value.numel() and not value.is_complex():
            self._note(n.name, value.detach(), shape)
        return value

    def _note(self, name: str, value: Tensor, shape: tuple[int, ...]) -> None:
        over = [axis for axis, size in enumerate(shape) if size == 1]
        value = value if value.is_floating_point() else value.float()
        low, high = (_reduced(reduce, value, over) for reduce in (torch.amin, torch.amax))
        self.low[name] = np.minimum(self.low.get(name, low), low)
        self.high[name] = np.maximum(self.high.get(name, high), high)
        if name in self.responses:
            self.responses[name].append(self._response(value, over))

    def _response(self, value: Tensor, over: Sequence[int]) -> Array:
        """(inputs of the batch, channels); a tensor without batch axis responds alike to all of them."""
        batched = bool(over) and over[0] == 0 and len(value) == self._batch
        if not batched:
            value, over = value[None], [0, *(axis + 1 for axis in over)]
        found = _reduced(torch.mean, value.abs(), over[1:]).reshape(len(value), -1)
        return np.broadcast_to(found, (self._batch, found.shape[1])).copy()


def _shapes(program: ExportedProgram) -> list[tuple[int, ...]]:
    given = set(program.graph_signature.user_inputs)
    return [shape_of(node) for node in program.graph.nodes if node.op == "placeholder" and node.name in given and is_data(node)]


def _reduced(reduce: Any, value: Tensor, over: Sequence[int]) -> Array:
    found: Tensor = reduce(value, dim=tuple(over), keepdim=True) if over else value
    return np.asarray(found.double().cpu().numpy())


def arguments_of(program: ExportedProgram, batch: Sequence[Tensor]) -> list[Any]:
    """What the program's placeholders stand for, in order: the module's tensors, constants of its code, the inputs."""
    signature = program.graph_signature
    state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    tensors = {**program.constants, **program.state_dict}
    inputs = (tensor.clone() for tensor in batch)
    names = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    return [tensors[state[name]] if name in state else next(inputs) for name in names]
