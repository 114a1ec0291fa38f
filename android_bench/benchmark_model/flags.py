"""What benchmark_model is to do, and the command line that says so, for both programs of that name. Never here: running it.

An unknown flag does not stop the tool (it warns and measures something else), so a flag that its help does not list is refused
here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from compress.errors import MeasurementError, UsageError

DELEGATES = ("none", "xnnpack", "gpu", "nnapi", "external")
GPU_BACKENDS = ("", "cl", "gl")


@dataclass(frozen=True)
class Kind:
    """Which program. `name`: `classic` (TFLite's) or `litert` (CompiledModel's). `flags`: that its help lists; empty: unknown."""

    name: str
    flags: frozenset[str] = frozenset()


CLASSIC, LITERT = Kind("classic"), Kind("litert")


@dataclass(frozen=True)
class Input:
    """One input tensor. `shape`: what it is resized to. `file`: raw bytes of exactly that tensor, on the device; None: random."""

    name: str
    shape: tuple[int, ...]
    file: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.shape or min(self.shape) < 1:
            raise UsageError(f"an input has a name, and a shape without free axes; got {self.name!r}, {self.shape}")
        if "," in self.name or "," in (self.file or ""):
            raise UsageError(f"benchmark_model splits names and files at commas: {self.name!r}, {self.file!r}")
        _check_text("input", self.name)
        _check_text("input file", self.file)


@dataclass(frozen=True)
class Options:
    """One run. At least `runs` runs and `min_seconds`, ended by `max_seconds` (for the warm-up, and again for the runs).

    `delegate`: one of DELEGATES; `xnnpack`: None leaves the runtime its default (on, mostly), False forces the plain kernels, for
    what no delegate takes. `full_delegation`: the tool fails when a node stays behind. `gpu_fp32`: no fp16. `gpu_backend`: "" for
    the tool's own choice. `cpu_mask`: bit n for core n. Paths are the device's. `peak_memory` and `profile` disturb the timing:
    for runs of their own. `run_delay_seconds`: pause between runs.
    """

    threads: int = 1
    runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 150.0
    warmup_runs: int = 1
    warmup_seconds: float = 0.5
    run_delay_seconds: float | None = None
    delegate: str = "none"
    xnnpack: bool | None = None
    full_delegation: bool = False
    gpu_fp32: bool = False
    gpu_backend: str = ""
    nnapi_accelerator: str | None = None
    external_path: str | None = None
    external_options: Mapping[str, str] = field(default_factory=dict)
    profile: bool = False
    peak_memory: bool = False
    cpu_mask: int | None = None
    signature: str | None = None
    inputs: tuple[Input, ...] = ()
    output_file: str | None = None
    result_file: str | None = None

    def __post_init__(self) -> None:
        self._check_amounts()
        self._check_delegate()
        for name in ("nnapi_accelerator", "external_path", "signature", "output_file", "result_file"):
            _check_text(name, getattr(self, name))
        if len({given.name for given in self.inputs}) < len(self.inputs):
            raise UsageError("an input is named twice")

    def _check_amounts(self) -> None:
        seconds = (self.min_seconds, self.max_seconds, self.warmup_seconds, self.run_delay_seconds or 0.0)
        if not all(math.isfinite(value) and value >= 0 for value in seconds) or self.max_seconds <= 0:
            raise UsageError(f"seconds must be finite and not negative, got {seconds}")
        if self.max_seconds < max(self.min_seconds, self.warmup_seconds):
            raise UsageError("max_seconds is less than the least time of the runs or of the warm-up")
        if not (1 <= self.threads <= 1024 and 1 <= self.runs <= 10**6 and 0 <= self.warmup_runs <= 10**6):
            raise UsageError(f"threads {self.threads}, runs {self.runs}, warm-up runs {self.warmup_runs}: out of range")
        if self.cpu_mask is not None and not 0 < self.cpu_mask < 2**1024:
            raise UsageError("a cpu mask has at least one bit, and none below zero")

    def _check_delegate(self) -> None:
        if self.delegate not in DELEGATES or self.gpu_backend not in GPU_BACKENDS:
            raise UsageError(
                f"delegate {self.delegate!r}, GPU backend {self.gpu_backend!r}: there are {DELEGATES}, {GPU_BACKENDS}"
            )
        if self.delegate == "xnnpack" and self.xnnpack is False:
            raise UsageError("XNNPACK is asked for and switched off")
        if self.delegate == "none" and self.full_delegation:
            raise UsageError("full delegation needs a delegate")
        if (self.gpu_fp32 or self.gpu_backend) and self.delegate != "gpu":
            raise UsageError("fp32 and the backend are said of the GPU delegate, which is not asked for")
        if self.nnapi_accelerator is not None and self.delegate != "nnapi":
            raise UsageError("an accelerator is said of NNAPI, which is not asked for")
        if (self.external_path is not None) != (self.delegate == "external") or self.external_path == "":
            raise UsageError("an external delegate is a library: delegate 'external' and its path belong together")
        if self.external_options and self.delegate != "external":
            raise UsageError("options of an external delegate, which is not asked for")
        for text in (*self.external_options, *self.external_options.values()):
            _check_text("external delegate option", text)
            if not text or ":" in text or ";" in text:
                raise UsageError(f"an option of an external delegate must not be empty or hold ':' or ';': {text!r}")


def _check_text(name: str, text: str | None) -> None:
    if text is not None and not text.isprintable():
        raise UsageError(f"{name} {text!r} holds characters that no command line should")


def recognise(help_text: str) -> Kind:
    """The program from what it prints for `--help` (classic: on stderr, exit code 1). Raises MeasurementError for another one."""
    flags = frozenset(re.findall(r"--([a-z][a-z0-9_-]{1,60})=", help_text))
    if "graph" in flags and flags & {"use_profiler", "use_npu", "use_cpu"}:
        return Kind("litert", flags)
    if "graph" in flags and "num_threads" in flags:
        return Kind("classic", flags)
    raise MeasurementError(
        "this is no benchmark_model: its --help lists neither TFLite's flags nor LiteRT's", "--benchmark-binary names another one"
    )


def command(binary: str, model: str, options: Options, kind: Kind = CLASSIC) -> list[str]:
    """argv for the device, each word still to be quoted for its shell; with a cpu mask, `taskset` comes first.

    Raises UsageError for what this program cannot do, MeasurementError for a flag that its help does not list.
    """
    mask = ["taskset", f"{options.cpu_mask:x}"] if options.cpu_mask is not None else []
    return [*mask, binary, *arguments(model, options, kind)]


def activity_arguments(model: str, options: Options) -> str:
    """The flags for the APK's activity (`--es args`), which splits them at blanks. Raises UsageError: a blank, a cpu mask."""
    words = arguments(model, options, CLASSIC)
    if options.cpu_mask is not None:
        raise UsageError("the APK cannot be tied to cores", "the native binary can")
    for word in words:
        if re.search(r"\s", word) or set(word) & set("\"'\\"):
            raise UsageError(f"the APK splits its arguments at blanks and knows no quotes: {word!r}")
    return " ".join(words)


