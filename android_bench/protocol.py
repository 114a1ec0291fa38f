"""Rounds: each measures every job once, in a seeded random order, each in a fresh process. What is done stays done.

A job that fails is left out of the rounds to come; the others go on, and its error is raised at the end. Never here: timing
(worker.py), statistics, files.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import compress
from android_bench import backends
from android_bench.job import Job, Seen
from android_bench.record import Record
from compress.errors import CompressError, MeasurementError, UsageError

OnRound = Callable[[int, Job, Seen | CompressError], None]


@dataclass
class Run:
    """One interleaved run of `jobs`. `records()` holds what has been measured so far, at any time."""

    jobs: Sequence[Job]
    rounds: int = 5
    seed: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def __post_init__(self) -> None:
        if self.rounds < 1 or not self.jobs:
            raise UsageError("a measurement needs at least one file and one round")
        self._files = [_fingerprint(Path(job.path)) for job in self.jobs]
        self._seen: list[list[Seen]] = [[] for _ in self.jobs]
        self._failed: dict[int, CompressError] = {}
        self._began = datetime.now(UTC).isoformat(timespec="seconds")

    def measure(self, on_round: OnRound = lambda index, job, seen: None) -> list[Record]:
        """All rounds. `on_round(index, job, seen or error)` is called after each. Raises the first error of a job, at the end."""
        order = random.Random(self.seed)
        for index in range(self.rounds):
            numbers = [number for number in range(len(self.jobs)) if number not in self._failed]
            order.shuffle(numbers)
            for position, number in enumerate(numbers):
                self._one(number, index, position, on_round)
        if self._failed:
            raise next(iter(self._failed.values()))
        return self.records()

    def records(self) -> list[Record]:
        """Of every job with at least one round, in the order of the jobs."""
        return [record for _, record in self.measured()]

    def measured(self) -> list[tuple[Job, Record]]:
        """The same, each with its job."""
        return [(self.jobs[number], self._record(number)) for number, seen in enumerate(self._seen) if seen]

    def _one(self, number: int, index: int, position: int, on_round: OnRound) -> None:
        job = self.jobs[number]
        try:
            seen = backends.get(job.backend).round(job, index, position)
            if self._seen[number] and seen.executed != self._seen[number][0].executed:
                raise MeasurementError(f"{Path(job.path).name} on {job.backend} was not executed alike in every round")
        except UsageError:  # the whole run was asked for wrongly: no use in measuring the others first
            raise
        except CompressError as error:
            self._failed[number] = error
            on_round(index, job, error)
        else:
            self._seen[number].append(seen)
            on_round(index, job, seen)

    def _record(self, number: int) -> Record:
        job, seen = self.jobs[number], self._seen[number]
        digest, size = self._files[number]
        return Record(
            artifact=Path(job.path).name,
            sha256=digest,
            bytes=size,
            backend=job.backend,
            device=backends.get(job.backend).device,
            threads=job.threads,
            inputs=seen[0].inputs,
            rounds=tuple(one.round for one in seen),
            run=self.id,
            seed=self.seed,
            measured_at=self._began,
            executed=seen[0].executed,
            versions={**seen[0].versions, "mobile-compress": compress.__version__},
            host=seen[0].host,
        )


def _fingerprint(path: Path) -> tuple[str, int]:
    """(sha256, bytes) of a file. Raises MeasurementError."""
    try:
        payload = path.read_bytes()
    except FileNotFoundError as error:
        raise MeasurementError(f"{path}: no such file") from error
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror or error}") from error
    return hashlib.sha256(payload).hexdigest(), len(payload)
