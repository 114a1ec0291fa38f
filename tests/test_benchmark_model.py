"""The output of both programs named benchmark_model, against numbers counted by hand, and the flags that ask for them."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from android_bench import benchmark_model as bm
from android_bench.benchmark_model import Latency, Memory, Options, Replacement, Verdict
from compress.errors import MeasurementError, UsageError

LOGS = Path(__file__).parent / "data" / "benchmark_model"


def log(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text(encoding="utf-8")


def latency(count, avg, low, high, std, first, last, percentiles=(None, None, None)) -> Latency:
    """In whole microseconds, in the order of a `count=` line."""
    ms = [None if value is None else value / 1000 for value in (avg, low, high, std, first, last, *percentiles)]
    avg, low, high, std, first, last, p5, median, p95 = ms
    return Latency(count, pytest.approx(avg), low, high, std, first, last, median, p5, p95)


def test_2018_without_prefixes():
    seen = bm.parse(log("classic_2018"))
    assert (seen.verdict, seen.why, seen.kind) == (Verdict.EXECUTED, (), "classic")
    assert seen.warmup == latency(7, 76605.9, 66709, 127425, 20944, 127425, 66709)
    assert seen.main == latency(15, 66767.6, 66699, 66838, 39, 66753, 66800)
    assert (seen.init_ms, seen.first_ms, seen.threads, seen.xnnpack) == (9.933, 127.425, 2, None)
    assert seen.main.avg_ms == 66.7676, "not 66.76759999999999"


def test_2020_without_prefixes_and_the_old_memory_line():
    seen = bm.parse(log("classic_2020"))
    assert seen.verdict is Verdict.EXECUTED
    assert seen.warmup == latency(15, 34825.1, 32825, 49060, 3930, 49060, 33682)
    assert seen.main == latency(50, 33209.4, 32641, 34005, 450, 32891, 33978)
    assert (seen.init_ms, seen.first_ms, seen.threads, seen.model_mb) == (0.855, 49.06, 4, 0.004448)
    assert seen.memory == Memory(init_bytes=0, overall_bytes=13176 * 1024)  # 12.8672 MB
    assert seen.missing == {}


def test_2024_on_the_cpu_with_percentiles():
    seen = bm.parse(log("classic_2024_cpu"))
    assert seen.verdict is Verdict.EXECUTED
    assert seen.warmup == latency(1, 670083, 670083, 670083, 0, 670083, 670083, (670083, 670083, 670083))
    assert seen.main == latency(50, 699438, 502355, 2270688, 325425, 591245, 917186, (502674, 576856, 1373207))
    assert (seen.init_ms, seen.first_ms, seen.model_mb, seen.threads) == (102.32, 670.083, 16.1527, 4)
    assert seen.replacements == (Replacement("TfLiteXNNPackDelegate", 49, 49, 1, "subgraph 0"),)
    assert (seen.executed_by, seen.xnnpack, seen.asked) == (("xnnpack",), "default", ())
    assert seen.memory == Memory(init_bytes=100452 * 1024, overall_bytes=101584 * 1024)


def test_a_delegate_that_executes_nothing_is_a_refusal():
    """GPU and NNAPI were asked for: the second takes nothing, and what NNAPI has is the CPU."""
    seen = bm.parse(log("classic_2024_gpu_nnapi"))
    assert seen.verdict is Verdict.REFUSED
    assert seen.asked == ("gpu", "nnapi")
    assert seen.why[0] == "NNAPI has no accelerator here: nnapi-reference is the CPU"
    assert "without a summary" in seen.why[-1]
    assert seen.executed_by == ("gpu",)
    assert [(one.delegate, one.taken) for one in seen.delegations] == [("GPU", "completely"), ("NNAPI", "not")]
    assert seen.replacements == (Replacement("TfLiteGpuDelegateV2", 49, 49, 1, "subgraph 0"),)
    assert seen.gpu_backend == "OpenCL"
    with pytest.raises(MeasurementError, match=r"pixel: delegate refused: NNAPI has no accelerator") as caught:
        seen.require("pixel")
    assert caught.value.exit_code == 1


def test_the_apk_in_logcat_with_exponents():
    for streams in ({"stdout": "", "logcat": log("apk_time")}, {"stdout": log("apk_time")}):
        seen = bm.parse(**streams)
        assert seen.verdict is Verdict.EXECUTED
        assert seen.warmup.count == 1
        assert seen.warmup.avg_ms == 2732.148
        assert seen.main == latency(10, 2.71985e06, 2640862, 3025403, 105101, 2653894, 2709263, (2640862, 2709263, 3025403))
        assert (seen.init_ms, seen.first_ms) == (458.883, 2732.148)
        assert seen.replacements == (Replacement("TfLiteXNNPackDelegate", 1036, 1097, 23, "subgraph 0"),)
        assert seen.memory.overall_bytes == 337 * 2**20


def test_the_apk_in_threadtime_that_stopped():
    seen = bm.parse("", logcat=log("apk_threadtime_gpu"))
    assert seen.verdict is Verdict.FAILED
    assert seen.asked == ("gpu",)
    assert seen.xnnpack == "off"
    assert [note.text for note in seen.notes][1] == "UNPACK: Operation is not supported."
    assert seen.main is None


def test_litert_alone():
    seen = bm.parse(log("litert"))
    assert (seen.verdict, seen.kind) == (Verdict.EXECUTED, "litert")
    assert seen.main == Latency(10, 7430.20, 7416.40, 7448.86, 9.92)
    assert (seen.init_ms, seen.first_ms) == (23744.73, 7441.04)
    assert seen.memory.overall_bytes == round(6391.74 * 1024) * 1024
    assert "warmup" in seen.missing


def test_litert_on_two_streams():
    """The `count=` lines on stdout have more digits than the summary on stderr; they agree."""
    asked = Options(delegate="gpu", threads=2)
    seen = bm.parse(log("litert_stdout"), log("litert_stderr"), options=asked)
    assert seen.main == latency(50, 25037.4, 24807, 26120, 214, 25011, 24944, (24850, 24999, 25480))
    assert seen.warmup == latency(20, 25361.8, 24871, 31250, 1377, 31250, 24990, (24880, 25001, 31250))
    assert (seen.init_ms, seen.first_ms, seen.threads, seen.missing) == (812.46, 31.25, 2, {})
    assert seen.verdict is Verdict.PARTLY
    assert seen.why == ("the gpu delegate took a part: 38 of 41 nodes, 2 partitions",)
    assert seen.executed_by == ("gpu", "xnnpack")
    mib = 1024 * 1024
    assert seen.memory == Memory(init_bytes=int(61.25 * mib), overall_bytes=int(64.5 * mib), peak_bytes=71803 * 1024)


def test_litert_streams_that_disagree_have_no_main():
    other = log("litert_stderr").replace("24.81 ms", "24.80 ms")
    seen = bm.parse(log("litert_stdout"), other)
    assert seen.main is None
    assert seen.verdict is Verdict.FAILED
    assert seen.missing["main"] == "the log has no line that agrees with its summary"


def test_gpu_that_takes_a_part():
    seen = bm.parse(log("gpu_partial"), options=Options(delegate="gpu"))
    assert seen.verdict is Verdict.PARTLY
    assert seen.why == ("the gpu delegate took a part: 54 of 559 nodes, 3 partitions",)
    assert (seen.gpu_backend, seen.xnnpack, seen.executed_by) == ("OpenGL", "default", ("gpu", "xnnpack"))
    assert seen.require() is seen
    assert seen.delegations[0].kernels == 3


def test_peak_memory_and_runs_that_took_equally_long():
    seen = bm.parse(log("cpu_peak_memory"), options=Options(xnnpack=False, threads=3))
    assert seen.verdict is Verdict.EXECUTED
    assert seen.warmup == latency(3, 77, 77, 77, 0, 77, 77, (77, 77, 77))
    assert seen.main == latency(5, 80.2, 77, 85, 2, 80, 79)
    assert seen.xnnpack == "off"
    kib, mib = 1024, 1024 * 1024
    assert seen.memory == Memory(8652 * kib, 11140 * kib, 95476 * kib, 25 * mib, 18 * mib, 7 * mib)


@pytest.mark.parametrize(
    ("name", "said"), [("nnapi_refused", "Failed to apply NNAPI delegate."), ("gpu_refused", "failed to prepare")]
)
def test_hard_refusals(name, said):
    seen = bm.parse(log(name), returncode=1)
    assert seen.verdict is Verdict.REFUSED
    assert any(said in why for why in seen.why)


def test_an_accelerator_without_evidence_has_not_run():
    seen = bm.parse(log("classic_2024_cpu"), options=Options(delegate="gpu"))
    assert seen.verdict is Verdict.REFUSED
    assert seen.why == ("nothing in the log says that the gpu delegate executed anything",)


def test_full_delegation_that_was_demanded_is_evidence():
    """Desktop builds do not print what a delegate took; but the tool fails when it does not take all."""
    asked = Options(delegate="gpu", full_delegation=True)
    assert bm.parse(log("litert"), options=asked).verdict is Verdict.EXECUTED
    assert bm.parse("ERROR: Disallowed CPU fallback detected.\n", options=asked, returncode=1).verdict is Verdict.REFUSED


def test_flags_that_the_tool_ignores_are_a_failure():
    text = log("classic_2024_cpu").replace(
        "INFO: Loaded", "WARN: Unconsumed cmdline flags: --gpu_precision=fp32 --foo=1\nINFO: Loaded"
    )
    seen = bm.parse(text)
    assert seen.ignored_flags == ("--gpu_precision=fp32", "--foo=1")
    assert seen.verdict is Verdict.FAILED
    assert "did not understand --gpu_precision=fp32 --foo=1" in seen.why[0]


def test_an_error_line_in_a_good_run_is_only_a_note():
    text = log("classic_2024_cpu").replace("INFO: Loaded", "ERROR: File cache.bin couldn't be opened for reading\nINFO: Loaded")
    seen = bm.parse(text, returncode=0)
    assert seen.verdict is Verdict.EXECUTED
    assert [(note.level, note.text) for note in seen.notes] == [("ERROR", "File cache.bin couldn't be opened for reading")]


@pytest.mark.parametrize(
    ("text", "returncode", "said"),
    [
        ("/system/bin/sh: ./benchmark_model: can't execute: Permission denied\n", 126, "noexec"),
        ("sh: ./benchmark_model: not executable: 64-bit ELF file\n", 126, "another architecture"),
        ("/system/bin/sh: ./benchmark_model: inaccessible or not found\n", 127, "not where it was called"),
        ('CANNOT LINK EXECUTABLE "./benchmark_model": library "libLiteRt.so" not found\n', 1, "library"),
        ("ERROR: Failed to load model m.tflite\nERROR: Benchmarking failed.\n", 1, "damaged, cut, or not there"),
        ("ERROR: Select TensorFlow op(s), included in the given model, is(are) not supported\n", 1, "flex"),
        ("ERROR: Didn't find op for builtin opcode 'CONV_2D' version '9'\n", 1, "older than the model"),
        ("INFO: STARTING!\nAborted\n", 134, "aborted"),
        ("INFO: STARTING!\nSegmentation fault\n", 139, "SIGSEGV"),
        ("INFO: STARTING!\nKilled\n", 137, "out of memory?"),
        ("INFO: STARTING!\n", 0, "ends before the end of the warm-up"),
        ("", None, "without a summary"),
        ("INFO: STARTING!\n", 42, "exit code 42"),
    ],
)
def test_how_a_run_fails(text, returncode, said):
    seen = bm.parse(text, returncode=returncode)
    assert seen.verdict is Verdict.FAILED
    assert any(said in why for why in seen.why), seen.why
    assert seen.main is None
    with pytest.raises(MeasurementError, match="failed"):
        seen.require()


def test_a_summary_after_a_failed_run_is_no_success():
    text = log("classic_2024_cpu") + "ERROR: Benchmarking failed.\n"
    assert bm.parse(text).verdict is Verdict.FAILED
    assert bm.parse(log("classic_2024_cpu"), returncode=139).why == ("it crashed (SIGSEGV)",)


def test_a_dry_run_measures_nothing():
    text = "INFO: STARTING!\nINFO: count=0\n\nINFO: count=0 p5=0 median=0 p95=0\n\n"
    text += "INFO: Inference timings in us: Init: 5, First inference: 0, Warmup (avg): 0, Inference (avg): 0\n"
    seen = bm.parse(text)
    assert seen.main is None
    assert seen.verdict is Verdict.FAILED


@pytest.mark.parametrize(
    "line",
    [
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=699438 std=32",  # std lost digits
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=699438 std=325425 p5=502674 median=576856 p95=137",
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=699438 std=325425 p5=502674 median=576856",
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=69943 std=325425",
        "count=50 first=591245 curr=9171 min=502355 max=2270688 avg=699438 std=325425",
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=nan std=325425",
        "count=50 first=591245 curr=917186 min=502355 max=inf avg=699438 std=325425",
        "count=-50 first=591245 curr=917186 min=502355 max=2270688 avg=699438 std=325425",
        "count=50 first=591245 curr=917186 min=502355 max=2270688 avg=699438 std=325425 trailing",
        "count=50 curr=77",
        "count=1 curr=77(all same)",
        "count=1 curr=77 p5=77 median=7 p95=77",
        "count=\u0665\u0660 curr=77(all same)",
        "count=50 first=" + "9" * 400 + " curr=1 min=1 max=2 avg=1 std=1",
    ],
)
def test_a_line_that_cannot_be_right_is_no_number(line):
    text = log("classic_2024_cpu").splitlines(keepends=True)
    where = next(i for i, old in enumerate(text) if "count=50" in old)
    seen = bm.parse("".join([*text[:where], f"INFO: {line}\n", *text[where + 1 :]]))
    assert seen.main is None
    assert "torn" in seen.missing["main"]
    assert seen.verdict is Verdict.FAILED


def test_a_warm_up_that_the_summary_does_not_know_is_left_out():
    text = log("classic_2020").replace("count=15 first=49060", "count=15 first=49059")
    seen = bm.parse(text)
    assert (seen.warmup, seen.main.count, seen.first_ms) == (None, 50, 49.06)
    assert seen.missing == {"warmup": "the log has no line that agrees with its summary"}
    assert bm.parse(log("classic_2020").replace("avg=34825.1", "avg=34825.2")).warmup is None


def test_three_blocks_are_more_than_one_run():
    text = log("classic_2020")
    block = text[text.index("count=15") : text.index("Running benchmark for at least 50")]
    seen = bm.parse(text.replace(block, block + block.replace("curr=33682", "curr=33681")))
    assert seen.main is None
    assert seen.missing["main"] == "the log holds more than one run"
    assert seen.memory == Memory()


def test_loading_time_that_two_lines_say_differently_is_left_out():
    seen = bm.parse(log("classic_2020").replace("session in 0.855ms", "session in 0.85ms"))
    assert seen.init_ms is None
    assert seen.main.count == 50


def test_other_processes_in_logcat_do_not_count():
    """Another app's delegates are no evidence; two benchmarks in one log are none at all."""
    mine = log("apk_time")
    theirs = mine.replace("( 5395)", "( 7001)")
    other_app = "07-08 15:33:50.000 I/tflite  ( 6000): Replacing 9 out of 9 node(s) with delegate (TfLiteGpuDelegateV2) node,"
    other_app += " yielding 1 partitions for subgraph 0.\n"
    seen = bm.parse("", logcat=other_app + mine, options=Options(delegate="gpu"))
    assert seen.verdict is Verdict.REFUSED
    assert seen.executed_by == ("xnnpack",)
    seen = bm.parse("", logcat=mine + theirs)
    assert seen.main is None
    assert seen.missing["main"] == "the log holds more than one run"


