"""The fresh process: opens one file on one backend, times it, and says what it saw as one JSON document on stdout.

Run as `python -m android_bench.worker JOB`, JOB being a job's JSON. Inputs are set before the clock starts; the garbage collector
is off while it runs. Whatever libraries print goes to stderr. Never here: files, choosing what to measure.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from android_bench import backends, host
from android_bench.job import Job, Sampling
from android_bench.kept import Kept
from compress.errors import CompressError, require


def main() -> None:
    """Read one request from stdin, measure, and answer on what was stdout: one JSON document, also for an error."""
    answer_to = _private_stdout()
    try:
        answer = observe(Job.from_json(json.loads(sys.argv[1])))
    except CompressError as error:
        answer = error.to_json()
    answer_to.write(json.dumps(answer))
    answer_to.flush()
    os._exit(0)  # the answer is out: a library that crashes or hangs while it is taken down changes nothing


def observe(job: Job) -> dict[str, Any]:
    """Measure `job` in this process: what `process.fresh_process` reads."""
    backend = backends.get(job.backend)
    for name in backend.imports:
        require(name.split(".")[0], "bench")
        importlib.import_module(name)
    assert backend.open, f"{job.backend} runs in no process of this machine"
    start = time.perf_counter()
    opened = backend.open(job)
    init_ms = 1e3 * (time.perf_counter() - start)
    warmup = [_timed(opened.invoke) for _ in range(job.sampling.warmup)]
    before = opened.condition() if opened.condition else {}
    sampled = _sample(opened.invoke, job.sampling)
    after = opened.condition() if opened.condition else {}
    return {
        **sampled,
        "conditions": {"gpu": [before, after]} if opened.condition else {},
        "warmup_ms": warmup,
        "init_ms": init_ms,
        "peak_bytes": _peak_bytes(),
        "inputs": opened.inputs,
        "executed": opened.executed,
        "versions": {package: importlib.metadata.version(package) for package in backend.packages},
        "host": host.facts(),
    }


def _sample(invoke: Callable[[], object], sampling: Sampling) -> dict[str, Any]:
    """Timed runs in ms, and CPU seconds a wall second over them; of a sustained measurement also when each run ended."""
    kept = Kept(bool(sampling.sustained_s))
    gc.collect()
    gc.disable()
    start, cpu = time.perf_counter(), time.process_time()
    while not sampling.done(kept.runs, elapsed := time.perf_counter() - start):
        kept.add(_timed(invoke), elapsed)
    wall = time.perf_counter() - start
    busy = (time.process_time() - cpu) / wall
    gc.enable()
    return {"samples_ms": kept.samples_ms, "at_s": kept.at_s, "told": kept.told(), "cpu_per_wall": busy}


def _timed(invoke: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    invoke()
    return (time.perf_counter_ns() - start) / 1e6


def _peak_bytes() -> int | None:
    """Peak resident memory of this process. Not `ru_maxrss`: on Linux that starts at the parent's size."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(lines[0][1]) if lines else None


def _private_stdout() -> TextIO:
    """The real stdout for the answer alone; what anything else prints there goes to stderr."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answer_to


if __name__ == "__main__":
    main()
