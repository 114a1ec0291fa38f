"""Rounds: each measures every job once, in a seeded random order, each in a fresh process. What is done stays done.

A job that fails is left out of the rounds to come; the others go on, and its error is raised at the end. Phones have rounds of
their own, all at once, after this machine's. Never here: timing (worker.py), statistics, files.
"""

from __future__ import annotations

import hashlib
import random
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeGuard

import compress
from android_bench import backends
from android_bench.backends import Rounds
from android_bench.job import Job, Seen
from android_bench.record import Record
from compress.errors import CompressError, DeviceError, MeasurementError, UsageError

OnRound = Callable[[int, Job, Seen | CompressError], None]


@dataclass
class Run:
    """One interleaved run of `jobs`. `records()` holds what has been measured so far, at any time. `left`: what could not be set
    back on a phone, each an error that says how to do it by hand."""

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
        self.left: list[DeviceError] = []
        self._telling = threading.Lock()
        self._began = datetime.now(UTC).isoformat(timespec="seconds")

    def measure(self, on_round: OnRound = lambda index, job, seen: None) -> list[Record]:
        """All rounds. `on_round(index, job, seen or error)` is called after each. Raises the first error of a job, at the end."""
        lanes: dict[str, list[int]] = {}
        for number, job in enumerate(self.jobs):
            lanes.setdefault(job.place, []).append(number)
        if here := lanes.pop("", None):
            self._lane(here, on_round, threading.Event())
        if lanes:
            self._at_once(lanes, on_round)
        if errors := [*self._failed.values(), *self.left]:
            raise errors[0]
        return self.records()

    def _at_once(self, lanes: Mapping[str, Sequence[int]], on_round: OnRound) -> None:
        """A thread a phone. Ctrl-C, or the first error that ends all, stops the others; each cleans up before this returns."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(lanes)) as pool:
            try:
                for done in as_completed([pool.submit(self._lane, numbers, on_round, stop) for numbers in lanes.values()]):
                    done.result()
            finally:
                stop.set()

    def _lane(self, numbers: Sequence[int], on_round: OnRound, stop: threading.Event) -> None:
        """All rounds of the jobs of one place."""
        try:
            with ExitStack() as stack:
                ready = self._opened(numbers, stack, stop)
                order = random.Random(self.seed)
                for index in range(self.rounds):
                    remaining = [number for number in numbers if number not in self._failed]
                    order.shuffle(remaining)
                    for position, number in enumerate(remaining):
                        if not stop.is_set():
                            self._one(ready[self.jobs[number].backend], number, index, position, on_round)
        except UsageError:  # the whole run was asked for wrongly: no use in measuring the others first
            raise
        except CompressError as error:
            self.left += [one for one in _chain(error) if _is_left(one)]
            causes = [one for one in _chain(error) if not _is_left(one)]
            for number in numbers if causes else ():
                self._fail(number, 0, causes[0], on_round)

    def _opened(self, numbers: Sequence[int], stack: ExitStack, stop: threading.Event) -> dict[str, Rounds]:
        jobs: dict[str, list[Job]] = {}
        for number in numbers:
            jobs.setdefault(self.jobs[number].backend, []).append(self.jobs[number])
        return {name: stack.enter_context(backends.get(name).opened(own, stop)) for name, own in jobs.items()}

    def records(self) -> list[Record]:
        """Of every job with at least one round, in the order of the jobs."""
        return [record for _, record in self.measured()]

    def measured(self) -> list[tuple[Job, Record]]:
        """The same, each with its job."""
        return [(self.jobs[number], self._record(number)) for number, seen in enumerate(self._seen) if seen]

    def _one(self, rounds: Rounds, number: int, index: int, position: int, on_round: OnRound) -> None:
        job = self.jobs[number]
        try:
            seen = rounds(job, index, position)
            if self._seen[number] and seen.executed != self._seen[number][0].executed:
                raise MeasurementError(f"{job.name} was not executed alike in every round")
        except UsageError:
            raise
        except CompressError as error:
            self._fail(number, index, error, on_round)
        else:
            self._seen[number].append(seen)
            with self._telling:
                on_round(index, job, seen)

    def _fail(self, number: int, index: int, error: CompressError, on_round: OnRound) -> None:
        if isinstance(error, DeviceError) and error.reason == "stopped":
            return
        self._failed.setdefault(number, error)
        with self._telling:
            on_round(index, self.jobs[number], error)

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


def _chain(error: BaseException | None) -> Iterator[CompressError]:
    """The error, and those that it interrupted: cleaning up may fail after a failure."""
    while error:
        if isinstance(error, CompressError):
            yield error
        error = error.__context__


def _is_left(error: CompressError) -> TypeGuard[DeviceError]:
    return isinstance(error, DeviceError) and error.reason == "left"


def _fingerprint(path: Path) -> tuple[str, int]:
    """(sha256, bytes) of a file. Raises MeasurementError."""
    try:
        payload = path.read_bytes()
    except FileNotFoundError as error:
        raise MeasurementError(f"{path}: no such file") from error
    except OSError as error:
        raise MeasurementError(f"cannot read {path}: {error.strerror or error}") from error
    return hashlib.sha256(payload).hexdigest(), len(payload)
