"""`compress bench` with real tiny networks in real processes: what it records, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from click.testing import CliRunner
from torch import nn

from android_bench import backends
from android_bench.inputs import for_examples, for_ports
from android_bench.job import Job, Sampling
from android_bench.process import ask, fresh_process
from android_bench.protocol import Run
from android_bench.record import read_records
from compress import checkpoint
from compress.cli import main
from compress.cli.bench import expanded
from compress.errors import ArtifactError, DeviceError, MeasurementError, MissingToolError, UsageError
from compress.image_format import PRESETS
from compress.networks.load import NetOptions, fresh_network
from compress.spec import ModelSpec
from export import runtime
from export.artifact import Port, write_card

QUICK = Sampling(samples=3, seconds=0.0, warmup=1, timeout_s=60)


def tflite(path: Path, shape=(1, 20, 28, 3), op=schema.BuiltinOperator.ADD) -> Path:
    """image + image -> styled, written with the schema alone."""
    tensors = []
    for name in (b"image", b"styled"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), schema.TensorType.FLOAT32, 0
        tensors.append(tensor)
    code, operator, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = op
    code.version = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 0], [1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [code], [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def onnx_file(path: Path, shape=(1, 3, "height", "width")) -> Path:
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("image", "styled")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["image"], ["styled"])], "tiny", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def files(tmp_path):
    net = fresh_network(NetOptions(network="johnson", arguments={"width": 4, "blocks": 1}), seed=0)
    checkpoint.write(tmp_path / "net.safetensors", net.checkpoint)
    return [tmp_path / "net.safetensors", onnx_file(tmp_path / "net.onnx"), tflite(tmp_path / "net_20x28_fp32.tflite")]


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def test_side_by_side(files, tmp_path):
    """Every backend, two rounds, one thread: the records, the file of them, the document, the table."""
    out = tmp_path / "r.jsonl"
    result = bench(*files, "--size", "20x28", "--threads", 1, "--rounds", 2, "--samples", 3, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["records"]
    assert [(r["artifact"], r["backend"]) for r in found] == [
        ("net.safetensors", "torch_cpu"),
        ("net.onnx", "onnx_cpu"),
        ("net_20x28_fp32.tflite", "tflite_cpu"),
    ]
    assert [r["inputs"] for r in found] == [[[1, 3, 20, 28]], [[1, 3, 20, 28]], [[1, 20, 28, 3]]]
    records = read_records(out)
    for record, shown in zip(records, found, strict=True):
        assert shown["median_ms"] == pytest.approx(float(np.median(record.samples_ms)))
        assert shown["samples_ms"] == list(record.samples_ms)
        assert [round_.index for round_ in record.rounds] == [0, 1]
        assert all(len(round_.samples_ms) >= 3 and len(round_.warmup_ms) == 3 for round_ in record.rounds)
        assert all(min(round_.samples_ms) > 0 and round_.init_ms > 0 for round_ in record.rounds)
        assert all(round_.peak_bytes is None or 10**7 < round_.peak_bytes < 10**10 for round_ in record.rounds)
        assert record.threads == 1
        assert record.host["cores"] == len(os.sched_getaffinity(0))
        assert "mobile-compress" in record.versions
    assert len({record.run for record in records}) == 1
    assert {record.rounds[0].position for record in records} == {0, 1, 2}
    assert records[0].executed == {"engine": f"torch {torch.__version__}", "mode": "eager"}
    assert records[1].executed["providers"] == ["CPUExecutionProvider"]
    assert (records[2].executed["delegate"], records[2].executed["delegated"], records[2].executed["nodes"]) == ("XNNPACK", 1, 1)


def test_the_interpreter_does_not_greet_the_user(tmp_path):
    code = "import os, sys; from export import runtime; runtime.load(sys.argv[1], 1); os.write(2, b'ours')"
    said = subprocess.run([sys.executable, "-c", code, tflite(tmp_path / "add.tflite")], capture_output=True, check=True)
    assert (said.stdout, said.stderr) == (b"", b"ours")


def test_table_ratio_and_doubts(tmp_path):
    tflite(tmp_path / "a.tflite")
    (tmp_path / "b").mkdir()
    tflite(tmp_path / "b" / "a.tflite", (1, 400, 280, 3))
    result = bench(tmp_path / "a.tflite", tmp_path / "b", "--threads", 1, "--rounds", 2)
    assert result.exit_code == 0, result.output
    assert "b/a.tflite" in result.stdout
    assert "median ms" in result.stdout
    assert "few samples: " in result.stderr
    assert "the inputs differ in size" in result.stderr


def test_outputs_and_options_are_checked_before_any_work(files, tmp_path):
    (tmp_path / "r.jsonl").write_text("mine")
    for arguments, code, said in (
        ((files[2], "-o", tmp_path / "r.jsonl"), 1, "exists"),
        ((files[2], "-o", files[2], "--force"), 1, "is the input"),
        ((tmp_path / "no.tflite",), 1, "no such file"),
        ((files[2], "--device", "tpu"), 2, "--device tpu: this version cannot measure there"),
        ((files[2], "--device", "android:abc"), 1, "a phone needs a benchmark program, and none is downloaded by itself"),
        ((files[2], "--rounds", 0), 2, "--rounds"),
        ((), 2, "Missing argument"),
    ):
        result = bench(*arguments)
        assert (result.exit_code, said in result.output) == (code, True), result.output
    assert (tmp_path / "r.jsonl").read_text() == "mine"


def test_a_card_of_another_file_is_an_error_before_any_work(files, tmp_path):
    path = files[2]
    write_card(runtime.describe(path, PRESETS["0..1"]))
    tflite(path, shape=(1, 8, 12, 3))
    result = bench(path, "--threads", 1, "--rounds", 1)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {path.name}.json does not match {path.name}: its sha256 is")


def test_a_fixed_file_is_not_resized(files):
    result = bench(files[1], files[2], "--size", "32", "--threads", 1)
    assert result.exit_code == 2
    assert "net_20x28_fp32.tflite on tflite_cpu: the file is fixed at 20x28, not 32x32" in result.output


def test_one_broken_file_leaves_the_others_measured(tmp_path):
    good, bad = tflite(tmp_path / "good.tflite"), tmp_path / "bad.tflite"
    bad.write_bytes(b"\x20\x00\x00\x00TFL3" + b"\x00" * 40)
    out = tmp_path / "r.jsonl"
    result = bench(bad, good, "--threads", 1, "--rounds", 2, "--samples", 3, "-o", out)
    assert result.exit_code == 1
    assert "bad.tflite" in result.stderr.splitlines()[-1] or "bad.tflite" in result.stderr.splitlines()[-2]
    (record,) = read_records(out)
    assert (record.artifact, len(record.rounds)) == ("good.tflite", 2)


CODE = """
import os, time
from torch import nn

