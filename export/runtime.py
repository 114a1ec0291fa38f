"""Runs `.onnx` and `.tflite` files: the only place that does. Tensors in the file's own layout, or pictures (`as_run`).

A file of fixed size is never resized behind the caller's back: TFLite would then return a picture of the wrong size without
a word. Never here: making files, timing them.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.errors import ArtifactError, ImageError, UsageError, require
from compress.image_format import ImageFormat
from export import child, metadata
from export.artifact import Artifact, Card, Port, Quantisation, card_path, measure, read_artifact

Tensor = NDArray[Any]
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # NHWC RGB pixels, 0..255, to the same


class Runner(Protocol):
    """A loaded file. `engine`: what runs it, with its version. Ports carry no image format: a file does not know it."""

    @property
    def engine(self) -> str: ...

    @property
    def signature(self) -> str | None: ...

    @property
    def inputs(self) -> tuple[Port, ...]: ...

    @property
    def outputs(self) -> tuple[Port, ...]: ...

    def run_tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """One array an input, in order, layout, dtype and shape of the file. Raises ArtifactError for any other."""
        ...

    def bound(self, tensors: Sequence[Tensor]) -> Callable[[], object]:
        """The file with its inputs set: each call runs it once more and does nothing else, so it can be timed."""
        ...

    def executed(self) -> dict[str, Any]:
        """What runs the file, as far as the engine tells: its name and version, delegate, nodes and partitions."""
        ...


def load(path: Path, threads: int | None = None) -> Runner:
    """Open a file with `threads` threads (default: as many as this process may use). Raises ArtifactError, MissingToolError."""
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    if not path.stat().st_size:
        raise ArtifactError(f"{path} is empty")
    kind = kind_of(path)
    threads = threads or len(os.sched_getaffinity(0))
    return OnnxRunner(path, threads) if kind == "onnx" else TfliteRunner(path, threads)


def load_graph(graph: bytes, name: str = "the graph") -> Runner:
    """A serialised ONNX graph that is no file yet. Raises ArtifactError, MissingToolError."""
    return OnnxRunner(Path(name), len(os.sched_getaffinity(0)), graph)


def kind_of(path: Path) -> str:
    """`onnx` or `tflite`, by the suffix. Raises ArtifactError."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".onnx", ".tflite"):
        raise ArtifactError(f"{path} is neither .onnx nor .tflite")
    return suffix[1:]


class OnnxRunner:
    """ONNX Runtime on the CPU."""

    signature: str | None = None

    def __init__(self, path: Path, threads: int, graph: bytes | None = None) -> None:
        require("onnxruntime", "export")
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        self.engine = f"onnxruntime {onnxruntime.__version__}"
        self._path = path
        self._errors = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented,
                        errors.NoModel, errors.RuntimeException, errors.NoSuchFile, UnicodeDecodeError)  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        with _said(path, "is no ONNX file that ONNX Runtime can open", self._errors), contextlib.redirect_stdout(io.StringIO()):
            self._session = onnxruntime.InferenceSession(graph or str(path), options, providers=["CPUExecutionProvider"])
            self.inputs = tuple(map(_onnx_port, self._session.get_inputs()))
            self.outputs = tuple(map(_onnx_port, self._session.get_outputs()))

    def run_tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        _check_tensors(self._path, self.inputs, tensors)
        feeds = {port.name: np.ascontiguousarray(tensor) for port, tensor in zip(self.inputs, tensors, strict=True)}
        with _said(self._path, "fails to run", self._errors):
            return list(self._session.run(None, feeds))

    def bound(self, tensors: Sequence[Tensor]) -> Callable[[], object]:
        self.run_tensors(tensors)  # refuses what does not fit, here and not under the clock
        feeds = {port.name: np.ascontiguousarray(tensor) for port, tensor in zip(self.inputs, tensors, strict=True)}
        return lambda: self._session.run(None, feeds)

    def executed(self) -> dict[str, Any]:
        return {"engine": self.engine, "providers": list(self._session.get_providers())}


