"""A graph of ONNX operators as a torch module, and litert-torch's file of it. Runs under another Python, which has none of ours.

Reads `graph.json` and `constants.npz` from the folder it is started in, writes `made.tflite` there. What moves data and what
computes stays as the graph has it: what was rewritten stays rewritten. Imports the standard library, numpy and torch;
litert_torch only where it converts. Never here: rewriting, quantising, judging the result.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Array = np.ndarray[Any, Any]
GRAPH, CONSTANTS, FILE = "graph.json", "constants.npz", "made.tflite"


class NotUnderstoodError(ValueError):
    """An operator is used in a way that has no place here."""


class Fixed(NamedTuple):
    """A constant: as a tensor for what computes with it, as an array for what has to know its numbers beforehand."""

    tensor: Tensor
    array: Array


Value = Tensor | Fixed | None  # None: an input that is left out
Attributes = dict[str, Any]
Operator = Callable[[Attributes, list[Value]], Any]  # -> a tensor, or one for each output


class GraphModule(nn.Module):
    """`graph`: `inputs`, `outputs` (names) and `nodes` in order, each with `op`, `place` (what a person calls it), `inputs` (""
    where one is left out), `outputs` and `attributes`. Operators have their meaning of opset 18; every shape is static.
    """

    def __init__(self, graph: dict[str, Any], constants: dict[str, Array]) -> None:
        super().__init__()
        self._graph = graph
        self._arrays = constants
        self._buffers_of = {name: f"constant_{n}" for n, name in enumerate(constants)}
        for name, buffer in self._buffers_of.items():
            self.register_buffer(buffer, torch.from_numpy(np.array(constants[name])))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        values: dict[str, Value] = {"": None}
        for name, buffer in self._buffers_of.items():
            values[name] = Fixed(getattr(self, buffer), self._arrays[name])
        values.update(zip(self._graph["inputs"], tensors, strict=True))
        for node in self._graph["nodes"]:
            try:
                made = OPERATORS[node["op"]](node["attributes"], [values[name] for name in node["inputs"]])
            except NotUnderstoodError as error:
                raise NotUnderstoodError(f"{node['place']}: {error}") from error
            values.update(zip(node["outputs"], made if isinstance(made, (tuple, list)) else [made], strict=False))
        return tuple(tensor(values[name]) for name in self._graph["outputs"])


def tensor(value: Value) -> Tensor:
    """Of a value that is there."""
    assert value is not None
    return value.tensor if isinstance(value, Fixed) else value


def numbers(value: Value) -> list[Any]:
    """The numbers of a constant, flat. Raises NotUnderstoodError for what depends on the input."""
    if not isinstance(value, Fixed):
        raise NotUnderstoodError("a size that depends on the input is not understood")
    return value.array.ravel().tolist()  # type: ignore[no-any-return]


def optional(inputs: list[Value], place: int) -> Value:
    """None where an input is left out, at the end of the list too."""
    return inputs[place] if place < len(inputs) else None


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda attributes, inputs: function(tensor(inputs[0]))


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """Of two inputs or more, from the left."""

    def run(attributes: Attributes, inputs: list[Value]) -> Tensor:
        total = tensor(inputs[0])
        for other in inputs[1:]:
            total = function(total, tensor(other))
        return total

    return run


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _sloped(value: Tensor, slope: Tensor) -> Tensor:
    """Without a comparison, which neither XNNPACK nor a GPU runs."""
    return torch.relu(value) - slope * torch.relu(-value)


def _clip(attributes: Attributes, inputs: list[Value]) -> Tensor:
    low, high = (numbers(end)[0] if (end := optional(inputs, place)) is not None else None for place in (1, 2))
    return torch.clamp(tensor(inputs[0]), low, high) if (low, high) != (None, None) else tensor(inputs[0])


def _pads(attributes: Attributes, lengths: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """ONNX's order: all that comes before, then all that comes after."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return attributes.get("pads") or [0] * 2 * len(kernel)
    if auto == "VALID":
        return [0] * 2 * len(kernel)
    before, after = [], []
    for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        needed = max(0, (math.ceil(length / stride) - 1) * stride + dilation * (size - 1) + 1 - length)
        small, large = needed // 2, needed - needed // 2
        before.append(large if auto == "SAME_LOWER" else small)
        after.append(small if auto == "SAME_LOWER" else large)
    return [*before, *after]


