"""How sparsity grows: the shares of the *total* that are zero after each increment. The paper's strategies as pure functions.

One-shot: all at once. Iterative: 0.1, 0.2 ... 0.9, 0.95, with fine-tuning after each (Artist-Eye, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compress.errors import UsageError

Schedule = Callable[[float, float], tuple[float, ...]]  # (target, increment) -> shares of the total, rising, the last is target


def one_shot(target: float, increment: float) -> tuple[float, ...]:
    """Everything at once: `(target,)`."""
    return (target,)


def iterative(target: float, increment: float) -> tuple[float, ...]:
    """`increment` of the total more each time: iterative(0.95, 0.1) is 0.1, 0.2 ... 0.9, 0.95."""
    if not 0 < increment < 1:
        raise UsageError(f"an increment must be between 0 and 1, got {increment}", "0.1 prunes 10 % of the total at a time")
    full = int(target / increment * (1 + 1e-9))
    shares = [round(n * increment, 12) for n in range(1, full + 1)]
    if not shares or target - shares[-1] > 1e-9:
        shares.append(target)
    return (*shares[:-1], target)


SCHEDULES: Mapping[str, Schedule] = {"one-shot": one_shot, "iterative": iterative}


def starts(increments: int, steps: int) -> tuple[int, ...]:
    """The fine-tuning step before which each increment happens: `steps` are shared equally, the first starts at 0.

    Raises UsageError when there are fewer steps than increments: one would get no fine-tuning at all.
    """
    if steps < increments:
        raise UsageError(f"{increments} increments need at least {increments} steps, got --steps {steps}")
    return tuple(n * steps // increments for n in range(increments))
