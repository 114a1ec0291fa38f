"""PyTorch on a CUDA GPU. Inputs lie on the GPU before the clock starts; a run is over when the GPU has finished it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from android_bench import cuda
from android_bench.backends import Backend, Opened
from android_bench.backends.torch_cpu import compiling, executed, placed, session, way_of
from android_bench.job import Job
from compress.errors import CompressError, MeasurementError, TheirCode, said_by

if TYPE_CHECKING:
    from torch import Tensor


def open_net(job: Job) -> Opened:
    """Build the network on the GPU and set random pixels. Raises CheckpointError, DeviceError, MeasurementError,
    MissingToolError, NetworkError, UsageError."""
    cuda.require_torch_cuda()
    import torch

    way = way_of(job)
    run, tensors = placed(job, "cuda")

    def whole() -> None:
        with torch.inference_mode():
            run(*tensors)

    launch = whole
    if way.compiled:
        compiling(job, whole)
    if way.graphs:
        launch = _captured(job, run, tensors)

    def invoke() -> None:
        launch()
        torch.cuda.synchronize()

    invoke()
    torch.cuda.reset_peak_memory_stats()
    told = {**executed(job), **cuda.facts(), "cuda_graph": way.graphs}
    return Opened(invoke, tuple(tuple(tensor.shape) for tensor in tensors), told, cuda.torch_condition)


def _captured(job: Job, run: Callable[..., Any], tensors: Sequence[Tensor]) -> Callable[[], None]:
    import torch

    def say(error: BaseException) -> CompressError:
        return MeasurementError(f"{job.name}: no CUDA graph can be made of it: {said_by(error)}")

    with TheirCode(say), torch.inference_mode():
        return cuda.captured(run, tensors)


BACKEND = Backend(
    name="torch_cuda",
    device="cuda",
    kind="net",
    open=open_net,
    imports=("torch", "compress.networks.load"),
    packages=("torch",),
    session=session,
    choice="torch",
    require=cuda.require_torch_cuda,
)