def arguments(model: str, options: Options, kind: Kind = CLASSIC) -> list[str]:
    """The flags alone. Raises as `command`."""
    _check_text("model", model)
    own = _classic_flags(options) if kind.name == "classic" else _litert_flags(options, kind)
    flags = {"graph": model, **dict(_shared_flags(options)), **dict(own)}
    unknown = [flag for flag in flags if kind.flags and flag not in kind.flags]
    if unknown:
        raise MeasurementError(
            f"this benchmark_model knows no --{', --'.join(unknown)}: it would ignore what is asked", "a newer one may know it"
        )
    return [f"--{flag}={value}" for flag, value in flags.items()]


def _shared_flags(options: Options) -> Iterator[tuple[str, str]]:
    yield "num_threads", str(options.threads)
    yield "num_runs", str(options.runs)
    yield "min_secs", f"{options.min_seconds:g}"
    yield "max_secs", f"{options.max_seconds:g}"
    yield "warmup_runs", str(options.warmup_runs)
    yield "warmup_min_secs", f"{options.warmup_seconds:g}"
    if options.run_delay_seconds is not None:
        yield "run_delay", f"{options.run_delay_seconds:g}"
    if options.peak_memory:
        yield "report_peak_memory_footprint", "true"
    if options.signature is not None:
        yield "signature_to_run_for", options.signature
    if options.result_file is not None:
        yield "result_file_path", options.result_file


