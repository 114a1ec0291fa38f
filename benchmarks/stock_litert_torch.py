"""What litert-torch makes of a network by itself: one call on the module, channels last. Run by exporting.py under litert-torch's
own Python, with this repository on PYTHONPATH.

LITERT_PYTHON benchmarks/stock_litert_torch.py NET OUT.tflite 256
"""

from __future__ import annotations

import sys
from pathlib import Path

import litert_torch
import torch

from compress.networks.load import open_network


def main(source: Path, target: Path, size: int) -> None:
    module = open_network(source).module
    channels_last = litert_torch.to_channel_last_io(module, args=[0], outputs=[0]).eval()
    litert_torch.convert(channels_last, (torch.zeros(1, size, size, 3),)).export(str(target))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
