"""Nearest-neighbour upsampling + padding + convolution -> convolution at the low resolution + `DepthToSpace`.

Why: after k x k nearest upsampling every pixel is there k*k times, so the kernel's taps that fall on copies can be added up
beforehand: a 3x3 kernel after x2 becomes a 2x2 kernel for each of the four output phases, 2.25 times fewer multiply-adds, and
RESIZE_NEAREST_NEIGHBOR, which XNNPACK does not run, is gone.

Output pixel k*a + r reads upsampled pixels k*a + r + t - p for taps t = 0..K-1 with padding p, which are low-resolution pixels
a + floor((r + t - p) / k). Zero and replicate padding commute with upsampling; reflection by at most k - 1 is replication.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export.rewrites.draft import Draft, constant, integers, is_only_read_by, static_shape
from export.rewrites.pads import pads_of

Positions = NDArray[np.float64]
_ROUNDING: dict[str, Callable[[Positions], Positions]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


@dataclass(frozen=True)
class _Site:
    """One place where the rewrite applies. `source`: the low-resolution value. `border`: `constant` (zero) or `edge`."""

    source: ir.Value
    conv: ir.Node
    scale: int
    pad: int
    border: str
    weight: NDArray[np.float32]  # (out, in, K, K)


def rewrite(graph: ir.Graph) -> int:
    """Replace every convolution of an upsampled picture; return how many."""
    sites = [site for node in list(graph) if (site := _site(node))]
    for site in sites:
        _replace(graph, site)
    return len(sites)


def _replace(graph: ir.Graph, site: _Site) -> None:
    draft, k = Draft(graph, site.conv), site.scale
    height, width = static_shape(site.source)[2:]  # type: ignore[index]  # _site made sure
    starts, taps = _reach(site.weight.shape[2], site.pad, k)
    first, last = min(starts), max(starts)
    before, after = -first, last + taps - 1
    pads = np.array([0, 0, before, before, 0, 0, after, after], np.int64)
    padded = draft.node("Pad", site.source, draft.constant(pads), mode=site.border) if pads.any() else site.source

    phases = [(down, right) for down in range(k) for right in range(k)]
    kernels = np.concatenate([_phase_kernel(site.weight, site.pad, k, phase, starts, taps) for phase in phases])
    bias = constant(site.conv.inputs[2]) if len(site.conv.inputs) > 2 else None
    bias = np.zeros(len(site.weight), np.float32) if bias is None else bias
    wide = draft.node("Conv", padded, draft.constant(kernels), draft.constant(np.tile(bias, k * k)), kernel_shape=[taps, taps])

    channels = len(site.weight)
    pieces = []
    for index, (down, right) in enumerate(phases):
        piece = draft.slice(wide, 1, index * channels, (index + 1) * channels) if last > first else wide
        for axis, start, length in ((2, starts[down], height), (3, starts[right], width)):
            if last > first:
                piece = draft.slice(piece, axis, start - first, start - first + length)
        pieces.append(piece)
    stacked = _stack(draft, pieces) if last > first else wide
    draft.replace(draft.node("DepthToSpace", stacked, blocksize=k, mode="DCR"))


def _reach(kernel: int, pad: int, scale: int) -> tuple[list[int], int]:
    """For each phase the first low-resolution offset that it reads, and how many taps the widest phase needs."""
    starts = [(phase - pad) // scale for phase in range(scale)]
    ends = [(phase + kernel - 1 - pad) // scale for phase in range(scale)]
    return starts, max(end - start + 1 for start, end in zip(starts, ends, strict=True))


def _phase_kernel(
    weight: NDArray[np.float32], pad: int, scale: int, phase: tuple[int, int], starts: list[int], taps: int
) -> NDArray[np.float32]:
    """The kernel (out, in, taps, taps) of one phase: taps that fall on the same low-resolution pixel are added, in float64."""
    size = weight.shape[2]
    folded = np.zeros((*weight.shape[:2], taps, taps), np.float64)
    for row in range(size):
        for column in range(size):
            y = (phase[0] + row - pad) // scale - starts[phase[0]]
            x = (phase[1] + column - pad) // scale - starts[phase[1]]
            folded[:, :, y, x] += weight[:, :, row, column]
    return folded.astype(np.float32)


def _stack(draft: Draft, pieces: list[ir.Value]) -> ir.Value:
    while len(pieces) > 1:
        groups = [pieces[i : i + 4] for i in range(0, len(pieces), 4)]
        pieces = [draft.node("Concat", *group, axis=1) if len(group) > 1 else group[0] for group in groups]
    return pieces[0]


def _site(conv: ir.Node) -> _Site | None:
    if conv.op_type != "Conv" or not _is_plain(conv):
        return None
    weight, value = constant(conv.inputs[1]), conv.inputs[0]
    if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3] or weight.dtype != np.float32 or value is None:
        return None
    pads, border = integers(conv, "pads", (0, 0, 0, 0)), "constant"
    reader, producer = conv, value.producer()
    if producer is not None and producer.op_type == "Pad" and is_only_read_by(value, conv) and not any(pads):
        found = _uniform_pad(producer)
        if found is None:
            return None
        pads, border = (found[0],) * 4, found[1]
        value, reader = producer.inputs[0], producer
        producer = value.producer() if value is not None else None
    if value is None or producer is None or not is_only_read_by(value, reader):
        return None
    scale = _nearest_scale(producer)
    if (
        scale is None
        or len(set(pads)) != 1
        or pads[0] * 2 != weight.shape[2] - 1
        or (border == "reflect" and pads[0] > scale - 1)
    ):
        return None
    source = producer.inputs[0]
    assert source is not None
    return _Site(source, conv, scale, pads[0], "constant" if border == "constant" else "edge", weight)


def _is_plain(conv: ir.Node) -> bool:
    auto_pad, group = conv.attributes.get("auto_pad"), conv.attributes.get("group")
    return (
        (auto_pad is None or auto_pad.as_string() == "NOTSET")
        and (group is None or group.as_int() == 1)
        and set(integers(conv, "strides", (1,))) == {1}
        and set(integers(conv, "dilations", (1,))) == {1}
    )


def _uniform_pad(node: ir.Node) -> tuple[int, str] | None:
    """(width, mode) of a `Pad` by the same number of pixels on all four sides and nowhere else."""
    mode, pads = node.attributes.get("mode"), pads_of(node)
    name = mode.as_string() if mode is not None else "constant"
    if not pads or set(pads) != {2, 3} or len({n for both in pads.values() for n in both}) != 1:
        return None
    fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1)
    if name not in ("constant", "reflect", "edge") or (name == "constant" and (fill is None or np.any(fill != 0))):
        return None
    return pads[2][0], name


def _nearest_scale(node: ir.Node) -> int | None:
    """k when `node` repeats every pixel k x k times, worked out from its rule for coordinates; else None."""
    if node.op_type != "Resize":
        return None
    text = {name: node.attributes[name].as_string() for name in ("mode", "coordinate_transformation_mode", "nearest_mode")
            if name in node.attributes}  # fmt: skip
    small, large = static_shape(node.inputs[0]), static_shape(node.outputs[0])
    if text.get("mode", "nearest") != "nearest" or small is None or large is None or len(small) != 4 or small[:2] != large[:2]:
        return None
    scale = large[2] // small[2]
    if scale < 2 or any(big != scale * little for big, little in zip(large[2:], small[2:], strict=True)):
        return None
    index = np.arange(scale * 4, dtype=np.float64)
    match text.get("coordinate_transformation_mode", "half_pixel"):
        case "asymmetric":
            position = index / scale
        case "half_pixel" | "pytorch_half_pixel":
            position = (index + 0.5) / scale - 0.5
        case _:
            return None
    rounded = _ROUNDING[text.get("nearest_mode", "round_prefer_floor")](position)
    return scale if np.array_equal(np.maximum(rounded, 0), index // scale) else None
