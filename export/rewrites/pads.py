"""Reflect and replicate `Pad` -> slices and concats, bit for bit the same.

Why: TFLite makes MIRROR_PAD of it, which XNNPACK does not run: a network with 16 of them is cut into 16 pieces, and the pads
themselves run on one slow thread. XNNPACK runs slices and concats, but no concat of more than five inputs, so wide borders nest.
"""

from __future__ import annotations

import onnx_ir as ir

from export.rewrites.draft import Draft, constant, static_shape

WIDEST_CONCAT = 4


def rewrite_reflect(graph: ir.Graph) -> int:
    """Replace every reflecting `Pad` of a known shape; return how many."""
    return _rewrite(graph, "reflect")


def rewrite_edge(graph: ir.Graph) -> int:
    """Replace every replicating `Pad` of a known shape; return how many."""
    return _rewrite(graph, "edge")


def pads_of(node: ir.Node) -> dict[int, tuple[int, int]] | None:
    """Axis -> (before, after) of a `Pad`, axes without padding left out; None when they are not constant."""
    pads, axes = constant(node.inputs[1]), None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = constant(node.inputs[3])
        if axes is None:
            return None
    if pads is None or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    rank, half = len(node.inputs[0].shape), len(pads) // 2
    named = [int(axis) % rank for axis in (axes if axes is not None else range(half))]
    found = {axis: (int(pads[i]), int(pads[i + half])) for i, axis in enumerate(named)}
    return {axis: both for axis, both in sorted(found.items()) if any(both)}


def _rewrite(graph: ir.Graph, mode: str) -> int:
    places = 0
    for node in list(graph):
        if node.op_type != "Pad" or _mode(node) != mode:
            continue
        pads, shape = pads_of(node), static_shape(node.inputs[0])
        if not pads or shape is None or any(min(both) < 0 for both in pads.values()):
            continue
        draft, value = Draft(graph, node), node.inputs[0]
        assert value is not None
        for axis, (before, after) in pads.items():
            value = _bordered(draft, value, axis, _sources(mode, shape[axis], before, after))
        draft.replace(value)
        places += 1
    return places


def _mode(node: ir.Node) -> str:
    attribute = node.attributes.get("mode")
    return attribute.as_string() if attribute is not None else "constant"


def _sources(mode: str, length: int, before: int, after: int) -> tuple[list[int], list[int]]:
    """Which row each new row copies, above and below."""
    if mode == "edge":
        return [0] * before, [length - 1] * after
    return list(range(before, 0, -1)), [length - 2 - i for i in range(after)]


def _bordered(draft: Draft, value: ir.Value, axis: int, sources: tuple[list[int], list[int]]) -> ir.Value:
    rows = {row: draft.slice(value, axis, row, row + 1) for row in sorted({*sources[0], *sources[1]})}
    above, below = (_joined(draft, axis, [rows[row] for row in side]) for side in sources)
    return _joined(draft, axis, [*above, value, *below])[0]


def _joined(draft: Draft, axis: int, parts: list[ir.Value]) -> list[ir.Value]:
    """Concats of few inputs each, nested until at most one value is left (none, when there is nothing to join)."""
    while len(parts) > 1:
        groups = [parts[i : i + WIDEST_CONCAT] for i in range(0, len(parts), WIDEST_CONCAT)]
        parts = [draft.node("Concat", *group, axis=axis) if len(group) > 1 else group[0] for group in groups]
    return parts