def _classic_flags(options: Options) -> Iterator[tuple[str, str]]:
    yield from _classic_delegate(options)
    if options.full_delegation:
        yield "require_full_delegation", "true"
    if options.profile:
        yield "enable_op_profiling", "true"
    if options.inputs:
        yield "input_layer", ",".join(given.name for given in options.inputs)
        yield "input_layer_shape", ":".join(",".join(map(str, given.shape)) for given in options.inputs)
    if files := [(given.name, given.file) for given in options.inputs if given.file is not None]:
        yield "input_layer_value_files", ",".join(f"{_escaped(name)}:{_escaped(file)}" for name, file in files)
    if options.output_file is not None:
        yield "output_filepath", options.output_file


def _classic_delegate(options: Options) -> Iterator[tuple[str, str]]:
    if options.delegate == "gpu":
        yield "use_gpu", "true"
        yield "gpu_precision_loss_allowed", "false" if options.gpu_fp32 else "true"
        if options.gpu_backend:
            yield "gpu_backend", options.gpu_backend
    elif options.delegate == "nnapi":
        yield "use_nnapi", "true"
        if options.nnapi_accelerator is not None:
            yield "nnapi_accelerator_name", options.nnapi_accelerator
    elif options.delegate == "external":
        yield "external_delegate_path", str(options.external_path)
        if options.external_options:
            yield "external_delegate_options", ";".join(f"{key}:{value}" for key, value in options.external_options.items())
    if options.delegate == "xnnpack" or options.xnnpack is not None:
        yield "use_xnnpack", "false" if options.xnnpack is False else "true"


def _litert_flags(options: Options, kind: Kind) -> Iterator[tuple[str, str]]:
    if options.delegate not in ("none", "xnnpack", "gpu") or options.xnnpack is False or options.inputs or options.output_file:
        raise UsageError(
            "LiteRT's benchmark_model runs on the CPU (XNNPACK) or the GPU, with inputs of its own", "TFLite's can do this"
        )
    if options.delegate == "xnnpack" and options.full_delegation:
        raise UsageError("LiteRT's benchmark_model cannot demand full delegation from the CPU", "TFLite's can")
    if options.delegate == "gpu":
        yield "use_gpu", "true"
        yield "use_cpu", "false" if options.full_delegation else "true"
        yield from _litert_precision(options, kind)
        if options.gpu_backend == "gl":  # OpenCL is what it takes by itself, and has no word for
            yield "gpu_backend", "opengl"
        if options.full_delegation:
            yield "require_full_delegation", "true"
    if options.profile:
        yield "use_profiler", "true"


def _litert_precision(options: Options, kind: Kind) -> Iterator[tuple[str, str]]:
    """Newer ones have `--gpu-precision`, written so, older ones `--allow_fp16`; the oldest only fp16, and no flag."""
    if "gpu-precision" in kind.flags or not kind.flags:
        yield "gpu-precision", "fp32" if options.gpu_fp32 else "fp16"
    elif "allow_fp16" in kind.flags or options.gpu_fp32:
        yield "allow_fp16", "false" if options.gpu_fp32 else "true"


def _escaped(text: str) -> str:
    return text.replace(":", "::")
