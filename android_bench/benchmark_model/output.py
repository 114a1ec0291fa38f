"""What one run of benchmark_model printed, and its result file -> a Result with a verdict. Never raises for any text.

A number that is not certainly right is left out, and `missing` says why. Never here: running the tool, judging speeds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from android_bench.benchmark_model.delegation import Evidence, judge, read_evidence
from android_bench.benchmark_model.flags import Options
from android_bench.benchmark_model.latency import Timings, read_timings
from android_bench.benchmark_model.lines import LONGEST, Line, lines_of
from android_bench.benchmark_model.profile import read_profiles
from android_bench.benchmark_model.proto import ResultFile
from android_bench.benchmark_model.result import Latency, Memory, Note, Raw, Result, Verdict

_SIX = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_TWO = r"([0-9]{1,9}\.[0-9]{2}) MB"
_MEMORY = (
    (
        re.compile(
            rf"(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): init={_SIX} overall={_SIX}"
        ),
        ("init_bytes", "overall_bytes"),
    ),
    (re.compile(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_SIX}"), ("peak_bytes",)),
    (re.compile(r"- VmRSS *: ([0-9]{1,9}) MB"), ("rss_bytes",)),
    (re.compile(r"\+ RssAnn?on *: ([0-9]{1,9}) MB"), ("anonymous_bytes",)),
    (re.compile(r"\+ RssFile \+ RssShmem *: ([0-9]{1,9}) MB"), ("file_bytes",)),
    (re.compile(rf"Init footprint: *{_TWO}"), ("init_bytes",)),
    (re.compile(rf"Overall footprint: *{_TWO}"), ("overall_bytes",)),
    (re.compile(rf"Peak memory: *{_TWO}"), ("peak_bytes",)),
)
_MODEL_SIZE = re.compile(rf"The input model file size \(MB\): {_SIX}")
_THREADS = (re.compile(r"#threads used for CPU inference: ?\[([0-9]{1,5})\]"), re.compile(r"Num threads: ?\[([0-9]{1,5})\]"))
_UNCONSUMED = re.compile(r"Unconsumed cmdline flags: ?(.{1,2000})")
_BENCHMARK_TAGS = ("tflite", "litert", "libc")
_OF_A_BENCHMARK = (
    "STARTING!",
    "Running TensorFlow Lite benchmark",
    "Running benchmark for at least",
    "Inference timings in us",
    "count=",
)
# What is seen -> what it means.
_CAUSES = (
    ("can't execute: Permission denied", "the binary may not be executed there: no executable bit, or a folder mounted noexec"),
    ("not executable: ", "the binary is of another architecture"),
    ("inaccessible or not found", "the binary is not where it was called"),
    ("CANNOT LINK EXECUTABLE", "a library that the binary needs is not beside it"),
    ("Failed to load model", "the model is damaged, cut, or not there"),
    ("Failed to initialize model loader", "the model is damaged, cut, or not there"),
    ("Select TensorFlow op(s)", "the model holds TensorFlow operators (flex), which phones do not run"),
    ("Didn't find op for builtin opcode", "the runtime is older than the model's operators"),
    ("Failed to compile model", "the model cannot be compiled for what was asked"),
    ("Failed to allocate tensors", "tensors cannot be allocated: a shape or a type does not fit"),
    ("Signature not specified or incorrect", "the model has several signatures, and one must be named"),
    ("Failed to read the input_layer_value_file", "an input file cannot be read there"),
    ("appears in input_layer_value_files", "an input file is of an unknown input"),
    ("Requesting full delegation and CPU", "LiteRT cannot demand full delegation and allow the CPU"),
    ("Failed to parse flag", "a flag has a value that the tool does not take"),
    ("Fatal signal", "it crashed"),
)
_LAST_WORDS = {"Aborted": "it aborted", "Killed": "the system killed it: out of memory?", "Segmentation": "it crashed (SIGSEGV)"}
_CODES = {
    126: "the binary cannot be executed there",
    127: "the binary is not where it was called",
    132: "it crashed (SIGILL): the binary is not for this CPU",
    134: "it aborted",
    137: "the system killed it: out of memory?",
    139: "it crashed (SIGSEGV)",
}


def parse(
    stdout: str,
    stderr: str = "",
    logcat: str = "",
    *,
    options: Options | None = None,
    returncode: int | None = None,
    result_file: ResultFile | None = None,
) -> Result:
    """Read one run. Streams may be merged into `stdout`. `logcat` counts only where they say nothing: it is the APK's, and holds
    what other apps do besides. Any text is taken, none raises.

    `options`: what was asked; without them, what the tool echoes of its flags. `returncode`: of the tool, where it is known.
    `result_file`: checked against the text, for it may be of an earlier run.
    """
    lines, several = _of_one_process([*_from_its_start(lines_of(stdout)), *lines_of(stderr)])
    if not _is_of_a_benchmark(lines) and not _causes(lines):
        others, several = _of_one_process(lines_of(logcat))
        lines += others
    timings = read_timings(lines)
    if several:
        spoilt = "the log holds more than one run"
        timings = Timings(spoilt=spoilt, missing=dict.fromkeys(("warmup", "main", "init_ms", "first_ms"), spoilt))
    return _result(timings, lines, Raw(stdout, stderr, logcat), options, returncode, result_file)


def _result(
    timings: Timings, lines: Sequence[Line], raw: Raw, options: Options | None, returncode: int | None, file: ResultFile | None
) -> Result:
    evidence, missing = read_evidence(lines, options), dict(timings.missing)
    numbers = [] if timings.spoilt else lines
    ignored = tuple(flag for match in _matches(_UNCONSUMED, lines) for flag in match[1].split())
    disagreement = _disagreement(file, timings.main) if file and timings.main else None
    verdict, why = _verdict(timings, evidence, lines, returncode)
    if ignored:
        verdict, why = Verdict.FAILED, (f"the tool did not understand {' '.join(ignored)}, and measured without", *why)
    if disagreement:
        verdict, why = Verdict.FAILED, (disagreement, *why)
    return Result(
        verdict=verdict,
        why=tuple(dict.fromkeys(why)),
        raw=raw,
        kind=timings.kind,
        warmup=timings.warmup,
        main=timings.main,
        init_ms=timings.init_ms,
        first_ms=timings.first_ms,
        memory=_memory(numbers, missing),
        model_mb=_single(_MODEL_SIZE, numbers, "model_mb", missing),
        threads=_threads(numbers, missing),
        asked=evidence.asked,
        executed_by=evidence.executed_by,
        delegations=evidence.delegations,
        replacements=evidence.replacements,
        xnnpack=evidence.xnnpack,
        gpu_backend=evidence.gpu_backend,
        accelerators=evidence.accelerators,
        profiles=read_profiles(numbers),
        notes=tuple(dict.fromkeys(_notes(lines))),
        ignored_flags=ignored,
        missing=missing,
        file=None if disagreement else file,
    )


def _from_its_start(lines: Sequence[Line]) -> Sequence[Line]:
    """What stands before the tool's first word is not of this run."""
    starts = [number for number, line in enumerate(lines) if line.text == "STARTING!"]
    return lines[starts[0] :] if starts else lines


