"""What is to be measured and how, as plain data that travels to a fresh process. Never here: measuring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from android_bench.record import Round
from compress.errors import UsageError
from compress.spec import Shape


@dataclass(frozen=True)
class Sampling:
    """Of one round of one file: `warmup` untimed runs, then timed ones until there are `samples` of them and `seconds` have
    passed, but no more than `most`; a slow network stops early, at `patience_s`, with three. `timeout_s`: for the process.

    `sustained_s`: if not 0, run for that long instead, however many runs that makes; the process has so much longer."""

    samples: int = 10
    seconds: float = 1.0
    most: int = 200
    warmup: int = 3
    patience_s: float = 20.0
    timeout_s: float = 300.0
    sustained_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= self.most:
            raise UsageError(f"samples a round must be in 1..{self.most}, got {self.samples}")
        if min(self.warmup, self.seconds, self.sustained_s) < 0 or self.patience_s <= 0 or self.timeout_s <= 0:
            raise UsageError("warm-up and times of a measurement must not be negative")

    def done(self, count: int, elapsed_s: float) -> bool:
        """True when a round with `count` samples after `elapsed_s` seconds has enough."""
        if self.sustained_s:
            return count >= 1 and elapsed_s >= self.sustained_s
        if count >= self.most or (count >= 3 and elapsed_s >= self.patience_s):
            return True
        return count >= self.samples and elapsed_s >= self.seconds


@dataclass(frozen=True)
class Job:
    """One file on one backend. `size`: (height, width) where the file leaves it open; a file that is fixed at another is an
    error. None: as the file says. `net`: for a NET, what the caller says of it (network, arguments, examples, image_format).
    `place`: which one, where a device is one of several: a phone's serial. `options`: of the backend, as plain values."""

    path: str
    backend: str
    threads: int = 1
    size: tuple[int, int] | None = None
    seed: int = 0
    net: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = Sampling()
    place: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people: the file, and what runs it where."""
        asked = str(self.options.get("torch") or self.options.get("delegate", ""))
        return f"{Path(self.path).name} on {' '.join(filter(None, (self.backend, self.place, asked)))}"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Job:
        """Inverse of `to_json`, after a way through JSON."""
        size = tuple(value["size"]) if value["size"] else None
        return cls(**{**value, "size": size, "sampling": Sampling(**value["sampling"])})


@dataclass(frozen=True)
class Seen:
    """What one round of one job showed. `round`: its samples. `inputs`: the shapes that went in. `executed`, `versions`, `host`:
    as in a record."""

    round: Round
    inputs: tuple[Shape, ...]
    executed: Mapping[str, Any]
    versions: Mapping[str, str]
    host: Mapping[str, Any]
