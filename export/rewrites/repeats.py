"""A maze of reshapes, concats, gathers and transposes that only repeats or shuffles pixels -> `Resize` nearest, `DepthToSpace`,
or nothing at all.

Why: old exporters spell both so, in three to thirty nodes of up to six axes, that no delegate runs, that the converter may lay
out wrongly, and that the rewrites to a sub-pixel convolution and of pixel shuffles do not see. The maze is run on the numbers
0, 1, 2 ...: where each comes out tells.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from export.rewrites import probe
from export.rewrites.draft import Draft, constant, static_shape

_LARGEST = 1 << 24  # values of a tensor that is tried
_TRIVIAL = frozenset({"Identity", "DepthToSpace"})


def rewrite(graph: ir.Graph) -> int:
    """Replace the last tensor of every such maze; return how many."""
    order, places = probe.order_of(graph), 0
    for value in list(probe.pictures(graph)):
        shape, maker = static_shape(value), value.producer()
        if shape is None or len(shape) != 4 or prod(shape) > _LARGEST or (maker is not None and maker.graph is None):
            continue
        if maker is not None and maker.op_type in probe.MOVEMENT and constant(value) is None and _is_inside(maker):
            continue
        places += _shortened(graph, value, shape, order)
    return places


def _is_inside(maker: ir.Node) -> bool:
    """True when the maze begins further up."""
    first = maker.inputs[0]
    return first is not None and len(static_shape(first) or ()) == 4 and maker.op_type not in ("Concat", "Slice", "Split")


def _shortened(graph: ir.Graph, value: ir.Value, shape: tuple[int, ...], order: dict[ir.Node, int]) -> int:
    nodes = probe.hanging_on(value, probe.MOVEMENT, order)
    if len(nodes) < 2 and not (nodes and nodes[0].op_type in ("Tile", "Gather", "Expand")):
        return 0
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(shape)
    values = probe.run(nodes, value, numbers)
    for node in reversed(nodes):
        output = node.outputs[0]
        made = values.get(output)
        if len(node.outputs) != 1 or made is None or node.op_type in _TRIVIAL or made.ndim != 4:
            continue
        draft = Draft(graph, node)
        meant = _repeated(draft, value, _factors(numbers, made)) or _shuffled(draft, value, numbers, made)
        if meant is not None:
            draft.replace(meant)
            return 1
    return 0


def _repeated(draft: Draft, value: ir.Value, factors: tuple[int, int] | None) -> ir.Value | None:
    if factors is None:
        return None
    if factors == (1, 1):
        return draft.node("Identity", value)
    scales = draft.constant(np.array([1, 1, *factors], np.float32))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return draft.node("Resize", value, None, scales, **how)


def _shuffled(draft: Draft, value: ir.Value, numbers: probe.Array, made: probe.Array) -> ir.Value | None:
    """Blocks of channels that become blocks of pixels, in one of the two orders that ONNX knows."""
    block = made.shape[2] // numbers.shape[2]
    if block < 2 or numbers.shape[1] % (block * block):
        return None
    for mode in ("CRD", "DCR"):
        if np.array_equal(probe.depth_to_space(numbers, block, mode), made):
            return draft.node("DepthToSpace", value, blocksize=block, mode=mode)
    return None


def _factors(numbers: probe.Array, made: probe.Array) -> tuple[int, int] | None:
    """How often each row and column is repeated, when that is all."""
    if made.shape[:2] != numbers.shape[:2]:
        return None
    height, width = (int(b // a) for a, b in zip(numbers.shape[2:], made.shape[2:], strict=True))
    if height < 1 or width < 1 or made.shape[2:] != (numbers.shape[2] * height, numbers.shape[3] * width):
        return None
    repeated = numbers.repeat(height, 2).repeat(width, 3)
    return (height, width) if np.array_equal(repeated, made) else None
