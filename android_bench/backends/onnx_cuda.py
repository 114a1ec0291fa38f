"""ONNX Runtime on a CUDA GPU, for `.onnx` files. Inputs and outputs stay on the GPU; a run is over when the outputs are there."""

from __future__ import annotations

from typing import Any

from android_bench import cuda
from android_bench.backends import Backend, Opened
from android_bench.inputs import for_ports
from android_bench.job import Job
from compress.errors import ArtifactError, CompressError, DeviceError, TheirCode, said_by
from export.artifact import Port

PROVIDER = "CUDAExecutionProvider"


def open_file(job: Job) -> Opened:
    """Load the file on the GPU and set random inputs. Raises ArtifactError, DeviceError, MissingToolError, UsageError."""
    cuda.require_onnx_cuda()
    import onnxruntime

    from export.runtime import layout_of

    def say(error: BaseException) -> CompressError:
        return ArtifactError(f"{job.name} cannot be run: {said_by(error)}")

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = job.threads
    with TheirCode(say):
        session = onnxruntime.InferenceSession(job.path, options, providers=[PROVIDER])
        if PROVIDER not in session.get_providers():  # it says so in its log only, and takes the CPU
            raise DeviceError(f"{job.name}: ONNX Runtime finds no CUDA GPU, or not the cuDNN that it needs", cuda.HINT, "no-gpu")
        ports = [_port(node) for node in session.get_inputs()]
        tensors = for_ports(ports, layout_of(ports, "NCHW"), job.size, job.seed)
        bound = session.io_binding()
        for port, tensor in zip(ports, tensors, strict=True):
            bound.bind_ortvalue_input(port.name, onnxruntime.OrtValue.ortvalue_from_numpy(tensor, "cuda", 0))
        for node in session.get_outputs():
            bound.bind_output(node.name, "cuda")

        def invoke() -> None:
            session.run_with_iobinding(bound)
            bound.synchronize_outputs()

        invoke()
    told = {
        "engine": f"onnxruntime {onnxruntime.__version__}",
        "providers": list(session.get_providers()),
        "tf32": session.get_provider_options()[PROVIDER].get("use_tf32"),
    }
    return Opened(invoke, tuple(tensor.shape for tensor in tensors), told, cuda.condition)


def _port(node: Any) -> Port:
    """An input; an axis that the file leaves open is None."""
    name = node.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in node.shape)
    return Port(node.name, {"float": "float32", "double": "float64"}.get(name, name), shape)


BACKEND = Backend(
    name="onnx_cuda",
    device="cuda",
    kind="onnx",
    open=open_file,
    imports=("export.runtime", "onnxruntime"),
    packages=("onnxruntime-gpu",),
    require=cuda.require_onnx_cuda,
)