def test_logcat_of_a_native_run_proves_nothing():
    """What it holds of delegates may be another app's; the program says the same on its own streams."""
    native = log("classic_2024_cpu")
    other = "07-08 15:33:55.790 I/tflite  ( 5395): Replacing 9 out of 9 node(s) with delegate (TfLiteGpuDelegateV2) node,"
    other += " yielding 1 partitions for subgraph 0.\n"
    seen = bm.parse(native, logcat=other + log("apk_time"), options=Options(delegate="gpu"))
    assert (seen.verdict, seen.executed_by) == (Verdict.REFUSED, ("xnnpack",))
    assert seen.main.count == 50


def test_the_apk_beside_what_starts_it():
    started = "Starting: Intent { cmp=org.tensorflow.lite.benchmark/.BenchmarkModelActivity (has extras) }\nStatus: ok\n"
    assert bm.parse(started, logcat=log("apk_time")).main.count == 10
    refused = "/system/bin/sh: ./benchmark_model: can't execute: Permission denied\n"
    assert bm.parse(refused, logcat=log("apk_time")).verdict is Verdict.FAILED, "that log is of an earlier run"


def test_flex_is_no_external_delegate():
    flex = log("classic_2024_cpu").replace("TfLiteXNNPackDelegate", "TfLiteFlexDelegate")
    seen = bm.parse(flex, options=Options(delegate="external", external_path="libQnn.so"))
    assert (seen.verdict, seen.executed_by) == (Verdict.REFUSED, ("flex",))
    qnn = log("classic_2024_cpu").replace("TfLiteXNNPackDelegate", "QnnDelegate")
    assert bm.parse(qnn, options=Options(delegate="external", external_path="libQnn.so")).verdict is Verdict.EXECUTED


