"""Names a node of a graph so that a person finds it: its operator, its name, and the nodes around it.

Never here: deciding what is wrong with it.
"""

from __future__ import annotations

import onnx

_MOST = 3  # neighbours that are named on either side


def place(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """`Einsum 'mix' (after Relu 'r1', Conv 'c2'; before Softmax 's')`."""
    given, taken = set(node.input) - {""}, set(node.output)
    before = [other for other in graph.node if given & set(other.output)]
    after = [other for other in graph.node if taken & set(other.input)]
    words = [f"{word} {_listed(nodes)}" for word, nodes in (("after", before), ("before", after)) if nodes]
    if not before and (names := sorted(given & {value.name for value in graph.input})):
        words.insert(0, f"reads the input {', '.join(names)}")
    if taken & {value.name for value in graph.output}:
        words.append("an output of the graph")
    return f"{called(node)} ({'; '.join(words)})" if words else called(node)


def called(node: onnx.NodeProto) -> str:
    """`Relu 'r1'`, with its domain where that is not the standard one; without a name, the name of what it makes."""
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{operator} {(node.name or next(iter(node.output), ''))!r}"


def _listed(nodes: list[onnx.NodeProto]) -> str:
    more = f" and {len(nodes) - _MOST} more" if len(nodes) > _MOST else ""
    return ", ".join(map(called, nodes[:_MOST])) + more
