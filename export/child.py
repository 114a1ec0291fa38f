"""One child process: an argument vector, its own scratch folder, a time limit, a log; killed with all its children.

What a child does wrong ends there: noise on its streams, files in its working folder, seeds, a crash, a hang.
Never here: what the child does.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from compress.errors import OutputError
from compress.files import said_as_output_error

_ROOT = Path(__file__).parent.parent


class ChildError(Exception):
    """A child that failed: `reason` in one line, `log` all that it said, `is_hang` when its time was up."""

    def __init__(self, reason: str, log: str, is_hang: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log
        self.is_hang = is_hang


def module(name: str) -> list[str]:
    """The argument vector that runs one of our own modules, the way `python -m` does."""
    return [sys.executable, "-m", name]


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for intermediate files, gone afterwards. Raises OutputError when the disk has no room for them."""
    with said_as_output_error(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="compress-export-") as name:
        yield Path(name)


def run(arguments: Sequence[str], folder: Path, seconds: float, foreign: bool = False) -> str:
    """Run to the end in `folder`; return what it said. Raises ChildError; OutputError when its disk was full.

    `foreign`: a Python with packages of its own, which must find none of ours.

    Whatever ends this call, Ctrl-C too, ends the child and all that it started.
    """
    log = folder / "child.log"
    with said_as_output_error(log), open(log, "wb") as stream:
        process = _started(arguments, folder, stream, foreign)
    try:
        code: int | None = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _kill(process)
    said = _read(log)
    if code == 0:
        return said
    if "No space left on device" in said:
        raise OutputError(f"no space left on the disk for {folder}", "free some, or name another folder in TMPDIR")
    raise ChildError(_reason(code, said, seconds), said, is_hang=code is None)


def _started(arguments: Sequence[str], folder: Path, stream: BinaryIO, foreign: bool) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            arguments,
            cwd=folder,
            env=_environment(folder, foreign),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildError(f"cannot be started: {error.strerror or error}", "") from error


def _reason(code: int | None, said: str, seconds: float) -> str:
    if code is None:
        return f"took longer than {seconds:g} s"
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["failed without a word"]
    last = max((n for n, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)), default=len(lines) - 1)
    return re.sub(r"^(compress\.errors|__main__)\.\w+: ", "", " ".join(lines[last : last + 2]))[:300]  # a message may go on below


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # the whole session: a converter starts programs of its own
    except ProcessLookupError:
        pass
    process.wait()


def _environment(folder: Path, foreign: bool) -> dict[str, str]:
    """TMPDIR: what a killed child would leave behind (TensorFlow writes Python files there) goes with its folder."""
    path = os.pathsep.join(p for p in (str(_ROOT), os.environ.get("PYTHONPATH", "")) if p)
    whole = {name: value for name, value in os.environ.items() if not (foreign and name.startswith("PYTHON"))}
    own = {"TMPDIR": str(folder)} | ({} if foreign else {"PYTHONPATH": path})
    return whole | own | {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
