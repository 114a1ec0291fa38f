"""The benchmark program as a file on this machine: which processor it is for, and its sha256. Never here: running it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from compress.errors import MissingToolError, UsageError

WHERE = (
    "give one with --benchmark-binary FILE: benchmark_model of LiteRT's release (storage.googleapis.com/litert/binaries/VERSION/"
    "android_arm64/benchmark_model) or TFLite's nightly (storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/"
    "release/lite/tools/nightly/latest/android_aarch64_benchmark_model); its sha256 goes into each record"
)
_MACHINES = {183: "arm64-v8a", 40: "armeabi-v7a", 62: "x86_64", 3: "x86"}


@dataclass(frozen=True)
class Program:
    """`abi`: as Android calls it; None for a script, which runs anywhere."""

    path: Path
    sha256: str
    bytes: int
    abi: str | None


def read_program(path: Path | None) -> Program:
    """The file that `--benchmark-binary` names. Raises MissingToolError, UsageError."""
    if path is None:
        raise MissingToolError("a phone needs a benchmark program, and none is downloaded by itself", WHERE)
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingToolError(f"{path}: no such file", WHERE) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    return Program(Path(path), hashlib.sha256(data).hexdigest(), len(data), _abi(Path(path), data))


def _abi(path: Path, data: bytes) -> str | None:
    if data.startswith(b"#!"):
        return None
    if not data.startswith(b"\x7fELF") or len(data) < 20:
        raise UsageError(f"{path} is no program for Android", WHERE)
    machine = int.from_bytes(data[18:20], "little" if data[5] == 1 else "big")
    return _MACHINES.get(machine, f"machine {machine}")
