"""What no file made of a graph could be right or run: named, with the nodes around it, before any time is spent on it.

Never here: what only the converter cannot do (tflite.py knows what that is).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from math import prod

import onnx

from compress.errors import ConversionError
from export.artifact import Port
from export.foreign.legacy import PARKED
from export.places import place

CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"})
QUANTISED = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
})  # fmt: skip
LARGEST = 1 << 30  # numbers in one tensor: 4 GB
_SHAPELESS = frozenset({"NonMaxSuppression", "NonZero", "Unique", "Compress", "StringNormalizer", "TfIdfVectorizer"})


def check_inputs(name: str, graph: onnx.GraphProto, ports: Sequence[Port]) -> None:
    """Raise ConversionError for an input that is not of real numbers, saying who reads it."""
    if not ports:
        raise ConversionError(f"{name}: the graph has no input, only constants")
    for port in ports:
        if port.dtype != "float32":
            reader = next((node for node in graph.node if port.name in node.input), None)
            readers = f"; read by {place(graph, reader)}" if reader else ""
            raise ConversionError(
                f"{name}: only inputs of real numbers and pictures are understood, {port.name} is {port.dtype}{readers}",
                "make it a constant before export",
            )


def check_operators(name: str, model: onnx.ModelProto) -> None:
    """Raise ConversionError for the first node that has no place in a picture's way through a phone.

    `model` is of static shapes, and what does not depend on its inputs is folded.
    """
    graph = model.graph
    large = {value.name for value in (*graph.value_info, *graph.output) if _elements(value) > LARGEST}
    for node in graph.node:
        said = _refused(node, large)
        if said is not None:
            what, hint = said
            raise ConversionError(f"{name}: {place(graph, node)} {what}", hint)


def _elements(value: onnx.ValueInfoProto) -> int:
    return prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _refused(node: onnx.NodeProto, large: Set[str]) -> tuple[str, str | None] | None:
    if large & set(node.output):
        return f"makes a tensor of more than {LARGEST:,} numbers", "a smaller --size"
    if node.domain == PARKED:
        return "is of an old form that opset 18 has no words for", "export it again with a newer opset"
    if node.domain not in ("", "ai.onnx"):
        return "is of a domain outside of the standard", "export without the custom operator, or optimised for no runtime"
    if node.op_type in CONTROL or node.op_type.startswith("Sequence"):
        return "is control flow that depends on the input", "trace the network instead of scripting it"
    if node.op_type in RANDOM:
        return "gives other numbers at each run: nothing could be compared", "give the noise as an input, or leave it out"
    if node.op_type in QUANTISED:
        return "belongs to a quantised network", "give the float network; int8 variants are made of it"
    if node.op_type in _SHAPELESS or node.op_type.startswith("Optional"):
        return "has an output whose shape depends on the picture", "cut the network before it"
    return None
