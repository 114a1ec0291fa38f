"""The registry of networks: a name, a factory, and how strangers name the same tensors. One network a file.

To add one: a file beside this one with a `NETWORK`, and its line in `_files`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from compress.errors import NetworkError
from compress.image_format import ImageFormat

Recognise = Callable[[dict[str, Tensor]], "Recognised | None"]


@dataclass(frozen=True)
class Recognised:
    """A stranger's state dict in our names: `arguments` for the factory, `format` that this layout was trained with."""

    tensors: dict[str, Tensor]
    arguments: dict[str, Any]
    format: ImageFormat


@dataclass(frozen=True)
class Network:
    """`factory(**arguments) -> nn.Module`, NCHW in and out. `format`: of new networks. `recognise`: for foreign files."""

    name: str
    factory: Callable[..., nn.Module]
    format: ImageFormat
    recognise: Recognise
    example: tuple[int, ...] = (1, 3, 256, 256)


_files = {"johnson": "compress.networks.johnson"}


def names() -> list[str]:
    return sorted(_files)


def get(name: str) -> Network:
    """Raises NetworkError that lists what there is."""
    if name not in _files:
        raise NetworkError(f"no network named {name!r}", f"there are {', '.join(names())}; your own is package.module:factory")
    network = importlib.import_module(_files[name]).NETWORK
    assert isinstance(network, Network)
    return network
