"""What is not understood of a stranger's `.onnx` file is refused in one line that names the node and those around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.errors import ArtifactError, CompressError, ConversionError, ParityError
from export import blame, variants
from export import onnx as graphs
from export.conversion import Request
from export.foreign import file, numbers, reading
from export.parity import Yardstick
from export.samples import InputSpec
from export.source import from_onnx, graph_run
from tests import foreign_files as made
from tests.foreign_files import FIRST, HEIGHT, OLD, WIDTH, after_conv, node, weight
from tests.test_foreign_onnx import SIZE, agree, old_network, picture, write_conv

# What is refused, by name


def refused(path: Path, **options: Any) -> str:
    with pytest.raises((ConversionError, ArtifactError)) as error:
        from_onnx(path, SIZE, **options)
    assert error.value.exit_code == 1
    return str(error.value)


RELU = node("Relu", ["c"], ["r"], name="act")
_CASE = {"domain": "acme", "name": "odd"}
REFUSALS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]] = {
    "random": (
        [RELU, node("RandomNormalLike", ["r"], ["z"], name="noise"), node("Add", ["r", "z"], ["y"], name="sum")],
        {},
        "RandomNormalLike 'noise' (after Relu 'act'; before Add 'sum') gives other numbers at each run",
    ),
    "quantised": (
        [
            RELU,
            node("QuantizeLinear", ["r", "s", "z"], ["q"], name="to8"),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], name="from8"),
        ],
        {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)},
        "QuantizeLinear 'to8' (after Relu 'act'; before DequantizeLinear 'from8') belongs to a quantised network "
        "(give the float network; int8 variants are made of it)",
    ),
    "a shape of its own": (
        [RELU, node("NonZero", ["r"], ["n"], name="where"), node("Cast", ["n"], ["y"], to=1, name="real")],
        {},
        "NonZero 'where' (after Relu 'act'; before Cast 'real') has an output whose shape depends on the picture",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_operator_without_a_place_is_named_with_its_neighbours(name: str, tmp_path: Path) -> None:
    nodes, weights, said = REFUSALS[name]
    assert f"odd.onnx: {said}" in refused(after_conv(tmp_path / "odd.onnx", nodes, weights))


def test_control_flow_is_refused_where_it_depends_on_the_picture(tmp_path: Path) -> None:
    def branch(factor: float) -> onnx.GraphProto:
        constant = numpy_helper.from_array(np.array(factor, np.float32), f"by{factor:g}")
        out = helper.make_tensor_value_info(f"o{factor:g}", TensorProto.FLOAT, None)
        return helper.make_graph([node("Mul", ["c", constant.name], [out.name])], "branch", [], [out], [constant])

    choice = node("If", ["when"], ["y"], name="choice", then_branch=branch(2), else_branch=branch(3))
    total = [node("ReduceMax", ["c"], ["top"], keepdims=0), node("Greater", ["top", "one"], ["when"], name="ask")]
    path = after_conv(tmp_path / "if.onnx", [*total, choice], {"one": np.array(1, np.float32)})
    assert "If 'choice' (after Greater 'ask'; an output of the graph) is control flow that depends on the input" in refused(path)
    fixed = after_conv(tmp_path / "fixed.onnx", [choice], {"when": np.array(True)})
    operators, _ = agree(fixed)
    assert operators == ["Conv", "Mul"]


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    path = after_conv(
        tmp_path / "own.onnx",
        [RELU, node("Magic", ["r"], ["m"], **_CASE), node("Tanh", ["m"], ["y"], name="end")],
        {},
        domains=[helper.make_opsetid("acme", 1)],
    )
    said = refused(path)
    assert "own.onnx: acme.Magic 'odd' (after Relu 'act'; before Tanh 'end') is of a domain outside of the standard" in said


def test_a_side_input_of_whole_numbers_is_named_with_its_reader(tmp_path: Path) -> None:
    path = after_conv(
        tmp_path / "side.onnx",
        [node("Reshape", ["c", "shape"], ["y"], name="fold")],
        {},
        more=[helper.make_tensor_value_info("shape", TensorProto.INT64, [4])],
    )
    said = "shape is int64; read by Reshape 'fold' (after Conv 'first conv'; an output of the graph)"
    assert said in refused(path)


def test_training_is_refused(tmp_path: Path) -> None:
    outputs = ["y", "m2", "v2", "sm", "sv"]
    norm = node("BatchNormalization", ["c", "g", "b", "m", "v"], outputs, name="learning")
    numbers_ = {name: weight(5) for name in "gbmv"}
    path = after_conv(tmp_path / "train.onnx", [norm, node("Identity", ["m2"], ["seen"])], numbers_, opset=7)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("seen", TensorProto.FLOAT, None))
    onnx.save(model, path)
    assert "BatchNormalization 'learning'" in refused(path)


def test_weights_that_are_lost_are_named(tmp_path: Path) -> None:
    broken = FIRST.copy()
    broken[1, 2, 0, 0] = np.nan
    path = made.write(tmp_path / "nan.onnx", [node("Conv", ["x", "w"], ["y"], name="only")], {"w": broken})
    assert "the weight w holds NaN; read by Conv 'only' (reads the input x; an output of the graph)" in refused(path)


def test_numbers_that_are_lost_on_the_way_are_named(tmp_path: Path) -> None:
    nodes = [
        RELU,
        node("Log", ["r"], ["l"], name="of zero"),
        node("Tanh", ["l"], ["t"]),
        node("Sub", ["l", "l"], ["y"], name="last"),
    ]
    with pytest.raises(
        ParityError, match=r"l\.onnx: NaN or infinite values on an ordinary picture, from Log 'of zero' \(after Relu"
    ):
        from_onnx(after_conv(tmp_path / "l.onnx", nodes, {}), SIZE)


def test_a_file_that_crashes_onnx_runtime_is_opened_elsewhere_first(tmp_path: Path) -> None:
    turn = node("Transpose", ["c"], ["t"], perm=[0, 1, 2])
    path = after_conv(tmp_path / "t.onnx", [turn, node("Transpose", ["t"], ["y"], perm=[0, 2, 3, 1])], {})
    assert "t.onnx" in refused(path)


def test_a_tensor_without_bounds_is_refused(tmp_path: Path) -> None:
    _, nodes, _ = OLD["upsample by input"]
    path = after_conv(tmp_path / "u.onnx", nodes, {"s": np.array([1, 1, 3e4, 3e4], np.float32)}, opset=9)
    assert "makes a tensor of more than 1,073,741,824 numbers (a smaller --size)" in refused(path)


def test_an_output_without_numbers_is_refused(tmp_path: Path) -> None:
    constants = {"from": made.ints(7), "to": made.ints(7), "axis": made.ints(2)}
    path = after_conv(tmp_path / "e.onnx", [node("Slice", ["c", "from", "to", "axis"], ["y"])], constants)
    assert "e.onnx: its output y is empty on an ordinary picture" in refused(path)


@pytest.mark.parametrize("opset_", [7, 18])
def test_damaged_bytes_are_one_of_our_errors(opset_: int, tmp_path: Path) -> None:
    """Or none: some bytes do not matter."""
    write = old_network if opset_ == 7 else made.tensorflow_file
    whole = write(tmp_path / "n.onnx").read_bytes()
    random = np.random.default_rng(opset_)
    outcomes = set()
    for _ in range(25):
        broken = bytearray(whole)
        for place_ in random.integers(0, len(whole), 3):
            broken[place_] = random.integers(0, 256)
        (tmp_path / "b.onnx").write_bytes(broken)
        try:
            from_onnx(tmp_path / "b.onnx", SIZE)
            outcomes.add(None)
        except CompressError as error:
            outcomes.add(type(error))
    assert ArtifactError in outcomes


def test_a_file_larger_than_the_format_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_conv(tmp_path / "large.onnx")
    model = onnx.load(path)
    onnx.save(model, tmp_path / "split.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.setattr(file, "LARGEST", 600)  # the graph alone has fewer bytes; with its weights it has more
    for name in ("large", "split"):
        assert "no ONNX graph larger than 2 GB can be held in one piece" in refused(tmp_path / f"{name}.onnx")


def test_a_graph_that_contradicts_itself(tmp_path: Path) -> None:
    path = made.write(tmp_path / "odd.onnx", [node("Conv", ["x", "w"], ["y"], name="only")], {"w": weight(5, 4, 3, 3)})
    assert "odd.onnx" in refused(path)
    path = made.write(tmp_path / "loose.onnx", [node("Relu", ["nowhere"], ["y"], name="only")], {})
    assert "loose.onnx" in refused(path)


def test_a_step_that_moves_the_output_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: Any) -> int:
        model.graph.initializers["first"].const_value = reading.ir.tensor(FIRST * np.float32(1.1), name="first")
        return 1

    monkeypatch.setattr(numbers, "unround", spoil)
    with pytest.raises(ParityError, match=r"f\.onnx: the step 'pixels' of reading it moved the output by .* \(limit 1e-04\)"):
        from_onnx(after_conv(tmp_path / "f.onnx", [node("Relu", ["c"], ["y"])], {}), SIZE)


# Whose fault it is


LOGS = {
    "by name": "INFO: 3 / 9\n\x1b[31mERROR: \x1b[0mThe trace log is below.\nonnx_op_name: wa/up__0\nValueError: no",
    "by kind": "ERROR: Resize OP is not yet implemented.",
}


def long_graph(path: Path) -> onnx.ModelProto:
    nodes = [
        RELU,
        node("Sigmoid", ["r"], ["s"], name="bend"),
        node("Resize", ["s", "", "k"], ["u"], name="/up:0"),
        node("Tanh", ["u"], ["y"], name="end"),
    ]
    found = from_onnx(after_conv(path, nodes, {"k": np.array([1, 1, 2, 2], np.float32)}), SIZE)
    return graphs.specialised(found.build().shipped, {"x": (1, 3, HEIGHT, WIDTH)})


@pytest.mark.parametrize("kind", LOGS)
def test_the_log_says_whose_fault_it_is(kind: str, tmp_path: Path) -> None:
    graph = long_graph(tmp_path / "l.onnx").graph
    found = blame.named_in(LOGS[kind], graph)
    assert found is not None
    assert blame.place(graph, found) == "Resize '/up:0' (after Sigmoid 'bend'; before Tanh 'end')"
    assert blame.named_in("nothing that helps", graph) is None


@pytest.mark.parametrize(
    ("broken", "said"), [("Resize", "at Resize '/up:0' (after Sigmoid 'bend'; before Tanh 'end')"), ("Conv", "")]
)
def test_without_a_log_it_is_found_by_halves(broken: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = long_graph(tmp_path / "l.onnx")
    tried: list[int] = []

    def convert(request: Request, yardstick: Yardstick, folder: Path, ways: object) -> None:
        yardstick.hold("a copy", [graph_run(request.graph)(sample) for sample in yardstick.samples])
        tried.append(len(request.graph.graph.node))
        if any(each.op_type == broken for each in request.graph.graph.node):
            raise ConversionError("no")

    monkeypatch.setattr(blame, "convert", convert)
    spec = InputSpec("x", (1, 3, HEIGHT, WIDTH), None)
    request = Request(graph, [spec], ["y"], [None], (HEIGHT, WIDTH), "parent", variants.parse("fp32"), (), 60)
    yardstick = Yardstick.of(graph_run(graph), [{"x": picture()}], [None])
    assert blame.sentence(ConversionError("no"), request, yardstick, tmp_path) == said
    assert len(tried) <= 4
