"""The inside of a `.tflite` file as plain objects: unpack, look at its operators, pack again with every weight aligned.

The schema is the one that LiteRT comes with. Never here: what is changed and why (metadata.py, quantise.py), running a file.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from compress.errors import ArtifactError, require

_ALIGNMENT = 16  # of weights in the file, as the schema asks for: they can be used where the file is mapped into memory
# What the schema's generated code makes of bytes that are no file of its own.
DAMAGED = (IndexError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, struct.error)
# Operators that put numbers elsewhere and change none.
MOVES = frozenset({"STRIDED_SLICE", "SLICE", "CONCATENATION", "PAD", "PADV2", "MIRROR_PAD", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
                   "RESHAPE", "TRANSPOSE", "RESIZE_NEAREST_NEIGHBOR", "SPLIT", "PACK", "UNPACK", "GATHER", "TILE"})  # fmt: skip


def schema() -> ModuleType:
    """LiteRT's generated schema. Raises MissingToolError."""
    require("ai_edge_litert", "export")
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def unpack(payload: bytes) -> Any:
    """A `ModelT`. Raises ArtifactError for what is no TFLite file."""
    try:
        return schema().ModelT.InitFromPackedBuf(payload, 0)
    except DAMAGED as error:
        raise ArtifactError(f"it is no TFLite file: {type(error).__name__} {error}") from error


def pack(model: Any) -> bytes:
    """The bytes of a `ModelT`; the same for the same model. The data of every buffer begin at a multiple of 16 bytes."""
    import flatbuffers

    model.buffers = [_aligned(buffer) for buffer in model.buffers]
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + 65536)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@dataclass(frozen=True)
class Op:
    """`kind`: the operator's name in the schema. `inputs`, `outputs`: numbers of tensors; an input that is left out is -1."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """The operators of a file's main graph, in the order in which they run; names and shapes of its tensors."""

    ops: tuple[Op, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, payload: bytes) -> Graph:
        """Raises ArtifactError for what is no TFLite file."""
        return cls.of_model(unpack(payload))

    @classmethod
    def of_model(cls, model: Any) -> Graph:
        graph = model.subgraphs[0]
        names = tuple((tensor.name or b"").decode() for tensor in graph.tensors)
        shapes = tuple(tuple(map(int, tensor.shape if tensor.shape is not None else ())) for tensor in graph.tensors)
        return cls(tuple(_ops(model, graph)), names, shapes)

    def name(self, tensor: int) -> str:
        return self.names[tensor]

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind of operator occurs, by name."""
        return dict(sorted(Counter(op.kind for op in self.ops).items()))


def port_names(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inputs and outputs of a `ModelT`'s main graph, in its order, as the first signature calls them, else as it does itself.

    Raises ArtifactError for a graph that refers to what it has not.
    """
    try:
        graph = model.subgraphs[0]
        signature = next(iter(model.signatureDefs or []), None)
        sides = []
        for tensors, pairs in ((graph.inputs, signature and signature.inputs), (graph.outputs, signature and signature.outputs)):
            called = {pair.tensorIndex: pair.name for pair in pairs or []}
            sides.append(tuple((called.get(int(index)) or graph.tensors[index].name or b"").decode() for index in tensors))
    except DAMAGED as error:
        raise ArtifactError(f"it is damaged: {type(error).__name__} {error}") from error
    return sides[0], sides[1]


def min_runtime(payload: bytes) -> str | None:
    """The oldest TensorFlow Lite that has all of the file's operators, as the converter noted it; None where it did not."""
    model = unpack(payload)
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            return bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode(errors="replace") or None
    return None


def _ops(model: Any, graph: Any) -> Iterator[Op]:
    kinds = _kinds()
    for op in graph.operators or []:
        code = model.operatorCodes[op.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)  # older files fill only the second
        kind = (code.customCode or b"").decode() if kinds.get(number) == "CUSTOM" else kinds.get(number, f"operator {number}")
        yield Op(kind, tuple(map(int, op.inputs)), tuple(map(int, op.outputs)))


@functools.cache
def _kinds() -> dict[int, str]:
    return {value: name for name, value in vars(schema().BuiltinOperator).items() if isinstance(value, int)}


@functools.cache
def _aligned_buffer() -> type:
    """The schema's buffer, but that its data are aligned: the generated code lets them lie anywhere."""
    generated = schema()

    class Aligned(generated.BufferT):  # type: ignore[misc, name-defined]
        def Pack(self, builder: Any) -> Any:  # noqa: N802  (the generated code's name)
            data = None
            if self.data is not None and len(self.data):
                payload = np.ascontiguousarray(self.data, np.uint8).tobytes()
                builder.StartVector(1, len(payload), _ALIGNMENT)
                builder.head -= len(payload)
                builder.Bytes[builder.Head() : builder.Head() + len(payload)] = payload
                data = builder.EndVector()
            generated.BufferStart(builder)
            if data is not None:
                generated.BufferAddData(builder, data)
            generated.BufferAddOffset(builder, self.offset)
            generated.BufferAddSize(builder, self.size)
            return generated.BufferEnd(builder)

    return Aligned


def _aligned(buffer: Any) -> Any:
    found = _aligned_buffer()()
    found.__dict__.update(buffer.__dict__)
    return found
