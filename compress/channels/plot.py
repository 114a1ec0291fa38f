"""Draw how channels respond to photos: one panel a space, photos from top to bottom, channels from left to right.

Blue is a response, the darker the stronger; orange is exactly none. So a channel that is dead on all photos is an orange line
from top to bottom, and has a mark above; a hollow mark is over a channel that no layer reads. Blue and orange keep apart for
every kind of colour vision.
Never here: what is observed (observe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compress.channels.labels import Array
from compress.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
MOST_PANELS = 24
_NONE = "#e8710a"
_INK, _FAINT = "#1b2733", "#6b7885"


def chosen(responses: Mapping[str, Array], most: int = MOST_PANELS) -> list[str]:
    """The spaces to draw, in order: all of them, or those with most dead channels (then: the widest) when there are too many."""

    def rank(name: str) -> tuple[int, int]:
        return -int((responses[name] == 0).all(0).sum()), -responses[name].shape[1]

    kept = set(sorted(responses, key=rank)[:most])
    return [name for name in responses if name in kept]


def draw(path: Path, responses: Mapping[str, Array], unread: Mapping[str, Sequence[int]], title: str, note: str) -> None:
    """Write the picture, whole or not at all. `responses`: space -> (photos, channels), in the order of the panels; `unread`: its
    channels that no layer reads.

    The suffix of `path` is one of SUFFIXES. Raises OutputError for what the disk refuses; needs matplotlib.
    """
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "compress", "font.family": "DejaVu Sans", "axes.edgecolor": _FAINT}):
        figure = _figure(responses, unread, title, note)
        # no date, no versions: the same picture gives the same bytes
        metadata: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with write_whole(path) as partial:
            figure.savefig(partial, dpi=150, format=path.suffix.lower()[1:], metadata=metadata[path.suffix.lower()])


def _figure(responses: Mapping[str, Array], unread: Mapping[str, Sequence[int]], title: str, note: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 if len(responses) < 3 else 2 if len(responses) < 7 else 3
    rows = -(-len(responses) // columns)
    height = 1.15 + 1.55 * rows
    figure = Figure(figsize=(11, height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, columns, left=0.055, right=0.985, top=1 - 0.98 / height, bottom=0.34 / height, hspace=0.66, wspace=0.13
    )
    for number, (name, found) in enumerate(responses.items()):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _panel(axes, name, found, unread.get(name, ()), first=number % columns == 0)
    figure.text(0.055, 1 - 0.30 / height, _short(title, 60), fontsize=13, fontweight="bold", color=_INK, va="center")
    figure.text(0.055, 1 - 0.54 / height, note, fontsize=8.5, color=_FAINT, va="center")
    _legend(figure, height)
    return figure


def _panel(axes: Axes, name: str, found: Array, unread: Sequence[int], first: bool) -> None:
    photos, width = found.shape
    dead = (found == 0).all(0)
    found = np.nan_to_num(found, nan=np.inf)
    found = np.where(np.isinf(found), np.max(found, initial=0, where=np.isfinite(found)), found)
    colours = _blues().with_extremes(bad=_NONE)
    strength = np.sqrt(found / (found.max() or 1))
    axes.imshow(
        np.ma.masked_where(found == 0, strength), cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest",
        extent=(-0.5, width - 0.5, photos - 0.5, -0.5), rasterized=True,
    )  # fmt: skip
    marks = np.flatnonzero(dead)
    _mark(axes, marks, filled=True)
    _mark(axes, np.setdiff1d(np.asarray(unread, int), marks), filled=False)
    counts = (len(marks), "dead"), (len(unread), "unread")
    said = ", ".join(f"{count} {what}" for count, what in counts if count)
    axes.set_title(_short(name), loc="left", fontsize=8.5, fontweight="bold", color=_INK, pad=8.5)
    axes.set_title(
        f"{said} of {width}" if said else f"{width} channels", loc="right", fontsize=8.5, color=_NONE if said else _FAINT, pad=8.5
    )
    axes.set_xticks(_ticks(width), minor=False)
    axes.set_yticks([0, photos - 1] if photos > 1 else [0], labels=["1", str(photos)] if photos > 1 else ["1"])
    axes.tick_params(labelsize=7, colors=_FAINT, length=2, width=0.6)
    if first:
        axes.set_ylabel("photos", fontsize=7.5, color=_FAINT, labelpad=-6)
    for side in axes.spines.values():
        side.set_linewidth(0.6)


def _mark(axes: Axes, channels: Array, filled: bool) -> None:
    place, face = axes.get_xaxis_transform(), _NONE if filled else "white"
    axes.plot(
        channels, np.full(len(channels), 1.05), "v", transform=place, clip_on=False, ms=2.8, mew=0.6, mec=_NONE, mfc=face
    )  # fmt: skip


def _legend(figure: Figure, height: float) -> None:
    from matplotlib.patches import Rectangle

    axes = figure.add_axes((0.70, 1 - 0.365 / height, 0.17, 0.13 / height))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=_blues(), aspect="auto")
    axes.set_axis_off()
    figure.text(0.695, 1 - 0.30 / height, "weak", fontsize=8, color=_FAINT, ha="right", va="center")
    figure.text(0.875, 1 - 0.30 / height, "strong", fontsize=8, color=_FAINT, va="center")
    figure.add_artist(Rectangle((0.928, 1 - 0.365 / height), 0.012, 0.13 / height, color=_NONE))
    figure.text(0.945, 1 - 0.30 / height, "none", fontsize=8, color=_FAINT, va="center")


def _blues() -> Any:
    """From a pale to a deep blue, even to the eye; the palest is still no white."""
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    ramp = LinearSegmentedColormap.from_list("responses", ["#eef4fa", "#b4d2ea", "#5b9bd0", "#1f61a8", "#0a2a5e"])
    return ListedColormap(ramp(np.linspace(0, 1, 256)), "responses")


def _ticks(width: int) -> list[int]:
    """Round channel numbers, no more than five, and the last one."""
    step = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 1 << 30) if width / n <= 4)
    return [*range(0, width - step // 2 if step > 1 else width, step)]


def _short(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"
