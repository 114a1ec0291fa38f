"""Tensors that the code makes, and rows looked up in a table: constants of any shape take the width of what they meet."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from compress.channels.labels import FIXED
from compress.channels.operators import handles
from compress.channels.walk import Arguments, Walk, op_of, shape_of

FILLED = {"zeros": 0.0, "ones": 1.0, "zeros_like": 0.0, "ones_like": 1.0, "new_zeros": 0.0, "new_ones": 1.0}


@handles(
    *FILLED, "full", "full_like", "new_full", "empty", "empty_like", "new_empty", "rand_like", "randn_like", "rand", "randn",
    "scalar_tensor",
)  # fmt: skip
def made(walk: Walk, node: Node, arguments: Arguments) -> None:
    """One number everywhere, or unknown ones."""
    op = op_of(node)
    fill: Any = FILLED.get(op, arguments.get("fill_value", np.nan))
    value = float(fill) if isinstance(fill, int | float) else np.nan
    like = arguments.get("self", arguments.get("input"))
    source = [like] if isinstance(like, Node) and op.endswith("_like") and not np.isnan(value) else []
    rank = len(shape_of(node))
    labels = walk.look(source[0]) if source else np.full((1,) * rank, FIXED)
    if not source and not np.isnan(value):
        walk.stretched[node.name] = set(range(rank))
    walk.joint(node, source, labels, lambda values, _: np.array(value), lambda live, values: [np.array(False)] * len(values))


@handles("embedding")
def embedding(walk: Walk, node: Node, arguments: Arguments) -> None:
    """Rows of a table, chosen by number: its columns are channels."""
    table = arguments["weight"]
    if table.name not in walk.data:
        walk.opaque(node, "an embedding that the network computes", 0)
        return
    walk.lay(table, 1)
    labels = walk.look(table)
    if labels.shape[0] > 1:
        walk.opaque(node, "an embedding whose rows are channels elsewhere", 0)
        return
    walk.move(node, [table], np.arange(labels.size).reshape(1, *(1,) * (len(shape_of(node)) - 1), -1))
