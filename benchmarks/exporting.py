"""What `compress export` makes of one network beside what onnx2tf and litert-torch make of it alone: latency, PSNR, memory, and
how long it takes to make the files.

    python benchmarks/exporting.py [--converter-python PYTHON] [--photos DIR]
    python benchmarks/exporting.py --sizes 512,1024 [...]          the same at larger sizes, into the same records
    python benchmarks/exporting.py --quick -o /tmp/records         does it work at all?

Files are made in --work, and each time anew: making them is measured, too. Writes export.jsonl; lines of other sizes stay in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lines
import numpy as np
import onnx
import psutil
from floor import floor_of

from android_bench.record import read_records
from compress.demo_photos import HELD_ASIDE, TRAINED_ON, copy_photos
from compress.networks.load import open_network
from export import onnx as graphs
from export import parity, runtime
from export.samples import Samples, gather
from export.source import Source, from_network

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
ALL = "fp32,fp16,dynamic,int8,mixed,int16x8"
KEPT = "fp32,dynamic,int8,mixed"
_EVERY_S = 0.05  # between two looks at a process's memory


@dataclass(frozen=True)
class Plan:
    """How much is measured at one size. `makings`: times that files are made by the clock."""

    makings: int
    rounds: int
    samples: int
    photos: int


PLANS = {256: Plan(2, 7, 10, 16), 512: Plan(1, 5, 10, 4), 1024: Plan(1, 3, 5, 2)}
QUICK = Plan(1, 2, 2, 2)


@dataclass(frozen=True)
class Bench:
    """One size. `folder`: for its files. `litert_torch`: a Python that has it, or None."""

    network: Path
    size: int
    plan: Plan
    folder: Path
    photos: Path
    threads: int
    litert_torch: Path | None

    @property
    def mark(self) -> str:
        return f"{self.size}x{self.size}"

    def ours(self, variant: str, folder: str = "kept") -> Path:
        return self.folder / folder / f"{self.network.stem}_{self.mark}_{variant}.tflite"

    def file(self, role: str) -> Path:
        """Where the file of a role lies while it is timed: a record knows files by name."""
        return self.folder / f"{role}.tflite"

    def lines(self) -> list[dict[str, Any]]:
        """Make every file, and measure."""
        source = from_network(self.network, open_network(self.network), [(self.size, self.size)])
        samples = gather(source.inputs[0], self.photos, 0, self.plan.photos)
        found = self._makings(source, samples)
        found += self._kept()
        self._floor()
        if self.litert_torch:
            found += self._by_litert_torch()
        found += self._distances(source, samples)
        return found + self._latencies()

    def _makings(self, source: Source, samples: Samples) -> list[dict[str, Any]]:
        """Every variant by us and fp32 by onnx2tf, in turns, by the clock; then, untimed, onnx2tf's quantised files."""
        export = [sys.executable, str(HERE / "timed_export.py"), str(self.network), *self._options("timed", ALL)]
        onnx_file = self.folder / "timed" / f"{self.network.stem}.onnx"
        (spec,) = source.inputs[0]
        shape = f"{spec.name}:{','.join(map(str, spec.shape))}"
        stock = [sys.executable, str(HERE / "stock_onnx2tf.py"), str(onnx_file), str(self.file("stock_fp32")), shape]
        seen: dict[str, list[tuple[float, int]]] = {"ours": [], "onnx2tf": []}
        for _ in range(self.plan.makings):
            seen["ours"].append(watched(export, {0, 1}))  # 1: there are no files of what was left out
            seen["onnx2tf"].append(watched(stock))
        calibration = self.folder / "calibration.npy"
        np.save(calibration, np.concatenate([one[spec.name].transpose(0, 2, 3, 1) for one in samples.calibration]))
        watched([*stock[:3], str(self.file("stock")), shape, str(calibration)])
        return [
            {"measure": "making", "role": role, "seconds": [s for s, _ in own], "peak_bytes": [b for _, b in own]}
            for role, own in seen.items()
        ]

    def _kept(self) -> list[dict[str, Any]]:
        """Our files with mixed among them; the PSNR of each is what the export itself found."""
        rows = _exported(self.network, *self._options("kept", KEPT))
        for row in rows:
            shutil.copy(row["path"], self.file(f"ours_{row['variant']}"))
        return [{"measure": "distance", "role": f"ours_{row['variant']}", "psnr_db": row["parity"]["psnr_db"]} for row in rows]

    def _floor(self) -> None:
        model = onnx.load(self.folder / "kept" / f"{self.network.stem}.onnx")
        (port,) = graphs.inputs_of(model)
        path = self.folder / "floor.onnx"
        onnx.save(floor_of(graphs.specialised(model, {port.name: (1, 3, self.size, self.size)})), path)
        (row,) = _exported(path, *self._options("floor", "fp32"), "--image-format", "0..1")
        shutil.copy(row["path"], self.file("floor_fp32"))

    def _by_litert_torch(self) -> list[dict[str, Any]]:
        """litert-torch alone by the clock; and with our rewrites."""
        assert self.litert_torch
        alone = [str(self.litert_torch), str(HERE / "stock_litert_torch.py"), str(self.network)]
        seconds, peak = watched([*alone, str(self.file("litert_torch_fp32")), str(self.size)], paths=ROOT)
        chosen = ["--backend", "litert-torch", "--converter-python", str(self.litert_torch)]
        rows = _exported(self.network, *self._options("litert_torch", "fp32,dynamic"), *chosen)
        for row in rows:
            shutil.copy(row["path"], self.file(f"ours_by_litert_torch_{row['variant']}"))
        making = {"measure": "making", "role": "litert_torch", "seconds": [seconds], "peak_bytes": [peak]}
        return [making, *(
            {"measure": "distance", "role": f"ours_by_litert_torch_{row['variant']}", "psnr_db": row["parity"]["psnr_db"]}
            for row in rows
        )]  # fmt: skip

    def _distances(self, source: Source, samples: Samples) -> list[dict[str, Any]]:
        """Of files that others made, on the same photos."""
        given = [source.given(sample) for sample in samples.compared]
        roles = ["stock_fp32", "stock_dynamic", "stock_int8", *(["litert_torch_fp32"] if self.litert_torch else [])]
        found = []
        for role in roles:
            (name,) = (port.name for port in runtime.load(self.file(role)).inputs)
            taken = [{name: next(iter(one.values())).transpose(0, 2, 3, 1)} for one in samples.compared]
            results = runtime.run_apart(self.file(role), taken, 3600).results
            ours = [[result[0].transpose(0, 3, 1, 2)] for result in results]
            distance = parity.compare(role, given, ours, source.formats)
            found.append({"measure": "distance", "role": role, "psnr_db": distance.psnr_db})
        return found

    def _latencies(self) -> list[dict[str, Any]]:
        files = sorted(path for path in self.folder.glob("*.tflite") if path.name != "stock.tflite")
        records = self.folder / "records.jsonl"
        _compress(
            "bench", *map(str, files), "--threads", str(self.threads), "--rounds", str(self.plan.rounds),
            "--samples", str(self.plan.samples), "-o", str(records), "--force",
        )  # fmt: skip
        found = read_records(records)
        return [{"measure": "latency", "role": Path(r.artifact).stem, "record": r.to_json()} for r in found]

    def _options(self, folder: str, variants: str) -> list[str]:
        return [
            "-o", str(self.folder / folder), "--variants", variants, "--size", str(self.size), "--calibration", str(self.photos),
            "--photos", str(self.plan.photos), "--force", "--json",
        ]  # fmt: skip


