"""Where two files of one network part: layer by layer, how near the output of each is to the same layer of the float file.

Up to the float file all stages agree (parity.py stops an export where they do not), so this is where a quantised one goes wrong.
Both run in a child process, on kernels that keep every inner tensor. Never here: the outputs of the network (parity.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export import child, flatbuffer, runtime
from export.quantise import WEIGHTED
from export.runtime import Tensor

APART_DB = 30.0  # below this a layer's output is visibly another one
_MOST_DB = 150.0


@dataclass(frozen=True)
class LayerGap:
    """`number`: of the weighted operator, from 0, in the order in which they run. `db`: 20 log10 of the range of the float file's
    output by the root of the mean squared difference, over all samples; at most 150.
    """

    number: int
    kind: str
    name: str
    db: float


def explain(reference: Path, other: Path, samples: Sequence[Mapping[str, Tensor]], seconds: float) -> tuple[LayerGap, ...]:
    """The layers of `other` held against those of the float file `reference`. `samples`: name -> array, as the files take them.

    Raises child.ChildError when the files do not run, or do not have the same layers.
    """
    with child.scratch_folder() as folder:
        flat = {f"{n}/{name}": array for n, sample in enumerate(samples) for name, array in sample.items()}
        np.savez(folder / "explain.npz", **flat)  # type: ignore[arg-type]
        paths = [str(path.resolve()) for path in (reference, other)]
        child.run([*child.module("export.explain"), *paths, str(len(samples))], folder, seconds)
        return tuple(LayerGap(**row) for row in json.loads((folder / "explained.json").read_text()))


def first_apart(gaps: Sequence[LayerGap]) -> LayerGap | None:
    """The first layer whose output is another one; None when all are near."""
    return next((gap for gap in gaps if gap.db < APART_DB), None)


def _explain_here(reference: Path, other: Path, count: int) -> None:
    """The other side of `explain`, in the child's scratch folder."""
    layers = [_layers(path) for path in (reference, other)]
    if [kind for kind, _ in layers[0]] != [kind for kind, _ in layers[1]]:
        raise ValueError(f"the files have other layers: {len(layers[0])} and {len(layers[1])}")
    with np.load("explain.npz") as arrays:
        names = sorted({key.partition("/")[2] for key in arrays})
        samples = [{name: arrays[f"{n}/{name}"] for name in names} for n in range(count)]
    pairs = zip(*(runtime.watch(path, samples) for path in (reference, other)), strict=True)
    squares, lows, highs = np.zeros(len(layers[0])), np.full(len(layers[0]), np.inf), np.full(len(layers[0]), -np.inf)
    for wanted, found in pairs:
        for number, ((_, own), (_, its)) in enumerate(zip(*layers, strict=True)):
            a, b = _pair(wanted[own], found[its])
            squares[number] += float(np.square(a - b).mean()) / count
            lows[number], highs[number] = min(lows[number], a.min()), max(highs[number], a.max())
    gaps = [LayerGap(n, kind, name, _db(squares[n], highs[n] - lows[n])) for n, (kind, name) in enumerate(layers[0])]
    Path("explained.json").write_text(json.dumps([asdict(gap) for gap in gaps]))


def _layers(path: Path) -> list[tuple[str, str]]:
    """(kind, name of the output) of every weighted operator, in order."""
    graph = flatbuffer.Graph.of(path.read_bytes())
    return [(op.kind, graph.name(op.outputs[0])) for op in graph.ops if op.kind in WEIGHTED]


def _pair(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if a.shape != b.shape:
        raise ValueError(f"a layer makes {a.shape} in one file and {b.shape} in the other")
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def _db(square: float, span: float) -> float:
    if not square or not span:
        return _MOST_DB
    return round(min(_MOST_DB, float(20 * np.log10(span / np.sqrt(square)))), 1)


if __name__ == "__main__":
    _explain_here(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
