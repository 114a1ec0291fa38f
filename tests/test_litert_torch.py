"""The other converter: operators by the worker as ONNX Runtime computes them, what becomes of its files, and everything that
goes wrong with a Python that somebody named. With a real one where COMPRESS_LITERT_TORCH_PYTHON says where it is.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from compress.cli import main
from compress.errors import ConversionError, MissingToolError, UsageError
from compress.image_format import PRESETS
from export import flatbuffer, litert_torch, litert_torch_worker, quantise, runtime, variants
from export.artifact import read_artifact
from export.export import ExportConfig, Report
from export.export import export as run_export
from export.source import from_onnx
from tests.test_export import write_net, write_photos

Arrays = Sequence[np.ndarray]
SHAPE = (1, 8, 6, 10)
FINE = '{"litert-torch": "0.10.3", "torch": "2.13.0", "numpy": "2.4.0"}'
HINT = "python3 -m venv litert && litert/bin/pip install litert-torch==0.10.0 torch==2.13.0"


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def model(nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], shape: Sequence[int] = SHAPE) -> onnx.ModelProto:
    """One input `x`, one output `y`, every shape inferred."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(found, data_prop=True)


def one(operator: str, *constants: np.ndarray | None, shape: Sequence[int] = SHAPE, **attributes: Any) -> onnx.ModelProto:
    """A model of one operator on the input and constants; None: an input that is left out."""
    named = {f"c{n}": array for n, array in enumerate(constants) if array is not None}
    inputs = ["x", *(f"c{n}" if array is not None else "" for n, array in enumerate(constants))]
    return model([helper.make_node(operator, inputs, ["y"], name="node", **attributes)], named, shape)


