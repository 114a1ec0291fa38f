"""ONNX Runtime on this CPU, for `.onnx` files."""

from __future__ import annotations

from pathlib import Path

from android_bench.backends import Backend, Opened
from android_bench.inputs import for_ports
from android_bench.job import Job


def open_file(job: Job) -> Opened:
    """Load the file with the job's threads and set random inputs. Raises ArtifactError, UsageError."""
    from export.runtime import kind_of, layout_of, load

    runner = load(Path(job.path), job.threads)
    usual = {"onnx": "NCHW", "tflite": "NHWC"}[kind_of(Path(job.path))]
    tensors = for_ports(runner.inputs, layout_of(runner.inputs, usual), job.size, job.seed)
    return Opened(runner.bound(tensors), tuple(tensor.shape for tensor in tensors), runner.executed())


BACKEND = Backend(
    name="onnx_cpu",
    device="cpu",
    kind="onnx",
    open=open_file,
    imports=("export.runtime", "onnxruntime"),
    packages=("onnxruntime",),
)