class Net(nn.Module):
    def __init__(self, way="run"):
        super().__init__()
        self.way, self.conv = way, nn.Conv2d(3, 5, 3)
        print("noise on stdout")

    def forward(self, x):
        if self.way == "crash":
            os.kill(os.getpid(), 11)
        if self.way == "hang":
            time.sleep(60)
        if self.way == "exit":
            os._exit(7)
        return self.conv(x)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A network of the user's own, importable from the current folder, that behaves as its `way` says."""
    (tmp_path / "strange.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)

    def make(way):
        spec = ModelSpec("strange:Net", {"way": way}, ((1, 3, 12, 17),), (None,), (None,))
        path = tmp_path / f"{way}.safetensors"
        tensors = {name: t.detach() for name, t in nn.Conv2d(3, 5, 3).named_parameters(prefix="conv")}
        checkpoint.write(path, checkpoint.Checkpoint(spec, tensors))
        return path

    return make


def test_a_network_of_the_users_own(own):
    """NET options reach the fresh process, and what it prints does not disturb the answer."""
    result = bench(own("run").name, "--network", "strange:Net", "--threads", 1, "--rounds", 1, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["records"][0]["inputs"] == [[1, 3, 12, 17]]
    result = bench("run.safetensors", "--network", "strange:Net", "--example", "2x3x9x8", "--threads", 1, "--rounds", 1, "--json")
    assert json.loads(result.stdout)["records"][0]["inputs"] == [[2, 3, 9, 8]]


def test_code_that_the_user_did_not_name_is_not_run(own):
    result = bench(own("run").name, "--threads", 1, "--rounds", 1)
    assert result.exit_code == 1
    (error, hint) = result.stderr.splitlines()  # said once: there is no other file that the rounds go on with
    assert error == "error: run.safetensors needs code that it may not call by itself"
    assert "--network strange:Net" in hint


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("crash", "crash.safetensors on torch_cpu: the process was killed by SIGSEGV"),
        ("exit", "exit.safetensors on torch_cpu: the process failed with exit code 7"),
    ],
)
def test_a_process_that_crashes_is_named(own, way, said):
    result = bench(own(way).name, "--network", "strange:Net", "--threads", 1)
    assert result.exit_code == 1
    assert f"error: {said}" in result.output


