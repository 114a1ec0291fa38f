"""Convolutions and pools that leave their padding to a rule (`SAME_UPPER`, a transposed one's `output_shape`) -> pads in numbers.

Why: the converter guesses other pads for the transposed ones, and the rewrite to sub-pixel convolutions reads numbers. It also
wants the size of a transposed convolution's kernel, which the standard lets out where the weight has it.
"""

from __future__ import annotations

import onnx_ir as ir

from export.rewrites.draft import integers, static_shape

_PADDED = frozenset({"Conv", "MaxPool", "AveragePool", "ConvTranspose"})
_RULES = frozenset({"SAME_UPPER", "SAME_LOWER", "VALID"})


def rewrite(graph: ir.Graph) -> int:
    """Write the pads of every such node of known shape; return how many."""
    return sum(_is_sized(node) | (_has_rule(node) and _is_numbered(node)) for node in graph if node.op_type in _PADDED)


def _has_rule(node: ir.Node) -> bool:
    return _rule(node) in _RULES or "output_shape" in node.attributes


def _rule(node: ir.Node) -> str:
    return node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"


def _is_sized(node: ir.Node) -> bool:
    kernel = _kernel(node)
    if node.op_type != "ConvTranspose" or kernel is None or "kernel_shape" in node.attributes:
        return False
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", kernel)
    return True


def _is_numbered(node: ir.Node) -> bool:
    shape, kernel = static_shape(node.inputs[0]), _kernel(node)
    if shape is None or kernel is None or len(shape) != 4:
        return False
    strides, dilations = integers(node, "strides", (1, 1)), integers(node, "dilations", (1, 1))
    reach = [(length - 1) * step + 1 for length, step in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":
        return _transposed(node, shape[2:], strides, reach)
    both = []
    for length, stride, far in zip(shape[2:], strides, reach, strict=True):
        total = max(0, (-(-length // stride) - 1) * stride + far - length) if _rule(node) != "VALID" else 0
        both.append(_shared(total, _rule(node) != "SAME_LOWER"))
    _write(node, both)
    return True


def _transposed(node: ir.Node, sides: tuple[int, ...], strides: tuple[int, ...], reach: list[int]) -> bool:
    """What the picture would be too long by is cut off as padding; what it lacks is added at its end."""
    wanted = integers(node, "output_shape", tuple(length * stride for length, stride in zip(sides, strides, strict=True)))[-2:]
    added = list(integers(node, "output_padding", (0, 0)))
    if _rule(node) == "VALID" and "output_shape" not in node.attributes:
        _write(node, [(0, 0), (0, 0)])
        return True
    both = []
    for axis, (length, stride, far, target) in enumerate(zip(sides, strides, reach, wanted, strict=True)):
        total = stride * (length - 1) + added[axis] + far - target
        if total < 0:
            added[axis], total = added[axis] - total, 0
        both.append(_shared(total, _rule(node) == "SAME_UPPER"))
    if any(extra >= stride for extra, stride in zip(added, strides, strict=True)):
        return False  # more than one stride: no standard form
    _write(node, both)
    node.attributes.pop("output_shape", None)
    if any(added):
        node.attributes["output_padding"] = ir.AttrInt64s("output_padding", added)
    return True


def _kernel(node: ir.Node) -> tuple[int, ...] | None:
    weight = static_shape(node.inputs[1]) if len(node.inputs) > 1 else None
    kernel = integers(node, "kernel_shape", weight[2:] if weight is not None else ())
    return kernel if len(kernel) == 2 else None


def _shared(total: int, upper: bool) -> tuple[int, int]:
    """The odd one goes behind with `upper`, else before."""
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def _write(node: ir.Node, both: list[tuple[int, int]]) -> None:
    pads = [before for before, _ in both] + [after for _, after in both]
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.attributes.pop("auto_pad", None)