class TfliteRunner:
    """The LiteRT interpreter, XNNPACK on; TensorFlow's own when LiteRT is not installed."""

    def __init__(self, path: Path, threads: int) -> None:
        make, self.engine = _interpreter_class()
        self._path = path
        if path.stat().st_size < 8 or path.open("rb").read(8)[4:] != b"TFL3":
            raise ArtifactError(f"{path} is no TFLite file")
        with _said(path, "cannot be opened", (ValueError, RuntimeError)), _silent():
            self._interpreter = make(model_path=str(path), num_threads=threads)
            self._interpreter.allocate_tensors()
        signatures = self._interpreter.get_signature_list()
        self.signature = next(iter(signatures), None)
        self._names = self._signature_names()

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(self._port(detail) for detail in self._interpreter.get_input_details())

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(self._port(detail) for detail in self._interpreter.get_output_details())

    def run_tensors(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        _check_tensors(self._path, self.inputs, tensors)
        interpreter, details = self._interpreter, self._interpreter.get_input_details()
        with _said(self._path, "fails to run", (ValueError, RuntimeError)):
            for detail, tensor in zip(details, tensors, strict=True):
                if tuple(detail["shape"]) != tensor.shape:
                    interpreter.resize_tensor_input(detail["index"], tensor.shape, strict=True)
            interpreter.allocate_tensors()
            for detail, tensor in zip(details, tensors, strict=True):
                interpreter.set_tensor(detail["index"], tensor)
            interpreter.invoke()
            return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]

    def bound(self, tensors: Sequence[Tensor]) -> Callable[[], object]:
        self.run_tensors(tensors)
        return self._interpreter.invoke

    def executed(self) -> dict[str, Any]:
        """`delegated` of `nodes` run in `partitions` pieces of the XNNPACK delegate; `left`: ops outside of them, by name.

        The interpreter lists the original nodes and then the delegate's; what no output needs any more was taken over.
        """
        nodes = self._interpreter._get_ops_details()
        partitions = sum(node["op_name"] == "DELEGATE" for node in nodes)
        outputs = [int(detail["index"]) for detail in self._interpreter.get_output_details()]
        left = Counter(name for name in _names_needed(nodes, outputs) if name != "DELEGATE")
        count = len(nodes) - partitions
        return {
            "engine": self.engine,
            "delegate": "XNNPACK" if partitions else None,
            "nodes": count,
            "delegated": count - left.total(),
            "partitions": partitions,
            "left": dict(sorted(left.items())),
        }

    def _signature_names(self) -> dict[int, str]:
        if self.signature is None:
            return {}
        runner = self._interpreter.get_signature_runner(self.signature)
        details = {**runner.get_input_details(), **runner.get_output_details()}
        return {detail["index"]: name for name, detail in details.items()}

    def _port(self, detail: dict[str, Any]) -> Port:
        signed = detail.get("shape_signature", detail["shape"])
        shape = tuple(None if n < 0 else int(n) for n in (signed if len(signed) == len(detail["shape"]) else detail["shape"]))
        scale, zero_point = detail["quantization"]
        name = self._names.get(detail["index"], detail["name"])
        quantisation = Quantisation(float(scale), int(zero_point)) if scale else None
        return Port(name, np.dtype(detail["dtype"]).name, shape, None, quantisation)


def describe(path: Path, image_format: ImageFormat | None, variant: str = "fp32") -> Artifact:
    """A card for a file that has none, found by opening it.

    `image_format`: of each port of three channels; None: what the file says of itself, if it does. It is opened in a process of
    its own first: a damaged .tflite file crashes the interpreter. Raises ArtifactError.
    """
    path = Path(path)
    runner = load(path) if kind_of(path) == "onnx" else _load_warily(path)
    said = metadata.read(path) if image_format is None else None
    known = dict((*said.inputs, *said.outputs)) if said else {}

    def format_of(port: Port) -> ImageFormat | None:
        return known.get(port.name, image_format) if _channels(port, layout) == 3 else None

    layout = layout_of(runner.inputs, "NHWC" if kind_of(path) == "tflite" else "NCHW")
    card = Card(
        file=path.name,
        **measure(path.read_bytes()),
        kind=kind_of(path),
        layout=layout,
        variant=said.variant if said else variant,
        size=size_of(runner.inputs, layout),
        inputs=tuple(replace(port, format=format_of(port)) for port in runner.inputs),
        outputs=tuple(replace(port, format=format_of(port)) for port in runner.outputs),
        signature=runner.signature,
        ran=runner.engine,
        toolchain=toolchain(runner.engine.split()[0]),
    )
    return Artifact(path, card)