def _bordered(value: Tensor, pads: list[int], fill: float = 0.0) -> tuple[Tensor, list[int]]:
    """What a layer pads by itself (the same on both sides), and the value with everything that it cannot."""
    half = len(pads) // 2
    if pads[:half] == pads[half:] and fill == 0:
        return value, pads[:half]
    return F.pad(value, _torch_pads(pads), value=fill), [0] * half


def _torch_pads(pads: list[int]) -> list[int]:
    """ONNX's order -> torch's: last axis first, before and after side by side."""
    half = len(pads) // 2
    return [n for axis in reversed(range(half)) for n in (pads[axis], pads[axis + half])]


def _conv(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, weight, bias = tensor(inputs[0]), tensor(inputs[1]), optional(inputs, 2)
    rank = value.ndim - 2
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads = _pads(attributes, list(value.shape[2:]), list(weight.shape[2:]), strides, dilations)
    value, padding = _bordered(value, pads)
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    bias = None if bias is None else tensor(bias)
    return convolve(value, weight, bias, strides, padding, dilations, attributes.get("group", 1))


def _conv_transpose(attributes: Attributes, inputs: list[Value]) -> Tensor:
    """Without padding, then cut to what padding would have left: torch's own padding is the same on both sides."""
    if attributes.get("output_shape") or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotUnderstoodError("a transposed convolution whose padding is not spelled out is not understood")
    value, weight, bias = tensor(inputs[0]), tensor(inputs[1]), optional(inputs, 2)
    rank = value.ndim - 2
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads, more = attributes.get("pads") or [0] * 2 * rank, attributes.get("output_padding") or [0] * rank
    alike = pads[:rank] == pads[rank:]
    convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    bias = None if bias is None else tensor(bias)
    padding = pads[:rank] if alike else [0] * rank
    found = convolve(value, weight, bias, strides, padding, more, attributes.get("group", 1), dilations)
    if alike:
        return found
    for axis in range(rank):
        found = found.narrow(axis + 2, pads[axis], found.shape[axis + 2] - pads[axis] - pads[axis + rank])
    return found


def _pool(fill: float, pools: tuple[Any, Any, Any]) -> Operator:
    """`fill`: what lies outside of the picture, zero for means."""

    def run(attributes: Attributes, inputs: list[Value]) -> Tensor:
        value, kernel = tensor(inputs[0]), attributes["kernel_shape"]
        rank = len(kernel)
        strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
        pads = _pads(attributes, list(value.shape[2:]), kernel, strides, dilations)
        ceil = bool(attributes.get("ceil_mode", 0))
        if fill:
            value, padding = _bordered(value, pads, fill) if any(pads) else (value, [0] * rank)
            return pools[rank - 1](value, kernel, strides, padding, dilations, ceil)
        inside = bool(attributes.get("count_include_pad", 0))
        if any(n != 1 for n in dilations) or (pads[:rank] != pads[rank:] and not inside):
            raise NotUnderstoodError("a mean over windows that are dilated, or padded on one side, is not understood")
        value, padding = _bordered(value, pads)
        return pools[rank - 1](value, kernel, strides, padding, ceil, inside)

    return run


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    """Axes from an attribute (older opsets) or an input; none: all of them."""

    def run(attributes: Attributes, inputs: list[Value]) -> Tensor:
        value, named = tensor(inputs[0]), optional(inputs, 1)
        axes = attributes.get("axes") if named is None else numbers(named)
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return value
        return function(value, axes or list(range(value.ndim)), bool(attributes.get("keepdims", 1)))

    return run


def _per_channel(value: Value, rank: int) -> Tensor:
    return tensor(value).reshape(1, -1, *(1,) * (rank - 2))


def _batch_norm(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, epsilon = tensor(inputs[0]), attributes.get("epsilon", 1e-5)
    scale, shift, mean, variance = map(tensor, inputs[1:5])
    return F.batch_norm(value, mean, variance, scale, shift, eps=epsilon)


def _instance_norm(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value = tensor(inputs[0])
    axes = list(range(2, value.ndim))
    centred = value - value.mean(axes, keepdim=True)
    inverse = torch.rsqrt((centred * centred).mean(axes, keepdim=True) + attributes.get("epsilon", 1e-5))
    return centred * (inverse * _per_channel(inputs[1], value.ndim)) + _per_channel(inputs[2], value.ndim)


def _layer_norm(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value = tensor(inputs[0])
    shape = value.shape[attributes.get("axis", -1) % value.ndim :]
    shift = optional(inputs, 2)
    return F.layer_norm(value, shape, eps=attributes.get("epsilon", 1e-5)) * tensor(inputs[1]) + (
        tensor(shift) if shift is not None else 0
    )


def _gemm(attributes: Attributes, inputs: list[Value]) -> Tensor:
    a, b, c = tensor(inputs[0]), tensor(inputs[1]), optional(inputs, 2)
    a, b = (a.T if attributes.get("transA", 0) else a), (b.T if attributes.get("transB", 0) else b)
    found = (a @ b) * attributes.get("alpha", 1.0)
    return found if c is None else found + tensor(c) * attributes.get("beta", 1.0)


def _reshape(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, wanted = tensor(inputs[0]), numbers(inputs[1])
    if not attributes.get("allowzero", 0):
        wanted = [value.shape[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    return value.reshape(wanted)


def _flatten(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, axis = tensor(inputs[0]), attributes.get("axis", 1)
    return value.reshape(math.prod(value.shape[: axis % value.ndim if axis < 0 else axis]), -1)


def _axes(attributes: Attributes, inputs: list[Value]) -> list[int] | None:
    named = optional(inputs, 1)
    return attributes.get("axes") if named is None else numbers(named)


def _squeeze(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, axes = tensor(inputs[0]), _axes(attributes, inputs)
    return value.squeeze() if not axes else value.squeeze([axis % value.ndim for axis in axes])


def _unsqueeze(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, axes = tensor(inputs[0]), _axes(attributes, inputs) or []
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes):
        value = value.unsqueeze(axis)
    return value


def _expand(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, wanted = tensor(inputs[0]), numbers(inputs[1])
    return value.expand(torch.broadcast_shapes(value.shape, tuple(wanted))).contiguous()


def _split(attributes: Attributes, inputs: list[Value]) -> tuple[Tensor, ...]:
    value, axis, sizes = tensor(inputs[0]), attributes.get("axis", 0), attributes.get("split")
    if (named := optional(inputs, 1)) is not None:
        sizes = numbers(named)
    if sizes is None:
        each = math.ceil(value.shape[axis] / attributes["num_outputs"])
        return torch.split(value, each, axis)
    return torch.split(value, sizes, axis)


def _slice(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value = tensor(inputs[0])
    starts, ends = numbers(inputs[1]), numbers(inputs[2])
    axes = numbers(inputs[3]) if optional(inputs, 3) is not None else list(range(len(starts)))
    steps = numbers(inputs[4]) if optional(inputs, 4) is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = int(value.shape[axis])
        taken = range(length)[slice(start, end if step > 0 or end >= -length else None, step)]
        if step < 0:
            value = value.flip(axis)
            taken = range(length - 1 - taken.start, length - 1 - taken.stop, -step)
        index = [slice(None)] * value.ndim
        index[axis] = slice(taken.start, max(taken.start, taken.stop), taken.step)
        value = value[tuple(index)]
    return value


def _gather(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, axis, index = tensor(inputs[0]), attributes.get("axis", 0), inputs[1]
    axis %= value.ndim
    wanted = [n % value.shape[axis] for n in numbers(index)]
    assert isinstance(index, Fixed)
    if index.array.ndim == 0:
        return value.select(axis, wanted[0])
    found = value.index_select(axis, torch.tensor(wanted))
    return found.reshape(*value.shape[:axis], *index.array.shape, *value.shape[axis + 1 :])


def _pad(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, pads = tensor(inputs[0]), numbers(inputs[1])
    axes = numbers(inputs[3]) if optional(inputs, 3) is not None else list(range(value.ndim))
    fill = numbers(inputs[2])[0] if optional(inputs, 2) is not None else 0.0
    found = [0] * 2 * value.ndim
    for place, axis in enumerate(axes):
        found[axis % value.ndim], found[axis % value.ndim + value.ndim] = pads[place], pads[place + len(axes)]
    name = str(attributes.get("mode", "constant"))
    mode = {"edge": "replicate", "wrap": "circular"}.get(name, name)
    if mode == "constant":
        return F.pad(value, _torch_pads(found), value=fill)
    if any(found[:2]) or any(found[value.ndim : value.ndim + 2]):
        raise NotUnderstoodError("a border of batch or channels that is not constant is not understood")
    return F.pad(value, _torch_pads([*found[2 : value.ndim], *found[value.ndim + 2 :]]), mode=mode)


def _cast(attributes: Attributes, inputs: list[Value]) -> Tensor:
    """`to`: a numpy name."""
    return tensor(inputs[0]).to(getattr(torch, attributes["to"]))


def _depth_to_space(attributes: Attributes, inputs: list[Value]) -> Tensor:
    """With channels last, where it is one move of rows; torch's own pixel shuffle becomes four there.

    The pooling of single pixels changes nothing. It is a layer that litert-torch lays out with channels last whatever comes
    next, so that what comes next is; it is taken out of the file again.
    """
    value, size = tensor(inputs[0]), attributes["blocksize"]
    batch, channels, height, width = value.shape
    left = channels // size**2
    last = value.permute(0, 2, 3, 1)
    if attributes.get("mode", "DCR") == "DCR":
        rows = last.reshape(batch * height, width, size, size * left).permute(0, 2, 1, 3)
    else:
        rows = last.reshape(batch * height, width, left, size, size).permute(0, 3, 1, 4, 2)
    return F.max_pool2d(rows.reshape(batch, height * size, width * size, left).permute(0, 3, 1, 2), 1)


def _space_to_depth(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, size = tensor(inputs[0]), attributes["blocksize"]
    batch, channels, height, width = value.shape
    value = value.reshape(batch, channels, height // size, size, width // size, size)
    return value.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size * size, height // size, width // size)


def _resize(attributes: Attributes, inputs: list[Value]) -> Tensor:
    value, scales, sizes = tensor(inputs[0]), optional(inputs, 2), optional(inputs, 3)
    axes = [axis % value.ndim for axis in attributes.get("axes") or range(value.ndim)]
    if attributes.get("antialias", 0) or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotUnderstoodError("a resize that smooths, or keeps a ratio, is not understood")
    wanted = list(value.shape)
    for place, axis in enumerate(axes):
        given = isinstance(sizes, Fixed) and sizes.array.size
        wanted[axis] = int(numbers(sizes)[place]) if given else math.floor(value.shape[axis] * numbers(scales)[place])
    if value.ndim != 4 or wanted[:2] != list(value.shape[:2]):
        raise NotUnderstoodError("a resize of anything but height and width is not understood")
    mode = attributes.get("mode", "nearest")
    where = attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return _nearest(value, wanted[2:], where, attributes.get("nearest_mode", "round_prefer_floor"))
    if mode not in ("linear", "cubic") or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise NotUnderstoodError(f"a resize of mode {mode}, {where}, is not understood")
    return F.interpolate(
        value, wanted[2:], mode={"linear": "bilinear", "cubic": "bicubic"}[mode], align_corners=where == "align_corners"
    )


ROUNDING: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _nearest(value: Tensor, size: list[int], where: str, rounding: str) -> Tensor:
    """By whichever of torch's rules takes the same pixels; else row by row and column by column."""
    taken = [_source(length, wanted, where, rounding) for length, wanted in zip(value.shape[2:], size, strict=True)]
    steps = [(np.arange(wanted), length / wanted) for length, wanted in zip(value.shape[2:], size, strict=True)]
    if all(np.array_equal(found, np.floor(place * step)) for found, (place, step) in zip(taken, steps, strict=True)):
        return F.interpolate(value, size, mode="nearest")
    for axis, found in enumerate(taken):
        value = value.index_select(axis + 2, torch.from_numpy(found))
    return value


def _source(length: int, wanted: int, where: str, rounding: str) -> Array:
    place = np.arange(wanted, dtype=np.float64)
    match where:
        case "asymmetric":
            position = place * length / wanted
        case "align_corners":
            position = place * (length - 1) / max(1, wanted - 1)
        case "half_pixel" | "pytorch_half_pixel":
            position = (place + 0.5) * length / wanted - 0.5
        case _:
            raise NotUnderstoodError(f"a resize with coordinates {where} is not understood")
    return np.clip(ROUNDING[rounding](position), 0, length - 1).astype(np.int64)


OPERATORS: dict[str, Operator] = {
    "Add": _folded(torch.add), "Sub": _folded(torch.sub), "Mul": _folded(torch.mul), "Div": _folded(_divide),
    "Pow": _folded(torch.pow), "Min": _folded(torch.minimum), "Max": _folded(torch.maximum), "Sum": _folded(torch.add),
    "MatMul": _folded(torch.matmul), "PRelu": _folded(_sloped),
    "Equal": _folded(torch.eq), "Greater": _folded(torch.gt), "Less": _folded(torch.lt),
    "GreaterOrEqual": _folded(torch.ge), "LessOrEqual": _folded(torch.le), "And": _folded(torch.logical_and),
    "Or": _folded(torch.logical_or), "Not": _unary(torch.logical_not),
    "Where": lambda attributes, inputs: torch.where(*map(tensor, inputs)),
    "Relu": _unary(torch.relu), "Sigmoid": _unary(torch.sigmoid), "Tanh": _unary(torch.tanh), "Exp": _unary(torch.exp),
    "Log": _unary(torch.log), "Sqrt": _unary(torch.sqrt), "Reciprocal": _unary(torch.reciprocal), "Neg": _unary(torch.neg),
    "Abs": _unary(torch.abs), "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Round": _unary(torch.round),
    "Sign": _unary(torch.sign), "Erf": _unary(torch.erf), "Sin": _unary(torch.sin), "Cos": _unary(torch.cos),
    "Softplus": _unary(F.softplus), "Softsign": _unary(F.softsign), "HardSwish": _unary(F.hardswish), "Mish": _unary(F.mish),
    "Identity": _unary(lambda x: x), "Dropout": _unary(lambda x: x),
    "HardSigmoid": lambda a, i: torch.clamp(tensor(i[0]) * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "LeakyRelu": lambda a, i: F.leaky_relu(tensor(i[0]), a.get("alpha", 0.01)),
    "Elu": lambda a, i: F.elu(tensor(i[0]), a.get("alpha", 1.0)),
    "Celu": lambda a, i: F.celu(tensor(i[0]), a.get("alpha", 1.0)),
    "Gelu": lambda a, i: F.gelu(tensor(i[0]), approximate=a.get("approximate", "none")),
    "Softmax": lambda a, i: torch.softmax(tensor(i[0]), a.get("axis", -1)),
    "LogSoftmax": lambda a, i: torch.log_softmax(tensor(i[0]), a.get("axis", -1)),
    "Clip": _clip, "Conv": _conv, "ConvTranspose": _conv_transpose, "Gemm": _gemm,
    "MaxPool": _pool(-math.inf, (F.max_pool1d, F.max_pool2d, F.max_pool3d)),
    "AveragePool": _pool(0.0, (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)),
    "GlobalAveragePool": _unary(lambda x: x.mean(list(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(list(range(2, x.ndim)), keepdim=True)),
    "ReduceMean": _reduced(torch.mean), "ReduceSum": _reduced(torch.sum), "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin), "ReduceL2": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep).sqrt()),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm,
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Expand": _expand,
    "Transpose": lambda a, i: tensor(i[0]).permute(a.get("perm") or list(reversed(range(tensor(i[0]).ndim)))),
    "Concat": lambda a, i: torch.cat(list(map(tensor, i)), a["axis"]),
    "Tile": lambda a, i: tensor(i[0]).repeat(numbers(i[1])),
    "Split": _split, "Slice": _slice, "Gather": _gather, "Pad": _pad, "Cast": _cast,
    "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth, "Resize": _resize,
}  # fmt: skip


def convert() -> None:
    """The work: one float file, pictures with their channels last."""
    import litert_torch

    with open(GRAPH, encoding="utf-8") as file:
        graph = json.load(file)
    with np.load(CONSTANTS, allow_pickle=False) as arrays:
        constants = {name: arrays[str(n)] for n, name in enumerate(graph["constants"])}
    module: nn.Module = GraphModule(graph, constants).eval()
    taken = [n for n, shape in enumerate(graph["shapes"]) if len(shape) == 4]
    given = [n for n, rank in enumerate(graph["output_ranks"]) if rank == 4]
    examples = tuple(
        torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in zip(graph["shapes"], graph["dtypes"], strict=True)
    )
    if taken or given:
        module = litert_torch.to_channel_last_io(module, args=taken, outputs=given)
        examples = tuple(t.permute(0, 2, 3, 1).contiguous() if t.ndim == 4 else t for t in examples)
    with torch.no_grad():
        litert_torch.convert(module.eval(), examples).export(FILE)


if __name__ == "__main__":
    convert()
