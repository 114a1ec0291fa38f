"""Draw latency against size, and against quality where a card tells it: what a millisecond costs. Never here: measuring.

One colour and mark a place that ran the files, apart for every kind of colour vision. A bar is the median's 95 % interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from android_bench.record import Record
from android_bench.statistics import summarise
from compress.files import write_whole
from export.artifact import card_path, read_artifact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
INK, FAINT = "#1b2733", "#6b7885"
SERIES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P"))


@dataclass(frozen=True)
class Point:
    """One file in one place. `psnr_db`: to the network as it was given, over photos, from the file's card; None without."""

    name: str
    where: str
    median_ms: float
    low_ms: float
    high_ms: float
    megabytes: float
    psnr_db: float | None = None


def point(path: Path, where: str, record: Record) -> Point:
    """The point of one measured file; the card beside it, if there is one, tells its quality. Raises ArtifactError."""
    summary = summarise(record)
    parity = read_artifact(path).card.own_parity if card_path(path).exists() else None
    psnr_db = parity.psnr_db if parity and parity.unit == "pixels" else None
    return Point(path.name, where, summary.median_ms, summary.low_ms, summary.high_ms, record.bytes / 1e6, psnr_db)


def draw(path: Path, points: Sequence[Point], title: str) -> None:
    """Write the picture, whole or not at all: a second panel for quality where any point has it.

    The suffix of `path` is one of SUFFIXES. Raises OutputError for what the disk refuses; needs matplotlib.
    """
    save(path, lambda: _figure(points, title))


def save(path: Path, make: Callable[[], Figure]) -> None:
    """Write the figure that `make` draws in the house's style. As `draw`."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "compress", "font.family": "DejaVu Sans", "axes.edgecolor": FAINT}):
        figure = make()
        # no date, no versions: the same picture gives the same bytes
        metadata: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        suffix = path.suffix.lower()
        with write_whole(path) as partial:
            figure.savefig(partial, dpi=150, format=suffix[1:], metadata=metadata[suffix])


def _figure(points: Sequence[Point], title: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with_quality = [one for one in points if one.psnr_db is not None]
    figure = Figure(figsize=(11 if with_quality else 6.2, 4.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if with_quality else 1, squeeze=False)[0]
    series = _series(points)
    _panel(panels[0], points, series, lambda one: one.megabytes, "size of the file, MB (1e6 bytes)")
    panels[0].set_ylim(bottom=0)
    if with_quality:
        _panel(panels[1], with_quality, series, lambda one: one.psnr_db or 0.0, "quality, PSNR to the network as given, dB")
    figure.suptitle(title, fontsize=11, fontweight="bold", color=INK, x=0.01, ha="left")
    panels[0].legend(fontsize=7.5, frameon=False, labelcolor=INK)
    return figure


def _series(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Place -> colour and mark."""
    return {where: SERIES[n % len(SERIES)] for n, where in enumerate(dict.fromkeys(one.where for one in points))}


def _panel(
    axes: Axes, points: Sequence[Point], series: dict[str, tuple[str, str]], height: Callable[[Point], float], label: str
) -> None:
    for where, (colour, mark) in series.items():
        own = [one for one in points if one.where == where]
        if not own:
            continue
        times, heights = [one.median_ms for one in own], [height(one) for one in own]
        bars = [[max(0.0, one.median_ms - one.low_ms) for one in own], [max(0.0, one.high_ms - one.median_ms) for one in own]]
        axes.errorbar(times, heights, xerr=bars, fmt=mark, color=colour, ms=5.5, capsize=2, lw=1, label=where)
    right = 1.1 * max(one.high_ms for one in points) or 1.0
    for one in points:
        away = -1 if one.median_ms > 0.6 * right else 1  # away from the edge
        axes.annotate(
            _short(one.name), (one.median_ms, height(one)), xytext=(5 * away, 5), textcoords="offset points",
            ha="right" if away < 0 else "left", fontsize=7, color=INK, parse_math=False,
        )  # fmt: skip
    axes.set_xlim(0, right)
    axes.margins(y=0.15)
    axes.set_xlabel("median latency, ms", fontsize=8.5, color=FAINT)
    axes.set_ylabel(label, fontsize=8.5, color=FAINT)
    dress(axes)


def dress(axes: Axes) -> None:
    """The look of every panel."""
    axes.tick_params(labelsize=7.5, colors=FAINT, length=2, width=0.6)
    axes.grid(alpha=0.25, lw=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:12]}…{name[-21:]}"
