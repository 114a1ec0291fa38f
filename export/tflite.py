"""ONNX -> TFLite through onnx2tf and TensorFlow, in a child process: the only file that knows that converter.

The converter's import is slow and noisy; it seeds global random state, rewrites its input file, downloads samples, writes to the
working folder, crashes and hangs. All of that happens to a child in a scratch folder. The SavedModel that it would write
(three times, most of its time) is left out: TensorFlow Lite converts the function in memory.

Its quick mode (`strict=False`) can lay axes out wrongly where sizes are ambiguous; its strict mode is right and slow. So whoever
calls this compares the result. Never here: running what comes out (runtime.py), judging it (parity.py).
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import child, quantise, runtime
from export.parity import Sample
from export.tools import check_tools
from export.variants import REFERENCE, Variant

COMMAND = child.module("export.tflite")
SIGNATURE = "serving_default"
SHAPED = frozenset({"ConvTranspose"})  # operators whose conversion has to know the shapes around them
GPU_SUFFIX = ".gpu.json"  # beside each file: the lines in which TensorFlow's rules refuse it for the GPU delegate


@dataclass(frozen=True)
class Job:
    """`inputs`, `outputs`: names for the signature, in the graph's order. `calibration`: samples for calibrated variants;
    `percentile`: see quantise.ranges.
    """

    onnx: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    variants: tuple[Variant, ...]
    calibration: Sequence[Sample] = ()
    percentile: float = 100.0
    strict: bool = False
    seconds: float = 1800


@dataclass(frozen=True)
class Failure:
    """Why one variant could not be made; `log`: what the converter said."""

    reason: str
    log: str


def convert(job: Job, folder: Path) -> dict[str, Path | Failure]:
    """Make every variant of `job` in `folder`; return variant -> file, or why there is none. For a mixed one, whose layers have
    yet to be chosen (mixed.py), the file is that of the ranges.

    A variant that ends the child ends only itself: the child is started again for those after it. Raises MissingToolError,
    OutputError; child.ChildError when the graph itself cannot be converted.
    """
    check_tools()
    (folder / "graph.onnx").write_bytes(job.onnx)
    return make(COMMAND, job, folder)


def make(command: Sequence[str], job: Job, folder: Path) -> dict[str, Path | Failure]:
    """Run `command` in `folder`, where all that it needs lies, until each variant is made or has failed; see `convert`."""
    if job.calibration:
        arrays = {f"{n}/{name}": array for n, sample in enumerate(job.calibration) for name, array in sample.items()}
        np.savez(folder / "calibration.npz", **arrays)  # type: ignore[arg-type]
    results: dict[str, Path | Failure] = {}
    while waiting := [variant for variant in job.variants if variant.name not in results]:
        order = {
            "inputs": job.inputs,
            "outputs": job.outputs,
            "strict": job.strict,
            "samples": len(job.calibration),
            "percentile": job.percentile,
        }
        (folder / "job.json").write_text(json.dumps({**order, "variants": [asdict(variant) for variant in waiting]}))
        (folder / "graph_is_built").unlink(missing_ok=True)
        try:
            child.run(command, folder, job.seconds)
            failed = None
        except child.ChildError as error:
            if not (folder / "graph_is_built").exists():
                raise
            failed = Failure(error.reason, error.log)
        made = {variant.name: path for variant in waiting if (path := folder / _file_of(variant)).exists()}
        results |= made
        lost = next((variant.name for variant in waiting if variant.name not in made), None)
        if lost:
            results[lost] = failed or Failure("the converter ended well, but wrote no file", "")
    return results


def _file_of(variant: Variant) -> str:
    return quantise.RANGES if variant.way == "mixed" else f"{variant.name}.tflite"


def in_short(reason: str) -> str:
    """What a failed conversion says, without the compiler's positions where it only lacks an operator."""
    missing = re.search(r"'(tf\.\w+)' op is neither a custom op nor a flex op", reason)
    return f"TFLite has no operator for {missing[1]}" if missing else reason


def signature_name(name: str, taken: Sequence[str]) -> str:
    """A graph's name for a tensor, as TensorFlow allows it, and not one of `taken`."""
    clean = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "tensor"
    clean = clean if clean[0].isalpha() else f"tensor_{clean}"
    return clean if clean not in taken else signature_name(f"{clean}_{len(taken)}", taken)


def _convert_here(order: dict[str, Any]) -> None:
    """The other side of `convert`, in the child's scratch folder."""
    import tensorflow as tf

    model = _keras_model(order)
    concrete, owner = _function(tf, model, order)
    Path("graph_is_built").touch()
    for row in order["variants"]:
        if row["way"] == "mixed":
            ranges_of(order)  # all that is needed of us: mixed.py goes on from there
            continue
        make = _quantised if row["way"] == "static" else _tflite
        keep(row["name"], make(tf, concrete, owner, row, order))


