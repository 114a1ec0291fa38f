"""Files run by their cards: the right layout, format and dtype; whatever does not fit is refused, never resized."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ArtifactError, ImageError, OutputError
from compress.image_format import PRESETS
from export import child, runtime
from export.artifact import Port, Quantisation, write_card


def onnx_file(folder: Path, height: object = "h", width: object = "w", name: str = "swap.onnx") -> Path:
    """A file that swaps the first and last channel and adds 0.25: in RGB 0..1, it shows any mistake in order or range."""
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[[0, 1, 2], [2, 1, 0], 0, 0] = 1
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["styled"])],
        "swap",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("styled", TensorProto.FLOAT, [1, 3, height, width])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.full(3, 0.25, np.float32), "bias")],
    )
    path = folder / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def tflite_file(folder: Path, dtype: str) -> Path:
    """A file that hands its 1 x 6 x 8 x 3 input on: one RESHAPE, made by hand."""
    from export import flatbuffer

    schema = flatbuffer.schema()
    model, graph = schema.ModelT(), schema.SubGraphT()
    for name in ("image", "styled"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, [1, 6, 8, 3], getattr(schema.TensorType, dtype.upper())
        graph.tensors = [*(graph.tensors or []), tensor]
    code, op, options = schema.OperatorCodeT(), schema.OperatorT(), schema.ReshapeOptionsT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    options.newShape = [1, 6, 8, 3]
    op.inputs, op.outputs, op.builtinOptions, op.builtinOptionsType = [0], [1], options, schema.BuiltinOptions.ReshapeOptions
    graph.inputs, graph.outputs, graph.operators = [0], [1], [op]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    path = folder / f"{dtype}.tflite"
    path.write_bytes(flatbuffer.pack(model))
    return path


PICTURES = np.random.default_rng(0).integers(0, 180, (2, 6, 7, 3)).astype(np.float32)


def test_a_file_knows_its_ports(tmp_path: Path) -> None:
    runner = runtime.load(onnx_file(tmp_path, 6, "w"))
    assert runner.inputs == (Port("image", "float32", (1, 3, 6, None)),)
    assert runner.outputs[0].name == "styled"
    assert runner.engine.startswith("onnxruntime 1.")


def test_pictures_go_in_and_come_out_by_the_card(tmp_path: Path) -> None:
    artifact = runtime.describe(onnx_file(tmp_path), PRESETS["0..1"])
    write_card(artifact)
    found = runtime.as_run(artifact.path)(PICTURES)
    assert found.shape == PICTURES.shape
    assert np.allclose(found, np.minimum(PICTURES[..., ::-1] + 0.25 * 255, 255), atol=1e-3)


def test_an_image_format_can_be_given_instead_of_a_card(tmp_path: Path) -> None:
    path = onnx_file(tmp_path)
    found = runtime.as_run(path, PRESETS["0..255"])(PICTURES)
    assert np.allclose(found, PICTURES[..., ::-1] + 0.25, atol=1e-3)


def test_an_image_format_can_be_given_against_the_card(tmp_path: Path) -> None:
    artifact = runtime.describe(onnx_file(tmp_path), PRESETS["0..1"])
    found = runtime.as_run(artifact, PRESETS["0..255"])(PICTURES)
    assert np.allclose(found, PICTURES[..., ::-1] + 0.25, atol=1e-3)


def test_a_file_without_card_or_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no card beside it"):
        runtime.as_run(onnx_file(tmp_path))


def test_a_file_of_no_picture_is_refused(tmp_path: Path) -> None:
    artifact = runtime.describe(onnx_file(tmp_path), None)
    with pytest.raises(ArtifactError, match="does not say how a picture goes in"):
        runtime.as_run(artifact)


def test_a_fixed_file_takes_its_own_size_only(tmp_path: Path) -> None:
    artifact = runtime.describe(onnx_file(tmp_path, 6, 8), PRESETS["0..1"])
    with pytest.raises(ImageError, match=r"swap\.onnx takes 6x8 pictures only, got 6x7") as error:
        runtime.as_run(artifact)(PICTURES)
    assert error.value.exit_code == 1


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int8", "int16", "int32", "int64", "bool"])
def test_a_tflite_file_of_any_type_is_never_resized(tmp_path: Path, dtype: str) -> None:
    """TFLite itself would resize it without a word, and give a picture of the wrong size."""
    path = tflite_file(tmp_path, dtype)
    own = np.random.default_rng(0).integers(0, 2, (1, 6, 8, 3)).astype(dtype)
    runner = runtime.load(path)
    for shape in ((1, 8, 6, 3), (1, 12, 16, 3), (2, 6, 8, 3), (1, 6, 8, 1), (6, 8, 3)):
        with pytest.raises(ArtifactError, match=f"image must be 1x6x8x3 {dtype}, got {'x'.join(map(str, shape))} {dtype}"):
            runner.run_tensors([np.zeros(shape, dtype)])
        with pytest.raises(ArtifactError, match="image must be 1x6x8x3"):
            runner.bound([np.zeros(shape, dtype)])
    assert np.array_equal(runner.run_tensors([own])[0], own)  # and it still takes its own


def test_pictures_have_three_channels(tmp_path: Path) -> None:
    run = runtime.as_run(runtime.describe(onnx_file(tmp_path), PRESETS["0..1"]))
    with pytest.raises(ImageError, match=r"must be \(N, H, W, 3\)"):
        run(PICTURES[..., :1])


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (np.zeros((1, 4, 6, 7), np.float32), "image must be 1x3x[?]x[?] float32, got 1x4x6x7 float32"),
        (np.zeros((1, 3, 6, 7), np.float64), "got 1x3x6x7 float64"),
        (np.zeros((3, 6, 7), np.float32), "got 3x6x7"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, tensor: np.ndarray, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        runtime.load(onnx_file(tmp_path)).run_tensors([tensor])


def test_the_number_of_inputs_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has 1 inputs, got 2"):
        runtime.load(onnx_file(tmp_path)).run_tensors([np.zeros((1, 3, 6, 7), np.float32)] * 2)


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        ("a.tflite", b"", "is empty"),
        ("a.tflite", b"garbage that is long enough", "is no TFLite file"),
        ("a.tflite", b"\x1c\0\0\0TFL3" + b"\0" * 40, "cannot be opened"),
        ("a.onnx", b"", "is empty"),
        ("a.onnx", b"garbage that is long enough", "is no ONNX file that ONNX Runtime can open: Protobuf parsing failed.$"),
        ("a.onnx", b"\x08\x07", "can open: ModelProto does not have a graph.$"),
        ("a.pth", b"PK", "neither .onnx nor .tflite"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, payload: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(ArtifactError, match=said):
        runtime.load(tmp_path / name)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        runtime.load(tmp_path / "none.tflite")


def test_quantised_numbers_round_clamp_and_come_back() -> None:
    port = Port("image", "uint8", (1, 2, 2, 3), None, Quantisation(0.5, 10))
    real = np.array([-99.0, -5.0, 0.0, 0.24, 0.26, 7.5, 999.0], np.float32)
    stored = runtime.quantised(real, port)
    assert stored.dtype == np.uint8
    assert stored.tolist() == [0, 0, 10, 10, 11, 25, 255]
    assert runtime.dequantised(stored, port).tolist() == [-5.0, -5.0, 0.0, 0.0, 0.5, 7.5, 122.5]
    assert runtime.quantised(real, replace(port, dtype="float32", quantisation=None)).dtype == np.float32


def test_a_file_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    path = onnx_file(tmp_path)
    samples = [{"image": np.full((1, 3, 4, 5), n, np.float32)} for n in range(2)]
    seen = runtime.run_apart(path, samples, seconds=120)
    assert [float(result[0].mean()) for result in seen.results] == [0.25, 1.25]
    assert seen.outputs == runtime.load(path).outputs
    with pytest.raises(child.ChildError) as error:
        runtime.run_apart(path, [{"image": np.zeros((1, 4, 4, 5), np.float32)}], seconds=120)
    assert error.value.reason.startswith("swap.onnx: image must be 1x3x")


def test_what_a_killed_child_leaves_goes_with_its_folder(tmp_path: Path) -> None:
    code = "import os, signal, tempfile; print(tempfile.mkdtemp(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(child.ChildError, match=r"crashed \(SIGKILL\)") as error:
        child.run([sys.executable, "-c", code], tmp_path, seconds=60)
    assert Path(error.value.log.strip()).parent == tmp_path


def test_a_damaged_file_without_a_card_does_not_take_us_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"\x1c\0\0\0TFL3 garbage" * 9)
    with pytest.raises(ArtifactError, match=r"a\.tflite cannot be opened: the interpreter "):
        runtime.as_run(tmp_path / "a.tflite", PRESETS["0..1"])


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OutputError, match="no space left on the disk for ") as error:
        runtime.run_apart(onnx_file(tmp_path), [], seconds=60)
    assert error.value.exit_code == 1
