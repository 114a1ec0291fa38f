"""The trained networks that come with the package; docs/models.md says how each was made, and how good it is."""

from __future__ import annotations

from pathlib import Path

from compress.errors import CheckpointError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The checkpoint of a bundled network. Raises CheckpointError that lists what there is."""
    if name not in names():
        raise CheckpointError(f"no bundled network {name!r}", f"there are {', '.join(names()) or 'none in this installation'}")
    return FOLDER / f"{name}.safetensors"