def test_op_profile_as_text():
    initialization, runs, inside = bm.parse(log("profile_text")).profiles
    assert [p.phase for p in (initialization, runs, inside)] == ["initialization", "runs", "runs"]
    assert all(p.is_whole for p in (initialization, runs, inside))
    assert (initialization.graph, runs.graph, inside.graph) == (None, None, "delegate")
    assert [table.title for table in runs.tables] == ["Run Order", "Top by Computation Time", "Summary by node type"]
    delegate, resize, pad = runs.table("Run Order").rows
    assert (delegate.node_type, delegate.name, delegate.avg_ms, delegate.first_ms) == (
        "TfLiteXNNPackDelegate",
        "[out]:7",
        22.5,
        24.0,
    )
    assert (resize.name, resize.start_ms, resize.percent, resize.cumulative_percent) == ("[up1, up2]:3", 22.5, 8.0, 98.0)
    assert (pad.times_called, pad.memory_kb, pad.count) == (1, 0.0, None)
    assert initialization.table("Summary by node type").rows[0].memory_kb == 3428.0
    assert runs.total.avg_ms == 25.0
    assert runs.nodes == 3
    assert inside.table("Summary by node type").rows[0].node_type == "Convolution (NHWC, F32) IGEMM"


def test_op_profile_without_the_start_column_and_without_its_end():
    (profile,) = bm.parse(log("profile_new")).profiles
    (table,) = profile.tables
    assert (profile.phase, profile.is_whole, profile.total) == ("runs", False, None)
    assert "start_ms" not in table.columns
    assert [row.node_type for row in table.rows] == [
        "QUANTIZE", "Convolution (NHWC, QC8) IGEMM", "Convolution (NHWC, QC8) DWConv",
    ]  # fmt: skip
    assert [row.avg_ms for row in table.rows] == [0.203, 0.407, 0.051]
    assert table.rows[2].times_called == 13
    assert table.rows[2].name == "Delegate/Convolution (NHWC, QC8) DWConv:1"


