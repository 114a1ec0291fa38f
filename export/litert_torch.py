"""ONNX -> TFLite through litert-torch, which cannot be installed beside our own packages: the user names a Python that has it.

That Python gets the rewritten graph as JSON and arrays, and a file of ours that needs nothing but numpy and torch
(litert_torch_worker.py); it gives a float file. The other variants are made of that file here (quantise.py), in a child process.

litert-torch joins nested concatenations, which XNNPACK does not run when they are wide; they are nested again. Never here:
running what comes out (runtime.py), judging it (parity.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compress.errors import ArtifactError, ConversionError, MissingToolError, UsageError
from export import child, flatbuffer, litert_torch_worker, quantise, tflite
from export.places import place
from export.rewrites.pads import WIDEST_CONCAT
from export.tflite import Failure, Job
from export.tools import check_tools

COMMAND = child.module("export.litert_torch")
NAME, VERSION = "litert-torch", "0.10"  # other versions have other ways of laying a graph out: none was tried
HINT = "python3 -m venv litert && litert/bin/pip install litert-torch==0.10.0 torch==2.13.0; --converter-python litert/bin/python"
_FLOAT_FILE = "float.tflite"
_STABLEHLO = b"keep_stablehlo_constant"  # with this note TensorFlow's quantiser sees no weight
_ASK = """
import importlib.metadata, json
found = {}
for package in ("litert-torch", "torch", "numpy"):
    try:
        found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""

# What can be made of a float file, by the name of the variant; `ranges` are found when they are asked for.
_MAKERS: dict[str, Callable[[bytes, Callable[[], dict[str, quantise.Range]]], bytes]] = {
    "fp32": lambda payload, ranges: payload,
    "fp16": lambda payload, ranges: quantise.half_weights(payload),
    "dynamic": lambda payload, ranges: quantise.dynamic_weights(payload),
    "int8": lambda payload, ranges: quantise.static(payload, ranges()),
}
VARIANTS = (*_MAKERS, "mixed")


@dataclass(frozen=True)
class Converter:
    """A Python that has litert-torch. `versions`: of its packages, for cards."""

    python: Path
    versions: Mapping[str, str]

    @property
    def toolchain(self) -> dict[str, str]:
        """For a card, where packages of ours have the same names."""
        return {name if name == NAME else f"{NAME}'s {name}": number for name, number in self.versions.items()}


def check_variants(names: Sequence[str]) -> None:
    """Raise UsageError for variants that cannot be made this way."""
    if beyond := [name for name in names if name not in VARIANTS]:
        raise UsageError(f"litert-torch makes no {', '.join(beyond)}", f"it makes {', '.join(VARIANTS)}")


def find(python: Path | None, seconds: float = 120) -> Converter:
    """The converter at `python`, asked for its versions. Raises UsageError; MissingToolError where it is not, or is another."""
    if python is None:
        raise UsageError("litert-torch converts under a Python of its own: --converter-python names it", HINT)
    if not python.is_file() or not os.access(python, os.X_OK):
        raise UsageError(f"--converter-python {python}: no program that can be run", HINT)
    python = python.absolute()  # and not resolved: an environment is known by the link in it
    with child.scratch_folder() as folder:
        try:
            versions = json.loads(child.run([str(python), "-c", _ASK], folder, seconds, foreign=True))
            if not isinstance(versions, dict):
                raise ValueError(versions)
        except (child.ChildError, ValueError) as error:
            said = error.reason if isinstance(error, child.ChildError) else "it does not answer as a Python does"
            raise MissingToolError(f"{python} is no Python of use: {said}", HINT) from error
    for package in (NAME, "torch", "numpy"):
        if package not in versions:
            raise MissingToolError(f"{python} has no {package}", HINT)
    if not versions[NAME].startswith(f"{VERSION}."):
        raise MissingToolError(f"{python} has {NAME} {versions[NAME]}, and {VERSION} is what was tried", HINT)
    return Converter(python, versions)


def convert(job: Job, folder: Path, converter: Converter) -> dict[str, Path | Failure]:
    """The same as `tflite.convert`, by the other converter. Raises ConversionError for an operator that it is not handed;
    MissingToolError, OutputError; child.ChildError when the graph cannot be converted.
    """
    check_tools()
    hand_over(onnx.load_model_from_string(job.onnx), folder)
    worker = shutil.copy(litert_torch_worker.__file__, folder / "worker.py")  # beside it must lie none of our modules
    child.run([str(converter.python), str(worker)], folder, job.seconds, foreign=True)
    made = folder / litert_torch_worker.FILE
    try:
        payload = finished(made.read_bytes() if made.exists() else b"", job.inputs, job.outputs)
    except ArtifactError as error:
        raise ConversionError(f"{NAME} gave no TFLite file: {error.message}") from error
    (folder / _FLOAT_FILE).write_bytes(payload)
    return tflite.make(COMMAND, job, folder)


