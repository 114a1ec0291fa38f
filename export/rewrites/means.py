"""A reshape of the picture to one long axis and the mean along it -> the mean over height and width.

Why: the converter turns the picture before such a reshape, and XNNPACK runs a mean over the two axes of a picture only.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from export.rewrites.draft import Draft, constant, integers, static_shape


def rewrite(graph: ir.Graph) -> int:
    """Replace every `ReduceMean` along the last axis of a flattened (N, C, H, W) value; return how many."""
    places = 0
    for node in list(graph):
        picture = _flattened_picture(node)
        made = static_shape(node.outputs[0]) if picture is not None else None
        if picture is None or made is None:
            continue
        draft = Draft(graph, node)
        mean = draft.node("ReduceMean", picture, draft.constant(np.array([2, 3], np.int64)), keepdims=1)
        shape = static_shape(picture) or ()
        if made != (*shape[:2], 1, 1):
            mean = draft.node("Reshape", mean, draft.constant(np.array(made, np.int64)))
        draft.replace(mean)
        places += 1
    return places


def _flattened_picture(node: ir.Node) -> ir.Value | None:
    """What `node` takes the spatial mean of, when height and width were one axis by then."""
    maker = node.inputs[0].producer() if node.op_type == "ReduceMean" and node.inputs[0] is not None else None
    if maker is None or maker.op_type not in ("Reshape", "Flatten"):
        return None
    before, flat = static_shape(maker.inputs[0]), static_shape(node.inputs[0])
    if before is None or flat is None or len(before) != 4:
        return None
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else np.array(integers(node, "axes", ()))
    if axes is None:
        return None
    reduced = sorted(int(axis) % len(flat) for axis in axes.reshape(-1))
    longer = [axis for axis in reduced if flat[axis] > 1]
    kept = [length for axis, length in enumerate(flat) if axis not in reduced]
    is_last = longer == [len(flat) - 1] and flat[-1] == before[2] * before[3]
    return maker.inputs[0] if is_last and prod(kept) == before[0] * before[1] else None