def keep(variant: str, payload: bytes) -> None:
    """Write a variant's file, whole or not at all, and beside it what speaks against a GPU. In the child's scratch folder."""
    partial = Path(f"{variant}.partial")
    partial.write_bytes(payload)
    Path(f"{variant}{GPU_SUFFIX}").write_text(json.dumps(gpu_refusals(str(partial))))
    partial.rename(f"{variant}.tflite")


def _keras_model(order: dict[str, Any]) -> Any:
    import onnx
    import onnx2tf

    def no_download() -> NDArray[np.float32]:
        return np.random.default_rng(0).random((20, 128, 128, 3), np.float32)

    for name, module in list(sys.modules.items()):
        if name.startswith("onnx2tf") and hasattr(module, "download_test_image_data"):
            module.download_test_image_data = no_download  # type: ignore[attr-defined]
    _mind_coordinates()
    graph = onnx.load("graph.onnx")
    odd = [value.name for value in graph.graph.input if len(value.type.tensor_type.shape.dim) not in (2, 4)]
    return onnx2tf.convert(
        onnx_graph=graph,
        output_folder_path="onnx2tf",
        disable_model_save=True,
        disable_strict_mode=not order["strict"],
        keep_shape_absolutely_input_names=odd or None,
        non_verbose=True,
    )


def _mind_coordinates() -> None:
    """From opset 18 on, the converter's Resize forgets `align_corners` and the like; it knows them of older ones."""
    from onnx2tf.ops import Resize

    original = Resize.make_node

    def make_node(**given: Any) -> Any:
        return original(**{**given, "opset": min(given["opset"], 17)})

    Resize.make_node = make_node


def _function(tf: Any, model: Any, order: dict[str, Any]) -> tuple[Any, Any]:
    """The model as one concrete function with our names, and the object that keeps its variables and its signature."""

    def run(*tensors: Any) -> dict[str, Any]:
        found = model(list(tensors) if len(tensors) > 1 else tensors[0])
        found = found if isinstance(found, (list, tuple)) else [found]
        return dict(zip(order["outputs"], found, strict=True))

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype, name) for tensor, name in zip(model.inputs, order["inputs"], strict=True)]
    owner = tf.Module()
    owner.run = tf.function(run, input_signature=specs)
    concrete = owner.run.get_concrete_function()
    owner.variables_ = concrete.graph.variables  # not the model's: it does not know those of grouped convolutions
    return concrete, owner


def _representative(order: dict[str, Any]) -> Callable[[], Any]:
    def samples() -> Any:
        with np.load("calibration.npz") as arrays:
            for n in range(order["samples"]):
                found = {name: arrays[f"{n}/{name}"] for name in order["inputs"]}
                yield {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in found.items()}

    return samples


def gpu_refusals(path: str) -> list[str]:
    """What TensorFlow's rules say against running a file on the GPU delegate, a line each. Operators only, not types."""
    import tensorflow as tf

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        tf.lite.experimental.Analyzer.analyze(model_path=path, gpu_compatibility=True)
    lines = [line.strip() for line in said.getvalue().splitlines()]
    return list(dict.fromkeys(line for line in lines if line.startswith("GPU COMPATIBILITY WARNING")))


def _quantised(tf: Any, concrete: Any, owner: Any, row: dict[str, Any], order: dict[str, Any]) -> bytes:
    """Of the float file, which the first row has made."""
    return quantise.static(Path(f"{REFERENCE}.tflite").read_bytes(), ranges_of(order))


def ranges_of(order: dict[str, Any]) -> dict[str, quantise.Range]:
    """Of every activation of the float file on the job's samples; found once. In the child's scratch folder."""
    path = Path(quantise.RANGES)
    if not path.exists():
        seen = runtime.watch(Path(f"{REFERENCE}.tflite"), _representative(order)())
        path.write_text(json.dumps(quantise.ranges(seen, order["percentile"])))
    return quantise.read_ranges(path)


def _tflite(tf: Any, concrete: Any, owner: Any, row: dict[str, Any], order: dict[str, Any]) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    if row["optimise"]:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if row["weights"]:
        converter.target_spec.supported_types = [getattr(tf, name) for name in row["weights"]]
    if row["operators"]:
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, name) for name in row["operators"]]
    if row["calibrated"]:
        converter.representative_dataset = _representative(order)
    payload: bytes = converter.convert()
    return payload


if __name__ == "__main__":
    _convert_here(json.loads(Path("job.json").read_text()))
