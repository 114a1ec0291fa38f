"""The two programs named `benchmark_model`: flags, output, result file. Never here: running them, devices, statistics."""

from android_bench.benchmark_model.flags import (
    CLASSIC,
    DELEGATES,
    LITERT,
    Input,
    Kind,
    Options,
    activity_arguments,
    command,
    recognise,
)
from android_bench.benchmark_model.output import parse
from android_bench.benchmark_model.profile import Op, Profile, Table
from android_bench.benchmark_model.proto import ResultFile, read_result_file
from android_bench.benchmark_model.result import Delegation, Latency, Memory, Note, Raw, Replacement, Result, Verdict

__all__ = [
    "CLASSIC",
    "DELEGATES",
    "LITERT",
    "Delegation",
    "Input",
    "Kind",
    "Latency",
    "Memory",
    "Note",
    "Op",
    "Options",
    "Profile",
    "Raw",
    "Replacement",
    "Result",
    "ResultFile",
    "Table",
    "Verdict",
    "activity_arguments",
    "command",
    "parse",
    "read_result_file",
    "recognise",
]
