"""The floor of a network's latency: its convolutions and nothing that could be spared. Nearest upsampling is in sub-pixel form,
pads are zeros inside the convolutions, there are no norms. What it computes is of no use; how long it takes is.
"""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from export.rewrites import subpixel

Shape = tuple[int, ...]


def floor_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` has static shapes."""
    draft = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    subpixel.rewrite(draft.graph)
    found = onnx.shape_inference.infer_shapes(ir.to_proto(draft), data_prop=True)
    graph = found.graph
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    instead: dict[str, str] = {}
    pads: dict[str, list[int]] = {}
    kept = []
    for node in graph.node:
        before = node.input[0] if node.input else ""
        node.input[:] = [instead.get(name, name) for name in node.input]
        if node.op_type == "InstanceNormalization":
            instead[node.output[0]] = node.input[0]
        elif node.op_type == "Pad":
            instead[node.output[0]] = node.input[0]
            pads[node.output[0]] = numpy_helper.to_array(constants[node.input[1]]).tolist()
        else:
            if node.op_type == "Conv" and before in pads:
                _pad_inside(node, pads[before], shapes[node.input[0]], shapes[node.output[0]])
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    smaller = ir.from_proto(found)
    RemoveUnusedNodesPass()(smaller)
    return onnx.shape_inference.infer_shapes(ir.to_proto(smaller), data_prop=True)


def _pad_inside(conv: onnx.NodeProto, pads: list[int], taken: Shape, given: Shape) -> None:
    """By the rule that TFLite has a name for, where it gives the same size; else in numbers."""
    attributes = {a.name: helper.get_attribute_value(a) for a in conv.attribute if a.name not in ("pads", "auto_pad")}
    strides = attributes.get("strides", [1, 1])
    if given[2:] == tuple(math.ceil(n / stride) for n, stride in zip(taken[2:], strides, strict=True)):
        attributes["auto_pad"] = "SAME_UPPER"
    else:
        attributes["pads"] = [*pads[2:4], *pads[6:8]]
    del conv.attribute[:]
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
