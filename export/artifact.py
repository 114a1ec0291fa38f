"""An `.onnx` or `.tflite` file and its card beside it (`model.tflite.json`): what a program must know to use the file.

A card that does not match its file is an error, never a warning. Never here: running a file (runtime.py), torch, TensorFlow.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from compress.errors import ArtifactError, UsageError
from compress.files import write_text
from compress.image_format import ImageFormat

VERSION = 1
KINDS = ("onnx", "tflite")
LAYOUTS = ("NCHW", "NHWC")


@dataclass(frozen=True)
class Quantisation:
    """`real = (stored - zero_point) * scale`, one pair for the whole tensor."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Port:
    """One input or output of a file. `shape`: in the file's own layout, None for an axis that is free. `dtype`: numpy's name.

    `format`: how pixels become this tensor; None when it is no picture. `quantisation`: None for a float tensor.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    format: ImageFormat | None = None
    quantisation: Quantisation | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "format": self.format.to_json() if self.format else None,
            "quantisation": asdict(self.quantisation) if self.quantisation else None,
        }

    @classmethod
    def from_json(cls, value: Any) -> Port:
        form, quantisation = value["format"], value["quantisation"]
        return cls(
            str(value["name"]),
            str(value["dtype"]),
            tuple(None if n is None else int(n) for n in value["shape"]),
            ImageFormat.from_json(form) if form else None,
            Quantisation(float(quantisation["scale"]), int(quantisation["zero_point"])) if quantisation else None,
        )


@dataclass(frozen=True)
class Parity:
    """How far one stage is from the network as it was given, over the same pictures.

    `max_abs`, `mean_abs`: on the 0..255 scale after clamping when `unit` is `pixels`, else in the tensors' own unit.
    `psnr_db`: peak 255; None when the outputs are identical, or are no pictures.
    `relative`: the largest difference of any output tensor as a share of that output's range, before clamping. `ssim`: structural
    similarity, 1 for identical pictures; None for what is no picture, or is smaller than its window.
    """

    stage: str
    max_abs: float
    mean_abs: float
    psnr_db: float | None
    relative: float
    unit: str = "pixels"
    ssim: float | None = None


@dataclass(frozen=True)
class Card:
    """All that is known of one file. `size`: (height, width) that it takes, None when free. `deflate_bytes`: zlib, level 9.

    `parent`: sha256 of the network file that it was made of. `signature`: name of the TFLite signature. `rewrites`: name ->
    places, in the order they were made. `pictures`: what parity was measured on. `ran`: what executed the file. `search`: how the
    layers of a mixed file were chosen (mixed.Search), empty for others. Of a TFLite file: `operators`: kind -> how often;
    `delegates`: name -> what it makes of the file, and how that is known; `min_runtime`: the oldest runtime that has them all.
    """

    file: str
    sha256: str
    bytes: int
    deflate_bytes: int
    kind: str
    layout: str
    variant: str
    size: tuple[int, int] | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: str | None = None
    parent: str | None = None
    target: str | None = None
    rewrites: Mapping[str, int] = field(default_factory=dict)
    parity: tuple[Parity, ...] = ()
    pictures: str | None = None
    ran: str | None = None
    toolchain: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    operators: Mapping[str, int] = field(default_factory=dict)
    delegates: Mapping[str, Any] = field(default_factory=dict)
    min_runtime: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.layout not in LAYOUTS:
            raise UsageError(f"a card's kind is one of {KINDS}, its layout one of {LAYOUTS}; got {self.kind!r}, {self.layout!r}")

    @property
    def own_parity(self) -> Parity | None:
        """Of the file itself, against the network as it was given: the last stage."""
        return self.parity[-1] if self.parity else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, `from_json` reads them."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | {
            "size": list(self.size) if self.size else None,
            "inputs": [port.to_json() for port in self.inputs],
            "outputs": [port.to_json() for port in self.outputs],
            "rewrites": dict(self.rewrites),
            "parity": [asdict(stage) for stage in self.parity],
            "toolchain": dict(self.toolchain),
        }

    @classmethod
    def from_json(cls, value: Any) -> Card:
        """Inverse of `to_json`. Raises ArtifactError for anything else."""
        try:
            if value["version"] != VERSION:
                raise ArtifactError(f"the card has format version {value['version']}, this program reads {VERSION}")
            plain = {f.name: value[f.name] for f in fields(cls) if f.name not in _LATER}
            plain |= {name: value.get(name, absent()) for name, absent in _LATER.items()}
            converted = {
                "size": (int(value["size"][0]), int(value["size"][1])) if value["size"] else None,
                "inputs": tuple(map(Port.from_json, value["inputs"])),
                "outputs": tuple(map(Port.from_json, value["outputs"])),
                "rewrites": {str(name): int(places) for name, places in value["rewrites"].items()},
                "parity": tuple(Parity(**stage) for stage in value["parity"]),
                "toolchain": {str(name): str(text) for name, text in value["toolchain"].items()},
            }
            for name, kinds in _PLAIN.items():
                if not isinstance(plain[name], kinds):
                    raise TypeError(f"{name} is {plain[name]!r}")
            return cls(**(plain | converted))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise ArtifactError(f"not a card: {type(error).__name__} {error}") from error


# What cards did not have at first, and what an older one has in its place.
_LATER: dict[str, Callable[[], Any]] = {"search": dict, "operators": dict, "delegates": dict, "min_runtime": lambda: None}
_PLAIN: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("file", "sha256", "kind", "layout", "variant"), (str,)),
    **dict.fromkeys(("bytes", "deflate_bytes", "version"), (int,)),
    **dict.fromkeys(("search", "operators", "delegates"), (dict,)),
    **dict.fromkeys(("signature", "parent", "target", "pictures", "ran", "min_runtime"), (str, type(None))),
}


@dataclass(frozen=True)
class Artifact:
    """A file and its card, checked to belong together when `read_artifact` made it."""

    path: Path
    card: Card


def card_path(path: Path) -> Path:
    """`model.tflite` -> `model.tflite.json`."""
    return path.with_name(path.name + ".json")


def measure(payload: bytes) -> dict[str, Any]:
    """What a card says of the bytes themselves: `sha256`, `bytes`, `deflate_bytes`."""
    return {
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bytes": len(payload),
        "deflate_bytes": len(zlib.compress(payload, 9)),
    }


def write_card(artifact: Artifact) -> Path:
    """Write the card beside its file, whole or not at all; return its path. Raises OutputError."""
    path = card_path(artifact.path)
    write_text(path, json.dumps(artifact.card.to_json(), indent=2, sort_keys=True) + "\n")
    return path


def read_artifact(path: Path) -> Artifact:
    """The file at `path` with its card. Raises ArtifactError: no file, no card, a damaged card, a card of another file."""
    path = Path(path)
    payload = _read(path, f"{path}: no such file")
    text = _read(card_path(path), f"{path.name} has no card beside it ({card_path(path).name})", "compress export writes both")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ArtifactError(f"{card_path(path)} is damaged: {error}", "export the network again") from error
    try:
        card = Card.from_json(value)
    except ArtifactError as error:
        raise ArtifactError(f"{card_path(path)}: {error.message}", "export the network again") from error
    found = hashlib.sha256(payload).hexdigest()
    if found != card.sha256:
        raise ArtifactError(
            f"{card_path(path).name} does not match {path.name}: its sha256 is {found[:12]}, the card says {card.sha256[:12]}",
            "one of them was replaced: export the network again",
        )
    return Artifact(path, card)


def _read(path: Path, missing: str, hint: str | None = None) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(missing, hint) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
