"""Quantise a float `.tflite` file, layer by layer as asked: ranges of activations in, integers out. Runs in a child process.

TensorFlow's own quantiser does the arithmetic; it reads the range of each activation from the file, and leaves alone what it is
told to. What is left alone gets integer weights all the same (dynamic range): smaller, and faster than float.
Never here: deciding which layers (mixed.py), running the result (runtime.py).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import flatbuffer

Range = tuple[float, float]
RANGES = "ranges.json"  # in the scratch folder of a conversion: what `ranges` found

# What a norm does on numbers that eight bits cannot hold: it stays in float when a file is mixed.
FLOAT_OPS = frozenset({"MEAN", "SQUARED_DIFFERENCE", "RSQRT", "SQRT", "DIV", "SUB", "MUL", "ADD", "SUM", "POW", "SQUARE"})
_NARROW = 4
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
_CHANNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}  # axis of the weight that has a scale for each position


@dataclass(frozen=True)
class Layer:
    """A weighted operator, by the name of its output tensor; `feeds`: names of what is moved about for it alone (pads).

    `narrow`: it reads or writes so few channels (pixels, mostly) that eight bits cost more than they gain.
    """

    name: str
    feeds: tuple[str, ...]
    narrow: bool

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.name, *self.feeds)


def layers(payload: bytes) -> tuple[Layer, ...]:
    """The weighted operators of a float file, in order, each with the moves (slices, concatenations, pads) that end in it."""
    graph = flatbuffer.Graph.of(payload)
    made = {output: op for op in graph.ops for output in op.outputs}
    found = []
    for op in graph.ops:
        if op.kind not in WEIGHTED:
            continue
        feeds: dict[str, None] = {}
        waiting = [_source(op)]
        while waiting:
            source = made.get(waiting.pop())
            if source is not None and source.kind in flatbuffer.MOVES and graph.name(source.outputs[0]) not in feeds:
                feeds[graph.name(source.outputs[0])] = None
                waiting += source.inputs
        channels = min(graph.shapes[tensor][-1] if graph.shapes[tensor] else 1 for tensor in (_source(op), op.outputs[0]))
        found.append(Layer(graph.name(op.outputs[0]), tuple(feeds), channels <= _NARROW))
    return tuple(found)


def _source(op: flatbuffer.Op) -> int:
    return op.inputs[2] if op.kind == "TRANSPOSE_CONV" else op.inputs[0]


def ranges(samples: Iterable[Mapping[str, NDArray[np.float32]]], percentile: float = 100.0) -> dict[str, Range]:
    """Smallest and largest value of each activation over all samples.

    `samples`: for each, every float tensor by name. `percentile` < 100: of each sample, the values outside its central
    share are cut off (of large tensors, of every n-th value); the widest range of any sample counts.
    """
    found: dict[str, Range] = {}
    for sample in samples:
        for name, values in sample.items():
            low, high = _range(values, percentile)
            before = found.get(name, (low, high))
            found[name] = (min(before[0], low), max(before[1], high))
    return found


def read_ranges(path: Path) -> dict[str, Range]:
    """What `ranges` found, from the file that it was written to as JSON."""
    return {name: (low, high) for name, (low, high) in json.loads(path.read_text()).items()}


def static(payload: bytes, known: Mapping[str, Range], leave: Collection[str] = (), leave_ops: Collection[str] = ()) -> bytes:
    """A float file with eight-bit weights and activations, but for the operators whose output is named in `leave`, and those of
    a kind in `leave_ops`. Inputs and outputs stay float. Raises ValueError when the quantiser refuses, or did nothing.
    """
    from tensorflow.lite.python import convert

    try:
        quantised: bytes = convert.mlir_quantize(
            with_ranges(payload, known),
            denylisted_ops=set(leave_ops) or None,
            denylisted_nodes=set(leave) or None,
        )
    except (RuntimeError, convert.ConverterError) as error:
        raise ValueError(f"the quantiser refuses it: {str(error).strip() or 'without a word'}") from error
    asked = [layer for layer in layers(payload) if layer.name not in leave]
    if asked and not _has_integer_weights(quantised):
        raise ValueError("no layer could be made eight-bit")  # without a word it leaves alone what it has no range of
    return quantised


def _has_integer_weights(payload: bytes) -> bool:
    model = flatbuffer.unpack(payload)
    tensors, int8 = model.subgraphs[0].tensors, flatbuffer.schema().TensorType.INT8
    return any(tensors[op.inputs[1]].type == int8 for op in flatbuffer.Graph.of_model(model).ops if op.kind in WEIGHTED)


def with_ranges(payload: bytes, known: Mapping[str, Range]) -> bytes:
    """The file with the range of each activation noted where the quantiser looks for it."""
    model = flatbuffer.unpack(payload)
    for tensor in model.subgraphs[0].tensors:
        if (name := tensor.name.decode()) in known:
            note = tensor.quantization = tensor.quantization or flatbuffer.schema().QuantizationParametersT()
            note.min, note.max = (np.array([end], np.float32) for end in known[name])
    return flatbuffer.pack(model)


def dynamic_weights(payload: bytes) -> bytes:
    """Every convolution and linear layer that is still all float gets eight-bit weights, a scale a channel (linear: one)."""
    model = flatbuffer.unpack(payload)
    graph = flatbuffer.Graph.of_model(model)
    tensors = model.subgraphs[0].tensors
    float32 = flatbuffer.schema().TensorType.FLOAT32
    for op in graph.ops:
        if op.kind not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            continue
        weight = tensors[op.inputs[1]]
        data = model.buffers[weight.buffer].data
        if weight.type == tensors[op.inputs[0]].type == float32 and data is not None and len(data):
            _to_int8(model, weight, _CHANNELS.get(op.kind))
    return flatbuffer.pack(model)


def half_weights(payload: bytes) -> bytes:
    """The weights and biases of every layer in half precision, made float again when the file is opened: half the bytes.

    Biases too: XNNPACK takes a layer only when it is made of one kind.
    """
    model, schema = flatbuffer.unpack(payload), flatbuffer.schema()
    graph, ops = model.subgraphs[0], flatbuffer.Graph.of_model(model).ops
    again = schema.OperatorCodeT()
    again.builtinCode = again.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    again.version = 3  # the first that takes half precision
    model.operatorCodes.append(again)
    read = dict.fromkeys(int(tensor) for op in ops if op.kind in WEIGHTED for tensor in op.inputs if tensor >= 0)
    constants = [tensor for tensor in read if _is_float_constant(model, graph.tensors[tensor])]
    graph.operators = [*(_halved(model, tensor) for tensor in constants), *graph.operators]
    return flatbuffer.pack(model)


def _is_float_constant(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return tensor.type == flatbuffer.schema().TensorType.FLOAT32 and data is not None and len(data) > 0


def _halved(model: Any, index: int) -> Any:
    """Put a constant's numbers into a new one of half precision; return the operator that makes the old one of it."""
    schema, graph = flatbuffer.schema(), model.subgraphs[0]
    old = graph.tensors[index]
    half, buffer = copy.copy(old), schema.BufferT()
    buffer.data = np.frombuffer(bytes(model.buffers[old.buffer].data), np.float32).astype(np.float16).view(np.uint8)
    model.buffers.append(buffer)
    half.type, half.buffer, half.name = schema.TensorType.FLOAT16, len(model.buffers) - 1, old.name + b"_half"
    graph.tensors.append(half)
    if not _shared(model, old.buffer):
        model.buffers[old.buffer].data = None
    old.buffer = 0
    op = schema.OperatorT()
    op.opcodeIndex = len(model.operatorCodes) - 1
    op.inputs, op.outputs = np.array([len(graph.tensors) - 1], np.int32), np.array([index], np.int32)
    return op


