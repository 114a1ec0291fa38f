"""What is to be removed, as plain data: channels of spaces, or single weights of tensors. Made, printed, saved, and applied
again, before and without anything else. A plan knows which network it was made for, and fits no other.

Never here: removing the zeros (channels/strip.py), training.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress import files
from compress.channels.export import copied
from compress.channels.graph import ChannelGraph, trace
from compress.checkpoint import check_finite
from compress.errors import PlanError
from compress.pruning.channels import choose_channels
from compress.pruning.magnitude import smallest
from compress.pruning.target import Target
from compress.pruning.weights import prunable_weights
from compress.spec import ModelSpec

VERSION = 1
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """`weights`: tensor name -> which of its entries go, as packed bits (`packed`, `unpacked`). `channels`: space name ->
    the channels that go, rising. One of the two is empty.

    `shapes`, `network`: the tensors, and where it is known the name and arguments, of the network that it was made for.
    `examples`: shapes of the inputs that its channel spaces were traced with. `target`: what was asked for.
    """

    shapes: Shapes
    examples: tuple[tuple[int, ...], ...]
    weights: Mapping[str, bytes] = field(default_factory=dict)
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    target: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """Of the tensor names and shapes that the plan was made for: says later whether another network is that one."""
        return fingerprint(self.shapes)

    @property
    def zeros(self) -> int:
        """How many single weights are zero once it is applied."""
        return sum(int(self.goes(name).sum()) for name in self.weights)

    def goes(self, name: str) -> Tensor:
        """Which entries of tensor `name` go: bool, in its shape."""
        return unpacked(self.weights[name], self.shapes[name])

    def check_fits(self, module: nn.Module, spec: ModelSpec | None = None) -> None:
        """Raise PlanError, naming the first difference, when `module` is not the network that the plan was made for."""
        if self.network and spec and self.network != _identity(spec):
            raise PlanError(f"the plan was made for {_said(self.network)}, not for {_said(_identity(spec))}", _AGAIN)
        shapes = shapes_of(module)
        for name in [*self.shapes, *shapes]:
            if self.shapes.get(name) != shapes.get(name):
                theirs, ours = (_shape_said(s.get(name)) for s in (self.shapes, shapes))
                raise PlanError(f"the plan was made for another network: {name} {theirs} there and {ours} here", _AGAIN)

    def to_json(self) -> dict[str, Any]:
        return {
            "plan": VERSION,
            "target": dict(self.target),
            "network": dict(self.network) if self.network else None,
            "examples": [list(shape) for shape in self.examples],
            "channels": {name: list(gone) for name, gone in self.channels.items()},
            "weights": {name: base64.b64encode(zlib.compress(bits, 9)).decode() for name, bits in self.weights.items()},
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> Plan:
        """Inverse of `to_json`. Raises PlanError for anything else."""
        try:
            if value["plan"] != VERSION:
                raise PlanError(f"the plan has format version {value['plan']}, this program reads {VERSION}", _AGAIN)
            shapes = {name: tuple(map(int, shape)) for name, shape in value["shapes"].items()}
            weights = {name: _decompressed(text, shapes[name]) for name, text in value["weights"].items()}
            channels = {name: tuple(map(int, gone)) for name, gone in value["channels"].items()}
            examples = tuple(tuple(map(int, shape)) for shape in value["examples"])
            if bool(weights) == bool(channels):
                raise ValueError("it must remove either weights or channels")
            return cls(shapes, examples, weights, channels, dict(value["target"]), value["network"])
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error, binascii.Error) as error:
            raise PlanError(f"not a plan: {error!r}", "--plan-only makes one") from error


def plan(
    module: nn.Module,
    examples: Sequence[Tensor],
    target: Target,
    spec: ModelSpec | None = None,
    graph: ChannelGraph | None = None,
) -> Plan:
    """Decide what goes; `module` is not touched. `examples`: one input tensor each, to trace channels with.

    `graph`: of this module, where it is there already. Raises PlanError when the target cannot be met, NetworkError for NaN in
    the weights, TraceError when channels are asked for and the network cannot be traced.
    """
    check_finite(module.state_dict())
    weights: dict[str, bytes] = {}
    channels: dict[str, tuple[int, ...]] = {}
    if target.removes_weights:
        weights = _weights_that_go(module, target.sparsity or 0.0)
    else:
        tensors = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
        channels = choose_channels(graph or trace(module, tuple(examples)), tensors, target)
        if not channels:
            raise PlanError(
                "nothing would go: every width that stays is rounded up to what it is", "more, or a smaller --multiple"
            )
    shapes = tuple(tuple(example.shape) for example in examples)
    return Plan(shapes_of(module), shapes, weights, channels, target.to_json(), _identity(spec))


def _weights_that_go(module: nn.Module, share: float) -> dict[str, bytes]:
    found = prunable_weights(module)
    if not found.tensors:
        reasons = "; ".join(f"{name} {why}" for name, why in found.skipped.items())
        raise PlanError("the network has no convolution or linear weights to prune", reasons or None)
    count = round(share * found.total)
    if share and found.zeros > count:
        raise PlanError(
            f"{found.zeros:,} of {found.total:,} weights are zero already, more than a sparsity of {share} asks for",
            "ask for more, or start from a denser network",
        )
    if count == found.total:
        raise PlanError(f"a sparsity of {share} would leave none of the {found.total:,} weights", "a smaller --sparsity")
    return {name: packed(mask) for name, mask in smallest(found.tensors, share).items()}


@torch.no_grad()
def apply(module: nn.Module, plan: Plan, graph: ChannelGraph | None = None, spec: ModelSpec | None = None) -> None:
    """Set to zero, in place, all that `plan` names. `graph`: of this module, where it is there already; else it is traced.

    Raises PlanError, with nothing touched, when the plan was made for another network.
    """
    plan.check_fits(module, spec)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in plan.weights:
        if name not in parameters:
            raise PlanError(f"the plan prunes {name}, which is no parameter of the network", _AGAIN)
        parameters[name].masked_fill_(plan.goes(name).to(parameters[name].device), 0)
    if plan.channels:
        graph = graph or _traced(module, plan)
        _check_spaces(plan, graph)
        graph.zero_(module, dict(plan.channels))


@torch.no_grad()
def masks(module: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """What stays of each parameter of `module` that `plan` touches: name -> bool, in its shape.

    Raises PlanError when the plan was made for another network.
    """
    ones = copied(module)
    for parameter in ones.parameters():
        parameter.fill_(1)
    apply(ones, plan, None if plan.weights else _traced(module, plan))
    return {name: parameter != 0 for name, parameter in ones.named_parameters() if not bool(parameter.all())}


def write(path: Path, plan: Plan) -> None:
    """Save as JSON, whole or not at all; the same plan gives the same bytes. Raises OutputError."""
    files.write_text(Path(path), json.dumps(plan.to_json(), indent=1, sort_keys=True) + "\n")


def read(path: Path) -> Plan:
    """Raises PlanError for a file that is missing, damaged, or no plan."""
    try:
        return Plan.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file") from error
    except OSError as error:
        raise PlanError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{path} is not a plan: {error}", "--plan-only makes one") from error


def packed(mask: Tensor) -> bytes:
    """A bool tensor as bits, eight to a byte."""
    return np.packbits(mask.cpu().numpy().ravel()).tobytes()


def unpacked(bits: bytes, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `packed`, for a tensor of `shape`."""
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(bool)).view(shape)


