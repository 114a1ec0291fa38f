"""Walk the operators of an exported network once and note for each: its labels, its meaning (steps.py), the parameters it binds.

Handlers (operators/) see a `Walk` and use its verbs: `channelwise`, `move`, `add`, `opaque`. Never here: what any one operator
does, decisions about what may go.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels.labels import FIXED, Array, Labels, Units
from compress.channels.steps import Call, Channelwise, Evaluate, Joint, Move, Needs, Opaque, Step

Arguments = Mapping[str, Any]
Handler = Callable[["Walk", Node, Arguments], None]
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Unknown:
    """An operator that was not understood: its channels stay. `line`: `file.py:12` where the network calls it, when known."""

    op: str
    module: str
    line: str | None

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        return f"{self.op}{where}" + (f" ({self.line})" if self.line else "")


@dataclass(frozen=True)
class Balance:
    """Blocks of channels that must stay equal in number. `blocks`: (groups, n) labels.

    `partner`: number of the balance whose block of the same group may vanish together with this one (the other side of a
    grouped convolution), or None. `bundled`: a depthwise convolution with a multiplier, whose groups are pruned whole.
    `whole`: a block goes whole or not at all (a group of a GroupNorm), and the others need not follow.
    """

    blocks: Array
    partner: int | None = None
    bundled: bool = False
    whole: bool = False


class Walk:
    """What is known so far. `labels_of`: label array of every tensor met; `axes`: (tensor name, axis) -> labels along it."""

    def __init__(self, program: ExportedProgram, module: nn.Module, handlers: Mapping[str, Handler]) -> None:
        self.labels = Labels()
        self.labels_of: dict[str, Array] = {}
        self.axes: dict[tuple[str, int], Array] = {}
        self.roles: dict[tuple[str, int], str] = {}
        self.gains: dict[str, float] = {}  # a parameter times a number, as layers take it -> that number
        self.gain_of: dict[str, float] = {}  # tensor of the module that layers take -> its gain, the same everywhere
        self.groups: dict[str, int] = {}
        self.steps: list[Step] = []
        self.balances: list[Balance] = []
        self.unknown: list[Unknown] = []
        self.inputs: tuple[str, ...] = ()
        self.outputs: tuple[str, ...] = ()
        self.data: dict[str, str] = {}  # placeholder, or a cast of it -> the tensor of the module that it carries
        self.zero_pads: dict[str, Node] = {}  # a pad with zeros -> what it pads
        self.grids: list[Array] = []  # channels laid over two axes (see `grid`)
        self.stretched: dict[str, set[int]] = {}  # tensor -> axes along which it is one channel, many times over
        self.pieces: dict[Node, list[tuple[int, int, Array]]] = {}  # tensor -> its slices along channels
        self.cancels: set[str] = set()  # outputs of norms that do not feel a constant added to their input
        self._why: dict[str, str] = {}
        self._renewed: dict[Node, Node] = {}
        self._flat: dict[str, str] = {}  # tensor -> the same with channels along fewer axes (see `over_space`)
        self.modules = dict(module.named_modules())
        self.tensors = {
            **dict(module.named_parameters(remove_duplicate=False)),
            **dict(module.named_buffers(remove_duplicate=False)),
        }
        self._first = {id(tensor): name for name, tensor in reversed(self.tensors.items())}  # tied tensors have one name here
        self._handlers = handlers
        self._run(program)

    # -- verbs for handlers ------------------------------------------------------------------------------------------------

    def look(self, node: Node) -> Array:
        """The label array of a tensor; a parameter used as data has its labels along its first axis longer than one."""
        if node.name not in self.labels_of:
            self.lay(node, next((axis for axis, size in enumerate(shape_of(node)) if size > 1), None))
        return self.labels_of[self.name(node)]

    def lay(self, node: Node, axis: int | None) -> None:
        """Say along which axis the channels of a parameter lie, before it is looked at for the first time; None: along none."""
        if node.name not in self.labels_of:
            shape = shape_of(node)
            labels = np.full((1,) * len(shape), FIXED)
            if node.name in self.data and axis is not None:
                labels = self.axis(self.data[node.name], axis).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            self.labels_of[node.name] = labels

    def name(self, node: Node) -> str:
        """Of the tensor as later steps see it."""
        return self._flat.get(node.name, node.name)

    def names(self, nodes: Sequence[Node]) -> tuple[str, ...]:
        return tuple(map(self.name, nodes))

    def along(self, node: Node, axis: int, count: int) -> Array:
        """(count,) labels of a tensor along one axis; FIXED, and pinned, when its channels lie elsewhere."""
        labels = self.look(node)
        if labels.size == labels.shape[axis] == count:
            return labels.ravel()
        self.labels.pin(labels, f"channels of {node.name} lie along other axes than they are used")
        return np.full(count, FIXED)

    def over_space(self, node: Node, count: int) -> bool:
        """No channels along the last `count` axes, from here on: those that lie there are side by side in space.

        False when all channels lie there: the operator would work along them.
        """
        labels = self.look(node)
        space = tuple(range(labels.ndim - count, labels.ndim))
        if all(labels.shape[axis] == 1 for axis in space):
            return True
        if labels.size == np.prod([labels.shape[axis] for axis in space]):
            return False
        index = np.moveaxis(np.arange(labels.size).reshape(labels.shape), space, range(count))
        index = index.reshape(-1, *index.shape[count:], *(1,) * count)
        source, flat = self.name(node), f"{node.name}.space"
        self._tie_places(index, labels.ravel(), self.why(node))
        self.labels_of[flat] = labels.ravel()[index[0]]
        self.steps.append(Move(flat, "flatten", module_of(node), (source,), index, call=Call(shape=shape_of(node))))
        self._flat[node.name] = flat
        return True

    def grid(self, labels: Array, axis: int) -> None:
        """Channels lie along `axis` and others: the same positions along `axis` go in each of its rows (align.py)."""
        self.grids.append(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis]))

    def axis(self, tensor: str, axis: int, count: int | None = None) -> Array:
        """Labels along an axis of a tensor of the module, the same ones at every use. `count`: when groups multiply it."""
        count = count or self.tensors[tensor].shape[axis]
        known = self.axes.get((tensor, axis))
        if known is None:
            known = self.axes[tensor, axis] = self.labels.fresh(count)
        if len(known) != count:
            raise ValueError(f"{tensor} is used with different groups")
        return known

    def role(self, node: Node, axis: int, role: str) -> None:
        """What an axis of a parameter does to its channels: weight, bias, scale, shift write them; into reads them."""
        if node.name in self.data:
            self.roles.setdefault((self.data[node.name], axis), role)

    def why(self, *nodes: Node) -> str:
        """Why the channels of the first of these tensors that are not tracked may not go."""
        found = next((self._why[node.name] for node in nodes if node.name in self._why), None)
        return found or "tied to channels that cannot go"

    def channelwise(self, node: Node, inputs: Sequence[Node], labels: Array, evaluate: Evaluate, into: str | None = None) -> None:
        """`into`: name of the output, when it is one of several results."""
        self._note(node, inputs, labels, into)
        name = into or node.name
        step = Channelwise(name, op_of(node), module_of(node), self.names(inputs), evaluate, call=self._call_of(node))
        self.steps.append(step)

    def move(self, node: Node, inputs: Sequence[Node], index: Array, into: str | None = None, nowhere: float = np.nan) -> None:
        """`index` (k, *output label shape), flat positions over all inputs; see steps.Move."""
        flat = np.concatenate([self.look(source).ravel() for source in inputs])
        labels = self._tie_places(index, flat, self.why(*inputs))
        self._note(node, inputs, labels, into)
        name = into or node.name
        sources, call = self.names(inputs), self._call_of(node)
        self.steps.append(Move(name, op_of(node), module_of(node), sources, index, nowhere, call=call))

    def joint(
        self,
        node: Node,
        inputs: Sequence[Node],
        labels: Array,
        evaluate: Evaluate,
        needs: Needs,
        keeps: Needs | None = None,
        macs: int = 0,
    ) -> None:
        """See steps.Joint."""
        self._note(node, inputs, labels)
        sources, call = self.names(inputs), self._call_of(node)
        self.steps.append(Joint(node.name, op_of(node), module_of(node), sources, evaluate, needs, keeps, macs, call=call))

    def add(self, node: Node, step: Step, inputs: Sequence[Node], labels: Array) -> None:
        self._note(node, inputs, labels)
        self.steps.append(replace(step, call=self._call_of(node)))

    def opaque(self, node: Node, why: str | None = None, macs: int | None = None) -> None:
        """Pin everything that `node` touches. Without `why` the operator counts as not understood, and is reported."""
        inputs = [self.current(source) for source in node.all_input_nodes if is_data(source)]
        reason = why or f"{op_of(node)} is not understood"
        touched = False
        for source in inputs:
            labels = self.look(source)
            touched |= bool((labels >= 0).any())
            self.labels.pin(labels, reason)
            self._pin_parameter(source, reason)
        if touched and why is None:
            self.unknown.append(Unknown(op_of(node), module_of(node), line_of(node)))
        for name, value in _results(node):
            self.labels_of[name] = np.full((1,) * value.dim(), FIXED)
            self._why[name] = reason
            self.steps.append(Opaque(name, op_of(node), module_of(node), self.names(inputs), macs, call=self._call_of(node)))

    def computed(self, node: Node, what: str) -> None:
        """A layer that makes its own weights: opaque, and named, since its channels are in no space that could tell."""
        self.opaque(node, f"its {what} computes its own weights")
        self.unknown.append(Unknown(f"{op_of(node)} with computed weights", module_of(node), line_of(node)))

    def current(self, node: Node) -> Node:
        """The node that holds this tensor now: an operator in place renews its first argument."""
        while node in self._renewed:
            node = self._renewed[node]
        return node

    def constant(self, node: Node) -> Tensor | None:
        """The numbers of a tensor that the code has in it, or of a buffer; None for all others."""
        while node.op == "call_function" and op_of(node) in ("lift_fresh_copy", "clone", "detach", "alias", "to", "contiguous"):
            node = node.all_input_nodes[0]
        if node.name in self._lifted:
            return self._lifted[node.name]
        name = self._state.get(node.name)
        found = self.tensors.get(name) if name is not None else None
        return None if found is None or isinstance(found, nn.Parameter) else found

    def settle_grids(self, units: Units) -> tuple[Array, ...]:
        """The grids in units, and the balance that each row of one loses equally many.

        Without those of which a row is one unit: there whole rows go, and the code has their length in it.
        """
        found = []
        for labels in self.grids:
            grid = units(labels)
            if len(grid) > 1 and (grid != grid[:, :1]).any():
                found.append(grid)
                self.balances.append(Balance(labels))
        return tuple(found)

    def _tie_places(self, index: Array, flat: Array, why: str) -> Array:
        labels = np.where(index >= 0, flat[index], FIXED)
        for other in labels[1:]:
            self.labels.tie(labels[0], other, why)
        return labels[0]

    def _call_of(self, node: Node) -> Call:
        arguments = arguments_of(node)
        tensors = {name: self.current(value).name for name, value in arguments.items() if isinstance(value, Node)}
        nodes = {id(other) for other in node.all_input_nodes}
        lists = {
            name for name, value in arguments.items() if isinstance(value, list | tuple) and any(id(v) in nodes for v in value)
        }
        options = {name: value for name, value in arguments.items() if name not in tensors and name not in lists}
        return Call(tensors, options, shape_of(node) if is_data(node) else ())

    # -- the walk ----------------------------------------------------------------------------------------------------------

    def _run(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        self._state = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._fixed_state = {*signature.non_persistent_buffers, *signature.inputs_to_lifted_tensor_constants.values()}
        self._constants = set(signature.inputs_to_lifted_tensor_constants)
        lifted = signature.inputs_to_lifted_tensor_constants.items()
        self._lifted = {name: value for name, key in lifted if isinstance(value := program.constants.get(key), Tensor)}
        self.inputs = tuple(name for name in signature.user_inputs if isinstance(name, str))
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                self._call(node)
        self._balance_pieces()

    def _placeholder(self, node: Node) -> None:
        if node.name in self._state and self._state[node.name] in self.tensors:
            name = self._first[id(self.tensors[self._state[node.name]])]
            self.data[node.name] = name
            if name in self._fixed_state:
                self.labels.pin(self.look(node), f"the buffer {name} is not saved with the network")
            return
        constant = node.name in self._constants
        self._why[node.name] = f"tied to {'a constant in the code' if constant else 'an input of the network'}"
        if is_data(node):
            self.labels_of[node.name] = np.full((1,) * len(shape_of(node)), FIXED)

    def _output(self, node: Node) -> None:
        sources = [self.current(source) for source in node.all_input_nodes if is_data(source)]
        for source in sources:
            self.labels.pin(self.look(source), "an output of the network", first=True)
        self.outputs += self.names(sources)

    def _call(self, node: Node) -> None:
        handler = self._handlers.get(op_of(node))
        sources = [source for source in node.all_input_nodes if is_data(source)]
        if not _results(node):
            if sources and node.users:  # a number taken from a tensor: what becomes of it is out of sight
                self.opaque(node)
                self.outputs += self.names([self.current(source) for source in sources])
            return
        if not sources:
            self._why[node.name] = "tied to a tensor made in the code"
            if handler is None:
                return
        if handler is None or _depends_on_data(node):
            self.opaque(node)
            self._renew(node)
            return
        arguments = {name: _map(value, self.current) for name, value in arguments_of(node).items()}
        handler(self, node, arguments)
        self._renew(node)

    def _renew(self, node: Node) -> None:
        if in_place(node) and node.args and isinstance(node.args[0], Node):
            self._renewed[self.current(node.args[0])] = node

    def _note(self, node: Node, inputs: Sequence[Node], labels: Array, into: str | None = None) -> None:
        self.labels_of[into or node.name] = labels
        why = next((self._why[source.name] for source in inputs if source.name in self._why), None)
        if why:
            self._why[into or node.name] = why

    def _pin_parameter(self, node: Node, reason: str) -> None:
        name = self.data.get(node.name)
        if name:
            for axis in range(self.tensors[name].dim()):
                self.labels.pin(self.axes.get((name, axis), np.empty(0, int)), reason)

    def _balance_pieces(self) -> None:
        """Slices that cut a tensor's channels into equal parts, next to one another, are a chunk by another name."""
        for found in self.pieces.values():
            parts = sorted({(start, stop): labels for start, stop, labels in found}.items(), key=lambda item: item[0])
            lengths = {stop - start for (start, stop), _ in parts}
            joined = all(a[0][1] == b[0][0] for a, b in itertools.pairwise(parts))
            if len(parts) > 1 and len(lengths) == 1 and joined:
                blocks = np.stack([labels.ravel() for _, labels in parts])
                self.balances.append(Balance(blocks))


