"""Targets that refuse nonsense, and widths: plain arithmetic, checked by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from compress.errors import PlanError, UsageError
from compress.pruning.target import Amount, Target
from compress.pruning.widths import (
    allowed,
    by_limit,
    by_pattern,
    check_leaves_some,
    next_wider,
    parse_widths,
    ranked,
    refill,
    step_of,
    uniform,
)

FULL = {"a": 32, "b": 24, "c": 5}


def steps(multiple: int) -> dict[str, int]:
    return {name: step_of(width, 1, multiple) for name, width in FULL.items()}


@pytest.mark.parametrize(
    ("exact", "width", "multiple", "stays"),
    [
        (16.0, 32, 8, 16),
        (19.9, 32, 8, 16),
        (20.0, 32, 8, 24),  # halfway: the wider one
        (0.4, 32, 8, 8),  # never none
        (31.0, 32, 8, 32),
        (18.0, 20, 8, 20),  # all of 20, though no multiple
        (17.9, 20, 8, 16),
        (2.5, 5, 8, 3),  # narrower than the multiple: any width
        (0.1, 5, 8, 1),
        (7.0, 8, 8, 8),
        (10.4, 11, 1, 10),
    ],
)
def test_allowed_widths(exact: float, width: int, multiple: int, stays: int) -> None:
    assert allowed(exact, width, step_of(width, 1, multiple)) == stays


def test_next_wider() -> None:
    assert [next_wider(kept, 20, 8) for kept in (8, 16, 20)] == [16, 20, 20]
    assert next_wider(2, 5, 1) == 3


def test_steps_respect_multiple_and_groups() -> None:
    assert step_of(64, 1, 8) == 8
    assert step_of(5, 1, 8) == 1
    assert step_of(30, 3, 8) == 24
    assert step_of(18, 3, 8) == 3
    assert allowed(10, 18, 3) == 9


def test_a_uniform_path_takes_the_same_share_everywhere() -> None:
    assert uniform(FULL, steps(8))(0.5) == {"a": 16, "b": 16, "c": 3}
    assert uniform(FULL, steps(1))(0.25) == {"a": 24, "b": 18, "c": 4}


def test_a_ranked_path_takes_the_lowest_relative_scores() -> None:
    scores = {"big": torch.tensor([100.0, 300.0, 200.0, 400.0]), "small": torch.tensor([0.1, 0.1, 0.1])}
    # relative: big 0.4, 1.2, 0.8, 1.6; small 1, 1, 1
    assert ranked(scores, dict.fromkeys(scores, 1))(2 / 7) == {"big": 2, "small": 3}
    assert ranked(scores, dict.fromkeys(scores, 1))(0.0) == {"big": 4, "small": 3}
    assert ranked(scores, dict.fromkeys(scores, 1))(1.0) == {"big": 1, "small": 1}


def test_a_ratio_that_would_leave_no_channel_names_the_space() -> None:
    check_leaves_some(0.85, FULL)
    with pytest.raises(PlanError, match=r"--ratio 0\.95 would leave no channel of the 5 in c"):
        check_leaves_some(0.95, FULL)


def cost(widths: dict[str, int]) -> int:
    return 3 * widths["a"] + widths["a"] * widths["b"] * 9 + widths["b"] * widths["c"] + 2 * widths["c"]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_a_limit_is_met_within_one_step(share: float, multiple: int) -> None:
    limit = int(cost(FULL) * share)
    kept = by_limit(uniform(FULL, steps(multiple)), limit, cost, "MACs")
    kept = refill(kept, FULL, steps(multiple), limit, cost, lambda name, now: -now / FULL[name])
    assert cost(kept) <= limit
    for name in FULL:
        if kept[name] < FULL[name]:
            assert cost({**kept, name: next_wider(kept[name], FULL[name], steps(multiple)[name])}) > limit


def test_a_limit_that_cannot_be_met_says_what_can() -> None:
    least = cost({"a": 8, "b": 8, "c": 1})
    with pytest.raises(PlanError, match=f"10 MACs cannot be reached.* {least:,}"):
        by_limit(uniform(FULL, steps(8)), 10, cost, "MACs")
    with pytest.raises(PlanError, match="already, no more than"):
        by_limit(uniform(FULL, steps(8)), cost(FULL), cost, "MACs")


def test_paths_never_rise() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = {name: torch.rand(width, generator=generator) for name, width in FULL.items()}
    for path in (uniform(FULL, steps(8)), ranked(scores, steps(8)), ranked(scores, steps(1))):
        points = [path(n / 50) for n in range(51)]
        assert points[0] == FULL
        assert all(after[name] <= before[name] for before, after in pairwise(points) for name in FULL)
        assert min(points[-1].values()) >= 1


def test_widths_spelled_out() -> None:
    groups = {"down.conv": 1, "res.0.first": 1, "res.1.first": 4}
    full = {"down.conv": 32, "res.0.first": 128, "res.1.first": 128}
    assert by_pattern({"res.*": 48, "down.conv": 16}, full, groups) == {"down.conv": 16, "res.0.first": 48, "res.1.first": 48}
    assert by_pattern({"res.*": 48, "res.1.*": 64}, full, groups)["res.1.first"] == 64
    with pytest.raises(PlanError, match=r"res\.1\.first lies in 4 equal groups, 46 cannot"):
        by_pattern({"res.*": 46}, full, groups)
    assert parse_widths("down.conv=16, res.*=48") == {"down.conv": 16, "res.*": 48}
    with pytest.raises(UsageError, match="no space is named up"):
        by_pattern({"up": 3}, full, groups)
    for width in (0, 129):
        with pytest.raises(PlanError, match="128 channels"):
            by_pattern({"res.*": width}, full, groups)
    for text in ("", "a", "a=x", "=3", "a=-1"):
        with pytest.raises(UsageError, match="not understood"):
            parse_widths(text)


def test_amounts() -> None:
    assert Amount.parse("25%").of(1001) == 250
    assert Amount.parse("400000").of(1) == 400_000
    assert Amount.parse("1.5G").of(1) == 1_500_000_000
    assert Amount.parse("400k") == Amount(400_000)
    assert str(Amount.parse("12.5%")) == "12.5%"
    assert str(Amount.parse("400k")) == "400000"
    for text in ("", "x", "-3", "25 percent", "0", "0%", "100%", "1e999", "0.5"):
        with pytest.raises(UsageError):
            Amount.parse(text)


NONSENSE: list[tuple[dict[str, Any], str]] = [
    ({}, "how much is to go"),
    ({"sparsity": 0.5, "ratio": 0.5}, "--sparsity and --ratio: one at a time"),
    ({"sparsity": 1.0}, "at least 0 and below 1"),
    ({"sparsity": -0.1}, "at least 0 and below 1"),
    ({"sparsity": float("nan")}, "at least 0 and below 1"),
    ({"ratio": 1.0}, "at least 0 and below 1"),
    ({"method": "magnitude", "ratio": 0.5}, "--method magnitude does not take --ratio"),
    ({"method": "filters", "sparsity": 0.5}, "--method filters does not take --sparsity"),
    ({"ratio": 0.5, "rank": "odd"}, "no rank named 'odd'"),
    ({"ratio": 0.5, "multiple": 0}, "--multiple must be at least 1"),
    ({"sparsity": 0.5, "multiple": 4}, "say nothing with --sparsity"),
]


@pytest.mark.parametrize(("options", "message"), NONSENSE)
def test_targets_refuse_nonsense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Target(**options)
    assert caught.value.exit_code == 2
