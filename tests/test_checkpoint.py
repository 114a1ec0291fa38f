"""Checkpoints: the same bytes every time, ties kept, and nothing in a file is trusted."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from compress.checkpoint import METADATA_KEY, Checkpoint, is_ours, read, read_foreign, write
from compress.errors import CheckpointError, NetworkError, OutputError
from compress.image_format import PRESETS
from compress.pickles import calls_in, looks_like_pickle
from compress.spec import ModelSpec

SPEC = ModelSpec("johnson", {"widths": [5, 7, 11]}, ((1, 3, 32, 40),), (PRESETS["imagenet"],), (PRESETS["imagenet"],))


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(1)
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(5), "count": torch.tensor(7), "half": torch.randn(4).half()}
    return Checkpoint(SPEC, tensors, {"conv": {"in_channels": 5}}, ({"command": "train", "seed": 3},))


@pytest.fixture
def written(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write(tmp_path / "net.safetensors", checkpoint)
    return tmp_path / "net.safetensors"


def with_header(path: Path, change: Any) -> Path:
    """`path` with its JSON header put through `change`."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    inner = change(json.loads(outer["__metadata__"][METADATA_KEY]))
    outer["__metadata__"][METADATA_KEY] = inner if isinstance(inner, str) else json.dumps(inner)
    packed = json.dumps(outer).encode()
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + length :])
    return path


def refusal(path: Path) -> str | None:
    """The one line with which a file is refused; None when it is read."""
    try:
        read(path) if is_ours(path) else read_foreign(path)
    except (CheckpointError, NetworkError) as error:
        return error.message
    return None


