"""The photos of the demo: those that lie inside scikit-image. Which ones are trained on, and which are held aside.

Never here: downloads; photos of anybody else.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from compress.errors import ImageError, require
from compress.files import check_folder
from compress.photos import decode, encode

TRAINED_ON = (
    "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg", "camera.png", "coins.png", "ihc.png", "retina.jpg", "moon.png",
    "grass.png", "gravel.png", "brick.png",
)  # fmt: skip
HELD_ASIDE = ("astronaut.png", "coffee.png", "chelsea.png")


def copy_photos(names: tuple[str, ...], folder: Path) -> Path:
    """Write these photos into `folder` as PNG, and return it. Raises MissingToolError without scikit-image, OutputError."""
    require("skimage", "demo")
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "data"
    check_folder(folder)
    for name in names:
        if not (source / name).is_file():
            raise ImageError(f"this scikit-image has no {name}", "pip install 'scikit-image>=0.22'")
        encode(folder / f"{Path(name).stem}.png", decode(source / name))
    return folder
