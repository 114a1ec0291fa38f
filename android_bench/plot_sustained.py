"""Draw sustained measurements, latency against time: where heat slows a device down, a line rises. Never here: measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from android_bench.plot import FAINT, INK, SERIES, dress, save
from android_bench.record import Record
from android_bench.statistics import median

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 60  # of the longest measurement


def draw_sustained(path: Path, records: Sequence[tuple[str, Record]]) -> None:
    """Write the picture, whole or not at all: a line for each (name, record). As `plot.draw`."""
    save(path, lambda: _figure(records))


def steps(record: Record, step_s: float) -> list[tuple[float, float]]:
    """(minutes since the start, median ms) of each `step_s` seconds in which a run began."""
    groups: dict[int, list[float]] = {}
    for round_ in record.rounds:
        for at, ms in zip(round_.at_s, round_.samples_ms, strict=False):
            groups.setdefault(int(at // step_s), []).append(ms)
    return [((n + 0.5) * step_s / 60, median(times)) for n, times in sorted(groups.items())]


def _figure(records: Sequence[tuple[str, Record]]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.4, 4.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    longest_s = max(at for _, record in records for round_ in record.rounds for at in round_.at_s)
    for n, (name, record) in enumerate(records):
        colour, mark = SERIES[n % len(SERIES)]
        minutes, times = zip(*steps(record, max(longest_s, 1.0) / STEPS), strict=True)
        axes.plot(minutes, times, f"-{mark}", color=colour, ms=2.5, lw=1, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", fontsize=8.5, color=FAINT)
    axes.set_ylabel("median latency, ms", fontsize=8.5, color=FAINT)
    dress(axes)
    axes.legend(fontsize=7.5, frameon=False, labelcolor=INK)
    figure.suptitle("sustained", fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left")
    return figure
