"""Where the weights of loss networks come from: named with URL and hash, found on this machine, never downloaded silently.

Looked for in order: the file that the caller names; the folder COMPRESS_WEIGHTS. What is missing is an error that says where
to get it. Random weights are never a stand-in.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from compress.errors import MissingToolError


@dataclass(frozen=True)
class Source:
    """`sha256_prefix`: the part of the hash that the publisher puts into the file name (the torch.hub convention)."""

    file: str
    url: str
    sha256_prefix: str


SOURCES = {
    "vgg16": Source("vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "vgg19": Source("vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
}
FOLDER_VARIABLE = "COMPRESS_WEIGHTS"


def find(name: str, file: Path | None = None) -> Path:
    """The weight file of loss network `name`. Raises MissingToolError that says where to get it.

    `file` wins. Else the folder COMPRESS_WEIGHTS (and its folder `name`): the published file, whose hash is checked, or the
    one file there whose name begins with `name`.
    """
    if file is not None:
        if not Path(file).is_file():
            raise MissingToolError(f"no weights at {file}", how_to_get(name))
        return Path(file)
    folder = os.environ.get(FOLDER_VARIABLE)
    for place in (Path(folder), Path(folder) / name) if folder else ():
        published = place / SOURCES[name].file
        if published.is_file():
            return _checked(published, SOURCES[name])
        others = sorted(place.glob(f"{name}*.pth")) + sorted(place.glob(f"{name}*.safetensors"))
        if others:
            return others[0]
    raise MissingToolError(f"the weights of the loss network {name} are not here", how_to_get(name))


def how_to_get(name: str) -> str:
    """One line for a user without the weights of loss network `name`: where they are, and where to put them."""
    source = SOURCES[name]
    return f"get {source.url} and give it with --weights FILE, or put it into the folder that {FOLDER_VARIABLE} names"


def _checked(path: Path, source: Source) -> Path:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(source.sha256_prefix):
        raise MissingToolError(
            f"{path} is damaged: its sha256 does not start with {source.sha256_prefix}", f"get {source.url} again"
        )
    return path
