"""Other ways to run the same file on this machine, CUDA as far as it goes without a GPU, and sustained measurements."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from android_bench import backends, cuda, worker
from android_bench.backends import Backend, Opened
from android_bench.job import Job, Sampling
from android_bench.kept import Kept
from android_bench.plot_sustained import steps
from android_bench.record import Record, Round, read_records, write_records
from android_bench.statistics import document, doubts, endurance
from android_bench.ways import Way
from compress import checkpoint
from compress.cli import main
from compress.cli.sustaining import _seconds
from compress.errors import DeviceError, MeasurementError, UsageError
from compress.networks.load import NetOptions, fresh_network
from tests.test_bench import onnx_file, tflite
from tests.test_record import record

QUICK = ("--threads", "1", "--rounds", "1", "--samples", "1")


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture
def net(tmp_path):
    loaded = fresh_network(NetOptions(network="johnson", arguments={"width": 2, "blocks": 1}), seed=0)
    checkpoint.write(tmp_path / "net.safetensors", loaded.checkpoint)
    return tmp_path / "net.safetensors"


def tiny() -> nn.Module:
    """So small that the compiler takes no time."""
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))


@pytest.fixture
def small(tmp_path):
    """A file, and the options that it takes."""
    torch.save(tiny().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth", "--network", "tests.test_bench_backends:tiny", "--example", "1x3x17x23"


@pytest.mark.parametrize(
    ("text", "way", "canonical"),
    [
        ("eager", Way(), "eager"),
        ("fp32", Way(), "eager"),
        ("compiled", Way(compiled=True), "compiled"),
        ("channels-last+eager+fp16", Way(precision="fp16", channels_last=True), "fp16+channels-last"),
        ("graphs+bf16+compiled", Way(True, "bf16", False, True), "compiled+bf16+graphs"),
    ],
)
def test_a_way_is_read_and_written(text, way, canonical):
    assert Way.parse(text) == way
    assert str(way) == canonical
    assert Way.parse(canonical) == way


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "'fast' is no way to run a network"),
        ("", "'' is no way"),
        ("eager+compiled", "contradicts or repeats itself"),
        ("fp16+bf16", "contradicts or repeats itself"),
        ("graphs+graphs", "contradicts or repeats itself"),
        ("graphs", "CUDA graphs need --device cuda"),
    ],
)
def test_a_way_that_is_none(net, text, said):
    result = bench(net, "--torch", text)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output


def test_ways_side_by_side(small, tmp_path, monkeypatch):
    """Each is a record of its own, that says what was asked for; what is named twice is measured once. Nothing is left behind."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    out = tmp_path / "r.jsonl"
    ways = (word for way in ("eager", "compiled", "channels-last", "bf16", "fp32") for word in ("--torch", way))
    result = bench(*small, *ways, *QUICK, "--size", "20x28", "-o", out)
    assert result.exit_code == 0, result.output
    eager, compiled, last, half = read_records(out)
    assert eager.executed == {"engine": f"torch {torch.__version__}", "mode": "eager"}
    assert (compiled.executed["mode"], compiled.executed["requested"]) == ("compiled", "compiled")
    assert compiled.executed["compiled_graphs"] == 1
    assert compiled.rounds[0].init_ms > 10 * eager.rounds[0].init_ms  # the compiler really ran
    assert (last.executed["channels_last"], last.executed["precision"]) == (True, "fp32")
    assert (half.executed["channels_last"], half.executed["precision"]) == (False, "bf16")
    assert all(one.inputs == ((1, 3, 20, 28),) for one in (eager, compiled, last, half))
    assert "torch_cpu channels-last" in result.stdout
    assert list(temporary.iterdir()) == []
    compared = bench("--compare", out, out, "--json")
    assert [pair["backend"] for pair in json.loads(compared.stdout)["pairs"]] == ["torch_cpu"] * 4


