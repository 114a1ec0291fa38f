"""Networks side by side on the same photos, as one picture: `python benchmarks/look.py NET... --photos DIR -o FILE.jpg`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from compress.networks.load import open_network
from compress.networks.run import run_of_network
from compress.photos import decode, encode, fit, list_photos
from compress.sheet import sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+", type=Path, metavar="NET")
    parser.add_argument("--photos", type=Path, required=True, help="folder")
    parser.add_argument("--every", type=int, default=20, help="take each so-manieth photo")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    loaded = [open_network(path) for path in options.networks]
    runs = [run_of_network(one.module, one.spec) for one in loaded]
    pictures = [fit(decode(path), options.size, options.size) for path in list_photos(options.photos)[:: options.every]]
    rows = [[picture, *(run(picture.astype(np.float32)[None])[0] for run in runs)] for picture in pictures]
    encode(options.output, sheet(rows, ["photo", *(path.stem for path in options.networks)]))


if __name__ == "__main__":
    main()
