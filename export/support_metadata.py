"""What Android's own tools read of a file: the metadata of the TFLite Support library, as far as it can say what we know.

Of each input and output its name, and of pictures colour, normalisation and the range of values. Neither LiteRT nor TensorFlow
brings this schema, and the library that does pins packages that ours cannot have beside them; so the few of its tables that
are needed are written here, by their numbers. It cannot say BGR (the colour of such a picture is left unknown), nor how pixels
come out of an output. Never here: what we say ourselves (metadata.py), opening or changing a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from compress.image_format import ImageFormat

NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_READABLE_SINCE = "1.0.0"  # the schema's version that has all of these tables
_IMAGE, _NORMALISATION, _RGB = 2, 1, 1  # numbers of the schema's unions and enumerations

Place = int  # of something that was written, as the builder counts
Tensor = tuple[str, ImageFormat | None]


def pack(about: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
    """The flatbuffer: `about` describes the file; (name, format) of each tensor in the order of the file's graph.

    The same for the same values.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    taken = _vector(builder, [_tensor(builder, name, form, True) for name, form in inputs])
    given = _vector(builder, [_tensor(builder, name, form, False) for name, form in outputs])
    graph = _table(builder, {2: taken, 3: given})
    model = {1: builder.CreateString(about), 3: _vector(builder, [graph]), 7: builder.CreateString(_READABLE_SINCE)}
    builder.Finish(_table(builder, model), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: Any, name: str, form: ImageFormat | None, prepared: bool) -> Place:
    """TensorMetadata: 0 name, 3 content, 4 process units, 5 statistics. `prepared`: say what is done to pixels before."""
    fields = {0: builder.CreateString(name)}
    if form is not None:
        image = _table(builder, {}, {0: _RGB} if form.order == "RGB" else {})
        fields[3] = _table(builder, {1: image}, {0: _IMAGE})
        if prepared:
            options = _table(builder, {0: _floats(builder, form.mean), 1: _floats(builder, form.std)})
            fields[4] = _vector(builder, [_table(builder, {1: options}, {0: _NORMALISATION})])
        lowest, highest = (_floats(builder, form.encode(np.full(3, level))) for level in (0, 255))
        fields[5] = _table(builder, {0: highest, 1: lowest})
    return _table(builder, fields)


def _table(builder: Any, places: dict[int, Place], numbers: dict[int, int] | None = None) -> Place:
    """A table of `places` (field -> what was written before) and `numbers` (field -> one byte)."""
    fields = numbers or {}
    builder.StartObject(max([*places, *fields], default=-1) + 1)
    for field, place in places.items():
        builder.PrependUOffsetTRelativeSlot(field, place, 0)
    for field, number in fields.items():
        builder.PrependUint8Slot(field, number, 0)
    return int(builder.EndObject())


def _vector(builder: Any, places: Sequence[Place]) -> Place:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _floats(builder: Any, values: Iterable[float]) -> Place:
    numbers = [float(value) for value in values]
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependFloat32(number)
    return int(builder.EndVector())
