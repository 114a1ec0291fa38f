"""PyTorch on this CPU, eager, float32, NCHW: the network as it was trained, the reference of every ratio."""

from __future__ import annotations

from pathlib import Path

from android_bench.backends import Backend, Opened
from android_bench.inputs import for_examples
from android_bench.job import Job
from compress.image_format import ImageFormat


def open_net(job: Job) -> Opened:
    """Build the network with the job's threads and set random pixels. Raises CheckpointError, NetworkError, UsageError."""
    import torch

    from compress.networks.load import NetOptions, open_network

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    told = dict(job.net)
    form = told.pop("image_format", None)
    examples = tuple(map(tuple, told.pop("examples", ())))
    options = NetOptions(**told, examples=examples, image_format=ImageFormat.parse(form) if form else None)
    network = open_network(Path(job.path), options)
    arrays = for_examples(network.spec.examples, network.spec.inputs, job.size, job.seed)
    tensors = [torch.from_numpy(array) for array in arrays]

    def invoke() -> object:
        with torch.inference_mode():
            return network.module(*tensors)

    return Opened(invoke, tuple(array.shape for array in arrays), {"engine": f"torch {torch.__version__}", "mode": "eager"})


BACKEND = Backend(
    name="torch_cpu",
    device="cpu",
    kind="net",
    open=open_net,
    imports=("torch", "compress.networks.load"),
    packages=("torch",),
)
