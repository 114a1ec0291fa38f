"""PyTorch on this CPU. Unless `--torch` says otherwise eager, float32, NCHW: the network as it was trained, the reference of
every ratio.

What `torch.compile` makes lies in a temporary folder that the rounds of one measurement share, and that goes with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from android_bench.backends import Backend, Opened, Rounds
from android_bench.inputs import for_examples
from android_bench.job import Job, Seen
from android_bench.process import fresh_process
from android_bench.ways import DTYPES, Way
from compress.errors import CompressError, MeasurementError, MissingToolError, TheirCode, said_by
from compress.image_format import ImageFormat

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def session(jobs: Sequence[Job], stop: threading.Event) -> Iterator[Rounds]:
    """Rounds that share what was compiled: the first one of a job compiles, the others load. Raises MissingToolError."""
    if any(way_of(job).compiled for job in jobs):
        require_compiler()
    with tempfile.TemporaryDirectory(prefix="compress-compiled-") as folder:

        def one(job: Job, index: int, position: int) -> Seen:
            return fresh_process(replace(job, options={**job.options, "compiled": folder}), index, position)

        yield one


def require_compiler() -> None:
    """Raises MissingToolError when torch.compile would find no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise MissingToolError(
            f"torch.compile needs a C++ compiler, and there is no {name}", "apt install g++, or name one in CXX"
        )


def way_of(job: Job) -> Way:
    return Way.parse(job.options.get("torch", "eager"))


def open_net(job: Job) -> Opened:
    """Build the network with the job's threads and set random pixels. Raises CheckpointError, MeasurementError, NetworkError,
    UsageError."""
    import torch

    run, tensors = placed(job, "cpu")

    def invoke() -> object:
        with torch.inference_mode():
            return run(*tensors)

    if way_of(job).compiled:
        compiling(job, invoke)
    return Opened(invoke, tuple(tuple(tensor.shape) for tensor in tensors), executed(job))


def placed(job: Job, device: str) -> tuple[Callable[..., Any], list[Tensor]]:
    """The network and its inputs on `device`, in the precision and layout that the job asks for; what is compiled is so at its
    first call."""
    import torch

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    way = way_of(job)
    module, arrays = _network(job)
    dtype = getattr(torch, DTYPES[way.precision])
    layout = torch.channels_last if way.channels_last else torch.preserve_format
    module = module.to(device, dtype, memory_format=layout)
    tensors = [torch.from_numpy(array) for array in arrays]
    tensors = [tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype) for tensor in tensors]
    tensors = [tensor.contiguous(memory_format=layout) if _is_picture(tensor, way) else tensor for tensor in tensors]
    if not way.compiled:
        return module, tensors
    _compile_in(job.options["compiled"])
    return torch.compile(module, dynamic=False), tensors


def _compile_in(folder: str) -> None:
    """All that the compiler writes goes to `folder`: its cache, and what it takes a temporary folder for (headers)."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TMPDIR": folder}
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no processes of its own, that would outlive ours
    tempfile.tempdir = folder


def compiling(job: Job, invoke: Callable[[], object]) -> None:
    """The first call of what is compiled. Raises MeasurementError that says why it cannot be."""

    def say(error: BaseException) -> CompressError:
        return MeasurementError(f"{job.name}: torch.compile fails: {said_by(error)}", "--torch eager runs without it")

    with TheirCode(say):
        invoke()


def executed(job: Job) -> dict[str, Any]:
    """`requested`: only where it is not the usual. `compiled_graphs`: pieces; more than one where Python runs in between."""
    import torch

    way = way_of(job)
    found: dict[str, Any] = {"engine": f"torch {torch.__version__}", "mode": "compiled" if way.compiled else "eager"}
    if way != Way():
        found |= {"requested": str(way), "precision": way.precision, "channels_last": way.channels_last}
    if way.compiled:
        from torch._dynamo.utils import counters

        found["compiled_graphs"] = int(counters["stats"]["unique_graphs"])
    return found


def _network(job: Job) -> tuple[Any, Sequence[Any]]:
    from compress.networks.load import NetOptions, open_network

    told = dict(job.net)
    form = told.pop("image_format", None)
    examples = tuple(map(tuple, told.pop("examples", ())))
    options = NetOptions(**told, examples=examples, image_format=ImageFormat.parse(form) if form else None)
    network = open_network(Path(job.path), options)
    return network.module, for_examples(network.spec.examples, network.spec.inputs, job.size, job.seed)


def _is_picture(tensor: Tensor, way: Way) -> bool:
    return way.channels_last and tensor.ndim == 4


BACKEND = Backend(
    name="torch_cpu",
    device="cpu",
    kind="net",
    open=open_net,
    imports=("torch", "compress.networks.load"),
    packages=("torch",),
    session=session,
    choice="torch",
)
