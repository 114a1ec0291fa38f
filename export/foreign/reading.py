"""The way of a stranger's file to a graph that the rest understands: opset 18, float32, channels first; each step proved.

The judge is ONNX Runtime with the file as it was given: after every step, the graph is run on the same picture. Where ONNX
Runtime does not run the file itself (operators from before opset 7), the first form that it runs is the judge, and that is said
aloud. A file in half precision, or of whole numbers, is judged once, with room for its own rounding; then its float form is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass, RemoveInitializersFromInputsPass

from compress.errors import ArtifactError, ConversionError, ParityError
from export import child, parity, runtime
from export.artifact import Port
from export.foreign import file, layout, numbers, opset
from export.parity import Run, Sample
from export.places import place

_IR_VERSIONS = (8, 11)  # below, every weight has to be among the inputs; above, ONNX Runtime refuses the file
_SECONDS = 120  # to open a file
_ROUNDED, _HALF = 1e-4, 5e-2  # how far a step may move the output, as a share of its range: sums in another order


@dataclass(frozen=True)
class Form:
    """What a file is after one step. `turned`: its inputs and outputs that have channels last."""

    step: str
    model: onnx.ModelProto
    tolerance: float = _ROUNDED
    turned: frozenset[str] = frozenset()

    def run(self, runner: runtime.Runner) -> Run:
        """The form as the last one is: float32, channels first. `runner`: of its model."""
        return lambda sample: [
            self._given(tensor, port.name)
            for tensor, port in zip(
                runner.run_tensors([self._taken(sample[port.name], port) for port in runner.inputs]), runner.outputs, strict=True
            )
        ]

    def _taken(self, array: NDArray[np.generic], port: Port) -> NDArray[np.generic]:
        turned = array.transpose(layout.TO_LAST) if port.name in self.turned else array
        return np.ascontiguousarray(turned, port.dtype)

    def _given(self, array: NDArray[np.generic], name: str) -> NDArray[np.float32]:
        real = np.asarray(array, np.float32)
        return np.ascontiguousarray(real.transpose(layout.TO_FIRST)) if name in self.turned else real


@dataclass(frozen=True)
class Judged:
    """`given`: the network, to hold later stages against. `notes`: what a person should know of how the file was understood."""

    given: Run
    notes: tuple[str, ...] = ()


@dataclass
class _Way:
    """Forms so far, newest last."""

    name: str
    forms: list[Form] = field(default_factory=list)

    def step(self, name: str, apply: Callable[[ir.Model], int], tolerance: float = _ROUNDED) -> None:
        draft = ir.from_proto(self.forms[-1].model)
        places = apply(draft)
        if places:
            model = onnx.shape_inference.infer_shapes(_without_inner_types(ir.to_proto(draft)))
            self.forms.append(Form(name, model, tolerance))


def read(path: Path) -> tuple[Form, ...]:
    """Every form of an `.onnx` file, from the file as given to the graph that the rest understands; nothing is run yet.

    Raises ArtifactError for a file that is missing, empty, damaged, without its external data, or whose weights hold NaN;
    ConversionError for one that is too large, or of an opset that cannot be raised.
    """
    path = Path(path)
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # it writes pages about files that are refused in a line
    given = file.load(path)
    way = _Way(path.name, [Form("file", given)])
    way.forms.append(Form("opset", _modern(given, path, _refusal(path, given))))
    way.step("float32", numbers.widen, _HALF if _is_half(given) else _ROUNDED)
    way.step("pixels", numbers.unround)
    _turn(way)
    way.step("tidy", _named)
    lost = numbers.holds_nan(ir.from_proto(way.forms[-1].model))
    if lost is not None:
        graph = way.forms[-1].model.graph
        reader = next((node for node in graph.node if lost.name in node.input), None)
        raise ArtifactError(f"{path}: the weight {lost.name} holds NaN" + (f"; read by {place(graph, reader)}" if reader else ""))
    return tuple(way.forms)


def judge(path: Path, forms: Sequence[Form], sample: Sample) -> Judged:
    """Run every form on `sample` and hold it against the file as given.

    Raises ArtifactError for a file that ONNX Runtime runs in no form, ParityError for a step that moved the output, and for a
    network that gives NaN.
    """
    whole = {name: _pixels(array) for name, array in sample.items()} if takes_pixels(forms) else sample
    base: tuple[Form, Run, parity.Outputs] | None = None
    notes: list[str] = []
    refused: ArtifactError | None = None
    for form in forms:
        try:
            runner = runtime.load(path) if form is forms[0] else runtime.load_graph(form.model.SerializeToString(), path.name)
            run = form.run(runner)
            found = run(whole)
        except ArtifactError as error:
            refused = refused or error
            if form is forms[-1]:
                raise refused from error
            continue
        empty = next((port.name for port, array in zip(runner.outputs, found, strict=True) if not array.size), None)
        if empty is not None:
            raise ConversionError(f"{path.name}: its output {empty} is empty on an ordinary picture")
        if base is None and refused is not None:
            since = f"it was judged from its form in opset {_opset(form)} on"
            notes.append(f"ONNX Runtime does not run {path.name} as it is: {since}")
        if base is not None:
            moved = parity.relative([base[2]], [_as_judged(found, base[0])])
            if not moved <= form.tolerance and not _both_lost(base[2], found):
                what = f"{path.name}: the step {form.step!r} of reading it moved the output"
                raise ParityError(f"{what} by {moved:.1e} of its range (limit {form.tolerance:.0e})")
        if base is None or form.tolerance > parity.TOLERANCE or form.step == "pixels":
            base = (form, run, found)
    assert base is not None
    if not parity.is_finite([base[2]]):
        raise ParityError(f"{path.name}: NaN or infinite values on an ordinary picture{_since(forms[-1].model, whole)}")
    return Judged(base[1], tuple(notes))


def takes_pixels(forms: Sequence[Form]) -> bool:
    """True when the file as given takes whole pixels, so that its format is known."""
    return any(value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for value in forms[0].model.graph.input)


def _refusal(path: Path, model: onnx.ModelProto) -> ArtifactError | None:
    """Why ONNX Runtime does not open the file as it is; None when it does.

    It crashes on some graphs that contradict themselves. Those in which shapes cannot be inferred are opened by a child first.
    """
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, IndexError):
        try:
            runtime.run_apart(path, [], _SECONDS)
        except child.ChildError as error:
            if error.is_hang or error.reason.startswith("crashed"):
                raise ArtifactError(f"{path} cannot be opened: ONNX Runtime {error.reason}") from error
    try:
        runtime.load(path)
    except ArtifactError as error:
        return error
    return None


def _modern(model: onnx.ModelProto, path: Path, refusal: ArtifactError | None) -> onnx.ModelProto:
    """Weights not among the inputs, functions of its own put in, opset 18 or later; types and shapes found again."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(max(copy.ir_version, _IR_VERSIONS[0]), _IR_VERSIONS[1])
    try:
        if copy.functions:
            copy = onnx.inliner.inline_local_functions(copy)
        draft = ir.from_proto(copy)
        RemoveInitializersFromInputsPass()(draft)
        copy = ir.to_proto(draft)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        said = next(iter(str(error).strip().splitlines()), "")[:200]
        raise ArtifactError(f"{path} is no valid ONNX file: {said}") from error
    try:
        lifted = opset.raised(copy, str(path), is_sound=refusal is None)
    except ConversionError as error:
        raise (refusal or error) from error
    try:
        return onnx.shape_inference.infer_shapes(lifted)  # for outputs whose shape the file does not say
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{path}: {next(iter(str(error).strip().splitlines()), '')[:200]}") from error