def hand_over(model: onnx.ModelProto, folder: Path) -> None:
    """Write what the worker reads. Raises ConversionError for an operator that it does not know."""
    graph = model.graph
    for node in graph.node:
        if node.op_type not in litert_torch_worker.OPERATORS or node.domain not in ("", "ai.onnx"):
            raise ConversionError(f"{place(graph, node)} cannot be handed to {NAME}", "--backend onnx2tf may know it")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in arrays]
    np.savez(folder / litert_torch_worker.CONSTANTS, **{str(n): array for n, array in enumerate(arrays.values())})  # type: ignore[arg-type]
    handed = {
        "inputs": [value.name for value in inputs],
        "shapes": [_shape(value) for value in inputs],
        "dtypes": [_dtype(value.type.tensor_type.elem_type) for value in inputs],
        "outputs": [value.name for value in graph.output],
        "output_ranks": [len(_shape(value)) for value in graph.output],
        "constants": list(arrays),
        "nodes": [
            {
                "op": node.op_type,
                "place": place(graph, node),
                "inputs": list(node.input),
                "outputs": list(node.output),
                "attributes": {attribute.name: _plain(attribute) for attribute in node.attribute},
            }
            for node in graph.node
        ],
    }
    (folder / litert_torch_worker.GRAPH).write_text(json.dumps(handed), encoding="utf-8")


def finished(payload: bytes, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    """litert-torch's file with our names in its signature, a name for every tensor, and operators that XNNPACK runs."""
    model = flatbuffer.unpack(payload)
    graph = model.subgraphs[0]
    for n, found in enumerate(graph.tensors):
        found.name = f"tensor_{n}".encode()
    (signature,) = model.signatureDefs
    signature.signatureKey = tflite.SIGNATURE.encode()
    for names, entries in ((inputs, signature.inputs), (outputs, signature.outputs)):
        for entry in entries:
            entry.name = names[_number(entry.name)].encode()
            graph.tensors[entry.tensorIndex].name = entry.name
    model.metadata = [entry for entry in model.metadata or [] if entry.name != _STABLEHLO]
    _drop_single_pixel_pools(model)
    _nest_concatenations(model)
    return flatbuffer.pack(model)


def _drop_single_pixel_pools(model: Any) -> None:
    """What the worker put there to have its way (litert_torch_worker.py). One that makes an output of the file stays."""
    graph = model.subgraphs[0]
    kinds = [op.kind for op in flatbuffer.Graph.of_model(model).ops]
    instead: dict[int, int] = {}
    kept = []
    for kind, op in zip(kinds, graph.operators, strict=True):
        op.inputs = np.array([instead.get(int(tensor), int(tensor)) for tensor in op.inputs], np.int32)
        if kind == "MAX_POOL_2D" and _changes_nothing(op.builtinOptions) and op.outputs[0] not in graph.outputs:
            instead[int(op.outputs[0])] = int(op.inputs[0])
        else:
            kept.append(op)
    graph.operators = kept


def _changes_nothing(pool: Any) -> bool:
    return (pool.filterHeight, pool.filterWidth, pool.strideH, pool.strideW, pool.fusedActivationFunction) == (1, 1, 1, 1, 0)


def _nest_concatenations(model: Any) -> None:
    """No concatenation has more inputs than XNNPACK takes."""
    graph = model.subgraphs[0]
    kinds = [op.kind for op in flatbuffer.Graph.of_model(model).ops]
    found: list[Any] = []
    for kind, op in zip(kinds, graph.operators, strict=True):
        while kind == "CONCATENATION" and len(op.inputs) > WIDEST_CONCAT:
            parts = [op.inputs[n : n + WIDEST_CONCAT] for n in range(0, len(op.inputs), WIDEST_CONCAT)]
            joined = [_joined(model, op, part) if len(part) > 1 else None for part in parts]
            found += [one for one in joined if one is not None]
            op.inputs = np.array([one.outputs[0] if one else part[0] for one, part in zip(joined, parts, strict=True)], np.int32)
        found.append(op)
    graph.operators = found


def _joined(model: Any, like: Any, inputs: Any) -> Any:
    """A concatenation of some of the inputs of `like`, into a tensor of its own."""
    schema, graph = flatbuffer.schema(), model.subgraphs[0]
    first, axis = graph.tensors[inputs[0]], like.builtinOptions.axis
    made, shape = schema.TensorT(), np.array(first.shape, np.int32)
    shape[axis] = sum(graph.tensors[tensor].shape[axis] for tensor in inputs)
    made.shape, made.type, made.buffer, made.name = shape, first.type, 0, f"tensor_{len(graph.tensors)}".encode()
    made.quantization, made.hasRank = schema.QuantizationParametersT(), True
    graph.tensors.append(made)
    op = schema.OperatorT()
    op.opcodeIndex, op.builtinOptionsType, op.builtinOptions = like.opcodeIndex, like.builtinOptionsType, like.builtinOptions
    op.inputs, op.outputs = np.array(inputs, np.int32), np.array([len(graph.tensors) - 1], np.int32)
    return op


def _number(name: bytes) -> int:
    """`args_3` -> 3: signatures are sorted by name, not by place."""
    found = re.search(rb"(\d+)$", name)
    if not found:
        raise ConversionError(f"{NAME} gave a file with a signature of another kind: {name.decode(errors='replace')}")
    return int(found[1])


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _dtype(element: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(element))


def _plain(attribute: onnx.AttributeProto) -> Any:
    """A value that JSON has; of a number for an element's type, numpy's name for it."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "to":
        return _dtype(value)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.ints or attribute.floats else value


def _derive_here(order: dict[str, Any]) -> None:
    """Every variant of the float file, in the child's scratch folder."""
    Path("graph_is_built").touch()
    payload = Path(_FLOAT_FILE).read_bytes()
    for row in order["variants"]:
        if row["way"] == "mixed":
            tflite.ranges_of(order)
        else:
            tflite.keep(row["name"], _MAKERS[row["name"]](payload, lambda: tflite.ranges_of(order)))


if __name__ == "__main__":
    _derive_here(json.loads(Path("job.json").read_text()))
