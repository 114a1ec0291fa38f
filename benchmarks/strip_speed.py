"""What a strip costs, stage by stage: torch.export's time apart, then analysis, decision, cut, and the comparison at the end.

    python benchmarks/strip_speed.py -o benchmarks/records/

Half of the channels of every layer are zero, and go. Each network is stripped in a process of its own, so that its memory is its
own. Targets, besides torch.export and the comparison: 1 s for a ResNet-101, 5 s for 1,000 convolutions, and in proportion to the
operators.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lines
import torch
from torch import Tensor, nn

from compress.channels import export, facts, strip

ROOT = Path(__file__).resolve().parent.parent
OURS = ("graph", "facts", "decision", "cut")  # all but torch.export and the comparison
RAW = ("seconds", "peak_growth_bytes")  # one a round
TARGETS = {"ResNet-101": 1.0, "chain of 1,000": 5.0, "trunk of 1,000": 5.0}  # s


# -- the networks --------------------------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, into: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(into, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        changes = into != out or stride > 1
        self.skip = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.skip(x))


def resnet101() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    into = 64
    for stage, blocks in enumerate((3, 4, 23, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(into, 64 << stage, 2 if stage and not block else 1))
            into = 256 << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, 1000))


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    into = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(into, width, 3, padding=1), nn.ReLU()]
            into = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))


class Dense(nn.Module):
    """A DenseNet of one block: each layer reads all before it."""

    def __init__(self, layers: int, growth: int = 12) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, growth, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(growth * (n + 1), growth, 3, padding=1) for n in range(layers))
        self.leave = nn.Conv2d(growth * (layers + 1), 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [torch.relu(self.enter(x))]
        for layer in self.layers:
            found.append(torch.relu(layer(torch.cat(found, 1))))
        return self.leave(torch.cat(found, 1))


class Residual(nn.Module):
    """So many convolutions on one trunk: x = x + conv(relu(x))."""

    def __init__(self, layers: int, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(layers - 2))
        self.leave = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = x + 0.05 * layer(torch.relu(x))
        return self.leave(x)


def chain(layers: int, width: int = 16, groups: int = 1) -> nn.Module:
    inner = [part for _ in range(layers - 2) for part in (nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *inner, nn.Conv2d(width, 2, 1))


@torch.no_grad()
def still_half_(net: nn.Module, value: float = 0.0) -> nn.Module:
    """The first half of the channels of every layer but the last: no weights, and in the bias `value` or a little more."""
    layers = [layer for layer in net.modules() if getattr(layer, "weight", None) is not None]
    for layer in layers[:-1]:
        half = len(layer.weight) // 2
        layer.weight[:half] = 0
        if layer.bias is not None:
            layer.bias[:half] = torch.linspace(value, 1.5 * value, half)
    return net.eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # and the side of the example
    "ResNet-101": (lambda: still_half_(resnet101()), 64),
    "VGG-16": (lambda: still_half_(vgg16()), 64),
    "DenseNet, 200 layers": (lambda: still_half_(Dense(200)), 16),
    "chain of 250": (lambda: still_half_(chain(250)), 16),
    "chain of 500": (lambda: still_half_(chain(500)), 16),
    "chain of 1,000": (lambda: still_half_(chain(1000)), 16),
    "the same, in 4 groups": (lambda: still_half_(chain(1000, groups=4)), 16),
    "the same, constants not zero": (lambda: still_half_(chain(1000), 0.5), 16),
    "trunk of 1,000": (lambda: still_half_(Residual(1000)), 16),
}


# -- the stages ----------------------------------------------------------------------------------------------------------------


@dataclass
class Stages:
    """Seconds and peak memory (resident, of the process) of each stage, without the stages that it calls."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    after_export: int = 0
    _running: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._note()
        self._running.append(name)
        try:
            yield
        finally:
            self._note()
            self._running.pop()
            self.after_export = _resident("VmRSS") if name == "export" else self.after_export

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """From now on every call of `owner.attribute` is this stage."""
        function = getattr(owner, attribute)

        def watched(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        setattr(owner, attribute, watched)

    def _note(self) -> None:
        now = time.perf_counter()
        if self._running:
            name = self._running[-1]
            self.seconds[name] = self.seconds.get(name, 0) + now - self._since
            self.peak_bytes[name] = max(self.peak_bytes.get(name, 0), _resident("VmHWM"))
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._since = time.perf_counter()


def _resident(what: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since the peak began anew."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(what)).split()[1]) << 10


def measure(name: str) -> dict[str, Any]:
    """Strip one network once, here."""
    make, side = NETWORKS[name]
    torch.manual_seed(0)
    net, stages = make(), Stages()
    stages.watch(export, "program", "export")
    stages.watch(strip, "trace", "graph")
    stages.watch(facts, "find", "facts")
    stages.watch(strip, "decide", "decision")
    for part in ("__init__", "compare", "rounded"):
        stages.watch(strip.Witness, part, "comparison")
    with stages.stage("cut"):  # with the copies that it needs, and the report: all that is no other stage
        done = strip.strip(net, [torch.rand(1, 3, side, side)])
    assert not done.report.left_alone
    size = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    return {
        "name": name,
        "parameters": done.report.before.parameters,
        "bytes": size,
        "channels": sum(space.before for space in done.report.spaces),
        "removed": done.report.removed,
        "layers": sum(1 for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)),
        "seconds": stages.seconds,
        "peak_growth_bytes": {
            stage: peak - stages.after_export for stage, peak in stages.peak_bytes.items() if stage != "export"
        },
    }


def main() -> None:
    options = _parser().parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    context = {**lines.context("torch", "numpy"), "measure": "strip_speed", "threads": options.threads}
    found = []
    for name in options.only or NETWORKS:
        rounds = [_apart(name, options.threads) for _ in range(options.rounds)]
        found.append({**context, **{key: value for key, value in rounds[0].items() if key not in RAW}, **_raw(rounds)})
        print(_told(found[-1]), flush=True)
    lines.write(options.output / "strip_speed.jsonl", found)


def _apart(name: str, threads: int) -> dict[str, Any]:
    """One strip in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _raw(rounds: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [found[key] for found in rounds] for key in RAW}


def _told(line: dict[str, Any]) -> str:
    """One line for the terminal: the best round."""
    best = min(line["seconds"], key=lambda seconds: sum(seconds[stage] for stage in OURS))
    spent = sum(best[stage] for stage in OURS)
    target = f" (target {TARGETS[line['name']]:g})" if line["name"] in TARGETS else ""
    parts = ", ".join(f"{stage} {best[stage]:.2f}" for stage in (*OURS, "export", "comparison") if stage in best)
    growth = min(max(peaks.values()) for peaks in line["peak_growth_bytes"])
    return f"{line['name']}: {spent:.2f} s{target}; {parts}; memory + {growth / 1e6:.0f} MB, weights {line['bytes'] / 1e6:.0f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NETWORKS, help="this network alone; may be given again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    return parser


if __name__ == "__main__":
    main()