def test_everything_survives_a_round_trip(written: Path, checkpoint: Checkpoint) -> None:
    found = read(written)
    assert found.spec == checkpoint.spec
    assert found.modules == checkpoint.modules
    assert found.history == checkpoint.history
    assert found.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_the_same_checkpoint_gives_the_same_bytes(written: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    shuffled = replace(checkpoint, tensors=dict(reversed(checkpoint.tensors.items())))
    write(tmp_path / "again", shuffled)
    write(tmp_path / "through", read(written))
    assert (tmp_path / "again").read_bytes() == written.read_bytes() == (tmp_path / "through").read_bytes()


def test_the_same_bytes_in_another_process_with_another_hash_seed(written: Path, tmp_path: Path) -> None:
    code = "import sys; from compress.checkpoint import *; write(Path(sys.argv[2]), read(Path(sys.argv[1])))"
    for seed in ("1", "2"):
        output = tmp_path / seed
        subprocess.run([sys.executable, "-c", code, written, output], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        assert output.read_bytes() == written.read_bytes()


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    shared = torch.randn(1000)
    tensors = {"head.weight": shared, "body.weight": shared, "view": shared[:10]}
    write(tmp_path / "net", Checkpoint(SPEC, tensors))
    assert (tmp_path / "net").stat().st_size < 6000
    found = read(tmp_path / "net").tensors
    assert found["head.weight"] is found["body.weight"]
    assert torch.equal(found["view"], shared[:10])


def test_ties_survive_a_change_of_type() -> None:
    shared = torch.randn(3)
    found = Checkpoint(SPEC, {"a": shared, "b": shared, "n": torch.tensor(3)}).astype(torch.float16).tensors
    assert found["a"] is found["b"]
    assert found["a"].dtype == torch.float16
    assert found["n"].dtype == torch.int64


def test_then_adds_one_entry(checkpoint: Checkpoint) -> None:
    assert checkpoint.then(command="strip").history == (*checkpoint.history, {"command": "strip"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite_are_refused_by_name(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"fine": torch.ones(3), "up1.weight": torch.tensor([1.0, value], dtype=dtype)}
    with pytest.raises(NetworkError, match=r"NaN or inf in up1\.weight") as caught:
        write(tmp_path / "net", Checkpoint(SPEC, tensors))
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    torch.save(tensors, tmp_path / "net.pth")
    with pytest.raises(NetworkError, match=r"net\.pth: NaN or inf in up1\.weight"):
        read_foreign(tmp_path / "net.pth")
    save_file(tensors, tmp_path / "net.st", {METADATA_KEY: json.dumps(header_of())})
    with pytest.raises(NetworkError, match=r"net\.st: NaN or inf in up1\.weight"):
        read(tmp_path / "net.st")


def header_of() -> dict[str, Any]:
    return {"version": 1, "spec": SPEC.to_json(), "modules": {}, "history": [], "aliases": {}}


def test_eight_bit_floats_are_checked_too(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn)}, tmp_path / "net.st")
    with pytest.raises(NetworkError, match="NaN or inf in a"):
        read_foreign(tmp_path / "net.st")


# What is not a network file


@pytest.mark.parametrize("reader", [is_ours, read, read_foreign])
def test_a_missing_file(reader: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        reader(tmp_path / "none.pth")


@pytest.mark.parametrize("reader", [is_ours, read_foreign])
def test_an_empty_file_and_a_folder(reader: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.pth").touch()
    with pytest.raises(CheckpointError, match=r"empty\.pth is empty"):
        reader(tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        reader(tmp_path)


def test_truncated_anywhere(written: Path) -> None:
    whole = written.read_bytes()
    for length in {*range(1, 40), *range(40, len(whole), 37), len(whole) - 1}:
        written.write_bytes(whole[:length])
        refused = refusal(written)
        assert refused
        assert str(written) in refused
        assert "\n" not in refused


@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_pth_anywhere(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"a": torch.ones(50), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    for length in {*range(1, 40), *range(40, len(whole) - 1, 23)}:
        path.write_bytes(whole[:length])
        refused = refusal(path)
        assert old or refused  # the old format keeps no checksum: what is whole is whole
        assert refused is None or (str(path) in refused and "\n" not in refused)


@pytest.mark.parametrize("kind", ["ours", "zip", "old"])
def test_damaged_bytes_are_one_line(kind: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    path = tmp_path / "net"
    if kind == "ours":
        write(path, checkpoint)
    else:
        torch.save({"model": {"a": torch.ones(50), "b": torch.ones(3)}}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 6)):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        line = refusal(path)
        refused += line is not None
        assert "\n" not in (line or "")
    assert refused > 50


def foreign_files(folder: Path) -> list[Path]:
    (folder / "notes.txt").write_text("these are no weights\n" * 50)
    (folder / "noise.pth").write_bytes(np.random.default_rng(3).bytes(5000))
    (folder / "model.onnx").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x052.6.0:\x10" + bytes(200))
    (folder / "model.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(200))
    Image.new("RGB", (9, 7)).save(folder / "photo.jpg")
    np.savez(folder / "arrays.npz", a=np.ones(3))
    np.save(folder / "array.npy", np.ones(3))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("x/readme.txt", "hello")
    with tarfile.open(folder / "archive.tar", "w") as tar:
        tar.add(folder / "notes.txt", "notes.txt")
    (folder / "header.json").write_text('{"network": "johnson"}')
    (folder / "zeros.bin").write_bytes(bytes(5000))
    (folder / "list.pth").write_bytes(pickle.dumps([1, 2, 3], protocol=2))
    torch.save([torch.ones(2)], folder / "tensors.pth")
    torch.jit.save(torch.jit.script(nn.Conv2d(2, 3, 1)), folder / "script.pt")
    (folder / "huge_header.st").write_bytes(struct.pack("<Q", 1 << 60) + b'{"a": 1}')
    return sorted(folder.iterdir())


@pytest.mark.filterwarnings("ignore")
def test_foreign_formats_are_refused_in_one_line(tmp_path: Path) -> None:
    for path in foreign_files(tmp_path):
        assert not is_ours(path), path
        with pytest.raises(CheckpointError) as caught:
            read_foreign(path)
        assert str(path) in caught.value.message, path
        assert "\n" not in caught.value.message, path


@pytest.mark.filterwarnings("ignore")
def test_archives_are_told_apart(tmp_path: Path) -> None:
    foreign_files(tmp_path)
    for name, words in (("script.pt", "TorchScript"), ("arrays.npz", "zip archive without"), ("notes.txt", "no network file")):
        with pytest.raises(CheckpointError, match=words):
            read_foreign(tmp_path / name)


# Pickles


EVIL = {
    "system": (os.system, "touch {}"),
    "check_output": (subprocess.check_output, ["touch", "{}"]),
    "eval": (eval, "__import__('pathlib').Path('{}').touch()"),
}


def evil_file(path: Path, name: str, form: str) -> Path:
    """A file that makes `path`.ran when it is unpickled."""
    function, argument = EVIL[name]
    ran = str(path.with_suffix(".ran"))
    argument = [a.format(ran) for a in argument] if isinstance(argument, list) else argument.format(ran)
    content = {"conv1.conv2d.weight": torch.ones(2), "x": Evil(function, argument)}
    if form.isdigit():
        path.write_bytes(pickle.dumps(content, protocol=int(form)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("form", ["0", "1", "2", "3", "4", "5", "zip", "old"])
def test_a_pickle_that_would_run_code_is_named_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    path = evil_file(tmp_path / "net.pth", name, form)
    assert not is_ours(path)
    with pytest.raises(CheckpointError, match=rf"net\.pth is a pickle that wants to run .*\b{name}\b.*: not read") as caught:
        read_foreign(path)
    assert "state_dict" in str(caught.value.hint)
    assert not path.with_suffix(".ran").exists()


def test_a_whole_pickled_module_is_named(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(2, 3, 1), tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"wants to run torch\.nn\.modules\.conv\.Conv2d"):
        read_foreign(tmp_path / "net.pth")


def test_calls_are_read_and_tensors_are_harmless(tmp_path: Path) -> None:
    tensors = {"a": nn.Parameter(torch.ones(2).half()), "b": torch.ones(2, dtype=torch.bfloat16), "size": torch.Size([1])}
    torch.save(tensors, tmp_path / "net.pth")
    assert calls_in(tmp_path / "net.pth") == []
    assert not looks_like_pickle(b"\x89PNG\r\n")
    assert not looks_like_pickle(b"")


# What others save


@pytest.mark.parametrize("wrap", ["state_dict", "model", "net", "params_ema"])
def test_nests_and_prefixes_are_unwrapped(wrap: str, tmp_path: Path) -> None:
    inner = {"module._orig_mod.conv.weight": torch.ones(3, 2).half(), "module._orig_mod.conv.bias": torch.ones(3)}
    torch.save({"epoch": 3, "loss": torch.tensor(0.5), wrap: inner}, tmp_path / "net.pth")
    found = read_foreign(tmp_path / "net.pth")
    assert {name: (tuple(t.shape), t.dtype) for name, t in found.items()} == {
        "conv.weight": ((3, 2), torch.float16),
        "conv.bias": ((3,), torch.float32),
    }


def test_a_prefix_that_only_some_share_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(2)}, tmp_path / "net.pth")
    assert set(read_foreign(tmp_path / "net.pth")) == {"module.a", "b"}


def test_a_foreign_safetensors_file(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "net.st", {"format": "pt"})
    assert not is_ours(tmp_path / "net.st")
    assert set(read_foreign(tmp_path / "net.st")) == {"w"}
    with pytest.raises(CheckpointError, match="of another tool"):
        read(tmp_path / "net.st")


def test_no_state_dict_says_what_there_is(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds no state dict, only epoch, args"):
        read_foreign(tmp_path / "net.pth")


def test_a_nest_that_holds_itself_ends(tmp_path: Path) -> None:
    nest: dict[str, Any] = {"epoch": 1}
    nest["model"] = nest
    torch.save(nest, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_foreign(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["expanded", "sparse", "meta", "quantised"])
def test_only_plain_tensors_are_taken(kind: str, tmp_path: Path) -> None:
    tensor = {
        "expanded": lambda: torch.ones(1).expand(10**13),  # would take 40 TB once it is touched
        "sparse": lambda: torch.eye(3).to_sparse(),
        "meta": lambda: torch.ones(3, device="meta"),
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8),
    }[kind]()
    torch.save({"w": tensor}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"net\.pth"):
        read_foreign(tmp_path / "net.pth")


# Hostile headers


def nested(depth: int) -> str:
    return '{"version": 1, "spec": ' + "[" * depth + "]" * depth + "}"


HOSTILE = {
    "not an object": lambda h: [1, 2],
    "not JSON": lambda h: "{",
    "deep": lambda h: nested(100_000),
    "version": lambda h: {**h, "version": 99},
    "no spec": lambda h: {k: v for k, v in h.items() if k != "spec"},
    "spec is a list": lambda h: {**h, "spec": [1]},
    "network is a list": lambda h: {**h, "spec": {**h["spec"], "network": ["os", "system"]}},
    "network is a path": lambda h: {**h, "spec": {**h["spec"], "network": "../../etc/passwd"}},
    "network has a newline": lambda h: {**h, "spec": {**h["spec"], "network": "johnson\n"}},
    "arguments are a list": lambda h: {**h, "spec": {**h["spec"], "arguments": [1]}},
    "examples are numbers": lambda h: {**h, "spec": {**h["spec"], "examples": 7}},
    "examples are text": lambda h: {**h, "spec": {**h["spec"], "examples": ["abc"]}},
    "examples are huge": lambda h: {**h, "spec": {**h["spec"], "examples": [[1, 3, 10**6, 10**6]]}},
    "examples are negative": lambda h: {**h, "spec": {**h["spec"], "examples": [[1, 3, -5, 5]]}},
    "examples are true": lambda h: {**h, "spec": {**h["spec"], "examples": [[True, 3, 5, 5]]}},
    "no examples": lambda h: {**h, "spec": {**h["spec"], "examples": []}},
    "no inputs": lambda h: {**h, "spec": {**h["spec"], "inputs": []}},
    "no outputs": lambda h: {**h, "spec": {**h["spec"], "outputs": []}},
    "format is a number": lambda h: {**h, "spec": {**h["spec"], "inputs": [3]}},
    "format is empty": lambda h: {**h, "spec": {**h["spec"], "inputs": [{}]}},
    "mean is huge": lambda h: {**h, "spec": {**h["spec"], "inputs": [{"order": "RGB", "mean": [10**400] * 3, "std": [1] * 3}]}},
    "std is zero": lambda h: {**h, "spec": {**h["spec"], "inputs": [{"order": "RGB", "mean": [0] * 3, "std": [0] * 3}]}},
    "modules are a list": lambda h: {**h, "modules": [1]},
    "a module is a list": lambda h: {**h, "modules": {"conv": [1]}},
    "history is text": lambda h: {**h, "history": "abc"},
    "history is an object": lambda h: {**h, "history": {"a": {}}},
    "an alias of nothing": lambda h: {**h, "aliases": {"c": "none"}},
    "an alias over a tensor": lambda h: {**h, "aliases": {"a": "b"}},
    "an alias of a list": lambda h: {**h, "aliases": {"c": ["a"]}},
    "aliases are a list": lambda h: {**h, "aliases": ["a"]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_damaged_headers(name: str, written: Path) -> None:
    with_header(written, HOSTILE[name])
    with pytest.raises(CheckpointError, match=r"net\.safetensors has a damaged header") as caught:
        read(written)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600


def test_a_file_that_only_mentions_us_is_foreign(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "net.st", {"made-by": METADATA_KEY})
    assert set(read_foreign(tmp_path / "net.st")) == {"w"}


# Writing


def test_writing_makes_the_folder_and_says_when_it_cannot(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write(tmp_path / "new" / "net", checkpoint)
    assert read(tmp_path / "new" / "net").spec == checkpoint.spec
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="cannot write"):
        write(tmp_path / "file" / "net", checkpoint)
