"""The layers of a network, one a call that uses weights: what each is, what it costs, what it sees.

In: the exported program and its graph. Out: `Layer`s, plain data in the order of the network. Never here: spaces, advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels.graph import ChannelGraph
from compress.channels.receptive import Field
from compress.channels.steps import Linear
from compress.channels.walk import arguments_of, is_data, line_of, module_of, op_of, shape_of


@dataclass(frozen=True)
class Window:
    """Of a convolution, one number a spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """`name`: of the module (or the line) that makes the call; `kind`: the operator. `into`, `out`: widths; None: it has none.

    `parameters`: those that no layer before it has; `again`: it uses weights of one before it. `macs`: None: not counted.
    `share`: of the network's MACs. `size`: of its output over space. `zeros`: share of its weight's numbers that are zero;
    `scattered`: the same among the channels that are not zero as a whole; None without weight. `pads`: how the picture is padded
    for it (zeros, reflect, replicate ...), or None. `field`: what its output sees of the first input that
    it depends on.
    """

    name: str
    kind: str
    window: Window | None
    groups: int
    into: int | None
    out: int | None
    parameters: int
    again: bool
    macs: int | None
    share: float
    size: tuple[int, ...]
    zeros: float | None
    scattered: float | None
    pads: str | None
    field: Field | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "field": self.field.to_json() if self.field else None}


def layers(
    program: ExportedProgram, graph: ChannelGraph, module: nn.Module, fields: Mapping[str, Field], total: int
) -> tuple[Layer, ...]:
    """Every call that takes a parameter of `module`, and every one that multiplies without. `total`: MACs of the network."""
    steps = {step.name: step for step in graph.steps}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    seen: set[str] = set()
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or node.name in graph.data:  # casts of parameters: counted where they are used
            continue
        used = {graph.data[source.name] for source in node.all_input_nodes if graph.data.get(source.name) in parameters}
        step = steps.get(node.name)
        macs = _macs(step, parameters)
        if used or macs:
            new = {name: parameters[name] for name in used - seen}
            found.append(
                _layer(node, step, new, parameters, fields.get(_result(node)), macs, total, again=not new and bool(used))
            )
            seen |= used
    return tuple(found)


def _layer(
    node: Node,
    step: object,
    new: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    field: Field | None,
    macs: int | None,
    total: int,
    again: bool,
) -> Layer:
    linear = step if isinstance(step, Linear) else None
    value = node.meta["val"]
    shape = shape_of(node) if is_data(node) else tuple(value[0].shape)
    weight = parameters.get(linear.weight) if linear else None
    return Layer(
        name=module_of(node) or (linear.weight.rpartition(".")[0] if linear else "") or line_of(node) or node.name,
        kind=op_of(node),
        window=_window(node) if linear else None,
        groups=linear.groups if linear else 1,
        into=linear.into if linear else None,
        out=linear.out if linear else (int(shape[1]) if len(shape) > 1 else None),
        parameters=sum(tensor.numel() for tensor in new.values()),
        again=again,
        macs=macs,
        share=(macs or 0) / total if total else 0.0,
        size=tuple(int(n) for n in shape[2:]),
        zeros=1 - int(weight.count_nonzero()) / max(weight.numel(), 1) if weight is not None else None,
        scattered=_scattered(linear, parameters) if linear and weight is not None else None,
        pads=_pads(node) if linear else None,
        field=field,
    )


def _scattered(step: Linear, parameters: Mapping[str, Tensor]) -> float:
    used = step.matrix(parameters) != 0  # (groups, out, in, taps)
    if bool(used.all()):
        return 0.0
    alive = used.any(dim=(2, 3))[:, :, None] & used.any(dim=(1, 3))[:, None]
    total = int(alive.sum()) * used.shape[3]
    return 1 - int(used.sum()) / total if total else 0.0


def _macs(step: object, parameters: Mapping[str, Tensor]) -> int | None:
    if isinstance(step, Linear):
        return step.positions * prod(parameters[step.weight].shape) if step.weight in parameters else None
    found = getattr(step, "macs", None)
    return int(found) if found else None


def _window(node: Node) -> Window | None:
    if "conv" not in op_of(node):
        return None
    arguments = arguments_of(node)
    kernel = shape_of(arguments["weight"])[2:]
    stride, dilation = (_spread(arguments[name], len(kernel)) for name in ("stride", "dilation"))
    return Window(kernel, stride, dilation)


def _pads(node: Node) -> str | None:
    """The mode of the pad that this layer's own module makes, or that it reads; `zeros` for its own argument."""
    arguments = arguments_of(node)
    source = arguments.get("input")
    if isinstance(source, Node) and op_of(source) in _PADS:
        mode = arguments_of(source).get("mode", "constant") if op_of(source) == "pad" else op_of(source).partition("_")[0]
        return {"constant": "zeros", "reflection": "reflect", "replication": "replicate"}.get(mode, mode)
    padding = arguments.get("padding", 0)
    padded = padding == "same" or (not isinstance(padding, str) and any(_spread(padding, 1)))
    return "zeros" if padded and not bool(arguments.get("transposed")) else None


_PADS = {"pad", "constant_pad_nd", *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))}


def _result(node: Node) -> str:
    """The name under which the call's (first) tensor is known."""
    return node.name if is_data(node) else next((user.name for user in node.users if op_of(user) == "getitem"), node.name)


def _spread(value: Any, count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values
