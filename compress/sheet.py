"""Pictures side by side on one sheet, with labels: for looking, where people would rather look than read.

numpy and Pillow only. Never here: making the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compress.photos import Pixels

GAP, LINE, INK, PAPER = 6, 22, (40, 40, 40), (255, 255, 255)


def sheet(rows: Sequence[Sequence[NDArray[Any]]], columns: Sequence[str]) -> Pixels:
    """Rows of pictures (H, W, 3), 0..255, under one label a column; pictures of a row have one size. -> (H, W, 3) uint8."""
    if not rows or any(len(row) != len(columns) for row in rows):
        raise ValueError("a sheet needs at least one row, and one picture a column in each")
    widths = [max(row[i].shape[1] for row in rows) for i in range(len(columns))]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(len(columns))]
    page = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), LINE + sum(heights) + GAP * (len(heights) + 1)), PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(15)
    for left, width, label in zip(lefts, widths, columns, strict=True):
        draw.text((left, 3), _shortened(label, width, font), fill=INK, font=font)
    top = LINE + GAP
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(lefts, row, strict=True):
            pixels = np.clip(np.rint(np.asarray(picture, np.float32)), 0, 255).astype(np.uint8)
            page.paste(Image.fromarray(pixels), (left, top))
        top += height + GAP
    return np.asarray(page)


def _shortened(label: str, width: int, font: Any) -> str:
    while len(label) > 1 and font.getlength(label) > width:
        label = label[:-2].rstrip() + "…"
    return label
