"""Networks and foreign .onnx files become graphs: named, static at a size, free where that is true; and how they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from compress.checkpoint import Checkpoint
from compress.errors import ArtifactError, ConversionError, ImageError, NetworkError, ParityError, UsageError
from compress.image_format import PRESETS
from compress.networks.load import LoadedNetwork
from compress.spec import ModelSpec
from export import onnx as graphs
from export import parity, runtime
from export.foreign import opset
from export.samples import InputSpec, gather, require_pictures
from export.source import Source, from_network, from_onnx, graph_run
from export.variants import parse

RGB = PRESETS["0..255"]


class Masked(nn.Module):
    """Two inputs of different channels, two outputs, one half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 7, 3, padding=1), nn.Conv2d(1, 7, 1)
        self.c, self.d = nn.Conv2d(7, 3, 3, padding=1), nn.Conv2d(7, 2, 3, 2, 1)

    def forward(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        y = F.relu(self.a(image)) * torch.sigmoid(self.b(mask))
        return {"styled": self.c(y), "edges": self.d(y)}


class Flattened(nn.Module):
    """Exports with free axes, and is fixed all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4 * 6 * 5, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).flatten(1))


class Resized(nn.Module):
    """The size of its output is computed from the size of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 7, 3, 2, 1)
        self.b = nn.Conv2d(7, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.interpolate(F.relu(self.a(x)), size=x.shape[2:], mode="nearest"))


def source(module: nn.Module, tmp_path: Path, *shapes: tuple[int, ...], **options: Any) -> Source:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    spec = ModelSpec("a:b", {}, shapes, (RGB,), (RGB,))
    return from_network(path, LoadedNetwork(module.eval(), Checkpoint(spec, {})), strip=False, **options)


def test_several_inputs_and_outputs_keep_their_names_and_proportions(tmp_path: Path) -> None:
    found = source(Masked(), tmp_path, (1, 3, 12, 10), (1, 1, 12, 10), sizes=[(24, 30)])
    assert [(spec.name, spec.shape, spec.is_picture) for spec in found.inputs[0]] == [
        ("image", (1, 3, 24, 30), True),
        ("mask", (1, 1, 24, 30), False),
    ]
    assert found.outputs == ("styled", "edges")
    assert found.formats == (RGB, None)
    graph = found.build().shipped
    assert [port.shape for port in graphs.inputs_of(graph)] == [(1, 3, None, None), (1, 1, None, None)]
    sample = gather(found.inputs[0], None, 0).compared[0]
    assert parity.relative([found.given(sample)], [graph_run(graph)(sample)]) < 1e-5


def test_a_half_size_input_stays_half_the_size(tmp_path: Path) -> None:
    class Guided(nn.Module):
        def forward(self, x: Tensor, low: Tensor) -> Tensor:
            return x + F.interpolate(low, scale_factor=2)

    assert [s.shape for s in source(Guided(), tmp_path, (1, 3, 12, 10), (1, 3, 6, 5), sizes=[(8, 20)]).inputs[0]] == [
        (1, 3, 8, 20),
        (1, 3, 4, 10),
    ]
    with pytest.raises(UsageError, match="at 9x20 the input of 1x3x6x5 would not have whole sides"):
        source(Guided(), tmp_path, (1, 3, 12, 10), (1, 3, 6, 5), sizes=[(9, 20)])


def test_a_graph_that_is_only_said_to_be_free_is_fixed(tmp_path: Path) -> None:
    built = source(Flattened(), tmp_path, (1, 3, 12, 10)).build()
    assert not graphs.is_free(built.shipped)
    assert built.graphs[0] is built.shipped


def test_a_size_that_the_network_does_not_take_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="the network does not take 1x3x16x16: RuntimeError") as error:
        source(Flattened(), tmp_path, (1, 3, 12, 10), sizes=[(16, 16)])
    assert error.value.exit_code == 1


def test_a_network_without_a_picture_like_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no input of four axes"):
        source(nn.Linear(3, 4), tmp_path, (1, 3))


def test_sizes_computed_in_the_graph_become_constants(tmp_path: Path) -> None:
    built = source(Resized(), tmp_path, (1, 3, 12, 10)).build()
    assert graphs.is_free(built.shipped)
    assert any(node.op_type == "Shape" for node in built.shipped.graph.node)
    static = graphs.specialised(built.shipped, {"x": (1, 3, 16, 22)})
    assert {node.op_type for node in static.graph.node} == {"Conv", "Relu", "Resize"}


def test_an_exported_graph_names_no_path_of_this_machine(tmp_path: Path) -> None:
    payload = source(Resized(), tmp_path, (1, 3, 12, 10)).build().shipped.SerializeToString()
    assert b"site-packages" not in payload
    assert str(Path(__file__).parent).encode() not in payload


