"""What onnx2tf makes of an ONNX file by itself: one call, every option at its default. Run by latency.py in a process of its own.

python benchmarks/stock_onnx2tf.py NET.onnx OUT.tflite INPUT_NAME:1,3,256,256
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np


def main(source: Path, target: Path, shape: str) -> None:
    import onnx2tf

    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(source, Path(folder, source.name))  # the converter rewrites its input file
        os.chdir(folder)
        sample = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", sample)  # else it would be downloaded
        onnx2tf.convert(input_onnx_file_path=copy, output_folder_path="made", overwrite_input_shape=[shape], non_verbose=True)
        shutil.copy(Path("made", f"{source.stem}_float32.tflite"), target)


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it calls onnxsim by name
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), sys.argv[3])