def _load_warily(path: Path) -> Runner:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file")
    try:
        run_apart(path, [], seconds=120)
    except child.ChildError as error:
        raise ArtifactError(f"{path} cannot be opened: the interpreter {error.reason}") from error
    return load(path)


def layout_of(ports: Sequence[Port], usual: str) -> str:
    """NHWC or NCHW, read off the first picture-like port; `usual` where its shape does not tell."""
    for port in ports:
        if len(port.shape) == 4 and (port.shape[1] == 3) != (port.shape[3] == 3):
            return "NCHW" if port.shape[1] == 3 else "NHWC"
    return usual


def size_of(ports: Sequence[Port], layout: str) -> tuple[int, int] | None:
    """(height, width) of the first 4-D port; None when there is none, or either is free."""
    for port in ports:
        if len(port.shape) == 4:
            height, width = port.shape[2:] if layout == "NCHW" else port.shape[1:3]
            return (height, width) if height and width else None
    return None


def toolchain(*packages: str) -> dict[str, str]:
    """Installed versions by package; one that is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_run(source: Path | Artifact, image_format: ImageFormat | None = None, threads: int | None = None) -> Run:
    """Pixels to pixels through a file with one input and a picture among its outputs.

    The card says how pixels become tensors; `image_format` says it for a file without a card, or against its card.
    Raises ArtifactError; the result raises ImageError for a picture of a size that a fixed file does not take.
    """
    artifact = opened(source, image_format)
    card, runner = artifact.card, load(artifact.path, threads)
    outputs = [index for index, port in enumerate(card.outputs) if port.format]
    if len(card.inputs) != 1 or not card.inputs[0].format or not outputs:
        raise ArtifactError(f"{artifact.path} does not say how a picture goes in and comes out", "--image-format says it")
    taken, given = card.inputs[0], card.outputs[outputs[0]]

    def run(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        if pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ImageError(f"pictures must be (N, H, W, 3), got {pictures.shape}")
        if card.size and pictures.shape[1:3] != card.size:
            fixed, got = ("x".join(map(str, size)) for size in (card.size, pictures.shape[1:3]))
            raise ImageError(
                f"{artifact.path.name} takes {fixed} pictures only, got {got}", "compress export --size makes others"
            )
        results = [runner.run_tensors([to_tensor(one[None], taken, card.layout)])[outputs[0]] for one in pictures]
        return np.concatenate([to_pixels(result, given, card.layout) for result in results])

    return run


def to_tensor(pixels: NDArray[Any], port: Port, layout: str) -> Tensor:
    """NHWC RGB pixels, 0..255 -> what the file's `port` takes: its format, layout and quantisation."""
    assert port.format is not None
    tensor = port.format.encode(pixels)
    return quantised(tensor.transpose(0, 3, 1, 2) if layout == "NCHW" else tensor, port)


def to_pixels(tensor: Tensor, port: Port, layout: str) -> NDArray[np.float32]:
    """What the file's `port` gives -> NHWC RGB pixels, clamped to 0..255."""
    assert port.format is not None
    real = dequantised(tensor, port)
    return port.format.decode(real.transpose(0, 2, 3, 1) if layout == "NCHW" else real)


def quantised(real: NDArray[np.float32], port: Port) -> Tensor:
    """Real numbers -> the port's dtype, rounded and clamped when it is an integer."""
    dtype = np.dtype(port.dtype)
    if not np.issubdtype(dtype, np.integer):
        return np.ascontiguousarray(real, dtype)
    scale = port.quantisation or Quantisation(1.0, 0)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(real / scale.scale) + scale.zero_point, limits.min, limits.max).astype(dtype)


