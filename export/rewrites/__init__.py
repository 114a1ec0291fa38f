"""Rewrites of an ONNX graph that change nothing but how fast a phone runs it. One a file, one row here, proved when applied.

They belong to a target, not to a network: what XNNPACK (`cpu`) does not run, a GPU delegate may.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from compress.errors import ParityError
from export.rewrites import (
    broadcast,
    channels_last,
    dilated,
    group_norm,
    instance_norm,
    means,
    norms,
    pads,
    pixel_shuffle,
    repeats,
    same_pads,
    saturation,
    subpixel,
)

TARGETS = ("cpu", "gpu", "npu")

Gap = Callable[[onnx.ModelProto, onnx.ModelProto], float]  # largest difference, as a share of the output's range


@dataclass(frozen=True)
class Rewrite:
    """`apply(graph) -> places`, in place. `tolerance`: 0.0 where only data moves, else what another order of sums may cost."""

    name: str
    apply: Callable[[ir.Graph], int]
    tolerance: float
    targets: frozenset[str]


ALL = frozenset(TARGETS)

# In the order in which they are applied: first what other exporters spell in their own way, so that the rest sees it; sub-pixel
# convolution turns reflection into replication, which is then rewritten.
REWRITES = (
    Rewrite("channels-first", channels_last.rewrite, 1e-4, ALL),
    Rewrite("pixel-repeat", repeats.rewrite, 0.0, ALL),
    Rewrite("spelled-norm", norms.rewrite, 1e-3, ALL),  # E[x^2] - E[x]^2, as the file may have it, cancels
    Rewrite("spatial-mean", means.rewrite, 1e-4, ALL),
    Rewrite("same-pads", same_pads.rewrite, 1e-4, ALL),
    Rewrite("strided-dilation", dilated.rewrite, 1e-4, ALL),
    Rewrite("full-rank-constants", broadcast.rewrite, 0.0, ALL),
    Rewrite("subpixel-convolution", subpixel.rewrite, 1e-4, frozenset({"cpu", "gpu", "npu"})),
    Rewrite("pixel-shuffle", pixel_shuffle.rewrite, 1e-5, ALL),
    Rewrite("saturation", saturation.rewrite, 1e-5, ALL),
    Rewrite("reflect-pad", pads.rewrite_reflect, 0.0, frozenset({"cpu", "npu"})),
    Rewrite("replicate-pad", pads.rewrite_edge, 0.0, frozenset({"cpu", "gpu", "npu"})),
    Rewrite("group-norm", group_norm.rewrite, 1e-4, ALL),
    Rewrite("instance-norm", instance_norm.rewrite, 1e-4, frozenset({"cpu", "gpu", "npu"})),
)


def rewrite(model: onnx.ModelProto, target: str, gap: Gap) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Apply what `target` wants to a model of static shapes; return the new model, and name -> places.

    `gap` runs both models; each rewrite is held against the model before it. Raises ParityError for one that moved the output.
    """
    applied: dict[str, int] = {}
    for row in REWRITES:
        if target not in row.targets:
            continue
        draft = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
        places = row.apply(draft.graph)
        if not places:
            continue
        RemoveUnusedNodesPass()(draft)
        rewritten = ir.to_proto(draft)
        moved = gap(model, rewritten)
        if not moved <= row.tolerance:  # NaN fails, too
            raise ParityError(f"the rewrite {row.name} moved the output by {moved:.1e} of its range (limit {row.tolerance:.1e})")
        model, applied[row.name] = rewritten, places
    return model, applied
