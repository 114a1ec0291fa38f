"""What onnx2tf makes of an ONNX file by itself: one call, every option at its default. Run in a process of its own.

python benchmarks/stock_onnx2tf.py NET.onnx OUT.tflite INPUT_NAME:1,3,256,256
python benchmarks/stock_onnx2tf.py NET.onnx OUT.tflite INPUT_NAME:1,3,256,256 PHOTOS.npy

PHOTOS.npy: what the network takes, channels last. With it OUT_dynamic.tflite (dynamic range) and OUT_int8.tflite (all integers,
in and out too) are made as well.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

QUANTISED = {"dynamic": "dynamic_range_quant", "int8": "full_integer_quant"}  # our name -> the end of onnx2tf's


def main(source: Path, target: Path, shape: str, photos: Path | None = None) -> None:
    import onnx2tf

    more: dict[str, Any] = {}
    if photos:
        one = np.ones((1, 1, 1, 3), np.float32)
        name = shape.partition(":")[0]
        more = {
            "output_dynamic_range_quantized_tflite": True,
            "output_integer_quantized_tflite": True,
            "custom_input_op_name_np_data_path": [[name, str(photos), one * 0, one]],
        }
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(source, Path(folder, source.name))  # the converter rewrites its input file
        os.chdir(folder)
        sample = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", sample)  # else it would be downloaded
        onnx2tf.convert(
            input_onnx_file_path=copy, output_folder_path="made", overwrite_input_shape=[shape], non_verbose=True, **more
        )
        shutil.copy(Path("made", f"{source.stem}_float32.tflite"), target)
        for ours, theirs in QUANTISED.items() if photos else ():
            shutil.copy(Path("made", f"{source.stem}_{theirs}.tflite"), target.with_stem(f"{target.stem}_{ours}"))


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls onnxsim by name
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3], *(Path(p).resolve() for p in sys.argv[4:]))
