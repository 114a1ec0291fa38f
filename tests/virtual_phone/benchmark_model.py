"""The program that tests push to a virtual phone: runs the model with the TFLite runtime, and speaks as the classic tool does.

Delegates of a phone are played: `--use_gpu` says what the tool says, and runs on the CPU. What it is to do wrong stands in
`$PHONE/state/faults.json`: `hang` and `die` (`before`, `mid`, `after`), `signal` or `code` of that death, `refuse` (`silent`,
`hard`, `partial`), `garbage`, `slow_ms`, `unlinked`, `mute` (no summary), `unconsumed`, `changes` (zeros
at the front of the output).
Its least times are in seconds that last as long as `state/second` says.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from pathlib import Path

STARTED_KB = 0
GPU, NNAPI, XNNPACK = ("GPU", "TfLiteGpuDelegateV2"), ("NNAPI", "TfLiteNnapiDelegate"), ("XNNPACK", "TfLiteXNNPackDelegate")
KNOWN = (
    "graph", "num_threads", "num_runs", "min_secs", "max_secs", "warmup_runs", "warmup_min_secs", "use_xnnpack", "use_gpu",
    "gpu_precision_loss_allowed", "use_nnapi", "disable_nnapi_cpu", "require_full_delegation", "report_peak_memory_footprint",
    "enable_op_profiling", "external_delegate_path", "external_delegate_options", "input_layer", "input_layer_shape", "verbose",
    "max_delegated_partitions", "run_delay", "gpu_backend", "input_layer_value_files", "output_filepath",
)  # fmt: skip


def say(text: str) -> None:
    """INFO lines go to stdout."""
    print(f"INFO: {text}", flush=True)


def fail(text: str) -> None:
    """ERROR lines go to stderr; the tool ends with 1."""
    print(f"ERROR: {text}\nERROR: Benchmarking failed.", file=sys.stderr, flush=True)
    sys.exit(1)


def log(text: str) -> None:
    """What the runtime says: stderr."""
    print(text, file=sys.stderr, flush=True)


class Tool:
    """One run."""

    def __init__(self, arguments: list[str]) -> None:
        pairs = [re.fullmatch(r"--(\w+)=(.*)", argument, re.DOTALL) for argument in arguments]
        given = {pair[1]: pair[2] for pair in pairs if pair}
        self.flags = {name: value for name, value in given.items() if name in KNOWN}
        self.second = float((Path(os.environ["PHONE"]) / "state/second").read_text())
        path = Path(os.environ["PHONE"]) / "state/faults.json"
        self.faults = json.loads(path.read_text()) if path.exists() else {}
        self.unconsumed = [f"--{name}={value}" for name, value in given.items() if name not in KNOWN]
        self.unconsumed += [f"--{name}=1" for name in self.faults.get("unconsumed", ())]

    def is_on(self, flag: str, default: str = "false") -> bool:
        """The value of a boolean flag."""
        return self.flags.get(flag, default) in ("true", "1")

    def main(self) -> None:
        """In the tool's own order."""
        if "--help" in sys.argv:
            flags = "".join(f"\t--{name}=...\tstring\toptional\n" for name in KNOWN)
            print(f"ERROR: usage: {sys.argv[0]}\nFlags:\n{flags}", file=sys.stderr, flush=True)
            sys.exit(1)
        if "unlinked" in self.faults:
            log(f'CANNOT LINK EXECUTABLE "{sys.argv[0]}": library "libX.so" not found: needed by main executable')
            sys.exit(1)
        say("STARTING!")
        if self.unconsumed:
            print(f"WARN: Unconsumed cmdline flags: {' '.join(self.unconsumed)}", flush=True)
        self.maybe("before")
        if "garbage" in self.faults:
            os.write(1, bytes(range(256)) * 2000 + b"\nInference timings in us: Init: banana, First inf")
            sys.exit(0)
        say("Log parameter values verbosely: [0]")
        say(f"Num threads: [{self.flags.get('num_threads', -1)}]")
        say(f"Graph: [{self.flags['graph']}]")
        for flag, name in (("use_gpu", "Use gpu"), ("use_nnapi", "Use NNAPI"), ("use_xnnpack", "Use xnnpack")):
            if flag in self.flags:
                say(f"{name}: [{int(self.is_on(flag))}]")
        init_us = self.load()
        first, warmup = self.measure(int(self.flags.get("warmup_runs", 1)), float(self.flags.get("warmup_min_secs", 0.5)))
        self.maybe("mid")
        _, average = self.measure(int(self.flags.get("num_runs", 50)), float(self.flags.get("min_secs", 1)))
        if "mute" in self.faults:
            return
        self.summary(init_us, first, warmup, average)
        if "output_filepath" in self.flags:
            outputs = [self.interpreter.get_tensor(one["index"]) for one in self.interpreter.get_output_details()]
            data = bytearray(b"".join(output.tobytes() for output in outputs))
            if "changes" in self.faults:
                data[: 4 * self.faults["changes"]] = bytes(4 * self.faults["changes"])
            Path(self.flags["output_filepath"]).write_bytes(data)
        if self.is_on("enable_op_profiling"):
            self.profile(average / 1000)
        self.maybe("after")

    def load(self) -> int:
        """Load the model and apply delegates; microseconds."""
        graph, start = Path(self.flags["graph"]), time.perf_counter()
        if not graph.is_file():
            print("WARN: Failed to get the input model file size.", flush=True)
            fail(f"Failed to load model {graph}")
        say(f"Loaded model {graph}")
        log("INFO: Initialized TensorFlow Lite runtime.")
        self.open(graph)
        self.delegates()
        took = int(1e6 * (time.perf_counter() - start))
        say(f"The input model file size (MB): {graph.stat().st_size / 1e6:g}")
        say(f"Initialized session in {took / 1000:g}ms.")
        return took

    def open(self, graph: Path) -> None:
        """Make the interpreter, with random inputs."""
        import numpy
        from ai_edge_litert import interpreter as litert

        plain = not self.is_on("use_xnnpack", "true")
        kinds = litert.OpResolverType
        resolver = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if plain else kinds.AUTO
        try:
            self.interpreter = litert.Interpreter(
                str(graph), num_threads=max(1, int(self.flags.get("num_threads", 1))), experimental_op_resolver_type=resolver
            )
            if "input_layer_shape" in self.flags:
                shape = [int(n) for n in self.flags["input_layer_shape"].split(":")[0].split(",")]
                self.interpreter.resize_tensor_input(self.interpreter.get_input_details()[0]["index"], shape)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            fail(f"Failed to load model {graph}")
        random = numpy.random.default_rng(0)
        pairs = self.flags.get("input_layer_value_files", "").replace("::", "\0").split(",")
        files = [pair.rpartition(":")[2].replace("\0", ":") for pair in pairs if pair]
        for number, detail in enumerate(self.interpreter.get_input_details()):
            values = random.random(tuple(detail["shape"])) * 200
            if files:
                values = numpy.frombuffer(Path(files[number]).read_bytes(), detail["dtype"]).reshape(detail["shape"])
            self.interpreter.set_tensor(detail["index"], values.astype(detail["dtype"]))
        self.nodes = sum(op["op_name"] != "DELEGATE" for op in self.interpreter._get_ops_details())
        self.taken = 0 if plain else self.nodes

    def delegates(self) -> None:
        """What each delegate says."""
        asked = [d for d, flag in ((GPU, "use_gpu"), (NNAPI, "use_nnapi")) if self.is_on(flag)]
        if "external_delegate_path" in self.flags:
            asked.append(("EXTERNAL", "QnnDelegate"))
        if self.is_on("use_nnapi"):
            say("NNAPI accelerators available: [acme-npu,nnapi-reference]")
        for name, kind in asked:
            self.delegate(name, kind)
        if self.is_on("use_xnnpack"):
            self.delegate(*XNNPACK)
        elif not asked and self.taken:
            log("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.")
            self.replacing(self.nodes, XNNPACK[1], 1)

    def delegate(self, name: str, kind: str) -> None:
        """One that was asked for: taken whole, in part, or not."""
        refusal = self.faults.get("refuse")
        log(f"INFO: Created TensorFlow Lite delegate for {name}.")
        if refusal == "hard":
            fail(f"Failed to apply {name} delegate.")
        said = f"{name} delegate is explicitly applied, and the model graph will be"
        if refusal:
            if self.is_on("require_full_delegation"):
                fail("Disallowed CPU fallback detected.")
            if refusal == "silent":
                say(f"Though {name} delegate is explicitly applied, the model graph will not be executed by the delegate.")
                return
            self.replacing(max(1, self.nodes // 2), kind, 2)
            say(
                f"Explicitly applied {name} delegate, and the model graph will be partially executed by the delegate "
                "w/ 2 delegate kernels."
            )
            return
        self.replacing(self.nodes, kind, 1)
        if name == "GPU":
            log("INFO: Initialized OpenCL-based API.\nINFO: Created 1 GPU delegate kernels.")
        say(
            said.replace(f"{name} delegate is explicitly applied", f"Explicitly applied {name} delegate")
            + " completely executed by the delegate."
        )

    def replacing(self, count: int, kind: str, partitions: int) -> None:
        """The line that phones log."""
        log(
            f"VERBOSE: Replacing {count} out of {self.nodes} node(s) with delegate ({kind}) node, "
            f"yielding {partitions} partitions for subgraph 0."
        )

    def measure(self, runs: int, seconds: float) -> tuple[float, float]:
        """Run, print the block, return first and average in microseconds."""
        most = float(self.flags.get("max_secs", 150))
        say(
            f"Running benchmark for at least {runs} iterations and at least {seconds:g} seconds but terminate if exceeding "
            f"{most:g} seconds."
        )
        times: list[int] = []
        start = time.perf_counter()
        while (len(times) < runs or time.perf_counter() - start < seconds * self.second) and time.perf_counter() - start < most:
            begun = time.perf_counter_ns()
            self.interpreter.invoke()
            time.sleep(self.faults.get("slow_ms", 0) / 1000)
            times.append((time.perf_counter_ns() - begun) // 1000)
        ordered = sorted(times)
        p5, median, p95 = (ordered[len(ordered) * p // 100] for p in (5, 50, 95))
        average = statistics.fmean(times)
        if len(times) == 1:
            body = f"count=1 curr={times[0]}"
        elif ordered[0] == ordered[-1]:
            body = f"count={len(times)} curr={times[0]}(all same)"
        else:
            body = (
                f"count={len(times)} first={times[0]} curr={times[-1]} min={ordered[0]} max={ordered[-1]} avg={average:g} "
                f"std={int(statistics.pstdev(times))}"
            )
        say(f"{body} p5={p5} median={median} p95={p95}\n")
        return times[0], average

    def summary(self, init_us: int, first: float, warmup: float, average: float) -> None:
        """The last lines."""
        say(
            f"Inference timings in us: Init: {init_us}, First inference: {first:.0f}, Warmup (avg): {warmup:g}, "
            f"Inference (avg): {average:g}"
        )
        say(
            "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory "
            "footprint of the model at runtime. Take the information at your discretion."
        )
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        kib = int(status["VmHWM"].split()[0])
        peak = kib / 1024
        say(f"Memory footprint delta from the start of the tool (MB): init={kib // 2 / 1024:g} overall={peak:g}")
        if self.is_on("report_peak_memory_footprint"):
            say(f"Overall peak memory footprint (MB) via periodic monitoring: {peak:g}")

    def profile(self, average_ms: float) -> None:
        """Every op of the model in the tool's own table; the runtime has no times of them here, so each gets its share."""
        ops = [op["op_name"] for op in self.interpreter._get_ops_details()]
        share, columns = average_ms / len(ops), "first,avg ms,%,cdf%,mem KB,times called,Name"
        say("Operator-wise Profiling Info for Regular Benchmark Runs:")
        for title in ("Run Order", "Top by Computation Time"):
            print(f"{'=' * 30} {title} {'=' * 30}")
            print("\t".join(["", "[node type]", *(f"[{column}]" for column in columns.split(","))]))
            for number, name in enumerate(ops):
                part = 100 / len(ops)
                times = f"{share:.3f}\t{share:.3f}\t{part:.3f}%\t{part * (number + 1):.3f}%\t0.000\t1"
                print(f"\t{name}\t{times}\t[op]:{number}")
            print()
        us = round(1000 * average_ms)
        print(f"Number of nodes executed: {len(ops)}\n\nTimings (microseconds): count=1 curr={us}\nMemory (bytes): count=0")
        print(f"{len(ops)} nodes observed", flush=True)

    def maybe(self, when: str) -> None:
        """Hang or die here, when told so."""
        if self.faults.get("hang") == when:
            time.sleep(3600)
        if self.faults.get("die") == when:
            if "signal" in self.faults:
                os.kill(os.getpid(), self.faults["signal"])
            os._exit(self.faults.get("code", 1))


if __name__ == "__main__":
    Tool(sys.argv[1:]).main()
