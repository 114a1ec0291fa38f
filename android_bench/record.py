"""One measurement as it was seen: raw samples by round, the file's sha256, what executed it, where. One JSON line each.

Statistics are computed (statistics.py), not stored. Never here: torch, TensorFlow, ONNX, or merging records of two hosts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from compress.errors import CompressError, MeasurementError
from compress.files import write_text

SCHEMA = 1


@dataclass(frozen=True)
class Round:
    """One fresh process. Rounds of the same `index` in one run were measured close together: they make the pairs of a ratio.

    `samples_ms`: every timed run, in order. `at_s`: of a sustained measurement, when each began, in seconds since the first; of
    too many runs every second, fourth ... is kept, and `told` has how many `runs` there were. `warmup_ms`: the runs before them.
    `init_ms`: loading the file until it could run. `cpu_per_wall`: CPU seconds a wall second while timing; near the number of
    threads when nothing disturbed them.
    `position`: place in the round's random order. `peak_bytes`: peak resident memory, None where it was not measured.
    `told`: of a program that keeps its samples to itself: `runs`, `min_ms`, `max_ms`, `avg_ms`, `p95_ms` ... of them, with their
    median as the round's one sample. `conditions`: of a phone or GPU, before and after. `profile`: one entry an op
    (`graph`, `op`, `name`, `avg_ms`, `calls`), from a run of its own. `parity`: how far its answer to a photo is from this
    machine's (`max_abs`, `mean_abs`, `psnr_db`; pixels 0..255).
    """

    index: int
    position: int
    samples_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    init_ms: float
    cpu_per_wall: float | None
    peak_bytes: int | None = None
    told: Mapping[str, float] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    profile: tuple[Mapping[str, Any], ...] = ()
    parity: Mapping[str, float | None] = field(default_factory=dict)
    at_s: tuple[float, ...] = ()

    @property
    def runs(self) -> int:
        """Timed runs, whether each is known or not."""
        return int(self.told.get("runs", len(self.samples_ms)))

    def __post_init__(self) -> None:
        times = (*self.samples_ms, *self.warmup_ms, *self.at_s, self.init_ms, *self.told.values())
        if not self.samples_ms or not all(math.isfinite(t) and t >= 0 for t in times):
            raise MeasurementError(f"round {self.index} has no samples, or times that are no times")
        if self.at_s and len(self.at_s) != len(self.samples_ms):
            raise MeasurementError(f"round {self.index} has {len(self.samples_ms)} samples at {len(self.at_s)} times")


@dataclass(frozen=True)
class Record:
    """One file on one backend in one run. `run` names the run: only records of one run can be paired.

    `inputs`: one shape an input, in the file's own layout. `executed`: what really ran it, as the backend saw it (engine,
    delegate, nodes, partitions). `host`: the machine. `versions`: of all that took part. `measured_at`: UTC, ISO 8601.
    """

    artifact: str
    sha256: str
    bytes: int
    backend: str
    device: str
    threads: int
    inputs: tuple[tuple[int, ...], ...]
    rounds: tuple[Round, ...]
    run: str
    seed: int
    measured_at: str
    executed: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rounds:
            raise MeasurementError(f"the record of {self.artifact} has no rounds")

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every timed run of every round, in order."""
        return tuple(sample for round_ in self.rounds for sample in round_.samples_ms)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: all samples in one list, and of each round how many of them are its own."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rounds"}
        return {
            "schema": SCHEMA,
            **plain,
            "inputs": [list(shape) for shape in self.inputs],
            "executed": dict(self.executed),
            "versions": dict(self.versions),
            "host": dict(self.host),
            "samples_ms": list(self.samples_ms),
            "rounds": [_round_to_json(round_) for round_ in self.rounds],
        }

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Inverse of `to_json`. Raises MeasurementError for anything else."""
        try:
            if value["schema"] != SCHEMA:
                raise MeasurementError(f"schema version {value['schema']!r}, this program reads {SCHEMA}")
            _check_plain(value)
            return cls(
                **{name: value[name] for name in _PLAIN},
                inputs=tuple(tuple(int(n) for n in shape) for shape in value["inputs"]),
                rounds=_rounds_from_json(value["rounds"], value["samples_ms"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MeasurementError(f"not a record: {type(error).__name__} {error}") from error


_PLAIN: dict[str, type] = {
    **dict.fromkeys(("artifact", "sha256", "backend", "device", "run", "measured_at"), str),
    **dict.fromkeys(("bytes", "threads", "seed"), int),
    **dict.fromkeys(("executed", "versions", "host"), dict),
}


def _check_plain(value: Mapping[str, Any]) -> None:
    for name, kind in _PLAIN.items():
        if type(value[name]) is not kind:
            raise TypeError(f"{name} is {value[name]!r}")


def _round_to_json(round_: Round) -> dict[str, Any]:
    phone: dict[str, Any] = {name: dict(getattr(round_, name)) for name in ("told", "conditions", "parity")}
    phone["profile"], phone["at_s"] = [dict(op) for op in round_.profile], list(round_.at_s)
    plain = {f.name: getattr(round_, f.name) for f in fields(round_) if f.name not in ("samples_ms", *phone)}
    return (
        plain
        | {name: value for name, value in phone.items() if value}
        | {"samples": len(round_.samples_ms), "warmup_ms": list(round_.warmup_ms)}
    )


def _rounds_from_json(rounds: Any, samples: Any) -> tuple[Round, ...]:
    samples, made, start = [float(s) for s in samples], [], 0
    for entry in map(dict, rounds):
        end = start + int(entry.pop("samples"))
        entry["warmup_ms"] = tuple(float(t) for t in entry["warmup_ms"])
        entry["profile"] = tuple(map(dict, entry.get("profile", ())))
        entry["at_s"] = tuple(float(t) for t in entry.get("at_s", ()))
        made.append(Round(samples_ms=tuple(samples[start:end]), **entry))
        start = end
    if start != len(samples):
        raise ValueError(f"{len(samples)} samples, but the rounds hold {start}")
    return tuple(made)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON line a record; whole or not at all. Raises OutputError."""
    write_text(Path(path), "".join(json.dumps(record.to_json(), sort_keys=True) + "\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """Every record of a `.jsonl` file, in order. Raises MeasurementError that names file and line of what is damaged."""
    path = Path(path)
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise MeasurementError(f"{path}: no such file", "compress bench -o writes one") from error
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{path} is no file of records: not text") from error
    records = [_parse(line, f"{path}:{number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not records:
        raise MeasurementError(f"{path} holds no records")
    return records


def _parse(line: str, where: str) -> Record:
    try:
        return Record.from_json(json.loads(line))
    except ValueError as error:
        raise MeasurementError(f"{where} is damaged: {error}", "measure again, or remove the line") from error
    except CompressError as error:
        raise MeasurementError(f"{where} is damaged: {error.message}", "measure again, or remove the line") from error