def test_what_a_module_returns_gets_names() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    assert list(graphs.outputs_of(one)) == ["output"]
    assert list(graphs.outputs_of((one, two))) == ["output_0", "output_1"]
    assert list(graphs.outputs_of([one])) == ["output"]
    assert list(graphs.outputs_of({"a": one, "b": (one, two)})) == ["a", "b_0", "b_1"]
    assert graphs.outputs_of("text") == {}


def padded_file(path: Path, opset: int = 11, height: object = "h") -> Path:
    """What old exporters make of a reflecting convolution: the pads are computed by six nodes of constants."""
    weight = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32)
    constants = {
        "weight": weight,
        "halves": np.array([1, 1, 1, 1], np.int64),
        "count": np.array([4], np.int64),
        "square": np.array([-1, 2], np.int64),
        "from": np.array([-1], np.int64),
        "to": np.array([np.iinfo(np.int64).min], np.int64),
        "axis": np.array([0], np.int64),
        "step": np.array([-1], np.int64),
        "flat": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        helper.make_node("Concat", ["halves", "zeros"], ["all"], axis=0),
        helper.make_node("Reshape", ["all", "square"], ["pairs"]),
        helper.make_node("Slice", ["pairs", "from", "to", "axis", "step"], ["reversed"]),
        helper.make_node("Transpose", ["reversed"], ["columns"], perm=[1, 0]),
        helper.make_node("Reshape", ["columns", "flat"], ["pads"]),
        helper.make_node("Pad", ["in/put:0", "pads"], ["bordered"], mode="reflect"),
        helper.make_node("Conv", ["bordered", "weight"], ["1"]),
    ]
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("in/put:0", TensorProto.FLOAT, ["n", 3, height, 10]),
         helper.make_tensor_value_info("weight", TensorProto.FLOAT, weight.shape)],
        [helper.make_tensor_value_info("1", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6), path)
    return path


def test_an_old_file_is_understood(tmp_path: Path) -> None:
    found = from_onnx(padded_file(tmp_path / "old.onnx"), [(12, 10)], RGB)
    assert [spec.name for spec in found.inputs[0]] == ["in/put:0"]  # a weight that is listed as an input is none
    assert found.inputs[0][0].shape == (1, 3, 12, 10)
    graph = found.build().shipped
    assert graph.opset_import[0].version == opset.OPSET
    static = graphs.specialised(graph, {"in/put:0": (1, 3, 12, 10)})
    assert [node.op_type for node in static.graph.node] == ["Pad", "Conv"]
    sample = gather(found.inputs[0], None, 0).compared[0]
    assert parity.relative([found.given(sample)], [graph_run(static)(sample)]) < 1e-6


def test_a_fixed_file_has_one_size(tmp_path: Path) -> None:
    path = padded_file(tmp_path / "old.onnx", height=12)
    assert from_onnx(path).sizes == ((12, 10),)
    with pytest.raises(UsageError, match=r"old\.onnx is made for 12x10, not for 24x10"):
        from_onnx(path, [(24, 10)])


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = padded_file(tmp_path / "old.onnx").read_bytes()
    for name, payload, said in (("a", b"", "is empty"), ("b", whole[:200], "no "), ("c", b"not a protobuf at all", "no ")):
        (tmp_path / name).write_bytes(payload)
        with pytest.raises(ArtifactError, match=said):
            from_onnx(tmp_path / name)
    with pytest.raises(ArtifactError, match="no such file"):
        from_onnx(tmp_path / "none.onnx")


def test_lost_external_data_is_named(tmp_path: Path) -> None:
    model = onnx.load(padded_file(tmp_path / "old.onnx"))
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=200)
    from_onnx(tmp_path / "split.onnx", [(12, 10)])
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin"):
        from_onnx(tmp_path / "split.onnx", [(12, 10)])


def test_integer_inputs_are_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "ids",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 3, 4, 5])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "ids.onnx")
    with pytest.raises(ConversionError, match="only inputs of real numbers and pictures are understood, x is int64"):
        from_onnx(tmp_path / "ids.onnx")


# How stages are compared


def picture(value: float) -> list[np.ndarray]:
    return [np.full((1, 3, 2, 2), value, np.float32)]


def test_pictures_are_compared_as_clamped_pixels() -> None:
    found = parity.compare("s", [picture(300.0)], [picture(254.0)], [RGB])
    assert (found.max_abs, found.mean_abs, found.unit) == (1.0, 1.0, "pixels")
    assert found.psnr_db == pytest.approx(48.13, abs=0.01)
    normalised = parity.compare("s", [picture(1.0)], [picture(0.5)], [PRESETS["0..1"]])
    assert normalised.max_abs == pytest.approx(127.5)


