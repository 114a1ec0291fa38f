"""The registry of backends: what can run a file, and on which device. One backend a file; listing them imports no framework.

To add one: a file beside this one with a `BACKEND`, and its name in `_files`.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from android_bench.job import Job, Seen
from android_bench.process import fresh_process
from compress.errors import UsageError
from compress.spec import Shape


@dataclass(frozen=True)
class Opened:
    """A file that is loaded, with its inputs set. `invoke` runs it once, and returns when the outputs are there.

    `inputs`: shapes, in the file's own layout. `executed`: what runs it, as far as the runtime tells. `condition`: how the device
    is just now; asked before and after the timed runs.
    """

    invoke: Callable[[], object]
    inputs: tuple[Shape, ...]
    executed: Mapping[str, Any] = field(default_factory=dict)
    condition: Callable[[], Mapping[str, Any]] | None = None


Rounds = Callable[[Job, int, int], Seen]  # job, index of the round, position in it


@dataclass(frozen=True)
class Backend:
    """`kind`: of files it runs (`net`, `onnx`, `tflite`). `imports`: modules that are loaded before the clock starts.
    `packages`: distributions whose versions go into the record. `open`: called in the fresh process.

    `round(job, index, position)`: one round; a backend that is not a process on this machine brings its own. `session(jobs,
    stop)`, when rounds share something that has to be prepared and cleaned up (a phone): all `jobs` of one place; it gives the
    rounds; when `stop` is set, what runs ends soon with an error. Sessions of different places run at the same time.
    `choice`: the option (`torch`, `delegate`) that says how it runs a file on this machine. `require()`: raises what this machine
    lacks, before anything is measured.
    """

    name: str
    device: str
    kind: str
    open: Callable[[Job], Opened] | None
    imports: tuple[str, ...]
    packages: tuple[str, ...]
    round: Rounds = fresh_process
    session: Callable[[Sequence[Job], threading.Event], AbstractContextManager[Rounds]] | None = None
    choice: str = ""
    require: Callable[[], None] | None = None

    def opened(self, jobs: Sequence[Job], stop: threading.Event) -> AbstractContextManager[Rounds]:
        """What measures `jobs`, for as long as they are measured."""
        return self.session(jobs, stop) if self.session else nullcontext(self.round)


_files = ("torch_cpu", "onnx_cpu", "tflite_cpu", "torch_cuda", "onnx_cuda", "android")


def get(name: str) -> Backend:
    """Raises UsageError that lists what there is."""
    if name not in _files:
        raise UsageError(f"no backend named {name!r}", f"there are {', '.join(_files)}")
    backend = importlib.import_module(f"{__name__}.{name}").BACKEND
    assert isinstance(backend, Backend)
    return backend


def kind_of(path: Path) -> str:
    """`onnx` or `tflite` by the suffix; everything else is a NET."""
    suffix = path.suffix.lower()
    return suffix[1:] if suffix in (".onnx", ".tflite") else "net"


def running(path: Path, device: str) -> list[Backend]:
    """Every backend that runs `path` on `device`; none is no error. Raises UsageError for a device that nothing measures on."""
    there_are = [get(name) for name in _files]
    devices = sorted({backend.device for backend in there_are})
    if device not in devices:
        raise UsageError(f"--device {device}: this version cannot measure there", f"it measures on {', '.join(devices)}")
    return [backend for backend in there_are if backend.device == device and backend.kind == kind_of(path)]


def for_file(path: Path, devices: Iterable[str]) -> list[Backend]:
    """Every backend that runs `path` on one of `devices`. Raises UsageError when there is none."""
    devices = dict.fromkeys(devices)
    found = [backend for device in devices for backend in running(path, device)]
    if not found:
        raise UsageError(f"{path.name}: nothing runs it on {' or '.join(devices)}")
    return found
