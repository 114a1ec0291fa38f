"""A contact sheet: what each file makes of the same photos, and how that differs from the network, amplified.

Never here: numbers (parity.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.photos import Pixels
from compress.sheet import sheet
from export.parity import Outputs, Yardstick

ROWS, SIDE = 3, 256
AMPLIFIED = 8  # times; grey is no difference


def contact_sheet(yardstick: Yardstick, found: Mapping[str, Sequence[Outputs]]) -> Pixels | None:
    """Two rows a photo, for a few photos: the network's picture and that of each of `found` (label -> its outputs, a sample
    each); below, the differences. None for a network that makes no pictures.
    """
    index = next((index for index, form in enumerate(yardstick.formats) if form), None)
    if index is None or not found:
        return None
    form = yardstick.formats[index]
    assert form is not None

    def picture(outputs: Outputs) -> NDArray[np.float32]:
        return form.decode(outputs[index][:1].transpose(0, 2, 3, 1))[0]

    rows: list[list[NDArray[np.float32]]] = []
    for number, given in list(enumerate(yardstick.given))[:ROWS]:
        wanted, made = picture(given), [picture(results[number]) for results in found.values()]
        differences = [127.5 + AMPLIFIED * (one - wanted) for one in made]
        rows.append([_small(one) for one in (wanted, *made)])
        rows.append([_small(one) for one in (np.full_like(wanted, 127.5), *differences)])
    return sheet(rows, ["the network", *found])


def _small(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most SIDE pixels wide and high, as whole pixels."""
    whole = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    whole.thumbnail((SIDE, SIDE))
    return np.asarray(whole, np.float32)