def _to_int8(model: Any, weight: Any, axis: int | None) -> None:
    """Symmetric, -127..127; `axis` None: one scale for all."""
    schema = flatbuffer.schema()
    values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32).reshape(weight.shape)
    others = tuple(a for a in range(values.ndim) if a != axis) if axis is not None else None
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    buffer = schema.BufferT()
    buffer.data = np.clip(np.rint(values / scale), -127, 127).astype(np.int8).view(np.uint8).ravel()
    model.buffers.append(buffer)  # the old one may belong to others too; what nobody uses is empty
    if not _shared(model, weight.buffer):
        model.buffers[weight.buffer].data = None
    weight.buffer, weight.type = len(model.buffers) - 1, schema.TensorType.INT8
    note = schema.QuantizationParametersT()
    note.scale, note.zeroPoint = scale.ravel(), np.zeros(scale.size, np.int64)
    note.quantizedDimension = axis or 0
    weight.quantization = note


def _shared(model: Any, buffer: int) -> bool:
    return sum(tensor.buffer == buffer for graph in model.subgraphs for tensor in graph.tensors) > 1


def _range(values: NDArray[np.float32], percentile: float) -> Range:
    flat = np.ravel(values)
    if percentile < 100 and flat.size > 1000:
        low, high = np.percentile(flat[:: max(1, flat.size >> 16)], [100 - percentile, percentile])
    else:
        low, high = flat.min(), flat.max()
    return float(min(low, 0.0)), float(max(high, 0.0))  # zero must be exact: it is what pads