def test_op_profile_as_csv():
    initialization, runs = bm.parse(log("profile_csv")).profiles
    assert initialization.is_whole
    convolution, quantize = runs.table("Run Order").rows
    assert convolution.node_type == "Convolution (NHWC, QC8) IGEMM"
    assert (convolution.first_ms, convolution.avg_ms, convolution.percent) == (0.398, 0.407, 66.6667)
    assert quantize.first_ms == 8.1e-05
    assert runs.table("Summary by node type").rows[0].count == 1
    assert runs.is_whole


def test_a_profile_does_not_disturb_the_latencies():
    seen = bm.parse(log("classic_2024_cpu") + log("profile_text"))
    assert seen.main.count == 50
    assert seen.verdict is Verdict.EXECUTED
    assert len(seen.profiles) == 3


def test_a_profile_that_lost_a_row_is_not_whole():
    text = log("profile_text").replace("\t       PAD\t    24.500", "\t  P\n\t  24.500")
    assert not bm.parse(text).profiles[1].is_whole


# --- the result file


def message(**parts) -> bytes:
    """A BenchmarkResult: `parts` are lists of (field, value), floats as fixed32, ints as varints."""
    out = b""
    for name, fields in parts.items():
        body = b""
        for number, value in fields:
            if isinstance(value, int):
                body += bytes([number << 3]) + varint(value)
            else:
                body += bytes([number << 3 | 5]) + struct.pack("<f", value)
        out += bytes([{"latency": 2, "memory": 3, "misc": 4}[name] << 3 | 2]) + varint(len(body)) + body
    return out


