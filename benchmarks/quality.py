"""Style and content loss of the dense, the distilled and the from-scratch network, photo by photo, at 256x256.

    python benchmarks/quality.py --network DENSE --distilled NET|FILE.tflite [--scratch NET] --style PAINTING \\
        --photos DIR --weights VGG19.pth -o benchmarks/records/

Writes quality.jsonl: for each network and photo its losses, the unstylised photo's style loss, PSNR and SSIM to the dense output.
`--distilled` may be given twice: the network, and the file that ships.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import lines
import numpy as np

from compress import photos
from compress.image_format import Run
from compress.losses.perceptual import PerceptualConfig, PerceptualLoss
from compress.metrics.psnr import psnr
from compress.metrics.ssim import ssim
from compress.metrics.style import style_and_content
from compress.networks.load import open_network
from compress.networks.run import run_of_network
from export.runtime import as_run

ROOT = Path(__file__).resolve().parent.parent
SIZE = 256


def main() -> None:
    options = _parser().parse_args()
    pictures = chosen(options.photos, options.count)
    loss = PerceptualLoss(PerceptualConfig(weights=options.weights), photos.decode(options.style))
    context = {**lines.context("torch"), "measure": "quality", "painting": options.style.name, "loss": loss.facts()}
    nets = [("dense", options.network), *(("distilled", path) for path in options.distilled)]
    nets += [("scratch", options.scratch)] if options.scratch else []
    dense = run_of(options.network)
    found = [
        {**context, "role": role, "network": path.name, "sha256": lines.sha256(path), **line}
        for role, path in nets
        for line in judge(run_of(path), dense, pictures, loss)
    ]
    lines.write(options.output / options.name, found)
    report(found)


def run_of(path: Path) -> Run:
    """A network or an exported file as pixels to pixels."""
    if path.suffix in (".onnx", ".tflite"):
        return as_run(path)
    loaded = open_network(path)
    return run_of_network(loaded.module, loaded.spec)


def judge(run: Run, dense: Run, pictures: dict[str, photos.Pixels], loss: PerceptualLoss) -> list[dict[str, Any]]:
    """One line a photo. Style and content are unweighted losses; `psnr_db` is None where the outputs are identical."""
    made = []
    for (name, picture), losses in zip(pictures.items(), style_and_content(run, pictures.values(), loss), strict=True):
        pixels = np.asarray(picture, np.float32)[None]
        ours, wanted = run(pixels), dense(pixels)
        made.append(
            {
                "photo": name,
                "style": losses.style,
                "photo_style": losses.photo_style,
                "content": losses.content,
                "psnr_db": psnr(ours, wanted),
                "ssim": ssim(ours, wanted),
            }
        )
        print(f"{name}: style {losses.relative_style:.4f} of the photo's, content {losses.content:.4g}", file=sys.stderr)
    return made


def report(found: list[dict[str, Any]]) -> None:
    """Print what the targets are about."""
    means = {
        (line["role"], line["network"]): {
            key: mean(other[key] for other in found if other["network"] == line["network"])
            for key in ("style", "content", "photo_style")
        }
        for line in found
    }
    dense = next(iter(means.values()))
    for (role, network), values in means.items():
        style, content = (values[key] / dense[key] for key in ("style", "content"))
        relative = values["style"] / values["photo_style"]
        print(f"{role} {network}: style x {style:.3f}, content x {content:.3f} of dense; style {relative:.4f} of the photo's")


def chosen(folder: Path, count: int) -> dict[str, photos.Pixels]:
    """`count` photos, evenly spread over the sorted folder, cropped to SIZE: name -> (SIZE, SIZE, 3)."""
    found = photos.list_photos(folder)
    if len(found) < count:
        sys.exit(f"{folder} holds {len(found)} photos, {count} are asked for")
    paths = [found[index * len(found) // count] for index in range(count)]
    return {path.name: photos.fit(photos.decode(path), SIZE, SIZE) for path in paths}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="the dense network")
    parser.add_argument("--distilled", type=Path, action="append", required=True, help="network or file; may be repeated")
    parser.add_argument("--scratch", type=Path, help="a network of the same widths, trained from scratch")
    parser.add_argument("--style", type=Path, required=True, help="the painting")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="VGG-19's weight file")
    parser.add_argument("--count", type=int, default=24, help="photos, spread evenly over the folder")
    parser.add_argument("--name", default="quality.jsonl", help="of the file of lines")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    return parser


if __name__ == "__main__":
    main()
