"""Ask the converter until what comes out is right: quickly first, and more carefully when the quick result is wrong.

The judge is the file that was made, executed on real samples against the network as given, not the converter's own word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from compress.errors import ArtifactError, ConversionError, MissingToolError, ParityError
from compress.image_format import ImageFormat
from export import child, litert_torch, metadata, mixed, parity, runtime, tflite
from export.artifact import Parity, Port
from export.explain import LayerGap, explain
from export.parity import Outputs, Sample, Yardstick
from export.samples import InputSpec
from export.tflite import Failure
from export.variants import REFERENCE, VARIANTS, Variant


@dataclass(frozen=True)
class Way:
    """One manner of asking. `shapes`: leave the shapes of all inner values in the graph. `strict`: the converter's slow mode."""

    name: str
    shapes: bool
    strict: bool


# With shapes inside the graph the converter lays sums out as ONNX has them, with a transpose before and after each; without
# them, it may not know what to do.
WAYS = (Way("quick", False, False), Way("quick, with shapes", True, False), Way("strict", True, True))
OF_LITERT_TORCH = (Way("litert-torch", True, False),)


@dataclass(frozen=True)
class Request:
    """A rewritten graph of static shapes, what goes in and out of it, and what is wanted of it. `parent`: see Essentials.

    `converter`: None for onnx2tf, which is installed beside us. `explain`: hold each layer against the float file's.
    """

    graph: onnx.ModelProto
    inputs: Sequence[InputSpec]
    outputs: Sequence[str]
    formats: Sequence[ImageFormat | None]
    size: tuple[int, int]
    parent: str
    variants: Sequence[Variant]
    calibration: Sequence[Sample]
    seconds: float
    percentile: float = 100.0
    least_db: float = 30.0
    converter: litert_torch.Converter | None = None
    explain: bool = False

    @property
    def names(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """The signature's names: graph's input -> its name, and the outputs in order."""
        taken: list[str] = []
        for name in (*(spec.name for spec in self.inputs), *self.outputs):
            taken.append(tflite.signature_name(name, taken))
        count = len(self.inputs)
        return dict(zip((spec.name for spec in self.inputs), taken, strict=False)), tuple(taken[count:])

    def essentials(self, variant: str) -> metadata.Essentials:
        """What the file of `variant` says of itself."""
        inputs, outputs = self.names
        taken = tuple((inputs[spec.name], spec.format if spec.is_picture else None) for spec in self.inputs)
        given = tuple(zip(outputs, self.formats, strict=True))
        return metadata.Essentials(variant, self.size, taken, given, self.parent)


@dataclass(frozen=True)
class Ran:
    """A file that ran: its ports in the network's order, what executed it, and its outputs laid out as the network's.

    `delegates`: name -> what it makes of the file. `search`: how its mix of layers was found. `layers`: how near
    each is to the float file's, when that was asked for.
    """

    path: Path
    engine: str
    delegates: Mapping[str, Any]
    signature: str | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    results: tuple[Outputs, ...]
    search: mixed.Search | None = None
    layers: tuple[LayerGap, ...] = ()
    layers_unknown: str = ""


@dataclass(frozen=True)
class Conversion:
    """`made`: variant -> what ran, or why there is nothing. `reference`: parity of the fp32 file. `way`: what it took."""

    made: Mapping[str, Ran | Failure]
    reference: Parity
    way: Way


def convert(request: Request, yardstick: Yardstick, folder: Path, ways: Sequence[Way] | None = None) -> Conversion:
    """Make and run every variant in `folder`. `ways`: those to try, all that the converter has unless said.

    Raises ConversionError (what the converter said is in its `__cause__`) or ParityError when no way gives a right fp32 file.
    """
    problem: ConversionError | ParityError | None = None
    for index, way in enumerate(ways or (WAYS if request.converter is None else OF_LITERT_TORCH)):
        place = folder / str(index)
        place.mkdir()
        try:
            files = _files(request, way, place)
            first = _ran(request, REFERENCE, files[REFERENCE], yardstick)
        except child.ChildError as error:
            if error.reason.startswith("ModuleNotFoundError"):
                hint = "pip install 'mobile-compress[export]'" if request.converter is None else litert_torch.HINT
                raise MissingToolError(f"the converter lacks a package: {error.reason}", hint) from error
            problem = ConversionError(f"the converter {_as_verb(error.reason)}")
            problem.__cause__ = error
            if error.is_hang:
                break
            continue
        if isinstance(first, Failure):
            problem = ConversionError(f"the converter made no fp32 file that runs: {tflite.in_short(first.reason)}")
            problem.__cause__ = child.ChildError(first.reason, first.log)
            continue
        try:
            reference = yardstick.hold("tflite fp32", first.results)
        except ParityError as error:
            problem = error
            continue
        made: dict[str, Ran | Failure] = {row.name: first for row in request.variants if row.name == REFERENCE}
        for row in request.variants:
            if row.name != REFERENCE:
                run = _mixed if row.way == "mixed" else _ran
                made[row.name] = _with_layers(request, first, run(request, row.name, files[row.name], yardstick), yardstick)
        return Conversion(made, reference, way)
    assert problem is not None
    raise problem


def _files(request: Request, way: Way, folder: Path) -> dict[str, Path | Failure]:
    job = _job(request, way)
    if request.converter is None:
        return tflite.convert(job, folder)
    return litert_torch.convert(job, folder, request.converter)


def _job(request: Request, way: Way) -> tflite.Job:
    graph = onnx.ModelProto()
    graph.CopyFrom(request.graph)
    if not way.shapes:
        needed = {name for node in graph.graph.node if node.op_type in tflite.SHAPED for name in (node.input[0], *node.output)}
        kept = [value for value in graph.graph.value_info if value.name in needed]
        del graph.graph.value_info[:]
        graph.graph.value_info.extend(kept)
    inputs, outputs = request.names
    return tflite.Job(
        onnx=graph.SerializeToString(),
        inputs=tuple(inputs.values()),
        outputs=outputs,
        variants=tuple(row for row in VARIANTS.values() if row in request.variants or row.name == REFERENCE),
        calibration=[{inputs[name]: array for name, array in sample.items()} for sample in request.calibration],
        percentile=request.percentile,
        strict=way.strict,
        seconds=request.seconds,
    )


def _with_layers(request: Request, first: Ran, made: Ran | Failure, yardstick: Yardstick) -> Ran | Failure:
    """With each layer held against the float file's, when that was asked for; on two samples, which is slow enough."""
    if not request.explain or isinstance(made, Failure):
        return made
    try:
        return replace(made, layers=explain(first.path, made.path, _samples(request, yardstick)[:2], request.seconds))
    except child.ChildError as error:
        return replace(made, layers_unknown=error.reason)


def _mixed(request: Request, variant: str, ranges: Path | Failure, yardstick: Yardstick) -> Ran | Failure:
    """Choose the layers of a mixed file, then execute it like any other."""
    if isinstance(ranges, Failure):
        return ranges
    try:
        found = mixed.search(ranges.parent, _samples(request, yardstick), request.least_db, request.seconds)
    except child.ChildError as error:
        return Failure(error.reason, error.log)
    ran = _ran(request, variant, ranges.parent / mixed.FILE, yardstick)
    return ran if isinstance(ran, Failure) else replace(ran, search=found)


def _samples(request: Request, yardstick: Yardstick) -> list[dict[str, NDArray[np.float32]]]:
    """What stages are compared on, as a file takes it."""
    inputs, _ = request.names
    return [{inputs[name]: _as_file(array) for name, array in sample.items()} for sample in yardstick.samples]


def _ran(request: Request, variant: str, made: Path | Failure, yardstick: Yardstick) -> Ran | Failure:
    """Complete a file and execute it on every sample, in a process of its own."""
    if isinstance(made, Failure):
        return made
    try:
        made.write_bytes(metadata.embed_tflite(made.read_bytes(), request.essentials(variant)))
    except ArtifactError as error:
        return Failure(str(error), "")
    _, outputs = request.names
    try:
        seen = runtime.run_apart(made, _samples(request, yardstick), request.seconds)
    except child.ChildError as error:
        return Failure(error.reason, error.log)
    ports_in, ports_out = ({port.name: port for port in ports} for ports in (seen.inputs, seen.outputs))
    if missing := [name for name in outputs if name not in ports_out]:
        return Failure(f"the converter lost its output {missing[0]}", "")
    order = [list(ports_out).index(name) for name in outputs]
    try:
        results = tuple(
            [_as_given(result[place], np.shape(given[n])) for n, place in enumerate(order)]
            for result, given in zip(seen.results, yardstick.given, strict=True)
        )
    except ValueError as error:
        return Failure(str(error), "")
    if not parity.is_finite(results):
        return Failure("it gives NaN or infinite values", "")
    said = request.essentials(variant)
    taken = tuple(replace(ports_in[name], format=form) for name, form in said.inputs)
    given_ports = tuple(replace(ports_out[name], format=form) for name, form in said.outputs)
    return Ran(made, seen.engine, _delegates(made, seen), seen.signature, taken, given_ports, results)


def _delegates(path: Path, seen: runtime.Executed) -> dict[str, Any]:
    """XNNPACK ran it, and is counted; what a GPU would make of it is known by TensorFlow's rules for operators only."""
    ran = seen.executed
    xnnpack = {key: ran[key] for key in ("nodes", "delegated", "partitions", "left") if key in ran} | {"known": "measured"}
    said = path.with_name(f"{path.stem}{tflite.GPU_SUFFIX}")
    refused = json.loads(said.read_text()) if said.exists() else None
    gpu = {"known": "by the operators' rules, not executed", "refused": refused} if refused is not None else {}
    return {"xnnpack": xnnpack} | ({"gpu": gpu} if gpu else {})


def _as_file(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """A TFLite file has channels last where a tensor has four axes; others stay as they are."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def _as_given(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The file's output, laid out as the network's. Raises ValueError when no reading of its axes gives `shape`."""
    if array.ndim == 4:
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim > 2 and array.shape != shape:
        array = np.moveaxis(array, -1, 1)
    if array.shape != shape:
        raise ValueError(f"its output is {'x'.join(map(str, array.shape))}, the network's {'x'.join(map(str, shape))}")
    return array


def _as_verb(reason: str) -> str:
    return reason if reason.startswith(("crashed", "took")) else f"failed: {reason}"