CASES = {
    "conv": lambda: one("Conv", weight(5, 8, 3, 2), weight(5), pads=[1, 0, 1, 0], strides=[2, 1]),
    "conv, padded on one side": lambda: one("Conv", weight(5, 8, 3, 3), pads=[0, 1, 2, 0], dilations=[1, 2]),
    "conv, groups": lambda: one("Conv", weight(16, 1, 3, 3), group=8),
    "conv, same": lambda: one("Conv", weight(5, 8, 3, 4), auto_pad="SAME_UPPER", strides=[2, 3]),
    "conv, same lower": lambda: one("Conv", weight(5, 8, 2, 4), auto_pad="SAME_LOWER"),
    "transposed": lambda: one("ConvTranspose", weight(8, 3, 4, 3), weight(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    "transposed, one side": lambda: one("ConvTranspose", weight(8, 3, 4, 3), strides=[2, 3], pads=[0, 1, 2, 0]),
    "transposed, more": lambda: one(
        "ConvTranspose", weight(8, 3, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]
    ),
    "max pool": lambda: one("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "mean pool": lambda: one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "mean pool, with pads": lambda: one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 1], count_include_pad=1),
    "mean of all": lambda: one("GlobalAveragePool"),
    "instance norm": lambda: one("InstanceNormalization", weight(8), weight(8), epsilon=1e-3),
    "batch norm": lambda: one("BatchNormalization", weight(8), weight(8), weight(8), np.abs(weight(8)) + 1),
    "layer norm": lambda: one("LayerNormalization", weight(6, 10), weight(6, 10), axis=2),
    "reduce": lambda: one("ReduceMean", whole(2, 3), keepdims=1),
    "reduce, fewer axes": lambda: one("ReduceMax", whole(-1), keepdims=0),
    "reduce all": lambda: one("ReduceL2"),
    "reduce nothing": lambda: one("ReduceSum", whole(), noop_with_empty_axes=1),
    "gemm": lambda: one("Gemm", weight(7, 10), weight(7), transB=1, alpha=0.5, beta=2.0, shape=(6, 10)),
    "matmul": lambda: one("MatMul", weight(10, 7)),
    "slope": lambda: one("PRelu", weight(8, 1, 1)),
    "clip": lambda: one("Clip", np.array(-0.3, np.float32), None),
    "clip to nothing": lambda: one("Clip"),
    "hard sigmoid": lambda: one("HardSigmoid", alpha=0.3),
    "leaky": lambda: one("LeakyRelu", alpha=0.3),
    "hard swish": lambda: one("HardSwish"),
    "softmax": lambda: one("Softmax", axis=1),
    "power": lambda: one("Pow", np.array(2, np.float32)),
    "least of three": lambda: one("Min", weight(1), weight(10)),
    "reshape": lambda: one("Reshape", whole(0, 4, -1, 10)),
    "flatten": lambda: one("Flatten", axis=2),
    "flatten from the end": lambda: one("Flatten", axis=-1),
    "squeeze": lambda: one("Squeeze", whole(0)),
    "unsqueeze": lambda: one("Unsqueeze", whole(0, -1)),
    "expand": lambda: one("Expand", whole(3, 1, 6, 1)),
    "tile": lambda: one("Tile", whole(1, 2, 1, 3)),
    "transpose": lambda: one("Transpose", perm=[0, 2, 3, 1]),
    "transpose all": lambda: one("Transpose"),
    "concat": lambda: one("Concat", weight(1, 3, 6, 10), axis=1),
    "slice": lambda: one("Slice", whole(1, -3), whole(-1, 100), whole(2, 3)),
    "slice, with a step": lambda: one("Slice", whole(1), whole(9), whole(3), whole(3)),
    "slice, backwards": lambda: one("Slice", whole(7, -1), whole(1, -1000), whole(3, 2), whole(-2, -1)),
    "slice to nothing": lambda: one("Slice", whole(4), whole(2), whole(3)),
    "gather": lambda: one("Gather", whole(2, -1, 0), axis=1),
    "gather one": lambda: one("Gather", np.array(-2, np.int64), axis=3),
    "gather a table": lambda: one("Gather", whole(1, 0, 2, 5).reshape(2, 2), axis=2),
    "zero pad": lambda: one("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0), np.array(0.5, np.float32)),
    "reflect": lambda: one("Pad", whole(1, 2, 3, 0), None, whole(2, 3), mode="reflect"),
    "replicate": lambda: one("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0), mode="edge"),
    "depth to space": lambda: one("DepthToSpace", blocksize=2),
    "depth to space, the other way": lambda: one("DepthToSpace", blocksize=2, mode="CRD"),
    "space to depth": lambda: one("SpaceToDepth", blocksize=2),
    "nearest": lambda: one("Resize", None, np.array([1, 1, 2, 3], np.float32), coordinate_transformation_mode="asymmetric",
                           nearest_mode="floor"),
    "nearest, half pixel": lambda: one("Resize", None, None, whole(1, 8, 5, 23), mode="nearest"),
    "nearest, corners": lambda: one("Resize", None, None, whole(1, 8, 13, 7), coordinate_transformation_mode="align_corners"),
    "linear": lambda: one("Resize", None, None, whole(1, 8, 9, 25), mode="linear"),
    "linear, corners": lambda: one("Resize", None, None, whole(12, 30), mode="linear", axes=[2, 3],
                                   coordinate_transformation_mode="align_corners"),
    "cubic": lambda: one("Resize", None, None, whole(1, 8, 12, 20), mode="cubic"),
}  # fmt: skip


def handed_over(graph: onnx.ModelProto, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the worker reads."""
    litert_torch.hand_over(graph, folder)
    handed = json.loads((folder / litert_torch_worker.GRAPH).read_text())
    with np.load(folder / litert_torch_worker.CONSTANTS, allow_pickle=False) as arrays:
        return handed, {name: arrays[str(n)] for n, name in enumerate(handed["constants"])}


def by_worker(graph: onnx.ModelProto, x: np.ndarray, folder: Path) -> list[np.ndarray]:
    with torch.no_grad():
        return [y.numpy() for y in litert_torch_worker.GraphModule(*handed_over(graph, folder))(torch.from_numpy(x))]


@pytest.mark.parametrize("case", CASES)
def test_operators_compute_what_onnx_runtime_computes(case: str, tmp_path: Path) -> None:
    graph = CASES[case]()
    x = np.random.default_rng(3).standard_normal([d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim])
    x = x.astype(np.float32)
    (wanted,) = runtime.load_graph(graph.SerializeToString()).run_tensors([x])
    (found,) = by_worker(graph, x, tmp_path)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 if case == "cubic" else 1e-5)


def test_several_outputs_and_values_that_are_read_twice(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Add", ["a", "a"], ["c"]),
        helper.make_node("Concat", ["b", "c"], ["y"], axis=1),
    ]
    graph, x = model(nodes, {"sizes": whole(3, 5)}), weight(*SHAPE)
    (found,) = by_worker(graph, x, tmp_path)
    assert np.array_equal(found, np.concatenate([x[:, 3:], 2 * x[:, :3]], 1))


def test_an_operator_that_it_does_not_know_is_named_with_its_neighbours(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="first"),
        helper.make_node("Einsum", ["r"], ["y"], name="mix", equation="abcd->abdc"),
    ]
    with pytest.raises(ConversionError) as error:
        litert_torch.hand_over(model(nodes, {}), tmp_path)
    assert error.value.message == "Einsum 'mix' (after Relu 'first'; an output of the graph) cannot be handed to litert-torch"
    assert error.value.hint == "--backend onnx2tf may know it"


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (lambda: one("Resize", None, None, whole(1, 8, 3, 5), mode="linear", antialias=1), "a resize that smooths"),
        (lambda: one("Resize", None, None, whole(1, 4, 6, 10), mode="nearest"), "anything but height and width"),
        (lambda: one("AveragePool", kernel_shape=[3, 3], pads=[0, 1, 2, 1]), "a mean over windows"),
        (lambda: one("ConvTranspose", weight(8, 3, 4, 3), auto_pad="SAME_UPPER"), "whose padding is not spelled out"),
        (lambda: one("Pad", whole(0, 1, 0, 0, 0, 0, 0, 0), mode="reflect"), "a border of batch or channels"),
    ],
)
def test_a_use_that_it_does_not_know_is_refused_with_the_node(
    graph: Callable[[], onnx.ModelProto], said: str, tmp_path: Path
) -> None:
    with pytest.raises(litert_torch_worker.NotUnderstoodError, match=rf"\w+ 'node' \(.*\): .*{said}"):
        by_worker(graph(), weight(*SHAPE), tmp_path)


# What becomes of litert-torch's file


def as_litert_torch(function: Callable[..., object], shape: Sequence[int] = (1, 12, 10, 3)) -> bytes:
    """A float file with a signature as litert-torch has them."""
    import tensorflow as tf

    owner = tf.Module()
    specs = [tf.TensorSpec(shape, tf.float32, "args_0")]
    owner.run = tf.function(lambda args_0: {"output_0": function(tf, args_0)}, input_signature=specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([owner.run.get_concrete_function()], owner)
    payload: bytes = converter.convert()
    return payload


def opened(payload: bytes, path: Path) -> runtime.Runner:
    path.write_bytes(payload)
    return runtime.load(path)


@pytest.fixture(scope="module")
def made() -> bytes:
    """A convolution between a concatenation of nineteen and a pooling of single pixels; another pooling makes the output."""

    def network(tf, x):  # type: ignore[no-untyped-def]
        rows = tf.concat([*(x[:, n : n + 1] for n in range(9)), x, *(x[:, n : n + 1] for n in range(9))], 1)
        y = tf.nn.max_pool2d(tf.nn.conv2d(rows, weight(3, 3, 3, 16), 1, "SAME"), 1, 1, "VALID")
        return tf.nn.max_pool2d(tf.nn.conv2d(tf.nn.tanh(y), weight(3, 3, 16, 4), 1, "SAME"), 1, 1, "VALID")

    return as_litert_torch(network)


def test_a_finished_file_has_our_names_and_computes_the_same(made: bytes, tmp_path: Path) -> None:
    finished = litert_torch.finished(made, ["picture"], ["styled"])
    before, after = opened(made, tmp_path / "before.tflite"), opened(finished, tmp_path / "after.tflite")
    assert [port.name for port in (*after.inputs, *after.outputs)] == ["picture", "styled"]
    assert after.signature == "serving_default"
    x = weight(1, 12, 10, 3)
    assert np.array_equal(before.run_tensors([x])[0], after.run_tensors([x])[0])
    graph = flatbuffer.Graph.of(finished)
    assert len(set(graph.names)) == len(graph.names)
    assert flatbuffer.Graph.of(made).counts["MAX_POOL_2D"] == 2
    assert graph.counts["MAX_POOL_2D"] == 1  # that which makes the output
    assert max(len(op.inputs) for op in graph.ops if op.kind == "CONCATENATION") == 4
    assert (before.executed()["left"], after.executed()["left"]) == ({"CONCATENATION": 1}, {})


def test_half_weights_are_half_the_bytes_and_hardly_differ(made: bytes, tmp_path: Path) -> None:
    half = quantise.half_weights(made)
    assert len(made) - len(half) > 1000
    before, after = opened(made, tmp_path / "before.tflite"), opened(half, tmp_path / "after.tflite")
    x = weight(1, 12, 10, 3)
    wanted, found = before.run_tensors([x])[0], after.run_tensors([x])[0]
    assert 0 < np.abs(found - wanted).max() / np.ptp(wanted) < 2e-3
    assert after.executed()["left"] == before.executed()["left"]


def test_a_signature_of_another_kind_is_an_error(made: bytes) -> None:
    model = flatbuffer.unpack(made)
    model.signatureDefs[0].inputs[0].name = b"pixels"
    with pytest.raises(ConversionError, match="a signature of another kind: pixels"):
        litert_torch.finished(flatbuffer.pack(model), ["x"], ["y"])


# What is wrong with the Python that was named


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def python(path: Path, conversion: str, versions: str = FINE) -> Path:
    """Stands for a Python: says its versions, and converts by a line of shell."""
    return program(path, f"if [ \"$1\" = -c ]; then echo '{versions}'; else {conversion}; fi")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ("{}", "has no litert-torch"),
        ('{"litert-torch": "0.10.0", "numpy": "2"}', "has no torch"),
        ('{"litert-torch": "0.9.1", "torch": "2", "numpy": "2"}', "has litert-torch 0.9.1, and 0.10 is what was tried"),
        ('{"litert-torch": "0.100.0", "torch": "2", "numpy": "2"}', "has litert-torch 0.100.0, and 0.10 is what was tried"),
        ("hello", "is no Python of use: it does not answer as a Python does"),
        ("[1]", "is no Python of use: it does not answer as a Python does"),
    ],
)
def test_a_python_without_the_converter_is_refused(versions: str, said: str, tmp_path: Path) -> None:
    path = python(tmp_path / "python", "exit 1", versions)
    with pytest.raises(MissingToolError) as error:
        litert_torch.find(path)
    assert error.value.message == f"{path} {said}"
    assert (error.value.exit_code, str(error.value.hint).startswith(HINT)) == (1, True)


def test_our_own_python_has_it_not() -> None:
    with pytest.raises(MissingToolError, match="has no litert-torch"):
        litert_torch.find(Path(sys.executable))


def test_a_python_of_its_own_finds_none_of_our_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    path = program(tmp_path / "python", f"env > {tmp_path}/env; echo '{FINE}'")
    assert litert_torch.find(path).versions["litert-torch"] == "0.10.3"
    assert "PYTHONPATH" not in (tmp_path / "env").read_text()


@pytest.mark.parametrize("text", ["exit 3", "kill -9 $$", "sleep 60"], ids=["fails", "dies", "hangs"])
def test_a_program_that_does_not_answer_is_no_python(text: str, tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="is no Python of use: "):
        litert_torch.find(program(tmp_path / "python", text), seconds=1)


def test_what_cannot_be_started_is_no_python(tmp_path: Path) -> None:
    path = tmp_path / "python"
    path.write_bytes(b"\x00\x01 no program")
    with pytest.raises(UsageError, match="no program that can be run"):
        litert_torch.find(path)
    path.chmod(0o700)
    with pytest.raises(MissingToolError, match="is no Python of use: cannot be started: "):
        litert_torch.find(path)


def failed(arguments: Sequence[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    return int(end.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (
            ["--backend", "litert-torch"],
            2,
            f"litert-torch converts under a Python of its own: --converter-python names it\n  {HINT}",
        ),
        (["--backend", "litert-torch", "--converter-python", "/nowhere"], 2, "/nowhere: no program that can be run"),
        (["--converter-python", "/usr/bin/env"], 2, "--converter-python is for --backend litert-torch"),
        (["--backend", "torchlite"], 2, "torchlite"),
        (
            ["--backend", "litert-torch", "--variants", "fp32,int16x8", "--calibration", "."],
            2,
            "litert-torch makes no int16x8\n  it makes fp32, fp16, dynamic, int8, mixed",
        ),
    ],
)
def test_bad_options_are_refused_before_the_work(
    options: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = failed(["export", stranger(tmp_path / "net.onnx"), "-o", tmp_path / "out", *options], capsys)
    assert found[0] == code
    assert said in found[1]
    assert not (tmp_path / "out").exists()


def stranger(path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"]),
    ]
    onnx.save(model(nodes, {"w": weight(5, 3, 3, 3), "v": weight(3, 5, 1, 1)}, (1, 3, 14, 18)), path)
    return path


def export(tmp_path: Path, conversion: str, **options: Any) -> Report:
    config = ExportConfig(
        variants.parse("fp32"), backend="litert-torch", converter_python=python(tmp_path / "python", conversion), **options
    )
    return run_export(from_onnx(stranger(tmp_path / "net.onnx"), (), PRESETS["0..1"]), tmp_path / "out", config)


@pytest.mark.parametrize(
    ("conversion", "said"),
    [
        ("echo about to die; kill -SEGV $$", r"net at 14x18: the converter crashed \(SIGSEGV\); log: "),
        ("echo 'torch.OopsError: it cannot'; exit 1", r"net at 14x18: the converter failed: torch.OopsError: it cannot; log: "),
        ("echo slow; sleep 60", r"net at 14x18: the converter took longer than 2 s; log: "),
    ],
    ids=["crash", "exception", "hang"],
)
def test_a_failure_is_one_line_and_its_log_is_kept(conversion: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=said):
        export(tmp_path, conversion, seconds=2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"net.onnx", "net.onnx.json", "net_14x18.log"}
    assert (tmp_path / "out" / "net_14x18.log").read_text().splitlines()[0] in conversion


def test_an_environment_that_has_lost_a_package_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="lacks a package: ModuleNotFoundError: No module named 'jax'") as error:
        export(tmp_path, "echo \"ModuleNotFoundError: No module named 'jax'\"; exit 1")
    assert str(error.value.hint).startswith(HINT)


def test_a_file_that_is_none_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="litert-torch gave no TFLite file"):
        export(tmp_path, "echo nonsense > made.tflite")
    with pytest.raises(ConversionError, match="litert-torch gave no TFLite file"):
        export(tmp_path, "true", force=True)


# The real one


@pytest.fixture(scope="module")
def converter() -> str:
    named = os.environ.get("COMPRESS_LITERT_TORCH_PYTHON")
    if not named:
        pytest.skip("no Python with litert-torch here (COMPRESS_LITERT_TORCH_PYTHON names it)")
    return named


@pytest.mark.timeout(600)
def test_a_real_conversion_is_right_in_one_piece_and_the_same_each_time(converter: str, tmp_path: Path) -> None:
    net, photos = write_net(tmp_path / "tiny.safetensors"), write_photos(tmp_path / "photos")
    command = [sys.executable, "-m", "compress", "export", net, "--calibration", photos, "--min-psnr", 33, "--json"]
    command += ["--variants", "fp32,fp16,dynamic,int8,mixed", "--backend", "litert-torch", "--converter-python", converter]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        done = subprocess.run([*map(str, command), "-o", str(folder)], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout)["artifacts"]}
    found = {name: row["parity"]["psnr_db"] for name, row in rows.items()}
    assert found["fp32"] > 100 > found["fp16"] > 60 > found["dynamic"] > found["mixed"] > max(33, found["int8"])
    assert rows["fp16"]["bytes"] < rows["fp32"]["bytes"]
    card = read_artifact(folders[0] / "tiny_40x36_fp32.tflite").card
    assert card.toolchain["litert-torch"].startswith("0.10.")
    assert "onnx2tf" not in card.toolchain
    assert card.rewrites == {"subpixel-convolution": 2, "reflect-pad": 6, "replicate-pad": 2, "instance-norm": 7}
    assert [port.name for port in (*card.inputs, *card.outputs)] == ["x", "output"]
    assert (card.delegates["xnnpack"]["partitions"], card.delegates["xnnpack"]["left"]) == (1, {})
    assert card.delegates["gpu"]["refused"] == []
    for path in sorted(folders[0].glob("*.tflite")):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name


@pytest.mark.timeout(600)
def test_a_real_conversion_of_pixels_in_and_pixels_out(converter: str, tmp_path: Path) -> None:
    config = ExportConfig(variants.parse("fp32"), io="uint8", backend="litert-torch", converter_python=Path(converter))
    source = from_onnx(stranger(tmp_path / "net.onnx"), (), PRESETS["0..1"])
    (made,) = run_export(source, tmp_path / "out", config).made
    assert made.artifact is not None
    card = made.artifact.card
    assert [port.dtype for port in (*card.inputs, *card.outputs)] == ["uint8", "uint8"]
    assert card.own_parity is not None
    assert card.own_parity.max_abs <= 1
