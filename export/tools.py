"""What an export needs installed, checked before any of it is imported. Never here: importing it."""

from __future__ import annotations

from compress.errors import require

NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime", "onnx2tf", "tensorflow", "tf_keras", "ai_edge_litert")  # import names
RECORDED = ("mobile-compress", "torch", "onnx", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert", "numpy")  # on PyPI


def check_tools() -> None:
    """Raise MissingToolError for the first package that an export would lack."""
    for package in NEEDED:
        require(package, "export")