def varint(value: int) -> bytes:
    out, value = b"", value & (1 << 64) - 1
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


LATENCY = [
    (1, 699.5),
    (2, 502.25),
    (3, 2270.5),
    (4, 325.5),
    (5, 576.75),
    (6, 502.5),
    (7, 1373.0),
    (8, 102.5),
    (9, 670.0),
    (10, 671.0),
]
GOOD = message(latency=LATENCY, memory=[(1, 100452), (2, 101584), (3, 93.25)], misc=[(1, 16.125), (2, 50), (3, 1), (4, 23.5)])


def test_result_file():
    assert bm.read_result_file(GOOD) == bm.ResultFile(
        None, 699.5, 502.25, 2270.5, 325.5, 576.75, 502.5, 1373.0, 102.5, 670.0, 671.0, 100452, 101584, 93.25, 16.125, 50, 1, 23.5
    )
    named = b"\x0a\x05candy" + GOOD + b"\xf8\x07\x01"  # and a field that nobody knows
    assert bm.read_result_file(named).name == "candy"
    without = bm.read_result_file(message(latency=[(1, 5.0)], memory=[(1, -1)], misc=[(1, -1e-06)]))
    assert (without.avg_ms, without.init_kib, without.model_mb) == (5.0, None, None)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "holds no latency"),
        (GOOD[:20], "cut or damaged"),
        (GOOD[:-1], "cut or damaged"),
        (b"\xff" * 30, "cut or damaged"),
        (b"\x0b", "wire type 3"),
        (message(latency=[(1, 7)]), "avg_ms is no number"),
        (b"\x00" * ((1 << 20) + 1), "no BenchmarkResult"),
    ],
)
def test_a_damaged_result_file(payload, said):
    with pytest.raises(MeasurementError, match=said) as caught:
        bm.read_result_file(payload)
    assert caught.value.exit_code == 1