def test_precision_and_layout_are_those_that_were_asked_for(net):
    from android_bench.backends.torch_cpu import placed

    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        told = {"network": None, "arguments": None, "examples": [], "image_format": None}
        job = Job(str(net), "torch_cpu", 1, (20, 28), net=told, options={"torch": "bf16+channels-last"})
        module, (pixels,) = placed(job, "cpu")
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
    assert pixels.dtype is torch.bfloat16
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    kernels = [weight for weight in module.parameters() if weight.ndim == 4 and min(weight.shape) > 1]
    assert kernels
    assert all(w.dtype is torch.bfloat16 and w.is_contiguous(memory_format=torch.channels_last) for w in kernels)


def test_without_a_compiler_that_is_said_before_anything_runs(net, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = bench(net, "--torch", "compiled", *QUICK)
    assert result.exit_code == 1
    assert "torch.compile needs a C++ compiler, and there is no no-such-compiler" in result.stderr
    assert "apt install g++" in result.stderr


def test_a_compiler_that_fails_is_named(small, tmp_path, monkeypatch):
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho 'no room' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    result = bench(*small, "--torch", "compiled", *QUICK)
    assert result.exit_code == 1
    assert "small.pth on torch_cpu compiled: torch.compile fails: " in result.stderr
    assert "Traceback" not in result.output


def test_tflite_with_and_without_xnnpack(tmp_path):
    out = tmp_path / "r.jsonl"
    result = bench(tflite(tmp_path / "net.tflite"), "--delegate", "xnnpack", "--delegate", "none", *QUICK, "-o", out)
    assert result.exit_code == 0, result.output
    usual, plain = read_records(out)
    assert (usual.executed["delegate"], usual.executed["delegated"]) == ("XNNPACK", 1)
    assert (plain.executed["delegate"], plain.executed["delegated"], plain.executed["nodes"]) == (None, 0, 1)
    assert plain.executed["requested"] == "none"
    assert usual.inputs == plain.inputs == ((1, 20, 28, 3),)
    assert "tflite_cpu none" in result.stdout


def test_a_file_that_the_plain_interpreter_refuses(tmp_path):
    (tmp_path / "net.tflite").write_bytes(b"\0\0\0\0TFL3 and then nothing")
    result = bench(tmp_path / "net.tflite", "--delegate", "none", *QUICK)
    assert result.exit_code == 1
    assert "net.tflite on tflite_cpu none" in result.stderr


def test_a_delegate_of_phones_is_not_here(tmp_path):
    result = bench(tflite(tmp_path / "net.tflite"), "--delegate", "gpu")
    assert result.exit_code == 2
    assert "--delegate gpu: phones only; this CPU has xnnpack and none" in result.stderr


# CUDA, without a GPU


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_a_pytorch_without_cuda_is_named(net, tmp_path):
    result = bench(net, "--device", "cuda", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "missing"
    assert error["message"] == f"PyTorch {torch.__version__} is built without CUDA"
    result = bench(onnx_file(tmp_path / "net.onnx"), "--device", "cuda")
    assert result.exit_code == 1
    assert "is built without CUDA" in result.stderr
    assert "pip install onnxruntime-gpu" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(DeviceError, match="finds no CUDA GPU on this machine") as caught:
        cuda.require_torch_cuda()
    assert (caught.value.reason, caught.value.exit_code) == ("no-gpu", 1)


def test_a_tflite_file_does_not_run_on_a_gpu(tmp_path):
    result = bench(tflite(tmp_path / "net.tflite"), "--device", "cuda")
    assert (result.exit_code, "net.tflite: nothing runs it on cuda" in result.stderr) == (2, True)


def test_each_way_is_a_job_of_its_own(net, tmp_path, monkeypatch):
    """What would be measured on a GPU, as a plan."""
    from android_bench.places import Place
    from compress.cli.bench import jobs_for

    for module in ("torch_cuda", "onnx_cuda"):
        backend = backends.get(module)
        monkeypatch.setattr(sys.modules[f"android_bench.backends.{module}"], "BACKEND", replace(backend, require=None))
    settings = {"samples": 3, "timeout": 9.0, "sustained": None, "threads": 1, "size": None, "seed": 0, "delegates": ("xnnpack",)}
    ways = ("eager", "fp16+channels-last", "compiled+bf16+graphs", "compiled+bf16+graphs")
    jobs = jobs_for([net, onnx_file(tmp_path / "net.onnx")], [Place("cuda")], NetOptions(), {**settings, "ways": ways})
    assert [job.name for job in jobs] == [
        "net.safetensors on torch_cuda",
        "net.safetensors on torch_cuda fp16+channels-last",
        "net.safetensors on torch_cuda compiled+bf16+graphs",
        "net.onnx on onnx_cuda",
    ]
    assert Job.from_json(json.loads(json.dumps(jobs[2].to_json()))) == jobs[2]
    jobs = jobs_for([net], [Place("cpu"), Place("cuda")], NetOptions(), {**settings, "ways": ("graphs",)})
    assert [job.name for job in jobs] == ["net.safetensors on torch_cpu", "net.safetensors on torch_cuda graphs"]


def test_what_nvidia_smi_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "1980, 2619, 34, [N/A]"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert cuda.condition("GPU-1234") == {"sm_mhz": 1980.0, "memory_mhz": 2619.0, "celsius": 34.0}
    asked = (tmp_path / "asked").read_text().split()
    assert "--id=GPU-1234" in asked
    assert all(word.startswith(("--query-gpu=", "--format=", "--id=")) for word in asked)  # it is asked, and never set
    assert cuda.parse_condition("1, 2, 3, 4\n5, 6, 7, 8\n") == {}
    program.write_text("#!/bin/sh\nexit 9\n")
    assert cuda.condition() == {}
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert cuda.condition() == {}


def test_how_the_gpu_was_before_and_after_is_kept(monkeypatch, tmp_path):
    asked = iter([{"sm_mhz": 1.0}, {"sm_mhz": 2.0}])
    opened = Opened(lambda: None, ((1, 2),), {}, lambda: next(asked))
    backend = Backend("torch_cuda", "cuda", "net", lambda job: opened, (), ())
    monkeypatch.setattr(backends, "get", lambda name: backend)
    seen = worker.observe(Job(str(tmp_path), "torch_cuda", sampling=Sampling(2, 0.0)))
    assert seen["conditions"] == {"gpu": [{"sm_mhz": 1.0}, {"sm_mhz": 2.0}]}
    assert seen["at_s"] == []


# Sustained


def sustained(at_s, samples_ms, **changes) -> Record:
    lasted = Round(0, 0, tuple(samples_ms), (), 1.0, 2.0, at_s=tuple(at_s), **changes)
    return record(rounds=(lasted,))


def test_the_first_and_the_last_minute():
    """Five minutes, a run a second: 100 ms, and 150 in the last minute."""
    times = [100.0] * 240 + [150.0] * 60
    found = endurance(sustained(range(300), times))
    assert (found.window_s, found.first_ms, found.last_ms, found.ratio) == (60.0, 100.0, 150.0, 1.5)
    assert found.minutes_ms == (100.0, 100.0, 100.0, 100.0, 150.0)
    assert endurance(record()) is None


def test_a_short_one_is_halved():
    found = endurance(sustained((0.0, 10.0, 20.0, 30.0), (1e4, 1e4, 2e4, 1e4)))
    assert (found.window_s, found.first_ms, found.last_ms) == (20.0, 1e4, 1.5e4)
    alone = endurance(sustained((0.0,), (500.0,)))
    assert (alone.first_ms, alone.last_ms, alone.ratio) == (500.0, 500.0, 1.0)


def test_one_round_is_no_doubt_there():
    assert doubts(sustained(range(3), (1.0, 5.0, 9.0))) == ()
    assert doubts(replace(record(), rounds=record().rounds[:1])) != ()


def test_times_survive_the_way_through_a_file(tmp_path):
    made = sustained((0.0, 0.5), (1.5, 2.5), told={"runs": 4.0})
    write_records(tmp_path / "r.jsonl", [made])
    assert read_records(tmp_path / "r.jsonl") == [made]
    assert document(made)["sustained"]["minutes_ms"] == (2.0,)
    with pytest.raises(MeasurementError, match="2 samples at 1 times"):
        sustained((0.0,), (1.5, 2.5))


def test_many_runs_are_thinned_evenly():
    kept = Kept(True, most=8)
    for n in range(100):
        kept.add(float(n), n / 10)
    assert kept.samples_ms == [0.0, 16.0, 32.0, 48.0, 64.0, 80.0, 96.0]
    assert kept.at_s == [n / 10 for n in kept.samples_ms]
    assert kept.told() == {"runs": 100.0}
    usual = Kept(False, most=8)
    for n in range(100):
        usual.add(float(n), n / 10)
    assert (len(usual.samples_ms), usual.at_s, usual.told()) == (100, [], {})


def test_steps_of_the_plot():
    made = sustained((0.0, 10.0, 70.0, 80.0), (1.0, 3.0, 5.0, 6.0))
    assert steps(made, 60.0) == [(0.5, 2.0), (1.5, 5.5)]


def test_a_sustained_measurement(tmp_path):
    out, picture = tmp_path / "r.jsonl", tmp_path / "heat.svg"
    files = (tflite(tmp_path / "a.tflite", (1, 400, 280, 3)), onnx_file(tmp_path / "b.onnx"))
    result = bench(*files, "--sustained", "1s", "--threads", 1, "-o", out, "--plot", picture)
    assert result.exit_code == 0, result.output
    assert "last/first" in result.stdout
    for made in read_records(out):
        (lasted,) = made.rounds
        assert len(lasted.at_s) == len(lasted.samples_ms) > 100
        assert list(lasted.at_s) == sorted(lasted.at_s)
        assert 0 <= lasted.at_s[0] < 0.2
        assert 0.8 < lasted.at_s[-1] < 1.1
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sustained", "10"), "10 is no time to run for"),
        (("--sustained", "0.5s"), "from 1s to 24h"),
        (("--sustained", "25h"), "from 1s to 24h"),
        (("--sustained", "1m", "--rounds", "3"), "--sustained is one process for each file, and takes no --rounds"),
    ],
)
def test_a_time_that_is_none(tmp_path, options, said):
    result = bench(tflite(tmp_path / "a.tflite"), *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output


def test_sampling_refuses_a_negative_time():
    with pytest.raises(UsageError, match="must not be negative"):
        Sampling(sustained_s=-1.0)


def test_the_clock_counts_phones_at_once():
    jobs = [Job("a", "b", place=place, sampling=Sampling(sustained_s=60.0)) for place in ("", "", "x", "x", "x", "y")]
    assert _seconds(jobs) == 300.0
    assert _seconds([Job("a", "b")]) == 0.0


def test_ctrl_c_keeps_nothing_half_written(tmp_path):
    argv = [sys.executable, "-m", "compress", "bench", str(tflite(tmp_path / "a.tflite")), "--sustained", "1h", "-o", "r.jsonl"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(4)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]


def test_a_phone_for_a_while(phones, tmp_path, monkeypatch):
    monkeypatch.setattr("android_bench.backends.android.SUSTAINED_RUN_S", 0.2)
    phones.add()
    out = tmp_path / "r.jsonl"
    where = ("--device", f"android:{phones.phones[0].serial}", "--benchmark-binary", phones.program())
    result = bench(tflite(tmp_path / "a.tflite"), *where, "--sustained", "4s", "--samples", 2, "--threads", 1, "-o", out)
    assert result.exit_code == 0, result.output
    (lasted,) = read_records(out)[0].rounds
    assert len(lasted.at_s) == len(lasted.samples_ms) >= 2
    assert lasted.at_s[-1] < 4
    assert lasted.told["runs"] >= 2 * len(lasted.samples_ms)
    assert "last/first" in result.stdout
    assert phones.phones[0].system.left_behind() == []
