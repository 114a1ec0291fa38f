"""What happens when memory ends: an error that can be told, instead of a process that the system kills.

Linux grants more memory than there is and kills the process that uses it. `within_machine` makes it refuse instead; elsewhere
it does nothing. Never here: estimating what a network needs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WORDS = re.compile(r"(can't|unable to|failed to) allocate|not enough memory|out of memory|bad_alloc", re.IGNORECASE)
_GROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))  # cgroup 2, 1
_RESERVE = 256 << 20  # bytes left to the rest of the machine


def is_exhausted(error: BaseException) -> bool:
    """True when `error`, of Python, numpy, torch or ONNX Runtime, says that memory could not be had."""
    return isinstance(error, MemoryError) or bool(_WORDS.search(str(error)))


@contextmanager
def within_machine() -> Iterator[None]:
    """Inside, allocations fail (see `is_exhausted`) once this process has taken what was free when the block began."""
    free = free_bytes()
    if free is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + max(free - _RESERVE, _RESERVE)
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def free_bytes() -> int | None:
    """Memory that this process can still take: of the machine, and of its control group. None where Linux does not say."""
    if not sys.platform.startswith("linux"):
        return None
    known = [free] if (free := _kilobytes(Path("/proc/meminfo"), "MemAvailable")) else []
    for limit_file, used_file in _GROUPS:
        limit, used = Path("/sys/fs/cgroup") / limit_file, Path("/sys/fs/cgroup") / used_file
        if _number(limit) and used.is_file():
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", used.with_name("memory.stat").read_text(), re.M)
            known.append(max(0, _number(limit) - _number(used) + int(cache[1] if cache else 0)))
    return min(known) if known else None


def _data_bytes() -> int:
    return _kilobytes(Path("/proc/self/status"), "VmData")


def _kilobytes(path: Path, key: str) -> int:
    """A line such as `VmData:  123 kB`, in bytes; 0 when it is not there."""
    if not path.is_file():
        return 0
    match = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.M)
    return int(match[1]) * 1024 if match else 0


def _number(path: Path) -> int:
    """The number in a control group's file; 0 when there is none (no file, or `max`)."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else 0