def test_a_result_file_of_another_run_is_noticed():
    right = message(latency=[(1, 699.438), (2, 502.355), (3, 2270.688)], misc=[(2, 50)])
    seen = bm.parse(log("classic_2024_cpu"), result_file=bm.read_result_file(right))
    assert seen.verdict is Verdict.EXECUTED
    assert seen.file.runs == 50
    seen = bm.parse(log("classic_2024_cpu"), result_file=bm.read_result_file(GOOD))
    assert seen.verdict is Verdict.FAILED
    assert seen.why[0] == "the result file is of another run: min_ms is 502.25 there, 502.355 in the log"
    assert seen.file is None


# --- flags

CLASSIC_HELP, LITERT_HELP = log("help_classic"), log("help_litert")
SHARED = ["--num_threads=1", "--num_runs=50", "--min_secs=1", "--max_secs=150", "--warmup_runs=1", "--warmup_min_secs=0.5"]


def test_the_programs_are_told_apart_by_their_help():
    assert bm.recognise(CLASSIC_HELP).name == "classic"
    assert bm.recognise(LITERT_HELP).name == "litert"
    with pytest.raises(MeasurementError, match="no benchmark_model"):
        bm.recognise("Usage: toybox [--list]")


def test_plain_command():
    assert bm.command("./benchmark_model", "m.tflite", Options()) == ["./benchmark_model", "--graph=m.tflite", *SHARED]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (Options(xnnpack=False), ["--use_xnnpack=false"]),
        (Options(delegate="xnnpack"), ["--use_xnnpack=true"]),
        (Options(delegate="gpu"), ["--use_gpu=true", "--gpu_precision_loss_allowed=true"]),
        (
            Options(delegate="gpu", gpu_fp32=True, gpu_backend="cl", full_delegation=True, xnnpack=False),
            ["--use_gpu=true", "--gpu_precision_loss_allowed=false", "--gpu_backend=cl", "--use_xnnpack=false",
             "--require_full_delegation=true"],
        ),
        (Options(delegate="nnapi", nnapi_accelerator="edgetpu"), ["--use_nnapi=true", "--nnapi_accelerator_name=edgetpu"]),
        (
            Options(delegate="external", external_path="libQnn.so", external_options={"backend": "htp", "log": "0"}),
            ["--external_delegate_path=libQnn.so", "--external_delegate_options=backend:htp;log:0"],
        ),
        (
            Options(inputs=(bm.Input("in:0", (1, 256, 192, 3), "a:b.bin"), bm.Input("mask", (1, 7)))),
            ["--input_layer=in:0,mask", "--input_layer_shape=1,256,192,3:1,7", "--input_layer_value_files=in::0:a::b.bin"],
        ),
        (Options(profile=True, output_file="out.bin"), ["--enable_op_profiling=true", "--output_filepath=out.bin"]),
    ],
)  # fmt: skip
def test_classic_flags(options, flags):
    made = bm.command("./b", "m.tflite", options, bm.recognise(CLASSIC_HELP))
    assert made == ["./b", "--graph=m.tflite", *SHARED, *flags]


