"""Start the fresh process of one round, wait for its answer no longer than agreed, and say clearly how it failed.

argv, never a shell. Whatever happens here, Ctrl-C too, the child is gone afterwards. Never here: what the child does (worker.py).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from android_bench.job import Job, Seen
from android_bench.record import Round
from compress import errors
from compress.errors import CompressError, MeasurementError

_ROOT = Path(__file__).resolve().parent.parent


def fresh_process(job: Job, index: int, position: int) -> Seen:
    """One round of `job` in a process of its own. Raises MeasurementError when it crashes, hangs or answers nonsense, and what
    the child itself found wrong (a damaged file, a package that is missing), each naming the file and the backend."""
    name = job.name
    argv = [sys.executable, "-P", "-m", "android_bench.worker", json.dumps(job.to_json())]
    answer = ask(argv, job.sampling.timeout_s + job.sampling.sustained_s, name, environment(job.threads))
    if "error" in answer:
        raise _as_ours(answer["error"], name)
    try:
        timing = {key: answer[key] for key in ("init_ms", "cpu_per_wall", "peak_bytes")}
        samples, warmup, at = (tuple(float(t) for t in answer[key]) for key in ("samples_ms", "warmup_ms", "at_s"))
        timing |= {"told": answer["told"], "conditions": answer["conditions"]}
        round_ = Round(index=index, position=position, samples_ms=samples, warmup_ms=warmup, at_s=at, **timing)
        return Seen(round_, tuple(map(tuple, answer["inputs"])), answer["executed"], answer["versions"], answer["host"])
    except (KeyError, TypeError, ValueError) as error:
        raise MeasurementError(f"{name}: the process answered nonsense: {error!r}") from error


def ask(argv: Sequence[str], timeout_s: float, name: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `argv` and parse the JSON object on its stdout. Raises MeasurementError that names `name`."""
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, start_new_session=True)
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"{name}: no answer within {timeout_s:g} s, stopped", "--timeout gives it longer") from error
    finally:
        _stop(child)
    if child.returncode != 0:
        raise MeasurementError(f"{name}: the process {_how(child.returncode)}", _last_line(err))
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise MeasurementError(f"{name}: the process ended without an answer", _last_line(err)) from error
    if not isinstance(answer, dict):
        raise MeasurementError(f"{name}: the process answered nonsense: {answer!r}")
    return answer


def environment(threads: int) -> dict[str, str]:
    """Ours, with this package importable, `threads` for every thread pool that reads one at start, and quiet libraries."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **pools, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child and of anything that it started, and close its pipes."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    for pipe in (child.stdout, child.stderr):
        if pipe:
            pipe.close()


def _how(returncode: int) -> str:
    if returncode >= 0:
        return f"failed with exit code {returncode}"
    name = signal.Signals(-returncode).name if -returncode in set(signal.Signals) else f"signal {-returncode}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _last_line(text: bytes) -> str | None:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else None


def _as_ours(value: Mapping[str, Any], name: str) -> CompressError:
    """The child's own error, of the same kind, with the file's name in front when it is not there yet."""
    kinds = {kind.kind: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CompressError)}
    message = str(value["message"])
    if name.split(" on ")[0] not in message:
        message = f"{name}: {message}"
    return kinds.get(value["kind"], MeasurementError)(message, value["hint"])
