"""A phone, over adb: each round is one run of benchmark_model in a fresh process there, after the phone has cooled down.

What the program measured comes as statistics, not as samples: a round's one sample is its median. Peak memory is a run of its
own, for watching it costs time. A delegate that was refused is an error, not a number. Never here: the program's own words.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from android_bench.answer import Question, compare, inputs_of, question
from android_bench.backends import Backend, Rounds
from android_bench.benchmark_model import Input, Kind, Latency, Options, Result, command, parse, recognise
from android_bench.device import Needs, limits_khz
from android_bench.inputs import for_ports
from android_bench.job import Job, Seen
from android_bench.program import Program, read_program
from android_bench.record import Round
from android_bench.rig import Rig, rig
from android_bench.thermal import cool_down, read_thermal
from compress.errors import DeviceError, MeasurementError, UsageError
from compress.spec import Shape
from export.artifact import Port

HELP_S = 30.0
SUSTAINED_RUN_S = 10.0  # of one run of the program, of the many that follow each other
# --delegate -> what the program is asked for; anything else is the file of an external delegate
DELEGATES: dict[str, dict[str, Any]] = {
    "xnnpack": {"delegate": "xnnpack"},
    "none": {"xnnpack": False},
    "gpu": {"delegate": "gpu"},
    "gpu-fp32": {"delegate": "gpu", "gpu_fp32": True},
    "nnapi": {"delegate": "nnapi"},
}


@contextmanager
def session(jobs: Sequence[Job], stop: threading.Event) -> Iterator[Rounds]:
    """All `jobs` of one phone, with one program. Raises DeviceError, MeasurementError, MissingToolError, UsageError."""
    program = read_program(Path(jobs[0].options["binary"]))
    libraries = sorted(program.path.parent.glob("libLiteRt*.so"))  # LiteRT's program looks for them beside itself
    sizes = {job.path: Path(job.path).stat().st_size for job in jobs}
    needs = Needs(program, program.bytes + sum(sizes.values()) + sum(path.stat().st_size for path in libraries))
    with rig(jobs[0].place, needs, stop) as ready:
        for library in libraries:
            ready.bring(library, library.name)
        binary = ready.bring(program.path, "benchmark_model", executable=True)
        bench = _Bench(ready, program, binary, _kind(ready, binary, program))
        yield bench.round


def _kind(ready: Rig, binary: str, program: Program) -> Kind:
    answer = ready.run([binary, "--help"], HELP_S)
    if answer.code > 1 or "CANNOT LINK" in answer.err + answer.out:
        parse(answer.out, answer.err, returncode=answer.code).require(f"{program.path.name} on {ready.link.serial}")
    return recognise(f"{answer.out}\n{answer.err}")


@dataclass(frozen=True)
class _Bench:
    """One program on one phone. `ports`: the inputs of the files that have been asked."""

    ready: Rig
    program: Program
    binary: str
    kind: Kind
    ports: dict[str, tuple[Port, ...]] = field(default_factory=dict)

    def round(self, job: Job, index: int, position: int) -> Seen:
        """Cool down, run, look again; in the first round also a run for the peak memory, and, if asked, those
        for a photo and a profile."""
        ports = self.ports.get(job.path) or self.ports.setdefault(job.path, inputs_of(job))
        shapes = _shapes(job, ports)
        resized = tuple(Input(port.name, shape) for port, shape in zip(ports, shapes, strict=True) if None in port.shape)
        photo = question(job, Path(job.options["photo"])) if index == 0 and job.options["photo"] else None
        model = self.ready.bring(Path(job.path))
        options = self._options(job, resized)
        before, waited, settled = cool_down(self.ready.link, self.ready.start)
        limits = limits_khz(self.ready.link)
        at_s, results = self._runs(job, model, options)
        now, after = limits_khz(self.ready.link), read_thermal(self.ready.link)
        conditions = {
            "thermal": [before.status, after.status],
            "celsius": [dict(before.celsius), dict(after.celsius)],
            "cooled_s": round(waited, 1),
            "settled": settled,
            "throttled": any(b < a for a, b in zip(limits, now, strict=False)),
        }
        if self.ready.changed:
            conditions["changed"] = self.ready.changed
        seen = replace(_round(results, index, position), conditions=conditions, at_s=at_s)
        if index == 0:
            seen = replace(seen, peak_bytes=self._peak_bytes(job, model, options))
        if photo:
            seen = replace(seen, parity=self._parity(job, model, options, photo))
        if index == 0 and job.options["profile"]:
            seen = replace(seen, profile=self._profile(job, model, options))
        return Seen(
            round=seen,
            inputs=shapes,
            executed=self._executed(results[0], options),
            versions={"benchmark_model": f"{self.kind.name} sha256:{self.program.sha256}"},
            host={**self.ready.phone.facts(), "doubts": self._doubts(options)},
        )

    def _runs(self, job: Job, model: str, options: Options) -> tuple[tuple[float, ...], list[Result]]:
        """One run of the program; of a sustained measurement one after the other, and when each began."""
        sampling = job.sampling
        if not sampling.sustained_s:
            return (), [self._run(job, model, options)]
        at_s: list[float] = []
        results: list[Result] = []
        start = time.monotonic()
        while not sampling.done(len(results), elapsed := time.monotonic() - start):
            at_s.append(elapsed)
            results.append(self._run(job, model, options))
            if self._executed(results[-1], options) != self._executed(results[0], options):
                raise MeasurementError(f"{job.name} was not executed alike all the time")
        return tuple(at_s), results

    def _run(self, job: Job, model: str, options: Options) -> Result:
        words = command(self.binary, model, options, self.kind)
        try:
            answer = self.ready.run(words, job.sampling.timeout_s)
        except DeviceError as error:
            if error.reason != "timeout":
                why = error.message.removeprefix(f"{job.place}: ")
                raise DeviceError(f"{job.name}: {why}", error.hint, error.reason) from error
            wait = f"no answer within {job.sampling.timeout_s:g} s, stopped"
            raise MeasurementError(f"{job.name}: {wait}", "--timeout gives it longer") from error
        return parse(answer.out, answer.err, options=options, returncode=answer.code).require(job.name)

    def _peak_bytes(self, job: Job, model: str, options: Options) -> int | None:
        short = replace(options, peak_memory=True, runs=3, min_seconds=0.0, warmup_runs=1, warmup_seconds=0.0)
        memory = self._run(job, model, short).memory
        return memory.peak_bytes or memory.overall_bytes

    def _profile(self, job: Job, model: str, options: Options) -> tuple[dict[str, Any], ...]:
        """Every op of the graphs and of what a delegate does inside. Raises MeasurementError when the program shows none."""
        result = self._run(job, model, replace(options, profile=True))
        tables = [(one.graph, one.table("Run Order")) for one in result.profiles if one.phase == "runs" and one.is_whole]
        ops = [(graph, op) for graph, table in tables if table for op in table.rows]
        if not ops:
            raise MeasurementError(f"{job.name}: benchmark_model printed no profile, or not all of it")
        return tuple(
            {"graph": graph, "op": op.node_type, "name": op.name, "avg_ms": op.avg_ms, "calls": op.times_called}
            for graph, op in ops
        )

    def _parity(self, job: Job, model: str, options: Options, asked: Question) -> Mapping[str, float | None]:
        """Of one run on a photo. Raises MeasurementError."""
        answer = f"{self.ready.folder}/answer"
        with tempfile.TemporaryDirectory(prefix="compress-photo-") as name:
            local = Path(name) / "photo.bin"
            local.write_bytes(asked.tensor.tobytes())
            taken = Input(asked.name, asked.tensor.shape, self.ready.bring(local))
            once = replace(
                options, runs=1, min_seconds=0.0, warmup_runs=1, warmup_seconds=0.0, inputs=(taken,), output_file=answer
            )
            self._run(job, model, once)
            self.ready.link.pull(answer, local)
            return compare(asked, local.read_bytes(), job.name)

    def _options(self, job: Job, resized: tuple[Input, ...]) -> Options:
        asked = DELEGATES.get(job.options["delegate"])
        if asked is None:
            asked = {"delegate": "external", "external_path": self.ready.bring(Path(job.options["delegate"]))}
        sampling = job.sampling
        seconds = min(SUSTAINED_RUN_S, sampling.sustained_s) or sampling.seconds
        return Options(
            threads=job.threads,
            runs=sampling.samples,
            min_seconds=min(seconds, sampling.patience_s),
            max_seconds=sampling.patience_s,
            warmup_runs=sampling.warmup,
            cpu_mask=self._mask(job.options["cores"]),
            inputs=resized,
            **asked,
        )

    def _mask(self, cores: str) -> int | None:
        if cores == "all":
            return None
        mask = self.ready.phone.big_cores if cores == "big" else int(cores, 16)
        there_are = len(self.ready.phone.core_khz)
        if not mask or (there_are and mask >> there_are):
            raise DeviceError(
                f"{self.ready.phone.name} has {there_are} cores, and --cores {cores} does not fit them", reason="cores"
            )
        return mask

    def _executed(self, result: Result, options: Options) -> dict[str, Any]:
        replaced = result.replacements  # what the first one, which was asked for, leaves, XNNPACK takes
        own = [one for one in replaced if one.delegate == replaced[0].delegate]
        totals = [one.total for one in own if one.total is not None]
        return {
            "engine": f"benchmark_model ({self.kind.name})",
            "requested": options.delegate if options.xnnpack is not False else "none",
            "delegate": list(result.executed_by),
            "verdict": result.verdict.value,
            "nodes": sum(totals) if totals and len(totals) == len(own) else None,
            "delegated": sum(one.nodes for one in own) if own else None,
            "partitions": sum(one.partitions for one in own) if own else None,
            "others": [asdict(one) for one in replaced if one not in own],
            "gpu_backend": result.gpu_backend,
            "fp32": options.gpu_fp32 if options.delegate == "gpu" else None,
            "xnnpack": result.xnnpack,
            "core_mask": f"{options.cpu_mask:x}" if options.cpu_mask else None,
        }

    def _doubts(self, options: Options) -> list[str]:
        found = [one.message for one in self.ready.warnings if one.reason != "screen"]  # it is on by now
        if options.cpu_mask and options.threads > options.cpu_mask.bit_count():
            found.append(f"{options.threads} threads on {options.cpu_mask.bit_count()} cores")
        return found


def _shapes(job: Job, ports: Sequence[Port]) -> tuple[Shape, ...]:
    """Of what goes in. Raises UsageError for a size that the file does not take."""
    from export.runtime import layout_of

    try:
        return tuple(array.shape for array in for_ports(ports, layout_of(ports, "NHWC"), job.size, job.seed))
    except UsageError as error:
        raise UsageError(f"{job.name}: {error.message}", error.hint) from error


def _round(results: Sequence[Result], index: int, position: int) -> Round:
    first = results[0]
    mains = [result.main for result in results if result.main]
    assert len(mains) == len(results)  # a result without is no measurement, and was refused
    if first.init_ms is None:
        raise MeasurementError("benchmark_model did not say how long loading took")
    warmup = (first.first_ms,) if first.first_ms is not None else ()
    middles = tuple(main.median_ms if main.median_ms is not None else main.avg_ms for main in mains)
    told = _told(mains[0]) if len(mains) == 1 else {"runs": float(sum(main.count for main in mains))}
    return Round(index, position, middles, warmup, first.init_ms, cpu_per_wall=None, told=told)


def _told(main: Latency) -> dict[str, float]:
    values = {"runs": float(main.count), **{name: getattr(main, name) for name in _TOLD}}
    return {name: value for name, value in values.items() if value is not None}


_TOLD = ("first_ms", "min_ms", "max_ms", "avg_ms", "std_ms", "median_ms", "p5_ms", "p95_ms")


BACKEND = Backend(
    name="android",
    device="android",
    kind="tflite",
    open=None,
    imports=(),
    packages=(),
    session=session,
)