def test_shared_flags_and_the_mask():
    options = Options(
        threads=4, runs=30, min_seconds=0, max_seconds=20.5, warmup_runs=3, warmup_seconds=0, run_delay_seconds=0.25,
        peak_memory=True, signature="serving", result_file="r.pb", cpu_mask=0xF0,
    )  # fmt: skip
    for text in (CLASSIC_HELP, LITERT_HELP):
        assert bm.command("./b", "m", options, bm.recognise(text)) == [
            "taskset", "f0", "./b", "--graph=m", "--num_threads=4", "--num_runs=30", "--min_secs=0", "--max_secs=20.5",
            "--warmup_runs=3", "--warmup_min_secs=0", "--run_delay=0.25", "--report_peak_memory_footprint=true",
            "--signature_to_run_for=serving", "--result_file_path=r.pb",
        ]  # fmt: skip


def test_litert_flags():
    kind = bm.recognise(LITERT_HELP)
    gpu = Options(delegate="gpu", gpu_fp32=True, gpu_backend="gl", full_delegation=True, profile=True)
    assert bm.command("./b", "m", gpu, kind)[8:] == [
        "--use_gpu=true", "--use_cpu=false", "--allow_fp16=false", "--gpu_backend=opengl", "--require_full_delegation=true",
        "--use_profiler=true",
    ]  # fmt: skip
    newer = bm.Kind("litert", kind.flags | {"gpu-precision"})
    assert "--gpu-precision=fp16" in bm.command("./b", "m", Options(delegate="gpu"), newer)
    for options in (Options(delegate="nnapi"), Options(xnnpack=False), Options(output_file="o")):
        with pytest.raises(UsageError, match="LiteRT's benchmark_model"):
            bm.command("./b", "m", options, kind)


