"""The image format folded into the network: RGB pixels in, RGB pixels out, 0..255, float or uint8.

Why: an app has pixels, and everything that it would do to them on the way in and out is time and a source of mistakes. A scale
and a channel order always fit into the convolution that reads the picture, or the one that makes it. A mean fits into its bias
when nothing but picture lies under the kernel: reflection and replication are picture, zero padding is not, so there the mean
is subtracted before. Where no convolution stands at the end of the graph, one of 1x1 is added, which XNNPACK runs as well.

What comes out is clamped to 0..255; as uint8 it is rounded to the nearest pixel. Never here: what the formats are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compress.image_format import ORDERS, ImageFormat

Matrix = NDArray[np.float64]
Formats = Mapping[str, ImageFormat]


def fold(model: onnx.ModelProto, inputs: Formats, outputs: Formats) -> onnx.ModelProto:
    """The same network with float pixels in `inputs` and `outputs` (name -> format of the tensor, N x 3 x H x W).

    `model` has static shapes, and its constants are initializers.
    """
    folding = _Folding(model)
    for name, form in inputs.items():
        folding.input(name, form)
    for name, form in outputs.items():
        folding.output(name, form)
    return onnx.shape_inference.infer_shapes(folding.model, data_prop=True)


def as_bytes(model: onnx.ModelProto, names: frozenset[str]) -> onnx.ModelProto:
    """The same network with these inputs and outputs, float pixels until now, as uint8."""
    copy = _copy(model)
    graph = copy.graph
    first, last = [], []
    for value in (value for value in graph.input if value.name in names):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
        pixels = _renamed(graph, value.name, "float")
        first.append(helper.make_node("Cast", [value.name], [pixels], to=onnx.TensorProto.FLOAT))
    for value in (value for value in graph.output if value.name in names):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
        pixels = _renamed(graph, value.name, "float")
        half, above = f"{value.name}/half", f"{value.name}/above"
        graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), half))
        last.append(helper.make_node("Add", [pixels, half], [above]))
        last.append(helper.make_node("Cast", [above], [value.name], to=onnx.TensorProto.UINT8))  # it cuts decimals off
    _set_nodes(graph, [*first, *graph.node, *last])
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


class _Folding:
    """A copy of a model while formats are folded into it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = _copy(model)
        self._graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}

    def input(self, name: str, form: ImageFormat) -> None:
        """tensor = scale @ (pixel - mean), into the convolution that reads the tensor, or before whatever does."""
        scale, mean = _matrices(form)
        found = self._reader(name)
        if found is None:
            tensor = _renamed(self._graph, name, "tensor")
            self._insert(0, self._pointwise(name, tensor, scale, -scale @ mean))
            return
        conv, meets_zeros = found
        weight, bias = self._weights(conv)
        weight = np.einsum("oihw,ij->ojhw", weight, scale)
        if not meets_zeros:
            self._set_weights(conv, weight, bias - np.einsum("ojhw,j->o", weight, mean))
            return
        self._set_weights(conv, weight, bias)
        if mean.any():
            centred = _renamed(self._graph, name, "centred")
            around = self._constant(f"{name}/mean", mean.reshape(1, 3, 1, 1))
            self._insert(0, helper.make_node("Sub", [name, around], [centred]))

    def output(self, name: str, form: ImageFormat) -> None:
        """pixel = scale^-1 @ tensor + mean, into the convolution that makes the tensor, or after whatever does; then clamped."""
        scale, mean = _matrices(form)
        inverse = np.linalg.inv(scale)
        maker = next((node for node in self._graph.node if name in node.output), None)
        read = any(name in node.input for node in self._graph.node)
        tensor = _renamed(self._graph, name, "tensor")
        if maker is not None and maker.op_type == "Conv" and self._is_whole(maker) and not read:
            weight, bias = self._weights(maker)
            self._set_weights(maker, np.einsum("po,oihw->pihw", inverse, weight), inverse @ bias + mean)
        else:
            wide = f"{name}/pixels"
            self._insert(len(self._graph.node), self._pointwise(tensor, wide, inverse, mean))
            tensor = wide
        limits = [self._constant(f"{name}/{end}", np.array(value)) for end, value in (("black", 0.0), ("white", 255.0))]
        self._insert(len(self._graph.node), helper.make_node("Clip", [tensor, *limits], [name]))

    def _reader(self, name: str) -> tuple[onnx.NodeProto, bool] | None:
        """The convolution that alone reads `name`, through pads at most, and whether it sees zeros beside the picture."""
        meets_zeros = False
        while name not in {value.name for value in self._graph.output}:
            users = [node for node in self._graph.node if name in node.input]
            if len(users) != 1 or users[0].input[0] != name:
                return None
            user = users[0]
            if user.op_type == "Conv":
                pads, auto = _attribute(user, "pads", ()), _attribute(user, "auto_pad", b"NOTSET")
                return (user, meets_zeros or any(pads) or auto.startswith(b"SAME")) if self._is_whole(user) else None
            if user.op_type != "Pad":
                return None
            if _attribute(user, "mode", b"constant") == b"constant":
                fill = user.input[2] if len(user.input) > 2 else ""
                if fill and (fill not in self._constants or numpy_helper.to_array(self._constants[fill]).any()):
                    return None
                meets_zeros = True
            name = user.output[0]
        return None

    def _is_whole(self, conv: onnx.NodeProto) -> bool:
        """Its weights are known, four axes of them, and every output channel reads all inputs."""
        known = all(name in self._constants for name in conv.input[1:] if name)
        return known and len(self._constants[conv.input[1]].dims) == 4 and _attribute(conv, "group", 1) == 1

    def _weights(self, conv: onnx.NodeProto) -> tuple[Matrix, Matrix]:
        weight, *rest = (numpy_helper.to_array(self._constants[name]).astype(np.float64) for name in conv.input[1:] if name)
        return weight, rest[0] if rest else np.zeros(len(weight))

    def _set_weights(self, conv: onnx.NodeProto, weight: Matrix, bias: Matrix) -> None:
        """Under new names: another node may read the old ones."""
        made = [self._constant(f"{conv.output[0]}/{name}", values) for name, values in (("weight", weight), ("bias", bias))]
        data = conv.input[0]
        del conv.input[:]
        conv.input.extend([data, *made])

    def _pointwise(self, source: str, target: str, matrix: Matrix, shift: Matrix) -> onnx.NodeProto:
        weight = self._constant(f"{target}/weight", matrix[:, :, None, None])
        return helper.make_node("Conv", [source, weight, self._constant(f"{target}/bias", shift)], [target], kernel_shape=[1, 1])

    def _constant(self, name: str, values: Matrix) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, np.float32, order="C"), name)
        self._graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def _insert(self, place: int, node: onnx.NodeProto) -> None:
        nodes = list(self._graph.node)
        _set_nodes(self._graph, [*nodes[:place], node, *nodes[place:]])


def _matrices(form: ImageFormat) -> tuple[Matrix, Matrix]:
    """(scale, mean): tensor = scale @ (pixel - mean), on RGB pixels."""
    scale, mean = np.zeros((3, 3)), np.zeros(3)
    for channel, pixel in enumerate(ORDERS[form.order]):
        scale[channel, pixel] = 1 / form.std[channel]
        mean[pixel] = form.mean[channel]
    return scale, mean


def _renamed(graph: onnx.GraphProto, name: str, what: str) -> str:
    """Give the value another name wherever nodes make or read it, so that its own is free for what takes its place."""
    new = f"{name}/{what}"
    for node in graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                if found == name:
                    names[index] = new
    return new


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