def op_of(node: Node) -> str:
    """`aten.relu_.default` -> `relu`; operators of other libraries keep their own namespace."""
    text = str(node.target)
    if text.startswith("aten."):
        name = text.split(".")[1]
        return name if name.startswith("__") else name.rstrip("_")
    return "getitem" if getattr(node.target, "__name__", "") == "getitem" else text


def in_place(node: Node) -> bool:
    return str(node.target).startswith("aten.") and str(node.target).split(".")[1].endswith("_") and "__" not in str(node.target)


def module_of(node: Node) -> str:
    """Dotted path of the innermost module that makes this call; a shared module's later calls have its first name."""
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return re.sub(r"@\d+", "", str(path))


def line_of(node: Node) -> str | None:
    """`file.py:12`: the innermost line of the user's own code that made `node`; None when the trace does not say."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    ours = [(file, line) for file, line in frames if not file.startswith((_TORCH, "<"))]
    return f"{Path(ours[-1][0]).name}:{ours[-1][1]}" if ours else None


def is_data(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def shape_of(node: Node) -> tuple[int, ...]:
    """-1 for a size that the numbers in a tensor decide (`nonzero`)."""
    return tuple(size if isinstance(size, int) else -1 for size in node.meta["val"].shape)


def arguments_of(node: Node) -> dict[str, Any]:
    """Arguments by the names of the operator's schema, defaults filled in."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(number): value for number, value in enumerate(node.args)}
    given = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def _depends_on_data(node: Node) -> bool:
    """True when a number or a size that `node` works with comes out of a tensor, and so differs from input to input."""
    numbers = any(isinstance(n.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool) for n in node.all_input_nodes)
    return numbers or any(-1 in shape_of(n) for n in (node, *node.all_input_nodes) if is_data(n))


def _results(node: Node) -> list[tuple[str, Tensor]]:
    """The tensors that a call makes: its own, or those that its `getitem`s take (which the walk then finds labelled)."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return [(node.name, value)]
    return [(user.name, user.meta["val"]) for user in node.users if op_of(user) == "getitem" and is_data(user)]


def _map(value: Any, function: Callable[[Node], Node]) -> Any:
    if isinstance(value, Node):
        return function(value)
    if isinstance(value, list | tuple):
        return [_map(item, function) for item in value]
    return value
