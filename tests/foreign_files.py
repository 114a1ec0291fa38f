"""`.onnx` files as other tools and other years wrote them, by hand: nodes, weights and opset in a row each.

Every network takes `x` and gives `y`, begins with a convolution of 3 to 5 channels, and no two of its sizes are equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH = 12, 10
F = np.float32
node = helper.make_node
_random = np.random.default_rng(7)


def weight(*shape: int) -> np.ndarray:
    """A weight or a bias."""
    return (_random.standard_normal(shape) * 0.4).astype(F)


def ints(*numbers: int) -> np.ndarray:
    """A constant of axes, pads or a shape."""
    return np.array(numbers, np.int64)


FIRST = weight(5, 3, 3, 3)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray],
    opset: int = 18,
    shape: Sequence[int | str] = (1, 3, HEIGHT, WIDTH),
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
    more: Sequence[onnx.ValueInfoProto] = (),
    **options: Any,
) -> Path:
    """A file; below opset 9 its weights are inputs, too, as they were."""
    inputs = [helper.make_tensor_value_info("x", kinds[0], shape), *more]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    if opset < 9:
        inputs += [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in tensors]
    graph = helper.make_graph(nodes, "foreign", inputs, [helper.make_tensor_value_info("y", kinds[1], None)], tensors)
    imports = [helper.make_opsetid("", opset), *options.pop("domains", ())]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=3 if opset < 9 else 8, **options), path)
    return path


def after_conv(path: Path, nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], **options: Any) -> Path:
    """`nodes` read `c`, what the first convolution makes: 1 x 5 x HEIGHT x WIDTH."""
    conv = node("Conv", ["x", "first"], ["c"], pads=[1, 1, 1, 1], name="first conv")
    return write(path, [conv, *nodes], {"first": FIRST, **weights}, **options)


_STATISTICS = {"g": weight(5), "b": weight(5), "m": weight(5), "v": np.square(weight(5)) + F(0.5)}
_ALL = (7, 8)
# name -> opsets, nodes from `c` to `y`, weights
OLD: dict[str, tuple[tuple[int, ...], list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "upsample nearest": (_ALL, [node("Upsample", ["c"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])], {}),
    "upsample linear": (_ALL, [node("Upsample", ["c"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "upsample by input": ((9,), [node("Upsample", ["c", "s"], ["y"], mode="linear")], {"s": np.array([1, 1, 2, 3], F)}),
    "resize 10 larger": ((10,), [node("Resize", ["c", "s"], ["y"], mode="linear")], {"s": np.array([1, 1, 2, 1.5], F)}),
    "resize 10 smaller": ((10,), [node("Resize", ["c", "s"], ["y"], mode="nearest")], {"s": np.array([1, 1, 0.5, 0.5], F)}),
    "reflect pad": ((7, 10), [node("Pad", ["c"], ["y"], mode="reflect", pads=[0, 0, 2, 1, 0, 0, 1, 3])], {}),
    "edge pad": ((7,), [node("Pad", ["c"], ["y"], mode="edge", pads=[0, 0, 2, 1, 0, 0, 1, 3])], {}),
    "pad of a value": ((7, 10), [node("Pad", ["c"], ["y"], mode="constant", value=2.5, pads=[0, 0, 2, 1, 0, 0, 1, 3])], {}),
    "slice": ((7, 9), [node("Slice", ["c"], ["y"], axes=[2, 3], starts=[1, 2], ends=[-1, 9999])], {}),
    "clip": ((7, 10), [node("Clip", ["c"], ["y"], min=-0.1, max=0.3)], {}),
    "half a clip": ((7, 10), [node("Clip", ["c"], ["y"], max=0.3)], {}),
    "dropout": ((7, 10), [node("Dropout", ["c"], ["d", "mask"], ratio=0.4), node("Relu", ["d"], ["y"])], {}),
    "batch norm": ((7, 9, 14), [node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], epsilon=1e-3)], _STATISTICS),
    "spatial batch norm": (_ALL, [node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], spatial=1)], _STATISTICS),
    "batch norm of pixels": (
        (7,),
        [node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], spatial=0)],
        {name: np.square(weight(5, HEIGHT, WIDTH)) + F(0.5) for name in "gbmv"},
    ),
    "softmax over all": ((7, 12), [node("Softmax", ["c"], ["y"])], {}),
    "split": (
        (7, 12),
        [node("Split", ["c"], ["p", "q"], axis=3, split=[3, 7]), node("Concat", ["q", "p"], ["y"], axis=3)],
        {},
    ),
    "squeeze": ((7, 12), [node("Unsqueeze", ["c"], ["u"], axes=[0]), node("Squeeze", ["u"], ["y"], axes=[0])], {}),
    "means": ((7, 17), [node("ReduceMean", ["c"], ["m"], axes=[2, 3], keepdims=1), node("Sub", ["c", "m"], ["y"])], {}),
    "prelu": (_ALL, [node("PRelu", ["c", "s"], ["y"])], {"s": weight(5, 1, 1)}),
    "thresholded relu": ((7, 9, 10), [node("ThresholdedRelu", ["c"], ["y"], alpha=0.2)], {}),
    "mean and variance": ((7,), [node("MeanVarianceNormalization", ["c"], ["y"], across_channels=0)], {}),
    "mean and variance 9": ((9, 13), [node("MeanVarianceNormalization", ["c"], ["y"], axes=[0, 2, 3])], {}),
    "image scaler": ((7, 8), [node("ImageScaler", ["c"], ["y"], scale=0.5, bias=[0.1, 0.2, 0.3, 0.4, 0.5])], {}),
    "affine": ((7,), [node("Affine", ["c"], ["y"], alpha=2.0, beta=-0.5)], {}),
    "crop": ((7,), [node("Crop", ["c"], ["y"], border=[1, 2, 3, 4])], {}),
    "crop to a size": ((7,), [node("Crop", ["c"], ["y"], border=[1, 2, 0, 0], scale=[7, 6])], {}),
    "scaled tanh": ((7,), [node("ScaledTanh", ["c"], ["y"], alpha=1.7, beta=0.6)], {}),
    "parametric softplus": ((7,), [node("ParametricSoftplus", ["c"], ["y"], alpha=1.7, beta=0.6)], {}),
    "scale": ((7,), [node("Scale", ["c"], ["y"], scale=3.0)], {}),
    "upsampling convolution": (
        (7, 11, 21),
        [node("ConvTranspose", ["c", "w"], ["y"], strides=[2, 2], output_shape=[24, 20])],
        {"w": weight(5, 4, 3, 3)},
    ),
    "same upsampling": (
        (7, 21),
        [node("ConvTranspose", ["c", "w"], ["y"], strides=[2, 3], auto_pad="SAME_LOWER")],
        {"w": weight(5, 4, 4, 5)},
    ),
    "longer than it reaches": (
        (11,),
        [node("ConvTranspose", ["c", "w"], ["y"], strides=[2, 2], output_shape=[26, 21])],
        {"w": weight(5, 4, 3, 3)},
    ),
    "same pool": ((7, 21), [node("MaxPool", ["c"], ["y"], kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER")], {}),
}

_AFFINE = [node("Mul", ["n", "g"], ["ng"]), node("Add", ["ng", "b"], ["y"])]
_CENTRED = [node("ReduceMean", ["c", "hw"], ["m"], keepdims=1), node("Sub", ["c", "m"], ["d"])]
_VARIANCE = [node("Mul", ["d", "d"], ["q"]), node("ReduceMean", ["q", "hw"], ["v"], keepdims=1), node("Add", ["v", "e"], ["ve"])]
_DIVIDED = [node("Sqrt", ["ve"], ["r"]), node("Div", ["d", "r"], ["n"])]
NUMBERS = {
    "hw": ints(2, 3), "e": np.array(1e-3, F), "g": weight(5, 1, 1), "b": weight(1, 5, 1, 1), "two": np.array(2, F),
    "half": np.array(0.5, F), "less": np.array(-0.5, F), "flat": ints(1, 5, -1), "tall": ints(1, 5, HEIGHT, WIDTH),
    "last": ints(2), "n1": np.array(HEIGHT * WIDTH - 1, F), "ones": np.ones(5, F), "zeros": np.zeros(5, F),
}  # fmt: skip
# Spellings of one normalisation of channels, from `c` to `y`.
NORMS = {
    "squares by power": [*_CENTRED, node("Pow", ["d", "two"], ["q"]), *_VARIANCE[1:], *_DIVIDED, *_AFFINE],
    "squares by product": [*_CENTRED, *_VARIANCE, *_DIVIDED, *_AFFINE],
    "root by power": [*_CENTRED, *_VARIANCE, node("Pow", ["ve", "half"], ["r"]), node("Div", ["d", "r"], ["n"]), *_AFFINE],
    "inverse root by power": [
        *_CENTRED,
        *_VARIANCE,
        node("Pow", ["ve", "less"], ["r"]),
        node("Mul", ["d", "r"], ["n"]),
        *_AFFINE,
    ],
    "reciprocal": [
        *_CENTRED,
        *_VARIANCE,
        node("Sqrt", ["ve"], ["s"]),
        node("Reciprocal", ["s"], ["r"]),
        node("Mul", ["d", "r"], ["n"]),
        *_AFFINE,
    ],
    "mean of squares": [
        node("ReduceMean", ["c", "hw"], ["m"], keepdims=1),
        node("Mul", ["c", "c"], ["cc"]),
        node("ReduceMean", ["cc", "hw"], ["c2"], keepdims=1),
        node("Mul", ["m", "m"], ["m2"]),
        node("Sub", ["c2", "m2"], ["v"]),
        node("Add", ["v", "e"], ["ve"]),
        node("Sub", ["c", "m"], ["d"]),
        *_DIVIDED,
        *_AFFINE,
    ],
    "TensorFlow's batch norm": [
        *_CENTRED,
        *_VARIANCE,
        node("Sqrt", ["ve"], ["s"]),
        node("Reciprocal", ["s"], ["r"]),
        node("Mul", ["r", "g"], ["k"]),
        node("Mul", ["c", "k"], ["ck"]),
        node("Mul", ["m", "k"], ["mk"]),
        node("Sub", ["b", "mk"], ["o"]),
        node("Add", ["ck", "o"], ["y"]),
    ],
    "global pools": [
        node("GlobalAveragePool", ["c"], ["m"]),
        node("Sub", ["c", "m"], ["d"]),
        node("Mul", ["d", "d"], ["q"]),
        node("GlobalAveragePool", ["q"], ["v"]),
        node("Add", ["v", "e"], ["ve"]),
        *_DIVIDED,
        *_AFFINE,
    ],
    "of three axes": [
        node("Reshape", ["c", "flat"], ["f"]),
        node("InstanceNormalization", ["f", "ones", "zeros"], ["nf"]),
        node("Reshape", ["nf", "tall"], ["n"]),
        *_AFFINE,
    ],
    "flattened": [
        node("Reshape", ["c", "flat"], ["f"]),
        node("ReduceMean", ["f", "last"], ["m"], keepdims=1),
        node("Sub", ["f", "m"], ["d"]),
        node("Mul", ["d", "d"], ["q"]),
        node("ReduceMean", ["q", "last"], ["v"], keepdims=1),
        node("Add", ["v", "e"], ["ve"]),
        node("Sqrt", ["ve"], ["r"]),
        node("Div", ["d", "r"], ["nf"]),
        node("Reshape", ["nf", "tall"], ["n"]),
        *_AFFINE,
    ],
    "unbiased": [
        *_CENTRED,
        node("Mul", ["d", "d"], ["q"]),
        node("ReduceSum", ["q", "hw"], ["sum"], keepdims=1),
        node("Div", ["sum", "n1"], ["v"]),
        node("Add", ["v", "e"], ["ve"]),
        *_DIVIDED,
        *_AFFINE,
    ],
    "residual": [
        *_CENTRED,
        *_VARIANCE,
        *_DIVIDED,
        node("Mul", ["n", "g"], ["ng"]),
        node("Add", ["ng", "b"], ["nb"]),
        node("Add", ["nb", "c"], ["y"]),
    ],
}
# What looks like it and is none.
NO_NORMS = {
    "epsilon outside": [
        *_CENTRED,
        *_VARIANCE[:2],
        node("Sqrt", ["v"], ["s"]),
        node("Add", ["s", "e"], ["r"]),
        node("Div", ["d", "r"], ["n"]),
        *_AFFINE,
    ],
    "over all channels": [
        node("ReduceMean", ["c", "chw"], ["m"], keepdims=1),
        node("Sub", ["c", "m"], ["d"]),
        node("Mul", ["d", "d"], ["q"]),
        node("ReduceMean", ["q", "chw"], ["v"], keepdims=1),
        node("Add", ["v", "e"], ["ve"]),
        *_DIVIDED,
        *_AFFINE,
    ],
    "without a mean": [
        node("Mul", ["c", "c"], ["q"]),
        *_VARIANCE[1:],
        node("Sqrt", ["ve"], ["r"]),
        node("Div", ["c", "r"], ["n"]),
        *_AFFINE,
    ],
}

_SIX, _SIXFOLD = ints(1, 5, HEIGHT, 1, WIDTH, 1), ints(1, 5, 2 * HEIGHT, 2 * WIDTH)
# Mazes that only repeat pixels.
MAZES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "expand": (
        [node("Reshape", ["c", "a"], ["p"]), node("Expand", ["p", "t"], ["q"]), node("Reshape", ["q", "o"], ["y"])],
        {"a": _SIX, "t": ints(1, 5, HEIGHT, 2, WIDTH, 2), "o": _SIXFOLD},
    ),
    "tile": (
        [node("Reshape", ["c", "a"], ["p"]), node("Tile", ["p", "t"], ["q"]), node("Reshape", ["q", "o"], ["y"])],
        {"a": _SIX, "t": ints(1, 1, 1, 2, 1, 2), "o": _SIXFOLD},
    ),
    "concat": (
        [node("Unsqueeze", ["c", "u"], ["p"]), node("Concat", ["p", "p"], ["q"], axis=-1), node("Reshape", ["q", "w"], ["r"]),
         node("Concat", ["r", "r"], ["s"], axis=3), node("Reshape", ["s", "o"], ["y"])],
        {"u": ints(4), "w": ints(1, 5, HEIGHT, 2 * WIDTH), "o": _SIXFOLD},
    ),
    "gather": (
        [node("Gather", ["c", "i"], ["p"], axis=2), node("Gather", ["p", "j"], ["y"], axis=3)],
        {"i": np.arange(HEIGHT).repeat(3), "j": np.arange(WIDTH).repeat(2)},
    ),
}  # fmt: skip
_FOURFOLD = node("Conv", ["c", "four"], ["k"])
_TAKEN = node("Reshape", ["k", "a"], ["p"])
_LAID = node("Reshape", ["q", "o"], ["y"])
_FOUR = {"four": weight(20, 5, 1, 1), "o": _SIXFOLD}
# Mazes that lay channels out as pixels: the order of the channels, nodes, weights.
SHUFFLES = {
    "CRD": (
        [_FOURFOLD, _TAKEN, node("Transpose", ["p"], ["q"], perm=[0, 1, 4, 2, 5, 3]), _LAID],
        {**_FOUR, "a": ints(1, 5, 2, 2, HEIGHT, WIDTH)},
    ),
    "DCR": (
        [_FOURFOLD, _TAKEN, node("Transpose", ["p"], ["q"], perm=[0, 3, 4, 1, 5, 2]), _LAID],
        {**_FOUR, "a": ints(1, 2, 2, 5, HEIGHT, WIDTH)},
    ),
}
# What moves pixels, and does neither.
NO_MAZES: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "doubled": ([node("Concat", ["c", "c"], ["y"], axis=3)], {}),
    "turned": (
        [_FOURFOLD, _TAKEN, node("Transpose", ["p"], ["q"], perm=[0, 1, 4, 3, 5, 2]), _LAID],
        {**_FOUR, "a": ints(1, 5, 2, 2, HEIGHT, WIDTH)},
    ),
}


def tensorflow_file(path: Path, shape: Sequence[int | str] = (1, HEIGHT, WIDTH, 3), opset: int = 18) -> Path:
    """What tf2onnx makes of a small network for style transfer: channels last between convolutions that have them first."""
    last, first = [0, 2, 3, 1], [0, 3, 1, 2]
    nodes = [
        node("Pad", ["x", "border"], ["p"], mode="reflect"),
        node("Transpose", ["p"], ["p1"], perm=first), node("Conv", ["p1", "w1"], ["c1"]),
        node("Transpose", ["c1"], ["c"], perm=last),
        node("ReduceMean", ["c", "hw"], ["m"], keepdims=1), node("Sub", ["c", "m"], ["d"]), node("Mul", ["d", "d"], ["q"]),
        node("ReduceMean", ["q", "hw"], ["v"], keepdims=1), node("Add", ["v", "e"], ["ve"]), node("Pow", ["ve", "half"], ["r"]),
        node("Div", ["d", "r"], ["n"]), node("Mul", ["n", "g"], ["ng"]), node("Add", ["ng", "b"], ["nb"]),
        node("Relu", ["nb"], ["a"]),
        node("Resize", ["a", "", "s"], ["u"], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Transpose", ["u"], ["u1"], perm=first), node("Conv", ["u1", "w2"], ["k1"], pads=[1, 1, 1, 1]),
        node("Transpose", ["k1"], ["k"], perm=last), node("Add", ["k", "bias"], ["kb"]), node("Sigmoid", ["kb"], ["ks"]),
        node("Concat", ["ks", "u"], ["both"], axis=3),
        node("ReduceMean", ["both", "hw"], ["squeezed"], keepdims=1), node("Mul", ["both", "squeezed"], ["scaled"]),
        node("Transpose", ["scaled"], ["z1"], perm=first), node("Conv", ["z1", "w3"], ["z2"], pads=[1, 1, 1, 1]),
        node("Transpose", ["z2"], ["z"], perm=last), node("Tanh", ["z"], ["y"]),
    ]  # fmt: skip
    numbers = {
        "border": ints(0, 1, 1, 0, 0, 1, 1, 0), "w1": FIRST, "hw": ints(1, 2), "e": np.array(1e-3, F), "half": np.array(0.5, F),
        "g": weight(1, 1, 1, 5), "b": weight(5), "s": np.array([1, 2, 2, 1], F), "w2": weight(7, 5, 3, 3), "bias": weight(7),
        "w3": weight(3, 12, 3, 3),
    }  # fmt: skip
    return write(path, nodes, numbers, opset=opset, shape=shape)
