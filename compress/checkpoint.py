"""A network on disk: one `.safetensors` file with its spec, its tensors, what shrank, and its history.

All that is not a tensor is sorted JSON under one metadata key (more than one key makes the bytes differ from run to run).
The same checkpoint gives the same bytes: no timestamps, no folders. Foreign `.pth` files are read, never written.
Never here: building modules; unpickling into objects.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from compress.errors import CheckpointError, CompressError, NetworkError
from compress.files import write_whole
from compress.spec import ModelSpec

METADATA_KEY = "mobile-compress"
VERSION = 1
NESTED_KEYS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net", "generator", "weights")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: the module's state dict. `modules`: for each module that shrank, by name, its new attributes (see
    channels/rebuild.py). `history`: one entry a stage, oldest first: command, options, seed, what it planned and measured.
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    def then(self, **entry: Any) -> Checkpoint:
        """The same checkpoint with one more history entry."""
        return replace(self, history=(*self.history, entry))

    def astype(self, dtype: torch.dtype) -> Checkpoint:
        """The same checkpoint with its floating-point tensors stored as `dtype` (tied tensors stay tied)."""
        done: dict[tuple[int, ...], Tensor] = {}
        cast = {}
        for name, tensor in self.tensors.items():
            key = _identity(tensor)
            cast[name] = done.setdefault(key, tensor.to(dtype) if tensor.is_floating_point() else tensor)
        return replace(self, tensors=cast)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file whole or not at all. Raises OutputError; NetworkError when a tensor has NaN or inf."""
    check_finite(checkpoint.tensors)
    unique, aliases = _without_ties(checkpoint.tensors)
    header = {
        "version": VERSION,
        "spec": checkpoint.spec.to_json(),
        "modules": {name: dict(record) for name, record in checkpoint.modules.items()},
        "history": [dict(entry) for entry in checkpoint.history],
        "aliases": aliases,
    }
    payload = to_bytes(unique, {METADATA_KEY: json.dumps(header, sort_keys=True, separators=(",", ":"))})
    with write_whole(Path(path)) as partial:
        partial.write_bytes(payload)


def read(path: Path) -> Checkpoint:
    """Read a file that `write` made. Raises CheckpointError for what is missing, damaged or foreign, NetworkError for NaN."""
    path = Path(path)
    tensors, metadata = _read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is a .safetensors file of another tool", "name its network with --network")
    try:
        header = json.loads(metadata[METADATA_KEY])
        if header["version"] != VERSION:
            raise CheckpointError(f"{path} has format version {header['version']}, this program reads {VERSION}")
        for alias, name in header["aliases"].items():
            tensors[alias] = tensors[name]
        modules, history = header["modules"], tuple(header["history"])
        if not all(isinstance(entry, dict) for entry in (*modules.values(), *history)):
            raise TypeError("records must be objects")
        checkpoint = Checkpoint(ModelSpec.from_json(header["spec"]), tensors, modules, history)
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, CompressError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error
    check_finite(tensors, path)
    return checkpoint


def is_ours(path: Path) -> bool:
    """True when `path` is a checkpoint of this program (whole or damaged), False for another kind of network file.

    Raises CheckpointError when there is no file, or an empty one.
    """
    path = Path(path)
    with _said(path):
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder, not a network file")
        with open(path, "rb") as file:
            start = file.read(1 << 20)
        if not start:
            raise CheckpointError(f"{path} is empty")
    return len(start) > 8 and start[8:9] == b"{" and METADATA_KEY.encode() in start


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.pth`, `.pt` or `.safetensors` file of another tool, on the CPU.

    Unwraps `{"state_dict": ...}` and the like, and the `module.` prefix of DataParallel. A pickle that would run code is
    named and refused (`weights_only=True`). Raises CheckpointError, NetworkError for NaN.
    """
    path = Path(path)
    is_ours(path)  # for its errors: missing, a folder, empty
    with open(path, "rb") as file:
        start = file.read(16)
    if len(start) > 8 and start[8:9] == b"{":
        tensors, _ = _read_safetensors(path)
    elif start[:2] == b"PK" or start[:1] == b"\x80":
        tensors = _tensors_in(_read_pickle(path), path)
    else:
        raise CheckpointError(f"{path} is no network file", "a checkpoint of this program, or a .pth or .safetensors state dict")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Raise NetworkError that names the first tensors with NaN or inf."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        where = f"{path}: " if path else ""
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NetworkError(f"{where}NaN or inf in {', '.join(bad[:3])}{more}", "the training diverged, or the file is damaged")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _said(path):
        is_ours(path)
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_pickle(path: Path) -> Any:
    try:
        with _said(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)", str(error))
        if named:
            name = named[1] or named[2]
            raise CheckpointError(
                f"{path} is a pickle that wants to run {name}: not read", "save its state_dict() and give that"
            ) from error
        raise CheckpointError(f"{path} is a damaged or foreign pickle: not read") from error


def _tensors_in(value: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(value, Mapping):
        tensors = {name: t.detach() for name, t in value.items() if isinstance(name, str) and isinstance(t, Tensor)}
        if tensors:
            return tensors
        value = next((value[key] for key in NESTED_KEYS if key in value), None)
    raise CheckpointError(f"{path} holds no state dict", "save the network's state_dict()")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Every way in which reading `path` can fail, as one CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, EOFError) as error:
        raise CheckpointError(f"{path} is truncated or damaged") from error
    except RuntimeError as error:  # torch.load on a broken zip archive
        raise CheckpointError(f"{path} is truncated or damaged: {str(error).splitlines()[0][:120]}") from error


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, ...], str] = {}
    for name in sorted(tensors):
        kept = first.setdefault(_identity(tensors[name]), name)
        if kept == name:
            unique[name] = tensors[name].detach().cpu().contiguous().clone()  # clone: two views of one storage are refused
        else:
            aliases[name] = kept
    return unique, aliases


def _identity(tensor: Tensor) -> tuple[int, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.storage_offset(), *tensor.shape, -1, *tensor.stride())
