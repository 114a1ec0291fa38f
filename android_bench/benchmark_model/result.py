"""What one run of benchmark_model showed, as plain values with units in their names. Never here: reading text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from compress.errors import MeasurementError

if TYPE_CHECKING:
    from android_bench.benchmark_model.profile import Profile
    from android_bench.benchmark_model.proto import ResultFile


class Verdict(StrEnum):
    """EXECUTED: as it was asked. PARTLY: the delegate took a part of the graph. REFUSED: the delegate took nothing, or was not
    made. FAILED: no complete measurement, or not of what was asked."""

    EXECUTED = "executed"
    PARTLY = "partly delegated"
    REFUSED = "delegate refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Latency:
    """Of `count` runs. `std_ms`: of the population, whole microseconds as the tool prints it. Percentiles: nearest rank (the
    median is the upper one). None: not printed by this version of the tool. Averages have six significant digits."""

    count: int
    avg_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    first_ms: float | None = None
    last_ms: float | None = None
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None


@dataclass(frozen=True)
class Memory:
    """In bytes, to the six digits that are printed; None: not printed. `init_bytes`, `overall_bytes`: growth of the process's
    peak resident memory since the tool started, after loading and at the end (GPU memory is not in it). `peak_bytes`: by periodic
    monitoring. `rss_bytes`, `anonymous_bytes`, `file_bytes`: resident at the end, all, its own, mapped files and shared."""

    init_bytes: int | None = None
    overall_bytes: int | None = None
    peak_bytes: int | None = None
    rss_bytes: int | None = None
    anonymous_bytes: int | None = None
    file_bytes: int | None = None


@dataclass(frozen=True)
class Replacement:
    """`delegate` (the runtime's name for it) took `nodes` of `total` nodes of `graph` in `partitions` pieces. None: not said."""

    delegate: str
    nodes: int
    total: int | None
    partitions: int
    graph: str | None = None


@dataclass(frozen=True)
class Delegation:
    """What the tool says of a delegate that it applied by order. `taken`: `completely`, `partially` or `not`. `kernels`: how many
    nodes of the new graph are the delegate's, None where it is not printed."""

    delegate: str
    taken: str
    kernels: int | None = None


@dataclass(frozen=True)
class Note:
    """A warning or an error as it was printed; not every error is fatal. `level`: WARN, ERROR or FATAL."""

    level: str
    text: str


@dataclass(frozen=True)
class Raw:
    """What was parsed, unchanged."""

    stdout: str
    stderr: str
    logcat: str


@dataclass(frozen=True)
class Result:
    """One run. `why`: the reasons of a verdict other than EXECUTED. `missing`: number that is not here -> why not. `kind`: the
    program's, `classic` or `litert`, None when nothing tells.

    `first_ms`: the first inference. `model_mb`: 1e6 bytes, six digits. `threads`: of the CPU, as the tool says. `asked`: the
    delegates that were asked for. `executed_by`: every delegate that took nodes, by our names (of flags.DELEGATES, and a few that
    nobody can ask for). `xnnpack`: `explicit`, `default` (the runtime applied it unasked), `off`, or None when nothing tells.
    `gpu_backend`: OpenCL or OpenGL. `ignored_flags`: what the tool did not understand. `file`: the result file, where given.
    """

    verdict: Verdict
    why: tuple[str, ...]
    raw: Raw
    kind: str | None = None
    warmup: Latency | None = None
    main: Latency | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    memory: Memory = Memory()
    model_mb: float | None = None
    threads: int | None = None
    asked: tuple[str, ...] = ()
    executed_by: tuple[str, ...] = ()
    delegations: tuple[Delegation, ...] = ()
    replacements: tuple[Replacement, ...] = ()
    xnnpack: str | None = None
    gpu_backend: str | None = None
    accelerators: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()
    notes: tuple[Note, ...] = ()
    ignored_flags: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    file: ResultFile | None = None

    def require(self, name: str = "benchmark_model") -> Result:
        """This result when it measures what was asked, a partial delegation too. Raises MeasurementError with `name`."""
        if self.verdict in (Verdict.EXECUTED, Verdict.PARTLY):
            return self
        hints = [note.text for note in self.notes if note.level != "WARN"]
        raise MeasurementError(f"{name}: {self.verdict.value}: {'; '.join(self.why)}", hints[-1][:300] if hints else None)
