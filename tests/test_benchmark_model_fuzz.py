"""Logs of known runs, cut, torn, shuffled and mixed: never an exception, never a number that is not the run's own."""

from __future__ import annotations

import contextlib
import math
import random
from dataclasses import dataclass, fields

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from android_bench import benchmark_model as bm
from android_bench.benchmark_model import Latency, Memory, Result
from compress.errors import MeasurementError
from tests.test_benchmark_model import GOOD, LOGS, log

FUZZ = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NAMES = sorted(path.stem for path in LOGS.glob("*.txt"))
CHATTER = (
    "VERBOSE: Replacing 3 out of 5 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 1 partitions for subgraph 0.",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
    "WARNING: Attempting to use a delegate that only supports static-sized tensors",
    "ERROR: File cache.bin couldn't be opened for reading: No such file or directory",
    "libc: 12 threads",
    "",
)


@dataclass(frozen=True)
class Run:
    """A run as it really was, and what the tool prints of it: lines of stdout and of stderr."""

    stdout: tuple[str, ...]
    stderr: tuple[str, ...]
    warmup: Latency
    main: Latency
    init_ms: float
    first_ms: float
    memory: Memory

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.stdout + self.stderr)


def nearest(values: list[int], percent: int) -> int:
    return sorted(values)[len(values) * percent // 100]


def count_line(us: list[int], with_percentiles: bool) -> str:
    """As `StatWithPercentiles` prints it."""
    line = f"count={len(us)}"
    if min(us) == max(us):
        line += f" curr={us[-1]}" + ("(all same)" if len(us) > 1 else "")
    else:
        mean = sum(us) / len(us)
        deviation = int(math.sqrt(max(0.0, sum(v * v for v in us) / len(us) - mean * mean)))
        line += f" first={us[0]} curr={us[-1]} min={min(us)} max={max(us)} avg={mean:.6g} std={deviation}"
    if with_percentiles:
        line += f" p5={nearest(us, 5)} median={nearest(us, 50)} p95={nearest(us, 95)}"
    return line


def truth_of(us: list[int]) -> Latency:
    mean = sum(us) / len(us)
    deviation = int(math.sqrt(max(0.0, sum(v * v for v in us) / len(us) - mean * mean)))
    first, last, low, high = us[0], us[-1], min(us), max(us)
    ms = [value / 1000 for value in (mean, low, high, deviation, first, last, nearest(us, 50), nearest(us, 5), nearest(us, 95))]
    return Latency(len(us), *ms)


samples = st.one_of(
    st.lists(st.integers(1, 5_000_000), min_size=1, max_size=40),
    st.integers(50, 3_000_000).flatmap(lambda us: st.lists(st.integers(us, us + us // 10), min_size=1, max_size=60)),
    st.lists(st.just(77), min_size=1, max_size=4),
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    warmup, main, init = draw(samples), draw(samples), draw(st.integers(1, 9_000_000))
    kib = sorted(draw(st.tuples(st.integers(0, 400_000), st.integers(0, 400_000))))
    prefix, modern = draw(st.sampled_from(["INFO: ", ""])), draw(st.booleans())
    heading = "Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds."
    stdout = [
        "STARTING!",
        "Num threads: [2]",
        f"Initialized session in {init / 1000:.6g}ms.",
        heading,
        count_line(warmup, modern),
    ]
    stdout = [prefix + line for line in stdout] + ["", prefix + heading, prefix + count_line(main, modern), ""]
    stderr: list[str] = []
    average = (sum(warmup) / len(warmup), sum(main) / len(main))
    if draw(st.booleans()):
        stdout.append(
            f"{prefix}Inference timings in us: Init: {init}, First inference: {warmup[0]}, Warmup (avg): {average[0]:.6g},"
            f" Inference (avg): {average[1]:.6g}"
        )
        grown = f"init={kib[0] / 1024:.6g} overall={kib[1] / 1024:.6g}"
        stdout.append(f"{prefix}Memory footprint delta from the start of the tool (MB): {grown}")
    else:
        deviation = truth_of(main).std_ms
        stderr = [
            "========== BENCHMARK RESULTS ==========", f"Model initialization: {init / 1000:.2f} ms",
            f"Warmup (first):       {warmup[0] / 1000:.2f} ms",
            f"Warmup (avg):         {average[0] / 1000:.2f} ms ({len(warmup)} runs)",
            f"Inference (avg):      {average[1] / 1000:.2f} ms ({len(main)} runs)",
            f"Inference (min):      {min(main) / 1000:.2f} ms", f"Inference (max):      {max(main) / 1000:.2f} ms",
            f"Inference (std):      {deviation:.2f}", f"Init footprint:       {kib[0] / 1024:.2f} MB",
            f"Overall footprint:    {kib[1] / 1024:.2f} MB", "======================================",
        ]  # fmt: skip
        stderr = [f"INFO: [benchmark_litert_model.h:{100 + n}] {line}" if n % 10 else line for n, line in enumerate(stderr)]
    memory = Memory(init_bytes=1024 * kib[0], overall_bytes=1024 * kib[1])
    return Run(tuple(stdout), tuple(stderr), truth_of(warmup), truth_of(main), init / 1000, warmup[0] / 1000, memory)


def lies(seen: Result, run: Run) -> list[str]:
    """Every number of `seen` that is not the run's, to the digits that are printed."""
    pairs = {"init_ms": (seen.init_ms, run.init_ms), "first_ms": (seen.first_ms, run.first_ms), "threads": (seen.threads, 2)}
    for part in ("warmup", "main"):
        own, true = getattr(seen, part), getattr(run, part)
        if own is not None:
            pairs |= {f"{part}.{f.name}": (getattr(own, f.name), getattr(true, f.name)) for f in fields(Latency)}
    slack = 0.0051 if seen.kind == "litert" else 1e-9
    found = [
        f"{name}: {own}, really {true}"
        for name, (own, true) in pairs.items()
        if own is not None and not math.isclose(own, true, rel_tol=6e-6 if "avg" in name else 1e-12, abs_tol=slack)
    ]
    for field in fields(Memory):
        own, true = getattr(seen.memory, field.name), getattr(run.memory, field.name)
        if own is not None and (true is None or abs(own - true) > 6 * 1024):
            found.append(f"{field.name}: {own}, really {true}")
    return found


@FUZZ
@given(runs())
def test_a_whole_log_is_read_whole(run):
    for seen in (bm.parse("".join(f"{x}\n" for x in run.stdout), "".join(f"{x}\n" for x in run.stderr)), bm.parse(run.text)):
        assert seen.missing == {}
        assert seen.verdict is bm.Verdict.EXECUTED
        assert lies(seen, run) == []
        assert seen.main.count == run.main.count
        assert seen.warmup.count == run.warmup.count
        assert seen.init_ms is not None
        assert seen.memory.overall_bytes is not None
    assert lies(bm.parse(run.text.replace("\n", "\r\n")), run) == []


@FUZZ
@given(runs(), st.floats(0, 1), st.booleans(), st.sampled_from(["", "\n", "\n__RC=137\n", "Killed\n"]))
def test_a_log_that_is_cut(run, share, at_the_start, after):
    at = int(share * len(run.text))
    text = run.text[at:] if at_the_start else run.text[:at] + after
    seen = bm.parse(text)
    assert lies(seen, run) == []
    if at < len("".join(f"{line}\n" for line in run.stdout[:8])) and not at_the_start:
        assert seen.verdict is bm.Verdict.FAILED
        assert seen.main is None


@FUZZ
@given(runs(), st.lists(st.tuples(st.floats(0, 1), st.sampled_from(CHATTER), st.booleans()), min_size=1, max_size=4))
def test_other_lines_in_the_middle_of_lines(run, chunks):
    text = run.text
    for share, chunk, has_end in chunks:
        at = int(share * len(text))
        text = text[:at] + chunk + ("\n" if has_end and chunk else "") + text[at:]
    assert lies(bm.parse(text), run) == []


@FUZZ
@given(runs(), st.lists(st.sampled_from(CHATTER[:-1]), max_size=6), st.randoms(use_true_random=False))
def test_two_streams_mixed_at_any_byte(run, chatter, chance):
    """Each stream keeps its order; where they change is chance."""
    left = "".join(f"{line}\n" for line in run.stdout)
    right = "".join(f"{line}\n" for line in [*chatter, *run.stderr])
    text = ""
    while left or right:
        size = chance.choice([1, 3, 20, 60, 300])
        if (chance.random() < 0.5 and left) or not right:
            text, left = text + left[:size], left[size:]
        else:
            text, right = text + right[:size], right[size:]
    assert lies(bm.parse(text), run) == []


@FUZZ
@given(runs(), st.randoms(use_true_random=False), st.sampled_from(["shuffle", "drop", "repeat", "swap"]))
def test_lines_lost_repeated_and_out_of_order(run, chance, how):
    assume(run.warmup.avg_ms != run.main.avg_ms)  # nothing else tells the two apart, once their order is lost
    lines = run.text.splitlines(keepends=True)
    for _ in range(chance.randint(1, 5)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        if how == "drop" and len(lines) > 1:
            del lines[at]
        elif how == "repeat":
            lines.insert(other, lines[at])
        elif how == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        else:
            chance.shuffle(lines)
    assert lies(bm.parse("".join(lines)), run) == []


@FUZZ
@given(runs(), runs(), st.floats(0, 1), st.booleans())
def test_two_runs_in_one_log(one, other, share, first_is_cut):
    text = (
        one.text[int(share * len(one.text)) :] + other.text
        if first_is_cut
        else one.text + other.text[: int(share * len(other.text))]
    )
    seen = bm.parse(text)
    assert lies(seen, one) == [] or lies(seen, other) == []


@FUZZ
@given(st.sampled_from(NAMES), st.data())
def test_fixtures_with_anything_in_them(name, data):
    """Replaced pieces of real logs: never an exception, and no number out of range."""
    text = log(name)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(st.one_of(st.text(max_size=20), st.sampled_from(HOSTILE)))
        text = text[:at] + piece + text[at + data.draw(st.integers(0, 40)) :]
    check(bm.parse(text, text[::2], text[: len(text) // 2]))


HOSTILE = ("nan", "inf", "-1", "1e400", "9" * 400, "\x00", "\x1b[2J", "\u2028", "\r", "\t", "=" * 40, "e+06", "count=", "\ud800")


@FUZZ
@given(st.text(), st.text(), st.text())
def test_any_text(stdout, stderr, logcat):
    check(bm.parse(stdout, stderr, logcat))


def check(seen: Result) -> None:
    for part in (seen.warmup, seen.main):
        if part:
            numbers = [getattr(part, f.name) for f in fields(Latency)]
            assert all(number is None or (math.isfinite(number) and number >= 0) for number in numbers)
            assert part.min_ms <= part.avg_ms * (1 + 1e-5)
    assert seen.verdict in tuple(bm.Verdict)
    if seen.verdict is bm.Verdict.EXECUTED:
        assert seen.main is not None
    for profile in seen.profiles:
        for table in profile.tables:
            assert all(row.avg_ms is None or math.isfinite(row.avg_ms) for row in table.rows)


@FUZZ
@given(st.binary(max_size=300), st.floats(0, 1), st.integers(0, 255))
def test_any_result_file(payload, share, byte):
    at = int(share * (len(GOOD) - 1))
    for damaged in (payload, GOOD[:at], GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], GOOD + payload):
        with contextlib.suppress(MeasurementError):
            read = bm.read_result_file(damaged)
            assert math.isfinite(read.avg_ms)
            assert read.avg_ms >= 0


@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_of_the_tools_own_words(seed):
    """Half-sentences of real logs in random order."""
    chance = random.Random(seed)
    words = [word for name in NAMES for word in log(name).replace("\n", " \n ").split(" ")]
    for _ in range(300):
        check(bm.parse(" ".join(chance.choices(words, k=chance.randint(1, 200)))))
