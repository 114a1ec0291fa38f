"""Bytes of an `.onnx` file to a graph, with everything that can be wrong with the file said in one line.

Never here: what the graph means.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from compress.errors import ArtifactError, ConversionError

LARGEST = 2**31 - 1  # bytes that a protobuf message may have


def load(path: Path) -> onnx.ModelProto:
    """The graph with its weights inside.

    Raises ArtifactError for a file that is missing, empty, damaged or without its external data, ConversionError for one that
    is larger than the format allows.
    """
    path = Path(path)
    try:
        _check_size(path, path.stat().st_size)
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node or not model.graph.output:
            raise ArtifactError(f"{path} is no ONNX file, or has an empty graph")
        _check_size(path, model.ByteSize() + sum(map(_external_bytes, model.graph.initializer)))
        load_external_data_for_model(model, str(path.parent))
        _check_weights(path, model.graph)
        return model
    except FileNotFoundError as error:
        missing = path if not path.exists() else error.filename or error
        raise ArtifactError(
            f"{missing}: no such file", None if missing == path else f"{path.name} keeps its weights in it"
        ) from error
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        said = next(iter(str(error).strip().splitlines()), "")[:300]
        raise ArtifactError(f"{path} is no valid ONNX file: {type(error).__name__}: {said}") from error


def _check_size(path: Path, size: int) -> None:
    if size == 0:
        raise ArtifactError(f"{path} is empty")
    if size > LARGEST:
        raise ConversionError(
            f"{path} has {size / 1e9:.1f} GB of weights: no ONNX graph larger than 2 GB can be held in one piece",
            "prune it, or export it in half precision",
        )


def _check_weights(path: Path, graph: onnx.GraphProto) -> None:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in (*graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))):
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            name = tensor.name or "a constant"
            raise ArtifactError(
                f"{path} is no valid ONNX file: {name} has not the numbers that its shape and type ask for"
            ) from error


def _external_bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    count = 1
    for length in tensor.dims:
        count *= max(0, length)
    return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