def _of_one_process(lines: Sequence[Line]) -> tuple[list[Line], bool]:
    """(lines of the process that ran the benchmark, or that printed no pid; whether several processes may have run it)."""
    pids = {line.pid for line in lines if line.pid is not None and line.text.startswith(_OF_A_BENCHMARK)}
    if not pids:
        pids = {line.pid for line in lines if line.pid is not None and (line.tag or "").startswith(("tflite", "litert"))}
    kept = [
        line for line in lines if line.pid is None or (line.pid in pids and (line.tag or "").lower().startswith(_BENCHMARK_TAGS))
    ]
    return kept, len(pids) > 1


def _is_of_a_benchmark(lines: Iterable[Line]) -> bool:
    return any(line.text.startswith(_OF_A_BENCHMARK) for line in lines)


def _verdict(
    timings: Timings, evidence: Evidence, lines: Sequence[Line], returncode: int | None
) -> tuple[Verdict, tuple[str, ...]]:
    verdict, why = judge(evidence)
    has_failed = any(line.text == "Benchmarking failed." for line in lines)
    if timings.main and not has_failed and not returncode:
        return verdict, why
    causes = _causes(lines)
    if returncode:
        causes.append(_CODES.get(returncode, f"exit code {returncode}"))
    if timings.main is None:
        causes.append(timings.missing.get("main", "nothing was measured"))
    elif has_failed:
        causes.append("a run failed")
    if evidence.refusals or any(one.taken == "not" for one in evidence.delegations):
        return Verdict.REFUSED, (*(why if verdict is Verdict.REFUSED else ()), *evidence.refusals, *causes)
    return Verdict.FAILED, tuple(causes)