def watched(
    argv: Sequence[str], good: set[int] | frozenset[int] = frozenset({0}), paths: Path | None = None
) -> tuple[float, int]:
    """Run to the end: seconds, and the most resident bytes of the process and all its children, added up.

    What several of them share is counted for each. `paths`: for another Python, the one place where it finds modules of ours.
    """
    environment: Mapping[str, str] = os.environ if paths is None else {**os.environ, "PYTHONPATH": str(paths)}
    print(" ".join(Path(word).name for word in argv[1:4]), "...", file=sys.stderr, flush=True)
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:  # a pipe that nobody reads would fill
        process = psutil.Popen(argv, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        while process.poll() is None:
            peak = max(peak, _resident(process))
            with suppress(psutil.TimeoutExpired):
                process.wait(_EVERY_S)
        seconds = time.perf_counter() - began
        said.seek(0)
        if process.returncode not in good:
            end = said.read().decode(errors="replace")[-3000:]
            sys.exit(f"{' '.join(argv)} ended with {process.returncode}:\n{end}")
    return seconds, peak


def _resident(process: psutil.Process) -> int:
    total = 0
    with suppress(psutil.NoSuchProcess):  # one that has just ended
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    return total


def _exported(file: Path, *options: str) -> list[dict[str, Any]]:
    """What `compress export --json` says of each variant."""
    found: list[dict[str, Any]] = json.loads(_compress("export", str(file), *options))["artifacts"]
    return found


def _compress(*arguments: str) -> str:
    command = [sys.executable, "-m", "compress", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    options = _parser().parse_args()
    work = options.work.absolute()
    photos = options.photos.absolute() if options.photos else copy_photos((*TRAINED_ON, *HELD_ASIDE), work / "photos")
    litert_torch = options.converter_python.absolute() if options.converter_python else None
    output = options.output / "export.jsonl"
    packages = ("torch", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert")
    for size in [64] if options.quick else options.sizes:
        folder = work / str(size)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan = QUICK if options.quick else PLANS[size]
        about = {
            "network": options.network.name,
            "sha256": lines.sha256(options.network),
            "size": size,
            "threads": options.threads,
        }
        bench = Bench(options.network.absolute(), size, plan, folder, photos, options.threads, litert_torch)
        context = {**lines.context(*packages), **about}
        found = [{**context, **line} for line in bench.lines()]
        others = [line for line in lines.read(output) if line["size"] != size] if output.exists() else []
        lines.write(output, sorted([*others, *found], key=lambda line: int(line["size"])))
    report(lines.read(output))


def report(found: list[dict[str, Any]]) -> None:
    from tables import export_targets_of

    print(export_targets_of(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", type=Path, default=ROOT / "compress" / "models" / "wave.safetensors")
    parser.add_argument("--converter-python", type=Path, help="a Python that has litert-torch")
    parser.add_argument("--photos", type=Path, help="folder; else those of scikit-image")
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[256], help="of 256,512,1024")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="64x64, hardly measured")
    parser.add_argument("--work", type=Path, default=ROOT / ".scratch" / "exporting", help="where files are made")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    return parser


if __name__ == "__main__":
    main()
