"""What a file says of itself, inside the file: normalisation, colour order, size, and the network that it was made of.

A card can get lost between two folders; this cannot. One JSON text under one name, in a TFLite file's metadata or in an ONNX
file's properties. Never here: the card (artifact.py), running a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from compress.errors import ArtifactError, UsageError
from compress.image_format import ImageFormat
from export import flatbuffer, support_metadata
from export.artifact import Port

NAME = "mobile-compress"
VERSION = 1


@dataclass(frozen=True)
class Essentials:
    """`inputs`, `outputs`: (name, format) of each port, format None where it is no picture. `parent`: sha256 of the network.

    `size`: (height, width), None when free. For a free file `size_seen` is the one at which it was compared.
    """

    variant: str
    size: tuple[int, int] | None
    inputs: tuple[tuple[str, ImageFormat | None], ...]
    outputs: tuple[tuple[str, ImageFormat | None], ...]
    parent: str | None = None
    size_seen: tuple[int, int] | None = None

    def to_text(self) -> str:
        """The JSON that goes into the file; the same for the same values."""
        ports = {
            side: [{"name": name, "format": form.to_json() if form else None} for name, form in found]
            for side, found in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        plain = {"variant": self.variant, "size": self.size, "size_seen": self.size_seen, "parent": self.parent}
        return json.dumps({"version": VERSION, "rule": "tensor = (pixel - mean) / std", **plain, **ports}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Essentials:
        """Inverse of `to_text`. Raises ArtifactError for anything else."""
        try:
            value = json.loads(text)
            if value["version"] != VERSION:
                raise ArtifactError(f"the metadata has version {value['version']}, this program reads {VERSION}")
            inputs, outputs = (_ports(value[side]) for side in ("inputs", "outputs"))
            sizes = (_size(value["size"]), _size(value["size_seen"]))
            return cls(str(value["variant"]), sizes[0], inputs, outputs, value["parent"], sizes[1])
        except (KeyError, IndexError, TypeError, ValueError, RecursionError, UsageError) as error:
            raise ArtifactError(f"its metadata is not understood: {type(error).__name__} {error}") from error

    @property
    def image_format(self) -> ImageFormat | None:
        """Of the first input that is a picture."""
        return next((form for _, form in self.inputs if form), None)


def said_of(ports: Sequence[Port]) -> tuple[tuple[str, ImageFormat | None], ...]:
    """Name and format of each port, for `Essentials`."""
    return tuple((port.name, port.format) for port in ports)


def read(path: Path) -> Essentials | None:
    """What the file says of itself; None when it says nothing. Raises ArtifactError, for a damaged file too."""
    try:
        payload = path.read_bytes()
        return read_onnx(onnx.load_model_from_string(payload)) if path.suffix.lower() == ".onnx" else read_tflite(payload)
    except (OSError, DecodeError, ArtifactError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error


def embed_tflite(payload: bytes, essentials: Essentials) -> bytes:
    """The same file with `essentials` inside, and as much of them again as Android's tools understand; whatever it said under
    these names before is replaced. Deterministic.

    Raises ArtifactError for what is no TFLite file.
    """
    model = flatbuffer.unpack(payload)
    _attach(model, NAME, essentials.to_text().encode())
    known = dict((*essentials.inputs, *essentials.outputs))
    inputs, outputs = (tuple((name, known.get(name)) for name in names) for names in flatbuffer.port_names(model))
    _attach(model, support_metadata.NAME, support_metadata.pack(f"mobile-compress, {essentials.variant}", inputs, outputs))
    return flatbuffer.pack(model)


def _attach(model: Any, name: str, data: bytes) -> None:
    entry = next((found for found in model.metadata or [] if found.name == name.encode()), None)
    if entry is None:
        entry = flatbuffer.schema().MetadataT()
        entry.name, entry.buffer = name.encode(), len(model.buffers)
        model.buffers.append(flatbuffer.schema().BufferT())
        model.metadata = [*(model.metadata or []), entry]
    model.buffers[entry.buffer].data = np.frombuffer(data, np.uint8)


def read_tflite(payload: bytes) -> Essentials | None:
    """What is inside; None when there is nothing of ours. Raises ArtifactError for a damaged file or text."""
    try:
        model = flatbuffer.schema().Model.GetRootAs(payload, 0)
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry is not None and entry.Name() == NAME.encode():
                return Essentials.from_text(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes().decode())
    except flatbuffer.DAMAGED as error:
        raise ArtifactError(f"it is damaged: {type(error).__name__} {error}") from error
    return None


def embed_onnx(graph: onnx.ModelProto, essentials: Essentials) -> onnx.ModelProto:
    """A copy of `graph` with `essentials` among its properties."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    others = [(entry.key, entry.value) for entry in graph.metadata_props if entry.key != NAME]
    del copy.metadata_props[:]
    for key, value in (*others, (NAME, essentials.to_text())):
        copy.metadata_props.add(key=key, value=value)
    return copy


def read_onnx(graph: onnx.ModelProto) -> Essentials | None:
    """What is inside; None when there is nothing of ours. Raises ArtifactError for a damaged text."""
    return next((Essentials.from_text(entry.value) for entry in graph.metadata_props if entry.key == NAME), None)


def _ports(value: Any) -> tuple[tuple[str, ImageFormat | None], ...]:
    return tuple((str(one["name"]), ImageFormat.from_json(one["format"]) if one["format"] else None) for one in value)


def _size(value: Any) -> tuple[int, int] | None:
    return (int(value[0]), int(value[1])) if value else None
