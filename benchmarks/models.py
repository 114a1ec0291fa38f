"""How much of its own painting's style each network gives to photos, beside public networks against theirs, at 256x256.

    python benchmarks/models.py --pair NET PAINTING [--pair NET PAINTING ...] --photos DIR --weights VGG19.pth [-o DIR]

Writes models.jsonl: one line a network and photo. Gram losses of different paintings cannot be compared; shares of the unstylised
photo's own loss can.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lines
from quality import ROOT, chosen, judge, run_of

from compress import photos
from compress.losses.perceptual import PerceptualConfig, PerceptualLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, type=Path, action="append", required=True, metavar=("NET", "PAINTING"))
    parser.add_argument("--photos", type=Path, required=True, help="folder")
    parser.add_argument("--count", type=int, default=25, help="photos, evenly chosen")
    parser.add_argument("--weights", type=Path, required=True, help="of VGG-19")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    options = parser.parse_args()
    pictures = chosen(options.photos, options.count)
    found = []
    for network, painting in options.pair:
        loss = PerceptualLoss(PerceptualConfig(weights=options.weights), photos.decode(painting))
        context = {**lines.context("torch"), "measure": "models", "painting": painting.name, "loss": loss.facts()}
        run = run_of(network)
        about = {"network": network.name, "sha256": lines.sha256(network)}
        found += [{**context, **about, **line} for line in judge(run, run, pictures, loss)]
    lines.write(options.output / "models.jsonl", found)


if __name__ == "__main__":
    main()
