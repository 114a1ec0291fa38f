"""The CUDA GPU of this machine, the first one that CUDA_VISIBLE_DEVICES leaves: is there one, what is it, how is it just now.

It is asked through nvidia-smi and torch, and never set: no clocks, no power limits, no modes. Never here: timing.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import DeviceError, MissingToolError, require

if TYPE_CHECKING:
    from torch import Tensor

FIELDS = {"sm_mhz": "clocks.sm", "memory_mhz": "clocks.mem", "celsius": "temperature.gpu", "watts": "power.draw"}
ASK_S = 10.0
WARMUP = 3  # runs before a capture, as torch asks for
HINT = "nvidia-smi lists the GPUs of this machine; CUDA_VISIBLE_DEVICES may hide them"


def require_torch_cuda() -> None:
    """Raises MissingToolError for a PyTorch that was built without CUDA, DeviceError (`no-gpu`) where it finds no GPU."""
    require("torch", "bench")
    import torch

    if torch.version.cuda is None:
        raise MissingToolError(f"PyTorch {torch.__version__} is built without CUDA", "pytorch.org lists the builds that have it")
    if not torch.cuda.is_available():
        raise DeviceError("PyTorch finds no CUDA GPU on this machine", HINT, "no-gpu")


def require_onnx_cuda() -> None:
    """Raises MissingToolError for an ONNX Runtime that was built without CUDA."""
    require("onnxruntime", "bench")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise MissingToolError(
            f"ONNX Runtime {onnxruntime.__version__} is built without CUDA", "pip install onnxruntime-gpu in place of onnxruntime"
        )


def facts() -> dict[str, Any]:
    """Of the GPU, for a record. `tf32`: whether float32 is computed with TensorFloat-32, as torch is set by default."""
    import torch

    about = torch.cuda.get_device_properties(0)
    return {
        "gpu": about.name,
        "gpu_memory_bytes": about.total_memory,
        "capability": f"{about.major}.{about.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
    }


def torch_condition() -> dict[str, float]:
    """How the GPU is now, and the most memory that tensors took on it so far in this process."""
    import torch

    gpu = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    return {**condition(gpu), "peak_bytes": float(torch.cuda.max_memory_allocated())}


def condition(gpu: str | None = None) -> dict[str, float]:
    """Clocks, temperature and power as nvidia-smi tells them; without it, or of what it does not tell, nothing.

    `gpu`: its `GPU-...` name; None: the only one there is, and nothing where there are several.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [
        program,
        f"--query-gpu={','.join(FIELDS.values())}",
        "--format=csv,noheader,nounits",
        *([f"--id={gpu}"] if gpu else []),
    ]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_condition(done.stdout) if done.returncode == 0 else {}


def parse_condition(text: str) -> dict[str, float]:
    """One line of values in the order of FIELDS; what is `[N/A]` or the like is left out. Of several GPUs nothing."""
    lines = text.strip().splitlines()
    if len(lines) != 1:
        return {}
    found = {}
    for name, value in zip(FIELDS, lines[0].split(","), strict=False):
        try:
            found[name] = float(value)
        except ValueError:
            continue
    return found


def captured(run: Callable[..., Any], tensors: Sequence[Tensor]) -> Callable[[], None]:
    """All that `run(*tensors)` launches, as one CUDA graph: each call replays it."""
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARMUP):
            run(*tensors)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run(*tensors)

    def replay() -> None:
        graph.replay()
        _ = kept  # the outputs' memory belongs to the graph for as long as it is replayed

    return replay