def test_identical_pictures_have_no_psnr() -> None:
    assert parity.compare("s", [picture(9.0)], [picture(9.0)], [RGB]).psnr_db is None


def test_what_is_no_picture_is_compared_as_it_is() -> None:
    found = parity.compare("s", [[np.array([[0.0, 1000.0]])]], [[np.array([[0.0, 990.0]])]], [None])
    assert (found.max_abs, found.mean_abs, found.psnr_db, found.unit) == (10.0, 5.0, None, "tensor")
    assert found.relative == pytest.approx(0.01)


def test_a_difference_is_seen_in_any_output_and_never_lost_in_nan() -> None:
    same, other = [*picture(1.0), np.arange(4.0)], [*picture(1.0), np.array([0, 1, 2, 3.3])]
    assert parity.compare("s", [same], [other], [RGB, None]).relative == pytest.approx(0.1)
    assert parity.relative([same], [[*picture(1.0), np.full(4, np.nan)]]) == float("inf")
    assert parity.relative([picture(1.0)], [picture(1.0)]) == 0
    assert parity.relative([picture(1.0)], [picture(1.1)]) == float("inf")  # of no range at all


def test_a_stage_that_moves_the_output_is_an_error() -> None:
    yardstick = parity.Yardstick.of(lambda sample: [sample["x"]], [{"x": np.arange(12.0).reshape(1, 3, 2, 2)}], [RGB])
    with pytest.raises(ParityError, match=r"the stage 'onnx' moved the output by 9\.1e-02 of its range \(limit 1e-03\)"):
        yardstick.hold("onnx", [[np.arange(12.0).reshape(1, 3, 2, 2) + 1]])


# What they are compared on


def test_synthetic_pictures_are_smooth_and_always_the_same() -> None:
    spec = InputSpec("image", (1, 3, 40, 36), PRESETS["0..1"])
    first, second = gather([spec], None, 7), gather([spec], None, 7)
    assert first.about == "8 smooth synthetic pictures, seed 7"
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first.compared, second.compared, strict=True))
    one, other = (sample["image"] for sample in first.compared[:2])
    assert one.shape == (1, 3, 40, 36)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() <= 1
    assert np.abs(np.diff(one, axis=2)).mean() < 0.3 * one.std()
    assert np.abs(one - other).mean() > 0.05
    assert not np.array_equal(one, gather([spec], None, 8).compared[0]["image"])


def test_photos_calibrate_and_large_ones_are_compared_on_fewer(tmp_path: Path) -> None:
    for index in range(20):
        Image.new("RGB", (50, 40), (index, 2 * index, 200)).save(tmp_path / f"{index:02}.png")
    small = gather([InputSpec("image", (1, 3, 16, 12), RGB)], tmp_path, 0)
    assert (len(small.compared), len(small.calibration)) == (8, 16)
    assert len({float(sample["image"][0, 0, 0, 0]) for sample in small.calibration}) == 16
    assert len(gather([InputSpec("image", (1, 3, 1024, 1024), RGB)], tmp_path, 0).compared) == 2
    content, style = (gather([InputSpec(n, (1, 3, 8, 8), RGB) for n in "cs"], tmp_path, 0).compared[0][n] for n in "cs")
    assert not np.array_equal(content, style)


def test_an_empty_folder_or_a_broken_photo_is_said(tmp_path: Path) -> None:
    spec = InputSpec("image", (1, 3, 16, 12), RGB)
    with pytest.raises(ImageError, match="no photos in"):
        gather([spec], tmp_path, 0)
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 not much")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        gather([spec], tmp_path, 0)


def test_int8_of_a_network_without_pictures_is_refused() -> None:
    with pytest.raises(UsageError, match="no input is known to be a picture: x"):
        require_pictures([InputSpec("x", (1, 3, 16, 12), None)])


def test_variants_are_a_table() -> None:
    assert [row.name for row in parse("int8, fp32,fp32")] == ["fp32", "int8"]
    with pytest.raises(UsageError, match="no variant named fp8, x"):
        parse("fp8,fp32,x")


def test_a_graph_that_onnx_runtime_refuses_is_one_line() -> None:
    with pytest.raises(ArtifactError, match="is no ONNX file that ONNX Runtime can open"):
        runtime.load_graph(b"garbage", "g.onnx")


def test_outputs_of_another_shape_are_as_far_as_can_be() -> None:
    one, other = np.zeros((1, 3, 4, 5), np.float32), np.zeros((1, 3, 8, 5), np.float32)
    assert parity.relative([[one]], [[other]]) == float("inf")