def _causes(lines: Iterable[Line]) -> list[str]:
    found = []
    for line in lines:
        text = line.text[:LONGEST]
        found += [meaning for seen, meaning in _CAUSES if seen in text]
        words = text.split(None, 1)
        if words and words[0] in _LAST_WORDS and len(text) < 100:
            found.append(_LAST_WORDS[words[0]])
    return found


def _memory(lines: Sequence[Line], missing: dict[str, str]) -> Memory:
    said: dict[str, set[int]] = {}
    for pattern, names in _MEMORY:
        for match in _matches(pattern, lines):
            for name, text in zip(names, match.groups(), strict=True):
                kib = _kib(text)
                said.setdefault(name, set()).update([] if kib is None else [1024 * kib])
                if kib is None:
                    missing[name] = f"{text} MB is no whole number of KiB: a digit is lost"
    for name, values in said.items():
        if len(values) > 1:
            missing[name] = "it is said twice, and differently"
    return Memory(**{name: next(iter(values)) for name, values in said.items() if len(values) == 1 and name not in missing})


def _kib(text: str) -> int | None:
    """KiB of a number of MB (2^20 bytes) in six digits or two decimals; None when no whole number of KiB prints so."""
    kib = round(float(text) * 1024)
    return kib if text in (f"{kib / 1024:.6g}", f"{kib / 1024:.2f}") else None


def _threads(lines: Sequence[Line], missing: dict[str, str]) -> int | None:
    for pattern in _THREADS:
        if _matches(pattern, lines):
            threads = _single(pattern, lines, "threads", missing)
            return int(threads) if threads else None
    return None


def _single(pattern: re.Pattern[str], lines: Sequence[Line], name: str, missing: dict[str, str]) -> float | None:
    values = {float(match[1]) for match in _matches(pattern, lines)}
    if len(values) > 1:
        missing[name] = "it is said twice, and differently"
    return values.pop() if len(values) == 1 else None


def _notes(lines: Iterable[Line]) -> Iterable[Note]:
    for line in lines:
        if line.level in ("WARN", "ERROR", "FATAL"):
            yield Note(line.level, line.text[:LONGEST])


def _matches(pattern: re.Pattern[str], lines: Iterable[Line]) -> list[re.Match[str]]:
    return [match for line in lines if line.is_whole and len(line.text) <= LONGEST and (match := pattern.fullmatch(line.text))]


def _disagreement(file: ResultFile, main: Latency) -> str | None:
    """Why the file cannot be of the run that was printed, or None. The file has 32-bit floats."""
    pairs = (("runs", file.runs, main.count), ("min_ms", file.min_ms, main.min_ms), ("max_ms", file.max_ms, main.max_ms))
    for name, theirs, printed in pairs:
        if theirs is not None and abs(theirs - printed) > 0.0051 + 1e-6 * printed:
            return f"the result file is of another run: {name} is {theirs:g} there, {printed:g} in the log"
    return None
