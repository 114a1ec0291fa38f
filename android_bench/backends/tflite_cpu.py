"""The LiteRT interpreter on this CPU, for `.tflite` files: XNNPACK, or, with `--delegate none`, its own kernels."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from android_bench.backends import Backend, Opened
from android_bench.backends.onnx_cpu import open_file
from android_bench.inputs import for_ports
from android_bench.job import Job
from compress.errors import ArtifactError
from export.artifact import Port

DELEGATES = ("xnnpack", "none")


def open_tflite(job: Job) -> Opened:
    """Load the file with the job's threads and set random inputs. Raises ArtifactError, UsageError."""
    return _open_plain(job) if job.options.get("delegate") == "none" else open_file(job)


def _open_plain(job: Job) -> Opened:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from export.runtime import layout_of

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        interpreter = Interpreter(job.path, num_threads=job.threads, experimental_op_resolver_type=plain)
        details = interpreter.get_input_details()
        ports = [_port(detail) for detail in details]
        tensors = for_ports(ports, layout_of(ports, "NHWC"), job.size, job.seed)
        for detail, tensor in zip(details, tensors, strict=True):
            if tuple(detail["shape"]) != tensor.shape:
                interpreter.resize_tensor_input(detail["index"], tensor.shape, strict=True)
        interpreter.allocate_tensors()
        for detail, tensor in zip(details, tensors, strict=True):
            interpreter.set_tensor(detail["index"], tensor)
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"{job.name} cannot be run: {error}") from error
    nodes = len(interpreter._get_ops_details())
    executed = {
        "engine": f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}",
        "requested": "none",
        "delegate": None,
        "nodes": nodes,
        "delegated": 0,
        "partitions": 0,
    }
    return Opened(interpreter.invoke, tuple(tensor.shape for tensor in tensors), executed)


def _port(detail: dict[str, Any]) -> Port:
    """An input; an axis that the file leaves open is None."""
    signed = detail["shape_signature"]
    shape = tuple(None if n < 0 else int(n) for n in (signed if len(signed) == len(detail["shape"]) else detail["shape"]))
    return Port(detail["name"], detail["dtype"].__name__, shape, None, None)


BACKEND = Backend(
    name="tflite_cpu",
    device="cpu",
    kind="tflite",
    open=open_tflite,
    imports=("export.runtime", "ai_edge_litert.interpreter"),
    packages=("ai-edge-litert",),
    choice="delegate",
)