def dequantised(stored: Tensor, port: Port) -> NDArray[np.float32]:
    """The port's dtype -> real numbers."""
    if port.quantisation is None or not np.issubdtype(stored.dtype, np.integer):
        return np.asarray(stored, np.float32)
    return (stored.astype(np.float32) - port.quantisation.zero_point) * np.float32(port.quantisation.scale)


@dataclass(frozen=True)
class Executed:
    """What a file did in a process of its own. `outputs`: for each sample, one array a port. `executed`: see Runner."""

    engine: str
    executed: dict[str, Any]
    signature: str | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    results: tuple[tuple[Tensor, ...], ...]


def watch(path: Path, samples: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, NDArray[np.float32]]]:
    """For each sample (name -> array) every number that a `.tflite` file computes, by the tensor's name in the file; what is
    stored as integers comes as the real numbers that they stand for.

    On TFLite's own kernels: a delegate keeps no inner tensors. To be called in a child process, for a file may crash it.
    """
    make, _ = _interpreter_class()
    plain = importlib.import_module(make.__module__).OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _silent():
        interpreter = make(str(path), num_threads=len(os.sched_getaffinity(0)),
                           experimental_preserve_all_tensors=True, experimental_op_resolver_type=plain)  # fmt: skip
        interpreter.allocate_tensors()
    inputs = interpreter.get_signature_runner().get_input_details()
    made = {int(tensor) for node in interpreter._get_ops_details() for tensor in node["outputs"]}
    made |= {int(detail["index"]) for detail in interpreter.get_input_details()}
    kept = [
        d for d in interpreter.get_tensor_details() if d["index"] in made and (d["dtype"] == np.float32 or d["quantization"][0])
    ]
    for sample in samples:
        for name, detail in inputs.items():
            interpreter.set_tensor(detail["index"], sample[name])
        interpreter.invoke()
        yield {d["name"]: _real(interpreter.get_tensor(d["index"]), *d["quantization"]) for d in kept}


def _real(stored: Tensor, scale: float, zero_point: int) -> NDArray[np.float32]:
    return stored if stored.dtype == np.float32 else (stored.astype(np.float32) - zero_point) * np.float32(scale)


def run_apart(path: Path, samples: Sequence[dict[str, Tensor]], seconds: float) -> Executed:
    """Run real-valued `samples` (name -> array) through a file in a child process: what crashes there does not crash here.

    Inputs are quantised and outputs are made real where the file wants integers. Raises child.ChildError.
    """
    with child.scratch_folder() as folder:
        flat = {f"{index}/{name}": array for index, sample in enumerate(samples) for name, array in sample.items()}
        np.savez(folder / "in.npz", **flat)  # type: ignore[arg-type]
        child.run([*child.module("export.runtime"), str(Path(path).resolve()), str(len(samples))], folder, seconds)
        said = json.loads((folder / "ports.json").read_text())
        with np.load(folder / "out.npz") as arrays:
            inputs, outputs = (tuple(map(Port.from_json, said[side])) for side in ("inputs", "outputs"))
            results = tuple(tuple(arrays[f"{index}/{n}"] for n in range(len(outputs))) for index in range(len(samples)))
    return Executed(said["engine"], said["executed"], said["signature"], inputs, outputs, results)


def _run_here(path: Path, samples: int) -> None:
    """The other side of `run_apart`, in the child's scratch folder."""
    runner = load(path)
    results: dict[str, Tensor] = {}
    with np.load("in.npz") as arrays:
        for index in range(samples):
            feeds = [quantised(arrays[f"{index}/{port.name}"], port) for port in runner.inputs]
            for number, (port, tensor) in enumerate(zip(runner.outputs, runner.run_tensors(feeds), strict=True)):
                results[f"{index}/{number}"] = dequantised(tensor, port)
    np.savez("out.npz", **results)  # type: ignore[arg-type]
    about = {"engine": runner.engine, "signature": runner.signature, "executed": runner.executed()}
    ports = {"inputs": [p.to_json() for p in runner.inputs], "outputs": [p.to_json() for p in runner.outputs]}
    Path("ports.json").write_text(json.dumps({**about, **ports}))