def fingerprint(shapes: Shapes) -> str:
    return hashlib.sha256(json.dumps(sorted((name, list(shape)) for name, shape in shapes.items())).encode()).hexdigest()[:16]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


_AGAIN = "make a plan for this network: --plan-only"


def _traced(module: nn.Module, plan: Plan) -> ChannelGraph:
    like = next(module.parameters())
    return trace(module, tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for shape in plan.examples))


def _check_spaces(plan: Plan, graph: ChannelGraph) -> None:
    widths = {space.name: space.width for space in graph.spaces if space.prunable}
    for name, gone in plan.channels.items():
        if name not in widths:
            raise PlanError(f"the plan prunes {name}, where this network has no channels to prune", _AGAIN)
        if len(set(gone)) != len(gone) or not all(0 <= channel < widths[name] for channel in gone):
            raise PlanError(f"the plan names channels of {name} that are not among its {widths[name]}", _AGAIN)
        if len(gone) == widths[name]:
            raise PlanError(f"the plan would leave no channel of the {widths[name]} in {name}", _AGAIN)


def _decompressed(text: str, shape: tuple[int, ...]) -> bytes:
    wanted = (int(np.prod(shape)) + 7) // 8
    bits = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), wanted + 1)  # no more than can be meant
    if len(bits) != wanted:
        raise ValueError(f"a mask of {len(bits)} bytes where {wanted} are needed")
    return bits


def _identity(spec: ModelSpec | None) -> dict[str, Any] | None:
    return {"network": spec.network, "arguments": json.loads(json.dumps(spec.arguments))} if spec else None


def _said(identity: Mapping[str, Any] | None) -> str:
    return f"{identity['network']} {json.dumps(identity['arguments'])}" if identity else "an unnamed network"


def _shape_said(shape: tuple[int, ...] | None) -> str:
    return f"is {shape}" if shape is not None else "is not"