def test_a_flag_that_the_binary_does_not_list_is_refused():
    kind = bm.recognise(CLASSIC_HELP.replace("--gpu_precision_loss_allowed", "--other"))
    with pytest.raises(MeasurementError, match="knows no --gpu_precision_loss_allowed"):
        bm.command("./b", "m", Options(delegate="gpu"), kind)


def test_arguments_of_the_apk():
    assert bm.activity_arguments("/data/local/tmp/m.tflite", Options(threads=2)).startswith(
        "--graph=/data/local/tmp/m.tflite --num_thr"
    )
    for model, options in (("a b.tflite", Options()), ("m'.tflite", Options()), ("m", Options(cpu_mask=3))):
        with pytest.raises(UsageError, match="the APK"):
            bm.activity_arguments(model, options)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"threads": 0},
        {"runs": 0},
        {"warmup_runs": -1},
        {"min_seconds": -1.0},
        {"max_seconds": float("nan")},
        {"max_seconds": float("inf")},
        {"min_seconds": 5.0, "max_seconds": 2.0},
        {"cpu_mask": 0},
        {"delegate": "tpu"},
        {"delegate": "xnnpack", "xnnpack": False},
        {"full_delegation": True},
        {"gpu_fp32": True},
        {"gpu_backend": "cl"},
        {"delegate": "gpu", "gpu_backend": "metal"},
        {"nnapi_accelerator": "edgetpu"},
        {"delegate": "external"},
        {"external_path": "libQnn.so"},
        {"external_options": {"a": "b"}},
        {"delegate": "external", "external_path": "l.so", "external_options": {"a": "b;c"}},
        {"result_file": "a\nb"},
        {"inputs": (bm.Input("a", (1,)), bm.Input("a", (2,)))},
    ],
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(UsageError) as caught:
        Options(**nonsense)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("given", [("", (1, 2)), ("a", ()), ("a", (1, -1)), ("a,b", (1,)), ("a", (1,), "x,y"), ("a\n", (1,))])
def test_nonsense_inputs_are_refused(given):
    with pytest.raises(UsageError):
        bm.Input(*given)


def test_megabytes_take_linear_time():
    """Each of these would take minutes with a pattern that backtracks."""
    texts = ["count=" + "1" * 4_000_000, "\t" * 4_000_000, "= " * 2_000_000, ("min=" * 500 + "\n") * 1000, "[" * 4_000_000,
             "Replacing 1 out of 1 node(s) with delegate (" * 50_000, "node type, first, avg_ms\n" * 100_000,
             "07-08 15:33:55.790 I/" * 100_000, "count=1 curr=5\n" * 200_000]  # fmt: skip
    start = time.monotonic()
    for text in texts:
        assert bm.parse(text, text[:1000], text).main is None
    assert time.monotonic() - start < 40
