"""`mixed`: eight-bit layers, but for those that this hurts most, found by measuring. In a child process, like all of TensorFlow.

Layers that read or write pixels stay in dynamic range: eight bits gain nothing there. Each other layer is made eight-bit alone,
and what that costs is measured. Then the most sensitive ones are left in dynamic range, one more at a time, until the file is
good enough. Norms always stay in float. What is chosen depends on pictures and weights, never on a clock, so the same network
gives the same bytes; the time it takes is measured afterwards, and told.

Never here: quantising (quantise.py), parity of the file that is written (parity.py).
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import ConversionError
from export import child, metadata, quantise, runtime, tflite
from export.quantise import Layer
from export.runtime import Runner, Tensor
from export.variants import REFERENCE

COMMAND = child.module("export.mixed")
FLOAT_FILE, FILE, SAID = f"{REFERENCE}.tflite", "mixed.tflite", "mixed.json"
_ROUNDS = 15


@dataclass(frozen=True)
class Point:
    """One mix. `dynamic`: how many layers are in dynamic range, the first ones of `Search.order`. `db`: PSNR of pictures (peak
    255); of other outputs the same with their range as peak.
    """

    dynamic: int
    db: float


@dataclass(frozen=True)
class Search:
    """`order`: the layers, those of pixels first, the others by sensitivity, the worst first. `points`: what was tried, up to the
    one chosen, and all in dynamic range. `x_dynamic`: latency of the choice by that of all in dynamic range: median of the
    ratios of runs that take turns in one process.
    """

    order: tuple[str, ...]
    points: tuple[Point, ...]
    chosen: Point
    x_dynamic: float

    @property
    def dynamic(self) -> tuple[str, ...]:
        """The layers that were left in dynamic range."""
        return self.order[: self.chosen.dynamic]

    def to_json(self) -> dict[str, Any]:
        """What a card keeps: the choice and what it was made by, without the time, which differs from run to run."""
        return {key: value for key, value in asdict(self).items() if key != "x_dynamic"}


def search(folder: Path, samples: Sequence[Mapping[str, Tensor]], least_db: float, seconds: float) -> Search:
    """Write the mixed file into `folder`, where the float file lies, with what it says of itself, and the ranges of its
    activations. `samples`: name -> array, as the file takes them; on these the mixes are held against the float file.

    Raises child.ChildError: no mix is good enough, or the quantiser refuses.
    """
    arrays = {f"{n}/{name}": array for n, sample in enumerate(samples) for name, array in sample.items()}
    np.savez(folder / "mixed_in.npz", **arrays)  # type: ignore[arg-type]
    (folder / "mixed_job.json").write_text(json.dumps({"samples": len(samples), "least_db": least_db}))
    child.run(COMMAND, folder, seconds)
    value = json.loads((folder / SAID).read_text())
    points = tuple(Point(**point) for point in value["points"])
    return Search(tuple(value["order"]), points, Point(**value["chosen"]), float(value["x_dynamic"]))


class _Bench:
    """Makes mixes of one float file and measures them against it."""

    def __init__(self, samples: int) -> None:
        self._float = Path(FLOAT_FILE).read_bytes()
        self._ranges = quantise.read_ranges(Path(quantise.RANGES))
        self.layers = quantise.layers(self._float)
        runner = runtime.load(Path(FLOAT_FILE))
        with np.load("mixed_in.npz") as arrays:
            self._inputs = [[arrays[f"{n}/{port.name}"] for port in runner.inputs] for n in range(samples)]
        said = metadata.read(Path(FLOAT_FILE))
        known = dict(said.outputs) if said else {}
        self._formats = [known.get(port.name) for port in runner.outputs]
        self._wanted = [runner.run_tensors(tensors) for tensors in self._inputs]

    def make(self, dynamic: Collection[Layer], path: Path) -> Runner:
        """The file with these layers in dynamic range and all others in eight bits, at `path`, opened."""
        left = [node for layer in dynamic for node in layer.nodes]
        mixed = quantise.static(self._float, self._ranges, left, quantise.FLOAT_OPS)
        path.write_bytes(quantise.dynamic_weights(mixed))
        return runtime.load(path)

    def error(self, dynamic: Collection[Layer]) -> float:
        """Mean squared difference from the float file, as a share of the square of the peak."""
        runner = self.make(dynamic, Path("candidate.tflite"))
        found = [runner.run_tensors(tensors) for tensors in self._inputs]
        return max(self._error(index, found) for index in self._judged)

    @property
    def _judged(self) -> list[int]:
        """Of the outputs, the pictures; all, where there is none."""
        return [index for index, form in enumerate(self._formats) if form] or list(range(len(self._formats)))

    def _error(self, index: int, found: Sequence[Sequence[Tensor]]) -> float:
        form = self._formats[index]
        pairs = [(wanted[index], result[index]) for wanted, result in zip(self._wanted, found, strict=True)]
        if form:
            return float(np.mean([np.square(form.decode(a) - form.decode(b)).mean() for a, b in pairs])) / 255**2
        peak = max(float(np.ptp(a)) for a, _ in pairs) or 1.0
        return float(np.mean([np.square(a - b).mean() for a, b in pairs])) / peak**2

    def x_dynamic(self, chosen: Collection[Layer]) -> float:
        """Time of a mix by that of all layers in dynamic range."""
        files = [(chosen, Path(FILE)), (self.layers, Path("dynamic_all.tflite"))]
        calls = [self.make(layers, path).bound(self._inputs[0]) for layers, path in files]
        times: list[list[float]] = [[], []]
        for _ in range(_ROUNDS):
            for call, seen in zip(calls, times, strict=True):
                call()
                started = time.perf_counter()
                call()
                seen.append(time.perf_counter() - started)
        return statistics.median(mixed / dynamic for mixed, dynamic in zip(*times, strict=True))


def _search_here(job: Mapping[str, Any]) -> None:
    """The other side of `search`, in the child's scratch folder."""
    bench = _Bench(job["samples"])
    pixels = [layer for layer in bench.layers if layer.narrow]
    others = [layer for layer in bench.layers if not layer.narrow]
    harm = {layer: bench.error([other for other in bench.layers if other != layer]) for layer in others}
    order = [*pixels, *sorted(others, key=lambda layer: (-harm[layer], layer.name))]
    points = [Point(len(order), _db(bench.error(order)))]
    chosen = points[0]
    for count in range(len(pixels), len(order)):
        point = Point(count, _db(bench.error(order[:count])))
        points.append(point)
        if point.db >= job["least_db"]:
            chosen = point
            break
    if chosen.db < job["least_db"]:
        best = max(points, key=lambda point: point.db)
        raise ConversionError(f"no mix of layers reaches {job['least_db']:g} dB: the best has {best.db:.1f} dB")
    ratio = bench.x_dynamic(order[: chosen.dynamic])
    Path(FILE).with_name(f"{Path(FILE).stem}{tflite.GPU_SUFFIX}").write_text(json.dumps(tflite.gpu_refusals(FILE)))
    found = Search(tuple(layer.name for layer in order), tuple(sorted(points, key=lambda p: p.dynamic)), chosen, ratio)
    Path(SAID).write_text(json.dumps(asdict(found)))


def _db(error: float) -> float:
    """Error as a share of the squared peak -> dB, at most 120."""
    return float(-10 * np.log10(max(error, 1e-12)))


if __name__ == "__main__":
    _search_here(json.loads(Path("mixed_job.json").read_text()))
