"""Statistics against values worked out by hand, and doubts that are spoken aloud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from android_bench.record import Round
from android_bench.statistics import (
    bootstrap_interval,
    document,
    doubts,
    mad,
    median,
    median_interval,
    paired_ratio,
    percentile,
    summarise,
)
from compress.errors import UsageError
from tests.test_record import record


def rounds(*samples, busy=2.0):
    return tuple(Round(index, 0, tuple(map(float, own)), (), 1.0, busy) for index, own in enumerate(samples))


def test_by_hand():
    values = [7.0, 1.0, 3.0, 100.0, 4.0]
    assert median(values) == 4
    assert mad(values) == 3  # |3 -3 -1 96 0| -> 0 1 3 3 96
    assert median([1.0, 2.0, 10.0, 20.0]) == 6
    assert percentile(values, 0.95) == 100
    assert percentile(list(range(1, 101)), 0.95) == 95
    assert percentile(list(range(1, 21)), 0.95) == 19
    assert percentile([5.0], 0.95) == 5


def test_summary_of_a_record():
    summary = summarise(record())
    assert (summary.median_ms, summary.min_ms, summary.p95_ms, summary.mad_ms) == (5, 3, 7, 1)
    assert summary.low_ms <= 5 <= summary.high_ms


def test_interval_of_equal_samples_is_a_point():
    assert bootstrap_interval([[2.0, 2.0], [2.0]]) == (2.0, 2.0)


def test_interval_knows_that_rounds_differ():
    """Within a round nothing varies, between rounds it does: pooled samples would hide it."""
    low, high = bootstrap_interval([[10.0] * 50, [11.0] * 50, [12.0] * 50])
    assert (low, high) == (10, 12)
    assert bootstrap_interval([[10.0] * 50, [11.0] * 50, [12.0] * 50]) == (low, high)


def test_interval_covers_the_true_median():
    """Nine rounds with luck of their own, each of 20 noisy samples; the true median is 50."""
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        low, high = bootstrap_interval([(50 + random.normal() + random.normal(size=20)).tolist() for _ in range(9)])
        hits += low <= 50 <= high
    assert 48 <= hits <= 60


@pytest.mark.parametrize(
    ("count", "low", "high", "level"),
    [(1, 1, 1, 0.0), (2, 1, 2, 0.5), (5, 1, 5, 0.9375), (6, 1, 6, 0.96875), (8, 1, 8, 0.9921875), (9, 2, 8, 0.9609375)],
)
def test_order_statistics(count, low, high, level):
    """From the table of the sign test: nine values are the first that can leave the outermost pair out."""
    assert median_interval([float(n) for n in range(count, 0, -1)]) == (low, high, pytest.approx(level))


def test_ratio_pairs_rounds_by_index():
    base = record(rounds=rounds([10], [20], [40]))
    other = replace(base, rounds=(rounds([0], [0], [20])[2], rounds([5])[0]))  # rounds 2 and 0; round 1 was lost
    ratio = paired_ratio(other, base)
    assert (ratio.value, ratio.low, ratio.high, ratio.rounds, ratio.level) == (0.5, 0.5, 0.5, 2, 0.5)
    assert ratio.differs


def test_a_drifting_machine_does_not_move_a_ratio():
    base = record(rounds=rounds([10], [13], [19], [11], [30], [16]))
    other = replace(base, rounds=rounds(*([round_.samples_ms[0] * 1.1] for round_ in base.rounds)))
    ratio = paired_ratio(other, base)
    assert ratio.low == pytest.approx(1.1)
    assert ratio.high == pytest.approx(1.1)
    same = replace(base, rounds=rounds([11], [12], [20], [10], [31], [16]))
    assert not paired_ratio(same, base).differs


def test_records_of_two_runs_have_no_ratio():
    with pytest.raises(UsageError, match="not measured in one run"):
        paired_ratio(record(), record(run="other"))
    with pytest.raises(UsageError, match="no round in common"):
        paired_ratio(record(rounds=rounds([1])), record(rounds=rounds([1], [2])[1:]))


def test_doubts():
    quiet = record(rounds=rounds(*[[10.0, 10.1, 9.9] * 3] * 5))
    assert doubts(quiet) == ()
    assert doubts(replace(quiet, rounds=quiet.rounds[:2])) == ("few samples: 18 runs in 2 rounds",)
    (wide,) = doubts(replace(quiet, rounds=rounds(*[[10.0 + 5 * n] * 9 for n in range(5)])))
    assert wide.startswith("wide spread: the median is only known to be in 1")
    (busy,) = doubts(replace(quiet, rounds=rounds(*[[10.0] * 9] * 5, busy=1.2)))
    assert busy.startswith("1.20 of 2 threads kept busy")
    assert doubts(replace(quiet, threads=3)) == ("3 threads on 2 cores",)


def test_document_has_samples_and_statistics():
    made = document(record())
    assert made["samples_ms"] == [3, 4, 5, 6, 7]
    assert (made["artifact"], made["backend"], made["median_ms"]) == ("candy_256x192_fp32.tflite", "tflite_cpu", 5)
    assert made["doubts"]
    assert made["ratio"] is None


def test_document_with_a_ratio():
    base = record(rounds=rounds([10], [10], [10], [10], [10]))
    slower = replace(base, rounds=rounds([11], [12], [11], [12], [11]))
    made = document(slower, base)["ratio"]
    assert (made["value"], made["low"], made["high"], made["rounds"], made["told"]) == (1.1, 1.1, 1.2, 5, True)
    assert document(base, base)["ratio"] is None
    few = replace(slower, rounds=slower.rounds[:4])
    assert document(few, base)["ratio"]["told"] is False, "four rounds are too few"
    assert not paired_ratio(replace(base, rounds=rounds([9], [11], [9], [11], [9])), base).is_told


def test_rounds_of_a_program_that_keeps_its_samples():
    """One sample a round, its median; the rest is what the program told."""
    told = [{"runs": 40.0, "min_ms": 7.0, "p95_ms": 20.0}, {"runs": 41.0, "min_ms": 6.5, "p95_ms": 30.0}]
    measured = [
        Round(n, 0, (9.0 + n / 10,), (), 1.0, None, told=told[n % 2], conditions={"settled": n > 0, "throttled": n == 3})
        for n in range(5)
    ]
    one = replace(record(), threads=2, rounds=tuple(measured), host={"cores": 8, "doubts": ["it is an emulator"]})
    summary = summarise(one)
    assert (summary.median_ms, summary.min_ms, summary.p95_ms) == (9.2, 6.5, 20.0)
    assert sum(round_.runs for round_ in one.rounds) == 202
    assert doubts(one) == (
        "the phone had not cooled down before 1 of 5 rounds",
        "the phone held its cores back in 1 of 5 rounds",
        "it is an emulator",
    )
    again = type(one).from_json(one.to_json())
    assert again.rounds == one.rounds
