"""Contact sheets: every picture where it belongs, no label over a picture."""

from __future__ import annotations

import numpy as np
import pytest

from compress.sheet import GAP, LINE, sheet


def test_pictures_are_where_they_belong_and_unchanged() -> None:
    random = np.random.default_rng(0)
    rows = [[random.integers(0, 256, (height, width, 3)) for width in (30, 50)] for height in (20, 40)]
    page = sheet(rows, ["first", "a label much too long for its column"])
    assert page.shape == (LINE + 20 + 40 + 3 * GAP, 30 + 50 + 3 * GAP, 3)
    top = LINE + GAP
    for row, height in zip(rows, (20, 40), strict=True):
        assert np.array_equal(page[top : top + height, GAP : GAP + 30], row[0])
        assert np.array_equal(page[top : top + height, 2 * GAP + 30 : 2 * GAP + 80], row[1])
        top += height + GAP
    assert page[:LINE].min() < 128, "labels are drawn"
    assert (page[:LINE, GAP + 30 : 2 * GAP + 30] == 255).all(), "and stay in their columns"


def test_uneven_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one picture a column"):
        sheet([[np.zeros((4, 4, 3))]], ["a", "b"])