def _turn(way: _Way) -> None:
    """Channels first, and every earlier form knows what of it has them last."""
    graph = ir.from_proto(way.forms[-1].model).graph
    inputs = layout.inputs_with_channels_last(graph)
    outputs = layout.outputs_with_channels_last(graph)
    before = way.forms
    way.step("layout", lambda model: layout.channels_first(model, inputs, outputs))
    if way.forms[-1].step == "layout":
        last = way.forms[-1]
        way.forms = [replace(f, turned=inputs | outputs) for f in before if f is not last] + [last]
    way.step("channels", layout.name_channels)


def _named(model: ir.Model) -> int:
    """A node without a name gets that of what it makes, so that it can be talked about; those that do nothing any more go."""
    IdentityEliminationPass()(model)
    nameless = [node for node in model.graph if not node.name]
    for node in nameless:
        node.name = next((value.name for value in node.outputs if value.name), node.op_type)
    return len(nameless)


def _without_inner_types(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    return model


def _is_half(model: onnx.ModelProto) -> bool:
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    types = [tensor.data_type for tensor in model.graph.initializer]
    types += [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    casts = [a.i for node in model.graph.node if node.op_type == "Cast" for a in node.attribute if a.name == "to"]
    return any(kind in half for kind in (*types, *casts))


def _pixels(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Whole numbers from 0 to 255, whatever the range was."""
    span = float(array.max() - array.min())
    return np.rint((array - array.min()) * np.float32(255 / span if span else 0))


def _opset(form: Form) -> int:
    return opset.opset_of(form.model)


def _since(model: onnx.ModelProto, sample: Sample) -> str:
    """Words that name the first node whose numbers are not finite."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    made = [name for node in model.graph.node for name in node.output if kinds.get(name) == onnx.TensorProto.FLOAT]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in known)
    runner = runtime.load_graph(wide.SerializeToString())
    found = zip(runner.outputs, runner.run_tensors([sample[port.name] for port in runner.inputs]), strict=True)
    lost = {port.name for port, array in found if array.dtype.kind == "f" and not np.isfinite(array).all()}
    first = next((node for node in model.graph.node if lost & set(node.output)), None)
    return f", from {place(model.graph, first)} on" if first is not None else ""


def _as_judged(found: parity.Outputs, judge: Form) -> parity.Outputs:
    """Whole numbers, where the judge's outputs are: decimals cut off, as its own cast does."""
    whole = [value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for value in judge.model.graph.output]
    return [np.clip(np.trunc(array), 0, 255) if cut else array for array, cut in zip(found, whole, strict=True)]


def _both_lost(a: parity.Outputs, b: parity.Outputs) -> bool:
    """NaN in both: not a step's doing, and found and named later."""
    return not parity.is_finite([a]) and not parity.is_finite([b])