def test_a_process_that_hangs_is_stopped(own):
    start = time.monotonic()
    result = bench(own("hang").name, "--network", "strange:Net", "--threads", 1, "--timeout", 8)
    assert time.monotonic() - start < 30
    assert result.exit_code == 1
    assert "hang.safetensors on torch_cpu: no answer within 8 s, stopped" in result.output


def test_ctrl_c_keeps_the_rounds_that_are_done_and_leaves_no_process(own, tmp_path):
    tflite(tmp_path / "quick.tflite")
    own("hang")
    argv = [sys.executable, "-m", "compress", "bench", "quick.tflite", "hang.safetensors", "--network", "strange:Net",
            "--threads", "1", "-o", "r.jsonl"]  # fmt: skip
    root = str(Path(__file__).parent.parent)
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    assert child.stderr is not None
    line = ""
    while "quick.tflite" not in line:  # seed 0 measures quick.tflite first; else hang.safetensors would hold it up
        line = child.stderr.readline()
        assert line
    time.sleep(3)
    workers = _workers_of(child.pid)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=20)
    assert child.returncode == 130
    assert [record.artifact for record in read_records(tmp_path / "r.jsonl")] == ["quick.tflite"]
    assert workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def _workers_of(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = status.parent.name, status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[1]) == parent:
            found.append(int(pid))
    return found


def test_the_child_side_errors_keep_their_kind(tmp_path):
    job = Job(str(tflite(tmp_path / "x.tflite")), "tflite_cpu", sampling=QUICK)
    assert fresh_process(job, 4, 2).round.index == 4
    (tmp_path / "x.tflite").write_bytes(b"no such thing")
    with pytest.raises(ArtifactError, match=r"x\.tflite"):
        fresh_process(job, 0, 0)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", "ended without an answer"),
        ("print('[1]')", "answered nonsense"),
        ("import sys; sys.stderr.write('a\\nthe last words\\n'); sys.exit(3)", "failed with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("import time; time.sleep(60)", "no answer within 2 s"),
    ],
)
def test_every_way_to_end_badly_is_named(code, said):
    with pytest.raises(MeasurementError) as caught:
        ask([sys.executable, "-c", code], 2, "x.tflite on y")
    assert caught.value.message.startswith("x.tflite on y: ")
    assert said in caught.value.message
    assert caught.value.hint is None or "Traceback" not in caught.value.hint
    if "last words" in code:
        assert caught.value.hint == "the last words"


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    from android_bench import worker

    monkeypatch.setattr(backends, "get", lambda name: backends.Backend("x", "cpu", "net", None, ("no_such_package_1",), ()))
    with pytest.raises(MissingToolError) as caught:
        worker.observe(Job("net.pth", "x", sampling=QUICK))
    assert caught.value.hint == "pip install 'mobile-compress[bench]'"


def test_order_is_random_and_seeded(tmp_path, monkeypatch):
    files = [tflite(tmp_path / f"{n}.tflite") for n in range(4)]

    def order(seed):
        went = []
        fake = backends.Backend(
            "x", "cpu", "tflite", None, (), (), lambda job, i, p: went.append((i, p, job.path)) or _seen(i, p)
        )
        monkeypatch.setattr(backends, "get", lambda name: fake)
        Run([Job(str(path), "x") for path in files], rounds=3, seed=seed).measure()
        return went

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    for index in range(3):
        assert {path for i, _, path in first if i == index} == set(map(str, files))
        assert [p for i, p, _ in first if i == index] == [0, 1, 2, 3]


def test_a_file_that_is_executed_otherwise_in_a_later_round_is_an_error(tmp_path, monkeypatch):
    fake = backends.Backend("x", "cpu", "tflite", None, (), (), lambda job, i, p: _seen(i, p, partitions=i))
    monkeypatch.setattr(backends, "get", lambda name: fake)
    with pytest.raises(MeasurementError, match=r"a\.tflite on x was not executed alike in every round"):
        Run([Job(str(tflite(tmp_path / "a.tflite")), "x")], rounds=2).measure()


def _seen(index, position, **executed):
    from android_bench.job import Seen
    from android_bench.record import Round

    return Seen(Round(index, position, (1.0,), (), 1.0, 1.0), ((1, 2),), executed, {}, {})


