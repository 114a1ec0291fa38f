"""Finds the node at which a conversion fails, and names it with those around it.

Where the converter's log says it, the log is believed. Else the graph is cut: the longest beginning that converts and computes
the same, and the shortest that does not, by halves; each trial is a whole conversion, so there is a limit of time.
Never here: converting (conversion.py), or mending.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compress.errors import ConversionError, ParityError
from export import child, runtime
from export.conversion import WAYS, Request, convert
from export.parity import Yardstick
from export.places import place
from export.variants import REFERENCE, VARIANTS

_NAMED = re.compile(r"onnx_op_name\S*: (?:wa/)?(\S+)")
_UNKNOWN = re.compile(r"(\w+) OP is not yet implemented")
_SECONDS = 300.0  # for all trials together
_HIGHEST_RANK = 4  # axes of a tensor that two layouts can be compared of


def sentence(error: ConversionError | ParityError, request: Request, yardstick: Yardstick, folder: Path) -> str:
    """`at Resize 'up' (after Relu 'r'; before Conv 'c')`, or nothing where that cannot be found out. `folder`: for trials."""
    cause = error.__cause__
    if isinstance(cause, child.ChildError):
        node = named_in(cause.log, request.graph.graph)
        if node is not None:
            return f"at {place(request.graph.graph, node)}"
        if cause.is_hang:
            return ""
    return _by_halves(request, yardstick, folder)


def named_in(log: str, graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """The node that the converter's log complains of."""
    unknown, named = _UNKNOWN.search(log), _NAMED.findall(log)
    if unknown is not None:
        return next((node for node in graph.node if node.op_type == unknown[1]), None)
    wanted = _plain(named[-1]) if named else None
    return next((node for node in graph.node if wanted and _plain(node.name) == wanted), None)


def _plain(name: str) -> str:
    """The converter replaces what TensorFlow does not allow in a name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", re.sub(r"\x1b\[[0-9;]*m", "", name)).strip("_")


def _by_halves(request: Request, yardstick: Yardstick, folder: Path) -> str:
    until = time.monotonic() + min(_SECONDS, request.seconds)
    graph = onnx.shape_inference.infer_shapes(request.graph).graph
    lengths = [length for length in range(len(graph.node)) if _frontier(graph, length)]  # without the whole, which failed
    trials = _Trials(request, yardstick, graph, folder)
    low, high = 0, len(graph.node)
    while between := [length for length in lengths if low < length < high]:
        if time.monotonic() > until:
            break
        middle = between[len(between) // 2]
        low, high = (middle, high) if trials.works(middle) else (low, middle)
    if low == 0 and not trials.works(0):
        return ""  # nothing converts: not the graph's doing
    first, last = graph.node[low], graph.node[high - 1]
    return f"at {place(graph, last)}" if high - low == 1 else f"between {place(graph, first)} and {place(graph, last)}"


class _Trials:
    """Conversions of the beginning of a graph."""

    def __init__(self, request: Request, yardstick: Yardstick, graph: onnx.GraphProto, folder: Path) -> None:
        self._request, self._yardstick, self._graph, self._folder = request, yardstick, graph, folder

    def works(self, length: int) -> bool:
        """True when the first `length` nodes convert, and compute what ONNX Runtime does; of none, a plain convolution."""
        model = _beginning(self._request.graph, self._graph, length)
        taken = {value.name for value in model.graph.input}
        inputs = [spec for spec in self._request.inputs if spec.name in taken]
        outputs = [value.name for value in model.graph.output]
        runner = runtime.load_graph(model.SerializeToString())
        samples = [{spec.name: self._yardstick.samples[0][spec.name] for spec in inputs}]
        given = Yardstick.of(
            lambda sample: runner.run_tensors([sample[port.name] for port in runner.inputs]), samples, (None,) * len(outputs)
        )
        trial = replace(
            self._request,
            graph=model,
            inputs=inputs,
            outputs=outputs,
            formats=(None,) * len(outputs),
            variants=(VARIANTS[REFERENCE],),
            calibration=(),
        )
        place_of_trial = self._folder / f"trial_{length}"
        place_of_trial.mkdir()
        try:
            convert(trial, replace(given, tolerance=self._yardstick.tolerance), place_of_trial, WAYS[-1:])
        except (ConversionError, ParityError):
            return False
        return True


def _frontier(graph: onnx.GraphProto, length: int) -> Sequence[str]:
    """What the rest of the graph reads of its first `length` nodes; nothing, when one of it cannot be compared."""
    made = {name for node in graph.node[:length] for name in node.output if name}
    read = {name for node in graph.node[length:] for name in node.input} | {value.name for value in graph.output}
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    found = sorted(made & read)
    for name in found:
        kind = types.get(name)
        dims = kind.shape.dim if kind is not None else ()
        if kind is None or kind.elem_type != onnx.TensorProto.FLOAT or not 1 < len(dims) <= _HIGHEST_RANK:
            return ()
    return found


def _beginning(model: onnx.ModelProto, graph: onnx.GraphProto, length: int) -> onnx.ModelProto:
    """The first `length` nodes as a model of their own; of none, a plain convolution of its first picture."""
    nodes, outputs = list(graph.node[:length]), _frontier(graph, length)
    added: list[onnx.TensorProto] = []
    if not nodes:
        picture = next(value for value in graph.input if len(value.type.tensor_type.shape.dim) == _HIGHEST_RANK)
        weight = np.full((1, picture.type.tensor_type.shape.dim[1].dim_value, 1, 1), 0.5, np.float32)
        added.append(numpy_helper.from_array(weight, "halves"))
        nodes, outputs = [helper.make_node("Conv", [picture.name, "halves"], ["plain"], name="plain")], ["plain"]
    read = {name for node in nodes for name in node.input}
    types = {value.name: value for value in (*graph.value_info, *graph.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for field in (copy.graph.node, copy.graph.input, copy.graph.output, copy.graph.value_info, copy.graph.initializer):
        del field[:]
    copy.graph.node.extend(nodes)
    copy.graph.input.extend(value for value in graph.input if value.name in read)
    copy.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
    copy.graph.initializer.extend(added)
    copy.graph.output.extend(types.get(name, onnx.ValueInfoProto(name=name)) for name in outputs)
    return onnx.shape_inference.infer_shapes(copy)
