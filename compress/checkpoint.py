"""A network on disk: one `.safetensors` file with its spec, its tensors, what shrank, and its history.

All that is not a tensor is sorted JSON under one metadata key (more than one key makes the bytes differ from run to run).
The same checkpoint gives the same bytes: no timestamps, no folders. Foreign `.pth` files are read, never written.
Never here: building modules; unpickling into objects.
"""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from compress.errors import CheckpointError, CompressError, NetworkError
from compress.files import write_whole
from compress.pickles import calls_in, looks_like_pickle
from compress.spec import ModelSpec

METADATA_KEY = "mobile-compress"
VERSION = 1
NESTED_KEYS = (
    "state_dict", "model_state_dict", "model", "params_ema", "params", "ema", "net", "network", "generator", "weights",
)  # fmt: skip
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
_COUNTERS = {"n_averaged"}  # what torch's AveragedModel adds beside its `module.`
_MARK = json.dumps(METADATA_KEY).encode()
# What torch's and the zip reader's code raise on damaged bytes, found by damaging files at every place (see the tests).
_DAMAGE = (
    AssertionError, AttributeError, EOFError, ImportError, LookupError, NotImplementedError, OverflowError, RecursionError,
    RuntimeError, SafetensorError, TypeError, ValueError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: the module's state dict. `modules`: for each module that shrank, by name, its new attributes (see
    channels/rebuild.py). `history`: one entry a stage, oldest first: command, options, seed, what it planned and measured.
    `check`: an answer of the module, which it must still give when it is loaded (see networks/known_answer.py).
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    check: Mapping[str, Any] | None = None

    def then(self, **entry: Any) -> Checkpoint:
        """The same checkpoint with one more history entry."""
        return replace(self, history=(*self.history, entry))

    def astype(self, dtype: torch.dtype) -> Checkpoint:
        """The same checkpoint with its floating-point tensors stored as `dtype` (tied tensors stay tied).

        Rounding moves answers: a check stays only where there is none.
        """
        done: dict[tuple[object, ...], Tensor] = {}
        cast = {}
        for name, tensor in self.tensors.items():
            key = _identity(tensor)
            cast[name] = done.setdefault(key, tensor.to(dtype) if tensor.is_floating_point() else tensor)
        exact = all(cast[name].dtype == tensor.dtype for name, tensor in self.tensors.items())
        return replace(self, tensors=cast, check=self.check if exact else None)


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
        **({"check": dict(checkpoint.check)} if checkpoint.check else {}),
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
        checkpoint = _from_header(json.loads(metadata[METADATA_KEY]), tensors)
    except (CompressError, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header: {_first_line(error)}") from error
    check_finite(tensors, path)
    return checkpoint


def is_ours(path: Path) -> bool:
    """True when `path` is a checkpoint of this program (whole or damaged), False for another kind of network file.

    Raises CheckpointError when there is no file, or an empty one.
    """
    start = _start(Path(path), 1 << 20)
    return _is_safetensors(start) and _MARK in start


def read_foreign(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.pth`, `.pt` or `.safetensors` file of another tool, on the CPU.

    Unwraps `{"state_dict": ...}` and the like, a state dict that is the only one among other things, and the prefixes of
    DataParallel, averaging (whose counter goes) and torch.compile. A pickle that would run code is named and refused
    (`weights_only=True`). Raises CheckpointError, NetworkError for NaN.
    """
    path = Path(path)
    start = _start(path, 4096)
    if _is_safetensors(start):
        tensors, _ = _read_safetensors(path)
    elif start[:2] == b"PK" or looks_like_pickle(start):
        tensors = _tensors_in(_read_pickle(path), path)
    else:
        raise CheckpointError(f"{path} is no network file", "a checkpoint of this program, or a .pth or .safetensors state dict")
    while prefix := next(
        (w for w in WRAPPERS if tensors and all(name.startswith(w) for name in tensors.keys() - _COUNTERS)), None
    ):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in _COUNTERS}
    check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], path: Path | None = None) -> None:
    """Raise NetworkError that names the first tensors with NaN or inf."""
    bad = [name for name, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(_comparable(t)).all())]
    if bad:
        where = f"{path}: " if path else ""
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NetworkError(f"{where}NaN or inf in {', '.join(bad[:3])}{more}", "the training diverged, or the file is damaged")


def _comparable(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.element_size() == 1 else tensor  # torch has no isfinite for some 8-bit floats


def _from_header(header: Any, tensors: dict[str, Tensor]) -> Checkpoint:
    """Check every part of a header, which is not trusted; aliases are added to `tensors`."""
    if header["version"] != VERSION:
        raise CheckpointError(f"format version {header['version']!r}, this program reads {VERSION}")
    modules, history, aliases, check = header["modules"], header["history"], header["aliases"], header.get("check")
    records = (modules, *modules.values(), *history, check or {})
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in records):
        raise TypeError("modules, history and check must be records")
    for alias, name in aliases.items():
        if alias in tensors or name not in tensors:
            raise CheckpointError(f"the alias {alias!r} of {name!r} has no place")
    tensors.update({alias: tensors[name] for alias, name in aliases.items()})
    return Checkpoint(ModelSpec.from_json(header["spec"]), tensors, modules, tuple(history), check)


def _start(path: Path, count: int) -> bytes:
    with _said(path):
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'no file'}, not a network file")
        with open(path, "rb") as file:
            start = file.read(count)
    if not start:
        raise CheckpointError(f"{path} is empty")
    return start


def _is_safetensors(start: bytes) -> bool:
    return len(start) > 8 and start[8:9] == b"{"  # after the header's length, 8 bytes


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _said(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _read_pickle(path: Path) -> Any:
    with _said(path):
        _refuse_other_archives(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch doubts protocols in three lines; what counts is whether it reads them
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            calls = calls_in(path)
            if not calls:
                raise CheckpointError(f"{path} is a damaged or foreign pickle: not read") from error
            raise CheckpointError(
                f"{path} is a pickle that wants to run {', '.join(calls[:5])}: not read",
                "save its state_dict() with torch.save and give that",
            ) from error


def _refuse_other_archives(path: Path) -> None:
    """Zip files are many things; torch's own words for those that are not its own are of no help."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        files = {Path(name).name for name in archive.namelist()}
    if "constants.pkl" in files:
        raise CheckpointError(f"{path} is a TorchScript archive: not read", "save the network's state_dict() and give that")
    if "data.pkl" not in files:
        raise CheckpointError(f"{path} is a zip archive without a state dict", "save the network's state_dict() with torch.save")


def _tensors_in(value: Any, path: Path) -> dict[str, Tensor]:
    for _ in NESTED_KEYS:  # a nest can hold itself
        inner = [value[key] for key in NESTED_KEYS if isinstance(value, Mapping) and isinstance(value.get(key), Mapping)]
        if not inner:
            break
        value = inner[0]
    tensors = _named_tensors(value)
    if not tensors and isinstance(value, Mapping):
        nests = {str(key): found for key, inner in value.items() if (found := _named_tensors(inner))}
        if len(nests) > 1:
            raise CheckpointError(
                f"{path} holds several state dicts: {', '.join(nests)[:120]}", "save the one that is meant by itself"
            )
        tensors = next(iter(nests.values()), {})
    if not tensors:
        keys = f", only {', '.join(str(key)[:40] for key in list(value)[:5])}" if isinstance(value, Mapping) and value else ""
        raise CheckpointError(f"{path} holds no state dict{keys}", "save the network's state_dict()")
    for name, tensor in tensors.items():
        _check_stored(name, tensor, path)
    return tensors


def _named_tensors(value: Any) -> dict[str, Tensor]:
    items = value.items() if isinstance(value, Mapping) else ()
    return {name: tensor.detach() for name, tensor in items if isinstance(name, str) and isinstance(tensor, Tensor)}


def _check_stored(name: str, tensor: Tensor, path: Path) -> None:
    """Only plain tensors: no sparse, quantised or meta ones, none that claims to be larger than what the file holds for it."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: {name} is not a plain tensor (sparse, quantised, or larger than its data)")


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """Every way in which reading `path` can fail, as one CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory") from error
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is truncated or damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    if isinstance(error, CompressError):
        return error.message
    text = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {shorten(text[0], 120, placeholder=' ...')}" if text else name


def _without_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name in sorted(tensors):
        kept = first.setdefault(_identity(tensors[name]), name)
        if kept == name:
            unique[name] = tensors[name].detach().cpu().contiguous().clone()  # clone: two views of one storage are refused
        else:
            aliases[name] = kept
    return unique, aliases


def _identity(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that are the same numbers in the same memory."""
    if tensor.numel() == 0:
        return (id(tensor),)
    return (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
