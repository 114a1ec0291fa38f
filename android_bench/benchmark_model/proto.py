"""The file that `--result_file_path` writes: a `BenchmarkResult` message, read without protobuf.

Only what the message defines is read; unknown fields are passed over, as the format asks. Never here: any other message.
Source: benchmark_result.proto of LiteRT, tflite/tools/benchmark/proto (proto2).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compress.errors import MeasurementError

LARGEST = 1 << 20  # bytes; a real one has about 150

_LATENCY = ("avg_ms", "min_ms", "max_ms", "std_ms", "median_ms", "p5_ms", "p95_ms", "init_ms", "first_ms", "warmup_avg_ms")
_MEMORY = ("init_kib", "overall_kib", "peak_mib")
_MISC = ("model_mb", "runs", "warmup_runs", "megabytes_per_second")
_PARTS = {2: _LATENCY, 3: _MEMORY, 4: _MISC}
_WHOLE = ("init_kib", "overall_kib", "runs", "warmup_runs")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ResultFile:
    """One run, as 32-bit floats. None: not in the file. `model_mb`: 1e6 bytes. `init_kib`, `overall_kib`: growth of the peak
    resident memory. `peak_mib`: by periodic monitoring."""

    name: str | None = None
    avg_ms: float | None = None
    min_ms: float | None = None
    max_ms: float | None = None
    std_ms: float | None = None
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_avg_ms: float | None = None
    init_kib: int | None = None
    overall_kib: int | None = None
    peak_mib: float | None = None
    model_mb: float | None = None
    runs: int | None = None
    warmup_runs: int | None = None
    megabytes_per_second: float | None = None


def read_result_file(payload: bytes) -> ResultFile:
    """Decode one message. Raises MeasurementError: damaged, cut, too large, or without a latency."""
    if len(payload) > LARGEST:
        raise MeasurementError(f"the result file has {len(payload):,} bytes: it is no BenchmarkResult")
    values: dict[str, Any] = {}
    for number, wire, value in _fields(payload):
        if number == 1 and wire == _BYTES:
            values["name"] = value.decode(errors="replace")
        elif number in _PARTS and wire == _BYTES:
            values |= _part(_PARTS[number], value)
    if "avg_ms" not in values:
        raise MeasurementError("the result file holds no latency", "the run did not end, or its file was cut")
    return ResultFile(**values)


def _part(names: tuple[str, ...], payload: bytes) -> dict[str, float | int]:
    values: dict[str, float | int] = {}
    for number, wire, value in _fields(payload):
        if not 1 <= number <= len(names):
            continue
        name = names[number - 1]
        if wire != (_VARINT if name in _WHOLE else _FIXED32):
            raise MeasurementError(f"the result file is damaged: {name} is no number")
        read = _signed(value) if name in _WHOLE else struct.unpack("<f", value)[0]
        if math.isfinite(read) and read >= 0:  # -1 stands for a size or a memory that the tool could not find out
            values[name] = read
    return values


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(payload: bytes) -> Iterator[tuple[int, int, Any]]:
    """(number, wire type, value) of each field: an int for a varint, bytes for the others."""
    at = 0
    while at < len(payload):
        tag, at = _varint(payload, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(payload, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            length, at = _varint(payload, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise MeasurementError(f"the result file is damaged: wire type {wire} at byte {at}")
        if number == 0 or length > len(payload) - at:
            raise MeasurementError(f"the result file is cut or damaged at byte {at}")
        yield number, wire, payload[at : at + length]
        at += length


def _varint(payload: bytes, at: int) -> tuple[int, int]:
    """(value, where the next byte is). At most ten bytes."""
    value = 0
    for shift, byte in enumerate(payload[at : at + 10]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value & (1 << 64) - 1, at + shift + 1
    raise MeasurementError(f"the result file is cut or damaged at byte {at}")
