"""Draws stripping.svg beside this file: constant channels, and what three ways of removing them leave of their effect.

    python docs/images/draw_stripping.py

The lower half is computed: a 3x3 convolution of the three flat channels above it, with zeros or a reflection around.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]
SIDE = 10  # pixels of a drawn picture
INK, FAINT, RIGHT, WRONG = "#1d2a38", "#66758a", "#2a7f62", "#d9402f"
LOW, HIGH = np.array([240, 245, 250]), np.array([24, 78, 119])
VALUES = (0.8, 0.4, 0.0)  # of the three constant channels


def main() -> None:
    random = np.random.default_rng(4)
    parts = [*_channels(random), *_effects(random.uniform(0.05, 0.4, (3, 3, 3)))]
    style = 'font-family="Helvetica, Arial, sans-serif" shape-rendering="crispEdges"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 980 640" {style}>'
    page = [head, '<rect width="980" height="640" rx="10" fill="#ffffff"/>', *parts, "</svg>"]
    Path(__file__).with_name("stripping.svg").write_text("\n".join(page) + "\n", encoding="utf-8")


def _channels(random: np.random.Generator) -> list[str]:
    """The upper half: five channels as a layer reads them, and what becomes of each."""
    live = [_smooth(random) for _ in range(2)]
    flat = [np.full((SIDE, SIDE), value) for value in VALUES]
    fates = [("live", "stays", INK), ("live", "stays", INK), ("0.8 everywhere", "stays, as the carrier", RIGHT),
             ("0.4 everywhere", "merged into the carrier", RIGHT), ("0 everywhere", "goes", RIGHT)]  # fmt: skip
    parts = [text(40, 46, "What a layer reads: five channels, three of them constant for every picture", 19, INK, bold=True)]
    for number, (picture, (kind, fate, colour)) in enumerate(zip([*live, *flat], fates, strict=True)):
        x = 60 + 184 * number
        parts += tile(x, 72, 112, picture)
        parts += [text(x + 56, 208, kind, 15, INK, "middle"), text(x + 56, 230, fate, 14, colour, "middle")]
    arrow = f'stroke="{RIGHT}" stroke-width="2.5" shape-rendering="auto"'
    parts.append(f'<path d="M 604 128 C 590 116, 566 116, 552 126" fill="none" {arrow}/>')
    parts.append(f'<path d="M 543 133 l 8 -13 l 6 11 z" fill="{RIGHT}" shape-rendering="auto"/>')
    parts.append(text(576, 104, "0.4 / 0.8", 13, RIGHT, "middle"))
    return parts


def _effects(weights: Picture) -> list[str]:
    """The lower half: what the three constants add to one output channel, before and after each kind of removal."""
    parts = ['<line x1="40" x2="940" y1="256" y2="256" stroke="#d8dfe8"/>']
    parts.append(text(40, 290, "What the three constants add to one channel of that layer's output", 19, INK, bold=True))
    columns = ("before", "simply removed", "folded into the bias", "merged into a carrier")
    parts += [text(316 + 180 * n, 322, title, 15, INK, "middle") for n, title in enumerate(columns)]
    carrier = weights[0] + weights[1] * (VALUES[1] / VALUES[0])
    for row, (mode, label) in enumerate((("constant", "zeros around"), ("reflect", "a reflection around"))):
        y = 338 + 150 * row
        before = sum(
            (_convolved(value, kernel, mode) for value, kernel in zip(VALUES, weights, strict=True)), np.zeros((SIDE, SIDE))
        )
        fold = np.full_like(before, sum(value * kernel.sum() for value, kernel in zip(VALUES, weights, strict=True)))
        after = [before, np.zeros_like(before), fold, _convolved(VALUES[0], carrier, mode)]
        parts += [text(40, y + 46, "3x3 convolution,", 15, INK), text(40, y + 68, label, 15, INK, bold=True)]
        for number, picture in enumerate(after):
            x, wrong = 264 + 180 * number, np.abs(picture - before) > 1e-12
            parts += tile(x, y, 104, picture / 2.4, wrong)
            if number:
                said = "exact" if not wrong.any() else "wrong everywhere" if wrong.all() else "wrong at the border"
                parts.append(text(x + 52, y + 124, said, 14, WRONG if wrong.any() else RIGHT, "middle"))
    return parts


def _convolved(value: float, kernel: Picture, mode: str) -> Picture:
    padded = np.pad(np.full((SIDE, SIDE), value), 1, mode)  # type: ignore[call-overload]
    return sum(kernel[i, j] * padded[i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3))


def _smooth(random: np.random.Generator) -> Picture:
    """Something that looks like a feature map."""
    noise = random.random((SIDE + 4, SIDE + 4))
    for _ in range(2):
        noise = (noise[:-1] + noise[1:])[:, :-1] + (noise[:-1] + noise[1:])[:, 1:]
        noise = noise[: noise.shape[0], : noise.shape[1]]
    picture = noise[:SIDE, :SIDE]
    return (picture - picture.min()) / (picture.max() - picture.min())


def tile(x: float, y: float, size: float, picture: Picture, wrong: NDArray[np.bool_] | None = None) -> list[str]:
    """A picture as squares, 0 light to 1 dark; those that are `wrong` have a red stroke."""
    step, parts = size / SIDE, []
    for i, row in enumerate(picture):
        for j, run in _runs(row):
            parts.append(_box(x + j * step, y + i * step, run * step, step, row[j]))
    for i, j in np.argwhere(wrong) if wrong is not None else ():
        a, b = x + j * step + 2, y + (i + 1) * step - 2
        line = f"M {a:.1f} {b:.1f} L {a + step - 4:.1f} {b - step + 4:.1f}"
        parts.append(f'<path d="{line}" stroke="{WRONG}" stroke-width="1.6" shape-rendering="auto"/>')
    parts.append(f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="none" stroke="{FAINT}"/>')
    return parts


def _runs(row: Picture) -> list[tuple[int, int]]:
    """Where equal neighbours begin, and how many they are."""
    starts = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist()]
    return [(start, end - start) for start, end in itertools.pairwise([*starts, len(row)])]


def _box(x: float, y: float, width: float, height: float, value: float) -> str:
    colour = "#" + "".join(f"{int(c):02x}" for c in LOW + (HIGH - LOW) * min(max(value, 0), 1))
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def text(x: float, y: float, said: str, size: int, colour: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>{said}</text>'


if __name__ == "__main__":
    main()