def test_what_was_prepared_is_cleaned_up_and_named_when_it_cannot_be(tmp_path, monkeypatch):
    """One session a place, all places at once; an error while cleaning up does not take the place of the one before."""
    import threading
    from contextlib import contextmanager

    both = threading.Barrier(2, timeout=20)
    log = []

    @contextmanager
    def session(jobs, stop):
        log.append((jobs[0].place, "open", len(jobs)))
        both.wait()
        try:
            if jobs[0].place == "bad":
                raise DeviceError("it broke", reason="offline")
            yield lambda job, index, position: _seen(index, position)
        finally:
            log.append((jobs[0].place, "close", len(jobs)))
            if jobs[0].place == "bad":
                raise DeviceError("a folder stays", "rm it", "left")

    fake = backends.Backend("x", "android", "tflite", None, (), (), session=session)
    monkeypatch.setattr(backends, "get", lambda name: fake)
    path = str(tflite(tmp_path / "a.tflite"))
    run = Run([Job(path, "x", place=place) for place in ("good", "bad", "good")], rounds=2)
    with pytest.raises(DeviceError, match="it broke"):
        run.measure()
    assert [error.message for error in run.left] == ["a folder stays"]
    assert [len(record.rounds) for record in run.records()] == [2, 2]
    assert set(log) == {("good", "open", 2), ("bad", "open", 1), ("good", "close", 2), ("bad", "close", 1)}


def test_threads_are_honoured(own):
    """torch itself says how many it uses."""
    counted = CODE.replace("return self", "assert torch.get_num_threads() == 3; return self")
    Path("strange.py").write_text(f"import torch\n{counted}")
    job = Job(str(own("run")), "torch_cpu", 3, net={"network": "strange:Net"}, sampling=QUICK)
    assert len(fresh_process(job, 0, 0).round.samples_ms) == 3


def test_inputs():
    free = Port("image", "float32", (None, 3, None, None))
    (array,) = for_ports([free], "NCHW", None, 0)
    assert array.shape == (1, 3, 256, 256)
    (array,) = for_ports([free], "NCHW", (20, 28), 0)
    assert (array.shape, array.dtype) == ((1, 3, 20, 28), np.float32)
    image, flag, token, other = for_ports(
        [
            Port("image", "uint8", (1, 9, 11, 3)),
            Port("f", "bool", (2,)),
            Port("t", "int64", (None, 5)),
            Port("o", "int8", (300,)),
        ],
        "NHWC",
        None,
        0,
    )
    assert (image.dtype, image.min() < 10, image.max() > 245) == (np.uint8, True, True)
    assert (flag.dtype, token.tolist(), other.min() < 0) == (np.bool_, [[0] * 5], True)
    for odd in ("str", "string", "bfloat16"):
        with pytest.raises(UsageError, match=f"type {odd} cannot be made up"):
            for_ports([Port("s", odd, (1,))], "NHWC", None, 0)
    pixels, logits = for_examples([(1, 3, 8, 9), (1, 7)], [PRESETS["caffe"], None], (20, 28), 0)
    assert (pixels.shape, pixels.dtype, logits.shape) == ((1, 3, 20, 28), np.float32, (1, 7))
    assert pixels.min() < -90
    assert pixels.max() > 100
    assert pixels.flags["C_CONTIGUOUS"]


def test_folders_stand_for_what_is_in_them(files, tmp_path):
    (tmp_path / "net.tflite.json").write_text("{}")
    (tmp_path / "net.state.safetensors").write_text("x")
    assert expanded([tmp_path]) == sorted(files)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds nothing to measure"):
        expanded([tmp_path / "empty"])


def test_sampling():
    sampling = Sampling(samples=5, seconds=1.0, most=50, patience_s=10)
    assert [sampling.done(*state) for state in ((4, 2.0), (5, 0.9), (5, 1.0), (49, 0.1), (50, 0.1), (2, 11.0), (3, 11.0))] == [
        False, False, True, False, True, False, True]  # fmt: skip
    for nonsense in ({"samples": 0}, {"samples": 201}, {"warmup": -1}, {"timeout_s": 0}):
        with pytest.raises(UsageError):
            Sampling(**nonsense)
    with pytest.raises(UsageError):
        Job("x", "torch_cpu", threads=0)


def test_backends_are_registered_once_and_named_on_a_miss():
    for name in backends._files:
        assert backends.get(name).name == name
    with pytest.raises(UsageError, match="no backend named 'abacus'"):
        backends.get("abacus")
