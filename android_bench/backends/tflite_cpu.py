"""The LiteRT interpreter on this CPU, XNNPACK on, for `.tflite` files."""

from __future__ import annotations

from android_bench.backends import Backend
from android_bench.backends.onnx_cpu import open_file

BACKEND = Backend(
    name="tflite_cpu",
    device="cpu",
    kind="tflite",
    open=open_file,
    imports=("export.runtime", "ai_edge_litert.interpreter"),
    packages=("ai-edge-litert",),
)