def opened(source: Path | Artifact, image_format: ImageFormat | None = None) -> Artifact:
    """The file with its card; without one, what the file says of itself; `image_format` goes before both.

    Raises ArtifactError when nothing says how pictures go in.
    """
    path = source.path if isinstance(source, Artifact) else Path(source)
    if not isinstance(source, Artifact) and not card_path(path).exists() and path.exists():
        artifact = describe(path, image_format)
        if not any(port.format for port in artifact.card.inputs):
            raise ArtifactError(f"{path} has no card beside it ({card_path(path).name})", "--image-format says what a card would")
        return artifact
    artifact = source if isinstance(source, Artifact) else read_artifact(path)
    if not image_format:
        return artifact
    inputs, outputs = (
        tuple(replace(port, format=image_format if len(port.shape) == 4 else None) for port in ports)
        for ports in (artifact.card.inputs, artifact.card.outputs)
    )
    return Artifact(path, replace(artifact.card, inputs=inputs, outputs=outputs))


def _channels(port: Port, layout: str) -> int | None:
    if len(port.shape) != 4:
        return None
    return port.shape[1] if layout == "NCHW" else port.shape[3]


def _onnx_port(value: Any) -> Port:
    dtype = {"float": "float32", "double": "float64"}.get(name := value.type.removeprefix("tensor(").removesuffix(")"), name)
    return Port(value.name, dtype, tuple(n if isinstance(n, int) and n > 0 else None for n in value.shape))


def _interpreter_class() -> tuple[Callable[..., Any], str]:
    for name, package in (("ai_edge_litert.interpreter", "ai-edge-litert"), ("tensorflow.lite.python.interpreter", "tensorflow")):
        try:
            return importlib.import_module(name).Interpreter, f"{package} {version(package)}"
        except ModuleNotFoundError:
            continue
    require("ai_edge_litert", "export")
    raise UsageError("ai-edge-litert is installed without its interpreter")


def _names_needed(nodes: Sequence[dict[str, Any]], outputs: Sequence[int]) -> list[str]:
    """Op names of the nodes that `outputs` (tensor indices) come from, each tensor made by the last node that lists it."""
    makers = {int(tensor): number for number, node in enumerate(nodes) for tensor in node["outputs"]}
    needed: set[int] = set()
    wanted = [makers[tensor] for tensor in outputs if tensor in makers]
    while wanted:
        number = wanted.pop()
        if number not in needed:
            needed.add(number)
            wanted += [makers[int(tensor)] for tensor in nodes[number]["inputs"] if int(tensor) in makers]
    return [str(nodes[number]["op_name"]) for number in sorted(needed)]


def _check_tensors(path: Path, ports: Sequence[Port], tensors: Sequence[Tensor]) -> None:
    if len(tensors) != len(ports):
        raise ArtifactError(f"{path.name} has {len(ports)} inputs, got {len(tensors)}")
    for port, tensor in zip(ports, tensors, strict=True):
        fits = len(port.shape) == tensor.ndim and all(n in (None, m) for n, m in zip(port.shape, tensor.shape, strict=True))
        if not fits or tensor.dtype != port.dtype:
            wanted = "x".join("?" if n is None else str(n) for n in port.shape)
            got = "x".join(map(str, tensor.shape))
            raise ArtifactError(f"{path.name}: {port.name} must be {wanted} {port.dtype}, got {got} {tensor.dtype}")


@contextmanager
def _said(path: Path, problem: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise ArtifactError(f"{path.name} {problem}: {_plain(str(error))}") from error


def _plain(text: str) -> str:
    """One line without ONNX Runtime's own error numbers, source files and C++ signatures."""
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", " ".join(text.split()))
    return re.sub(r"/onnxruntime_src/\S+:\d+ .*?\) ", "", line)[:300]


@contextmanager
def _silent() -> Iterator[None]:
    """The interpreter greets the user on the process's stderr (`INFO: Created ... delegate`), and no setting of it stops that.

    What it says of an error comes in the exception as well.
    """
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    _run_here(Path(sys.argv[1]), int(sys.argv[2]))
