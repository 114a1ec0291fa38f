"""Raises a graph to the opset that the rewrites read, with onnx's converter, and in our own words where its are wrong or missing.

Never here: those words (legacy.py), and judging what comes out (reading.py).
"""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from compress.errors import ConversionError
from export.foreign import legacy

OPSET = 18  # the oldest that the rewrites read
NEWEST = 23  # the newest that ONNX Runtime has
_NO_ADAPTER = re.compile(r"No Adapter (?:From|To) Version \$?\d+ for (\w+)")
_MOST_TRIES = 40
_REFUSALS = (
    RuntimeError, ValueError, IndexError, onnx.checker.ValidationError, onnx.version_converter.ConvertError,
    onnx.shape_inference.InferenceError,
)  # fmt: skip


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that the file says, or the oldest that we need when it says none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)


def raised(model: onnx.ModelProto, name: str, is_sound: bool) -> onnx.ModelProto:
    """The same graph in opset 18 to 23. Raises ConversionError, naming the file `name`, when it cannot be said.

    `is_sound`: somebody has opened it. Else onnx's checker has to: the converter crashes on graphs that contradict themselves.
    """
    opset = opset_of(model)
    wanted = min(max(opset, OPSET), NEWEST)
    also: frozenset[str] = frozenset()
    for _ in range(_MOST_TRIES):
        draft = ir.from_proto(model)
        legacy.park(draft, opset, also)
        parked = ir.to_proto(draft)
        try:
            if not is_sound:
                _check(parked)
            lifted = onnx.version_converter.convert_version(parked, wanted) if opset != wanted else parked
            break
        except _REFUSALS as error:
            unknown = _NO_ADAPTER.search(str(error))
            if unknown is None or unknown[1] in also:
                said = next(iter(str(error).strip().splitlines()), "")[:200]
                raise ConversionError(f"{name} has opset {opset}, which cannot be said in {wanted}: {said}") from error
            also = also | {unknown[1]}  # nobody said what changed: kept as it is, and judged by what it computes
    draft = ir.from_proto(lifted)
    legacy.unpark(draft)
    return ir.to_proto(draft)


def _check(model: onnx.ModelProto) -> None:
    """Raise ValidationError for a graph that contradicts itself. Outputs need not say their shapes, against the letter."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(copy)
