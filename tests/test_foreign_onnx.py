"""`.onnx` files of other tools and other years: read, rewritten, converted, and held against ONNX Runtime with the given file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compress.cli import main
from compress.image_format import PRESETS
from export import onnx as graphs
from export import parity, rewrites, runtime
from export.foreign import opset
from export.samples import InputSpec
from export.source import Source, from_onnx, graph_run
from tests import foreign_files as made
from tests.foreign_files import FIRST, HEIGHT, MAZES, NO_MAZES, NO_NORMS, NORMS, NUMBERS, OLD, WIDTH, after_conv, node, weight

SIZE = [(HEIGHT, WIDTH)]
UNDERSTOOD = (
    "channels-first",
    "pixel-repeat",
    "spelled-norm",
    "spatial-mean",
    "same-pads",
    "strided-dilation",
    "subpixel-convolution",
    "reflect-pad",
)


def original(path: Path, array: np.ndarray) -> np.ndarray:
    """ONNX Runtime with the file as given: the judge."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: array})[0]
    return found


def picture(seed: int = 3, shape: tuple[int, ...] = (1, 3, HEIGHT, WIDTH)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def ready(source: Source, sample: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The graph that the converter would get, and which rewrites it took."""
    graph = graphs.specialised(source.build().shipped, {spec.name: spec.shape for spec in source.inputs[0]})

    def gap(before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        return parity.relative([graph_run(before)(sample)], [graph_run(after)(sample)])

    return rewrites.rewrite(graph, "cpu", gap)


def agree(path: Path, as_given: Callable[[np.ndarray], np.ndarray] = lambda array: array) -> tuple[list[str], dict[str, int]]:
    """Read and rewrite, compare with the judge; return the operators that are left, and the rewrites."""
    array = picture()
    graph, places = ready(from_onnx(path, SIZE), {"x": array})
    wanted = original(path, as_given(array))
    wanted = wanted.transpose(0, 3, 1, 2) if as_given(array).shape != array.shape else wanted
    assert graph.opset_import[0].version >= opset.OPSET
    assert parity.relative([[wanted]], [graph_run(graph)({"x": array})]) < 1e-5
    return [each.op_type for each in graph.graph.node], {name: count for name, count in places.items() if name in UNDERSTOOD}


# Old forms


@pytest.mark.parametrize(("name", "version"), [(name, version) for name, row in OLD.items() for version in row[0]])
def test_an_old_operator_computes_what_it_did(name: str, version: int, tmp_path: Path) -> None:
    _, nodes, weights = OLD[name]
    agree(after_conv(tmp_path / "old.onnx", nodes, weights, opset=version))


def test_sizes_may_be_open_in_old_files(tmp_path: Path) -> None:
    _, nodes, weights = OLD["upsample linear"]
    path = after_conv(tmp_path / "old.onnx", nodes, weights, opset=7, shape=("batch", "channels", "height", "width"))
    found = from_onnx(path, [(14, 18)])
    assert found.inputs[0][0].shape == (1, 3, 14, 18)  # the channels are those of the first convolution
    array = picture(4, (1, 3, 14, 18))
    graph, _ = ready(found, {"x": array})
    assert parity.relative([[original(path, array)]], [graph_run(graph)({"x": array})]) < 1e-6


def test_before_opset_7_there_is_no_judge_and_that_is_said(tmp_path: Path) -> None:
    """ONNX Runtime has none of these; what they meant is in the standard's history, and computed here by hand."""
    bias, slope, (g, b, m, v) = weight(5), weight(5), (np.square(weight(4, 5)) + np.float32(0.5))
    nodes = [
        node("Add", ["c", "bias"], ["a"], broadcast=1, axis=1, consumed_inputs=[0, 0]),
        node("PRelu", ["a", "slope"], ["p"]),
        node("BatchNormalization", ["p", "g", "b", "m", "v"], ["n"], is_test=1, spatial=1, epsilon=1e-3),
        node("Dropout", ["n"], ["d"], is_test=1, ratio=0.5),
        node("Relu", ["d"], ["y"]),
    ]
    path = after_conv(tmp_path / "six.onnx", nodes, {"bias": bias, "slope": slope, "g": g, "b": b, "m": m, "v": v}, opset=6)
    found = from_onnx(path, SIZE)
    assert found.notes == ("ONNX Runtime does not run six.onnx as it is: it was judged from its form in opset 18 on",)
    plain = write_conv(tmp_path / "plain.onnx")
    wide = [array[None, :, None, None] for array in (bias, slope, g, b, m, v)]
    added = original(plain, picture()) + wide[0]
    bent = np.where(added < 0, added * wide[1], added)
    wanted = np.maximum(0, (bent - wide[4]) / np.sqrt(wide[5] + 1e-3) * wide[2] + wide[3])
    graph, _ = ready(found, {"x": picture()})
    assert parity.relative([[wanted]], [graph_run(graph)({"x": picture()})]) < 1e-5


def write_conv(path: Path) -> Path:
    return made.write(path, [node("Conv", ["x", "first"], ["y"], pads=[1, 1, 1, 1], name="only")], {"first": FIRST})


def test_old_spellings_of_attributes(tmp_path: Path) -> None:
    nodes = [
        node("Pad", ["x"], ["p"], mode="reflect", paddings=[0, 0, 1, 1, 0, 0, 1, 1]),
        node("Conv", ["p", "first"], ["c"]),
        node("Upsample", ["c"], ["u"], mode="nearest", height_scale=2.0, width_scale=3.0),
        node("Reshape", ["u"], ["r"], shape=[1, 5, 24, 30]),
        node("Cast", ["r"], ["y"], to="FLOAT"),
    ]
    path = made.write(tmp_path / "one.onnx", nodes, {"first": FIRST}, opset=1)
    now = [
        node("Pad", ["x", "b"], ["p"], mode="reflect"),
        node("Conv", ["p", "first"], ["c"]),
        node("Resize", ["c", "", "s"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]
    constants = {"first": FIRST, "b": made.ints(0, 0, 1, 1, 0, 0, 1, 1), "s": np.array([1, 1, 2, 3], np.float32)}
    today = made.write(tmp_path / "now.onnx", now, constants)
    graph, _ = ready(from_onnx(path, SIZE), {"x": picture()})
    assert parity.relative([[original(today, picture())]], [graph_run(graph)({"x": picture()})]) < 1e-6


def test_functions_of_a_file_are_put_in(tmp_path: Path) -> None:
    body = [node("Mul", ["a", "a"], ["s"]), node("Sub", ["s", "a"], ["r"])]
    function = helper.make_function("own", "Bend", ["a"], ["r"], body, [helper.make_opsetid("", 18)])
    path = after_conv(
        tmp_path / "f.onnx",
        [node("Bend", ["c"], ["y"], domain="own")],
        {},
        functions=[function],
        domains=[helper.make_opsetid("own", 1)],
    )
    operators, _ = agree(path)
    assert operators == ["Conv", "Mul", "Sub"]


# Numbers


def half_file(path: Path, kind: type = np.float16) -> Path:
    proto = TensorProto.FLOAT16 if kind is np.float16 else TensorProto.DOUBLE
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]) if kind is np.float16 else node("Sub", ["x", "two"], ["c"]),
        node("Cast", ["c"], ["k"], to=TensorProto.FLOAT),
        node("Sigmoid", ["k"], ["r"]),
        node("Cast", ["r"], ["h"], to=proto),
        node("Mul", ["h", "two"], ["y"]),
    ]
    return made.write(path, nodes, {"w": FIRST.astype(kind), "two": np.array(2, kind)}, kinds=(proto, proto), opset=13)


@pytest.mark.parametrize(("kind", "limit"), [(np.float16, 5e-3), (np.float64, 1e-6)])
def test_half_and_double_precision_become_float32(kind: type, limit: float, tmp_path: Path) -> None:
    path = half_file(tmp_path / "half.onnx", kind)
    found = from_onnx(path, SIZE)
    graph, _ = ready(found, {"x": picture()})
    assert {tensor.data_type for tensor in graph.graph.initializer} == {TensorProto.FLOAT}
    wanted = np.asarray(original(path, picture().astype(kind)), np.float32)
    assert parity.relative([[wanted]], [graph_run(graph)({"x": picture()})]) < limit
    assert parity.relative([found.given({"x": picture()})], [graph_run(graph)({"x": picture()})]) < 1e-6


def test_whole_pixels_become_float_pixels(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        node("Transpose", ["f"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Clip", ["c", "low", "high"], ["k"]),
        node("Transpose", ["k"], ["l"], perm=[0, 2, 3, 1]),
        node("Cast", ["l"], ["y"], to=TensorProto.UINT8),
    ]
    constants = {"w": np.abs(weight(3, 3, 3, 3)) / 4, "low": np.array(0, np.float32), "high": np.array(255, np.float32)}
    path = made.write(
        tmp_path / "u8.onnx", nodes, constants, shape=(1, HEIGHT, WIDTH, 3), kinds=(TensorProto.UINT8, TensorProto.UINT8)
    )
    found = from_onnx(path, SIZE)
    assert found.inputs[0][0] == InputSpec("x", (1, 3, HEIGHT, WIDTH), PRESETS["0..255"])
    pixels = np.random.default_rng(5).integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8)
    graph, _ = ready(found, {"x": pixels.transpose(0, 3, 1, 2).astype(np.float32)})
    got = graph_run(graph)({"x": pixels.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    assert [each.op_type for each in graph.graph.node] == ["Conv", "Clip"]
    assert np.array_equal(np.trunc(got), original(path, pixels).transpose(0, 3, 1, 2))


# Channels last


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH, 3), ("n", "h", "w", 3)])
def test_islands_of_tensorflow_lose_every_transpose(shape: tuple[int | str, ...], tmp_path: Path) -> None:
    path = made.tensorflow_file(tmp_path / "tf.onnx", shape)
    operators, places = agree(path, lambda array: np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
    assert "Transpose" not in operators
    assert {"channels-first", "spelled-norm", "reflect-pad"} <= set(places)


def test_a_network_with_channels_first_is_left_so(tmp_path: Path) -> None:
    """Four channels, and three columns: by its shape it could be the other way."""
    shape = (1, 16, 20, 3)
    conv = node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    path = made.write(tmp_path / "deep.onnx", [conv], {"w": weight(5, 16, 3, 3)}, shape=shape)
    assert from_onnx(path).inputs[0][0].shape == shape


# Spellings


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_found_however_it_is_spelled(name: str, tmp_path: Path) -> None:
    operators, places = agree(after_conv(tmp_path / "n.onnx", NORMS[name], NUMBERS))
    assert places == {"spelled-norm": 1}
    assert operators.count("ReduceMean") == 2
    assert not {"Div", "Pow"} & set(operators)


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_only_looks_like_a_norm_is_left(name: str, tmp_path: Path) -> None:
    _, places = agree(after_conv(tmp_path / "n.onnx", NO_NORMS[name], {**NUMBERS, "chw": made.ints(1, 2, 3)}))
    assert not places


@pytest.mark.parametrize("name", MAZES)
def test_a_maze_that_repeats_pixels_is_a_resize(name: str, tmp_path: Path) -> None:
    operators, places = agree(after_conv(tmp_path / "m.onnx", *MAZES[name]))
    assert (operators, places) == (["Conv", "Resize"], {"pixel-repeat": 1})


@pytest.mark.parametrize("order", made.SHUFFLES)
def test_a_maze_that_lays_channels_out_as_pixels(order: str, tmp_path: Path) -> None:
    operators, places = agree(after_conv(tmp_path / "m.onnx", *made.SHUFFLES[order]))
    assert (operators, places) == (["Conv", "Conv", "DepthToSpace"], {"pixel-repeat": 1})


@pytest.mark.parametrize("name", NO_MAZES)
def test_a_maze_that_does_something_else_is_left(name: str, tmp_path: Path) -> None:
    _, places = agree(after_conv(tmp_path / "m.onnx", *NO_MAZES[name]))
    assert not places


@pytest.mark.parametrize(("keeps", "axis", "shape"), [(1, 3, (1, 5, 1, -1)), (0, -1, (1, 5, -1)), (1, 1, (5, -1))])
def test_the_mean_of_a_flattened_picture(keeps: int, axis: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [node("Reshape", ["c", "s"], ["f"]), node("ReduceMean", ["f", "a"], ["y"], keepdims=keeps)]
    operators, places = agree(after_conv(tmp_path / "m.onnx", nodes, {"s": made.ints(*shape), "a": made.ints(axis)}))
    assert places == {"spatial-mean": 1}
    assert operators[:2] == ["Conv", "ReduceMean"]


def test_strides_and_dilations_together(tmp_path: Path) -> None:
    """TensorFlow has either."""
    conv = node("Conv", ["c", "w", "b"], ["y"], strides=[2, 1], dilations=[2, 3], pads=[2, 3, 1, 0], group=5)
    operators, places = agree(after_conv(tmp_path / "d.onnx", [conv], {"w": weight(10, 1, 3, 2), "b": weight(10)}))
    assert (operators, places) == (["Conv", "Conv"], {"strided-dilation": 1})


# All the way


def whole_way(path: Path, folder: Path) -> np.ndarray:
    """Exported by the command; what the .tflite file makes of the picture, channels first."""
    arguments = ["export", str(path), "-o", str(folder), "--variants", "fp32", "--size", f"{HEIGHT}x{WIDTH}", "--quiet"]
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    runner = runtime.load(folder / f"{path.stem}_{HEIGHT}x{WIDTH}_fp32.tflite")
    found: np.ndarray = runner.run_tensors([np.ascontiguousarray(picture().transpose(0, 2, 3, 1))])[0]
    return found.transpose(0, 3, 1, 2)


def old_network(path: Path) -> Path:
    """Opset 7: a scaler, a reflecting pad by attributes, upsampling twice, and a crop."""
    nodes = [
        node("ImageScaler", ["x"], ["i"], scale=2.0, bias=[-0.9, -1.0, -1.1]),
        node("Pad", ["i"], ["p"], mode="reflect", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        node("Conv", ["p", "w"], ["c"]),
        node("InstanceNormalization", ["c", "g", "b"], ["n"]),
        node("Clip", ["n"], ["k"], min=0.0, max=6.0),
        node("ConvTranspose", ["k", "up"], ["t"], strides=[2, 2], output_shape=[2 * HEIGHT, 2 * WIDTH]),
        node("Upsample", ["t"], ["u"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
        node("Crop", ["u"], ["y"], border=[1, 2, 3, 4]),
    ]
    numbers_ = {"w": FIRST, "g": weight(5), "b": weight(5), "up": weight(5, 3, 3, 3)}
    return made.write(path, nodes, numbers_, opset=7, shape=("n", 3, "h", "w"))


def maze_network(path: Path) -> Path:
    """A norm spelled out on a flattened picture, and pixels repeated by a maze before a convolution."""
    norm = [made.node(each.op_type, each.input, [o.replace("y", "normed") for o in each.output]) for each in NORMS["flattened"]]
    for new, old in zip(norm, NORMS["flattened"], strict=True):
        new.attribute.extend(old.attribute)
    nodes, weights = MAZES["expand"]
    maze = [replace_names(each, {"c": "a", "y": "large", "p": "p2", "q": "q2"}) for each in nodes]
    last = [node("Conv", ["large", "end"], ["y"], pads=[1, 1, 1, 1])]
    all_nodes = [*norm, node("Relu", ["normed"], ["a"]), *maze, *last]
    return after_conv(
        path, all_nodes, {**NUMBERS, **{("a6" if k == "a" else k): v for k, v in weights.items()}, "end": weight(4, 5, 3, 3)}
    )


def replace_names(each: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """A copy that reads and writes other names; a weight named like a tensor is told apart."""
    copy = onnx.NodeProto()
    copy.CopyFrom(each)
    for index, name in enumerate(each.input):
        copy.input[index] = "a6" if index and name == "a" else names.get(name, name)
    for index, name in enumerate(each.output):
        copy.output[index] = names.get(name, name)
    return copy


@pytest.mark.parametrize(
    ("write", "turned", "limit"),
    [(old_network, False, 1e-4), (maze_network, False, 1e-4), (made.tensorflow_file, True, 1e-4), (half_file, False, 5e-3)],
    ids=["opset 7", "maze", "tensorflow", "half"],
)
def test_the_whole_way_to_tflite(write: Callable[[Path], Path], turned: bool, limit: float, tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx")
    given = picture().transpose(0, 2, 3, 1) if turned else picture()
    wanted = np.asarray(original(path, np.ascontiguousarray(given, np.float16 if write is half_file else np.float32)), np.float32)
    wanted = wanted.transpose(0, 3, 1, 2) if turned else wanted
    assert parity.relative([[wanted]], [[whole_way(path, tmp_path / "out")]]) < limit
