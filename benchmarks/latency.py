"""Latency and bytes: the dense network in torch, what onnx2tf alone makes of it, what `compress export` makes of it, and the
distilled network, all in one interleaved run at 256x256.

    python benchmarks/latency.py --network DENSE --distilled NET [--scratch NET] [--photos DIR] -o benchmarks/records/

Files are made in --work and kept: a second call only measures again. Writes latency.jsonl, records of `compress bench`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from android_bench.record import Record, read_records
from android_bench.statistics import paired_ratio
from compress import checkpoint
from compress.networks.load import open_network
from export import child, onnx, tflite
from export.foreign import reading
from export.variants import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
SIZE = 256
MARK = f"{SIZE}x{SIZE}"


def main() -> None:
    options = _parser().parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    nets = {"dense": options.network, "distilled": options.distilled, "scratch": options.scratch}
    for name, path in nets.items():
        if path:
            _as_float32(path, work / f"{name}.safetensors")
    _export(work / "dense.safetensors", work, "fp32", options.photos)
    _export(work / "distilled.safetensors", work, "fp32,dynamic", options.photos)
    _plain(work / "dense.onnx", work / f"dense_{MARK}_plain.tflite")
    _stock(work / "dense.onnx", work / f"dense_{MARK}_stock.tflite")
    files = [
        "dense.safetensors",
        "dense.onnx",
        *(f"dense_{MARK}_{variant}.tflite" for variant in ("stock", "plain", "fp32")),
        "distilled.safetensors",
        *(f"distilled_{MARK}_{variant}.tflite" for variant in ("fp32", "dynamic")),
        *(["scratch.safetensors"] if options.scratch else []),
    ]
    output = options.output / "latency.jsonl"
    _compress(
        "bench", *(str(work / file) for file in files), "--threads", str(options.threads), "--rounds", str(options.rounds),
        "--size", str(SIZE), "-o", str(output), "--force",
    )  # fmt: skip
    report(read_records(output))


def report(records: list[Record]) -> None:
    """Print what the targets are about."""
    by_name = {record.artifact: record for record in records}
    dense, small = by_name["dense.safetensors"], by_name[f"distilled_{MARK}_dynamic.tflite"]
    stock, ours = by_name[f"dense_{MARK}_stock.tflite"], by_name[f"dense_{MARK}_fp32.tflite"]
    print(f"fp32 / onnx2tf alone: {paired_ratio(ours, stock).value:.3f} (target <= 0.65)")
    print(f"dense in torch / distilled dynamic: {1 / paired_ratio(small, dense).value:.2f} x faster (target >= 8)")
    print(f"dense checkpoint / distilled dynamic: {dense.bytes / small.bytes:.1f} x smaller (target >= 15)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, required=True, help="the dense network")
    parser.add_argument("--distilled", type=Path, required=True, help="the pruned and distilled network")
    parser.add_argument("--scratch", type=Path, help="a network of the same widths, trained from scratch")
    parser.add_argument("--photos", type=Path, help="photos for the parity of the exports")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", type=Path, default=ROOT / ".scratch" / "latency", help="where files are made and kept")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    return parser


def _as_float32(source: Path, target: Path) -> None:
    """The network's float32 checkpoint. One that is there must hold the same network: files made of it are kept."""
    found = open_network(source).checkpoint.astype(torch.float32)
    if not target.exists():
        checkpoint.write(target, found)
    kept = checkpoint.read(target).tensors
    if kept.keys() != found.tensors.keys() or any(not torch.equal(kept[name], t) for name, t in found.tensors.items()):
        sys.exit(f"{target} holds another network than {source}: give another --work, or remove the folder")


def _export(net: Path, folder: Path, variants: str, photos: Path | None) -> None:
    made = [folder / f"{net.stem}_{MARK}_{variant}.tflite" for variant in variants.split(",")]
    if not all(path.exists() for path in made):
        extra = ["--calibration", str(photos)] if photos else []
        _compress("export", str(net), "-o", str(folder), "--variants", variants, "--size", str(SIZE), "--force", *extra)


def _plain(source: Path, target: Path) -> None:
    """Through our own converter, with no rewrite: what the rewrites alone are worth."""
    if target.exists():
        return
    model = reading.read(source)[-1].model
    shapes = {port.name: (1, 3, SIZE, SIZE) for port in onnx.inputs_of(model)}
    graph = onnx.specialised(model, shapes)
    outputs = tuple(port.name for port in onnx.outputs_in(graph))
    job = tflite.Job(graph.SerializeToString(), tuple(shapes), outputs, (VARIANTS["fp32"],), strict=True)
    with child.scratch_folder() as folder:
        made = tflite.convert(job, folder)["fp32"]
        if isinstance(made, tflite.Failure):
            sys.exit(f"the converter refused {source.name}: {made.reason}\n{made.log}")
        target.write_bytes(made.read_bytes())


def _stock(source: Path, target: Path) -> None:
    if target.exists():
        return
    (port,) = onnx.inputs_of(reading.read(source)[-1].model)
    script = Path(__file__).with_name("stock_onnx2tf.py")
    print(f"onnx2tf alone on {source.name} ...", flush=True)
    argv = [sys.executable, str(script), str(source), str(target), f"{port.name}:1,3,{SIZE},{SIZE}"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def _compress(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "compress", *arguments], check=True)


if __name__ == "__main__":
    main()
