"""What the samples of a record say, and how far to trust them. Computed each time from raw samples, never stored.

Rounds are the unit of chance: samples of one process share its luck (memory layout, a neighbour on the machine). So intervals
resample rounds, and two files are compared round by round, within pairs that ran close together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from android_bench.record import Record
from compress.errors import UsageError

LEVEL = 0.95
RESAMPLES = 1000
FEWEST_ROUNDS, FEWEST_SAMPLES = 5, 30
WIDEST_INTERVAL = 0.10  # of the median
BUSY_SHARE = 0.75  # of the threads asked for
FAITHFUL_DB = 30.0  # below it, a difference shows


@dataclass(frozen=True)
class Summary:
    """Of all samples of a record, in ms. `low_ms`, `high_ms`: the median's 95 % bootstrap interval over rounds. `mad_ms`: median
    absolute deviation from the median (not scaled). Where a program kept its samples to itself, `p95_ms` is the median of what it
    told of each round."""

    median_ms: float
    low_ms: float
    high_ms: float
    min_ms: float
    p95_ms: float
    mad_ms: float


@dataclass(frozen=True)
class Ratio:
    """`value`: the median of the paired rounds' ratios. `low`, `high`: its interval, from order statistics; `level`: how sure
    that interval is (few rounds cannot give 95 %: two give 50 %, five 94 %, six 97 %)."""

    value: float
    low: float
    high: float
    rounds: int
    level: float

    @property
    def differs(self) -> bool:
        """True when the interval excludes 1."""
        return self.low > 1 or self.high < 1

    @property
    def is_told(self) -> bool:
        """True when that may be said aloud: it differs, and from enough rounds."""
        return self.differs and self.rounds >= FEWEST_ROUNDS


def median(values: Sequence[float]) -> float:
    return float(np.median(values))


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation from the median, not scaled."""
    return median(np.abs(np.asarray(values) - np.median(values)).tolist())


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: one of the values, never above the largest. `share` in (0, 1]."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def bootstrap_interval(rounds: Sequence[Sequence[float]], level: float = LEVEL, seed: int = 0) -> tuple[float, float]:
    """Interval of the median of all samples: rounds are drawn with replacement, then samples within each drawn round.

    The same input and seed give the same interval.
    """
    random = np.random.default_rng(seed)
    groups = [np.asarray(samples, float) for samples in rounds]
    medians = []
    for _ in range(RESAMPLES):
        drawn = [groups[i] for i in random.integers(len(groups), size=len(groups))]
        medians.append(np.median(np.concatenate([g[random.integers(g.size, size=g.size)] for g in drawn])))
    tail = (1 - level) / 2
    return float(np.quantile(medians, tail)), float(np.quantile(medians, 1 - tail))


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Interval of the median from order statistics, whatever the distribution: (low, high, level really reached).

    The narrowest symmetric pair that reaches `level`, or all values when there are too few: `n` values give `1 - 2^(1-n)`.
    """
    ordered, n = sorted(values), len(values)
    inside, reached = 0, 1 - 2 * 0.5**n
    for k in range(1, n // 2):
        narrower = 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) * 0.5**n
        if narrower < level:
            break
        inside, reached = k, narrower
    return ordered[inside], ordered[n - 1 - inside], reached


def summarise(record: Record) -> Summary:
    """The statistics of one record, over the samples of all its rounds."""
    samples = record.samples_ms
    low, high = bootstrap_interval([round_.samples_ms for round_ in record.rounds])
    fastest = min(round_.told.get("min_ms", min(round_.samples_ms)) for round_ in record.rounds)
    told = [round_.told["p95_ms"] for round_ in record.rounds if "p95_ms" in round_.told]
    return Summary(median(samples), low, high, fastest, median(told) if told else percentile(samples, 0.95), mad(samples))


def paired_ratio(record: Record, baseline: Record) -> Ratio:
    """How long `record` takes as a share of `baseline`: below 1 is faster. From rounds that both have.

    Raises UsageError for records of two runs, which have no pairs, or without a common round.
    """
    if record.run != baseline.run:
        raise UsageError(f"{record.artifact} and {baseline.artifact} were not measured in one run", "a ratio needs paired rounds")
    others = {round_.index: median(round_.samples_ms) for round_ in baseline.rounds}
    ratios = [median(r.samples_ms) / others[r.index] for r in record.rounds if others.get(r.index)]
    if not ratios:
        raise UsageError(f"{record.artifact} and {baseline.artifact} have no round in common")
    low, high, level = median_interval(ratios)
    return Ratio(median(ratios), low, high, len(ratios), level)


def round_medians(record: Record) -> list[float]:
    """The median of each round, in ms: every round counts once, however many runs it has."""
    return [median(round_.samples_ms) for round_ in record.rounds]


def unpaired_ratio(record: Record, baseline: Record) -> Ratio:
    """The same for records of two runs, whose rounds have nothing in common: of medians of the rounds' medians, with a bootstrap
    interval that draws rounds of both. One round less is drawn than there are: with all, few rounds would look too sure.

    Simulated with luck of 2 and of 5 % a round, five rounds: the interval holds the truth in 95 to 98 of 100 trials.
    """
    ours, theirs = round_medians(record), round_medians(baseline)
    random = np.random.default_rng(0)
    drawn = [np.median(random.choice(times, (RESAMPLES, max(1, len(times) - 1))), axis=1) for times in (ours, theirs)]
    low, high = np.quantile(drawn[0] / drawn[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Ratio(median(ours) / median(theirs), float(low), float(high), min(len(ours), len(theirs)), LEVEL)


def busy_threads(record: Record) -> list[float]:
    """Processor seconds a second while timing, of each round; nothing for a round that does not tell."""
    return [round_.cpu_per_wall for round_ in record.rounds if round_.cpu_per_wall is not None]


def doubts(record: Record) -> tuple[str, ...]:
    """Why not to trust this record, each in a few words; empty when nothing speaks against it."""
    summary, cores = summarise(record), record.host.get("cores")
    busy = busy_threads(record)
    runs = sum(round_.runs for round_ in record.rounds)
    found = []
    is_sustained = any(round_.at_s for round_ in record.rounds)  # it has one round, and is meant to drift
    if not is_sustained and (len(record.rounds) < FEWEST_ROUNDS or runs < FEWEST_SAMPLES):
        rounds = "1 round" if len(record.rounds) == 1 else f"{len(record.rounds)} rounds"
        found.append(f"few samples: {runs} runs in {rounds}")
    if not is_sustained and summary.high_ms - summary.low_ms > WIDEST_INTERVAL * summary.median_ms:
        found.append(f"wide spread: the median is only known to be in {summary.low_ms:.2f}..{summary.high_ms:.2f} ms")
    if isinstance(cores, int) and record.threads > cores:
        found.append(f"{record.threads} threads on {cores} cores")
    elif busy and median(busy) < BUSY_SHARE * record.threads:
        share = f"{median(busy):.2f} of {record.threads} threads"
        found.append(f"{share} kept busy: the machine was loaded, or the network does not scale")
    if hot := sum(round_.conditions.get("settled") is False for round_ in record.rounds):
        found.append(f"the phone had not cooled down before {hot} of {len(record.rounds)} rounds")
    if slowed := sum(bool(round_.conditions.get("throttled")) for round_ in record.rounds):
        found.append(f"the phone held its cores back in {slowed} of {len(record.rounds)} rounds")
    for parity in (round_.parity for round_ in record.rounds if round_.parity):
        if parity["psnr_db"] is not None and parity["psnr_db"] < FAITHFUL_DB:
            found.append(f"its answer to the photo is only {parity['psnr_db']:.1f} dB from this machine's")
    return (*found, *map(str, record.host.get("doubts", ())))


@dataclass(frozen=True)
class Endurance:
    """Of a sustained record: the medians of its first and last `window_s` seconds. `ratio`: last / first; above 1 it became
    slower. `minutes_ms`: the median of each minute, the last one shorter; None for a minute in which no run began."""

    window_s: float
    first_ms: float
    last_ms: float
    ratio: float | None
    minutes_ms: tuple[float | None, ...]


def endurance(record: Record) -> Endurance | None:
    """None for a record that is not sustained. A measurement under two minutes is halved."""
    runs = [run for round_ in record.rounds for run in zip(round_.at_s, round_.samples_ms, strict=False)]
    if not runs:
        return None
    end = runs[-1][0] + runs[-1][1] / 1e3
    window = min(60.0, end / 2)
    first = median([ms for at, ms in runs if at < window])
    last = median([ms for at, ms in runs if at >= end - window] or [runs[-1][1]])
    minutes: list[list[float]] = [[] for _ in range(int(runs[-1][0] // 60) + 1)]
    for at, ms in runs:
        minutes[int(at // 60)].append(ms)
    medians = tuple(median(times) if times else None for times in minutes)
    return Endurance(window, first, last, last / first if first else None, medians)


def document(record: Record, first: Record | None = None) -> dict[str, Any]:
    """The record with its statistics, as `compress bench --json` prints it; `ratio` is to `first`, of the same run, if given."""
    ratio = paired_ratio(record, first) if first and first is not record else None
    lasted = endurance(record)
    return {
        **record.to_json(),
        **({"sustained": asdict(lasted)} if lasted else {}),
        **asdict(summarise(record)),
        "ratio": {**asdict(ratio), "told": ratio.is_told} if ratio else None,
        "doubts": list(doubts(record)),
    }
