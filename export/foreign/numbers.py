"""Every real number as float32: half and double precision, and whole pixels at the inputs and outputs.

A file in half precision computes in float32 from here on, as a phone's CPU would; the variant `fp16` has small weights again.
A uint8 picture becomes a float picture with the same values: its `Cast` goes. Whole numbers back are `--io uint8`.
Never here: integer arithmetic inside the graph.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import constant

_OTHER = frozenset({ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})


def widen(model: ir.Model) -> int:
    """Half, bfloat16 and double become float32: weights, attributes, casts, inputs and outputs; return how many."""
    graph, places = model.graph, 0
    for value in list(graph.initializers.values()):
        if value.const_value is not None and value.const_value.dtype in _OTHER:
            value.const_value = _float32(value.const_value)
            places += 1
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _OTHER:
                node.attributes[name] = ir.AttrTensor(name, _float32(attribute.value))
                places += 1
            elif node.op_type == "Cast" and name == "to" and ir.DataType(attribute.as_int()) in _OTHER:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)
                places += 1
    for value in _values(graph):
        if value.dtype in _OTHER:
            value.dtype = ir.DataType.FLOAT
            places += value.is_graph_input() or value.is_graph_output()
    return places


def unround(model: ir.Model) -> int:
    """uint8 inputs that are only cast to float, and uint8 outputs that are only cast from it, become float; return how many."""
    places = 0
    for value in model.graph.inputs:
        readers = [node for node, _ in value.uses()]
        if value.dtype == ir.DataType.UINT8 and readers and all(_casts_to(node, ir.DataType.FLOAT) for node in readers):
            value.dtype = ir.DataType.FLOAT
            for node in readers:
                _becomes_identity(node)
            places += 1
    for value in model.graph.outputs:
        maker = value.producer()
        if value.dtype == ir.DataType.UINT8 and maker is not None and _casts_to(maker, ir.DataType.UINT8) and not value.uses():
            source = maker.inputs[0]
            if source is not None and source.dtype == ir.DataType.FLOAT:
                _becomes_identity(maker)
                value.dtype = ir.DataType.FLOAT
                places += 1
    return places


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _float32(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    array = np.asarray(tensor.numpy()).astype(np.float32)
    return ir.tensor(array, dtype=ir.DataType.FLOAT, name=tensor.name)


def _casts_to(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and node.domain == "" and node.attributes["to"].as_int() == dtype


def _becomes_identity(node: ir.Node) -> None:
    node.op_type = "Identity"
    node.attributes.clear()


def holds_nan(model: ir.Model) -> ir.Value | None:
    """The first weight in use that holds NaN. Infinity is common: masks and open ends of a clip."""
    for value in model.graph.initializers.values():
        array = constant(value)
        used = value.uses() or value.is_graph_output()
        if used and array is not None and array.dtype.kind == "f" and bool(np.isnan(array).any()):
            return value
    return None
