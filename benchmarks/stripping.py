"""The strip beside Torch-Pruning: the same networks, the same dead channels, what each removes, how exactly, and how fast.

    python benchmarks/stripping.py [--only NAME ...] [--rounds 3] [-o benchmarks/records/]

Networks: the strangers of the tests, with the number of channels that can go counted by hand. Each twice: half of the channels
`zeroed` in all that writes them, and `shifted`: biases and norm shifts left as they were, as network slimming and filter pruning
leave them, so that a dead channel is a constant.

Torch-Pruning gets every help: it is told which channels are dead, layer by layer, and along which axis bare parameters lie; a
group on which it fails, that it calls unprunable, or after which the network no longer runs, is undone and left out, and named.
It does not claim to be exact; how far the output moves is what a user sees before fine-tuning. Writes stripping.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lines
import torch
import torch_pruning
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the networks, which lie with the tests

from compress.channels.graph import trace  # noqa: E402
from compress.channels.strip import strip  # noqa: E402
from tests.stranger_cases import STRANGERS, Stranger, made, zero_  # noqa: E402
from tests.test_strip_strangers import widths_of  # noqa: E402

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass
class Done:
    """`faults`: layer or step -> what went wrong there; the rest was done without it. `module`: None when nothing is left."""

    module: nn.Module | None
    seconds: float
    faults: dict[str, str] = field(default_factory=dict)


Tool = Callable[[nn.Module, Stranger], Done]


def ours(net: nn.Module, case: Stranger) -> Done:
    """`compress.strip`, its own proof included."""
    start = time.perf_counter()
    try:
        done = strip(net, case.inputs())
    except Exception as error:  # the same measure for both
        return Done(None, time.perf_counter() - start, {"strip": _said(error)})
    seconds = time.perf_counter() - start
    whole = [space for space in done.report.spaces if space.reason and space.before == space.after]
    kept = {space.name: _short(space.reason) for space in whole if "an output" not in space.reason}
    return Done(done.module, seconds, kept)


def theirs(net: nn.Module, case: Stranger) -> Done:
    """Torch-Pruning, starting again without each group that it cannot do. `seconds`: of the last attempt alone."""
    faults: dict[str, str] = {}
    while True:
        try:
            return Done(*_attempt(net, case, faults), faults)
        except _Failed as failed:
            faults[failed.layer] = failed.said
            if failed.layer == "build_dependency":
                return Done(None, 0.0, faults)


class _Failed(Exception):  # noqa: N818  (no error of ours: where an attempt ended)
    def __init__(self, layer: str, said: str) -> None:
        self.layer, self.said = layer, said


def _attempt(net: nn.Module, case: Stranger, without: dict[str, str]) -> tuple[nn.Module, float]:
    net, inputs = copy.deepcopy(net).requires_grad_(True), tuple(case.inputs())  # it traces by autograd
    start = time.perf_counter()
    try:
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(net, inputs, unwrapped_parameters=_bare(net))
    except Exception as error:  # whatever it is, it is what is measured
        raise _Failed("build_dependency", _said(error)) from error
    spent = time.perf_counter() - start
    for name, layer in net.named_modules():
        if name in without or not isinstance(layer, LAYERS):
            continue
        start = time.perf_counter()
        try:
            dead = _dead(layer)
            group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, dead) if dead else None
            if group is not None and not graph.check_pruning_group(group):
                raise ValueError("check_pruning_group says no")
            if group is not None:
                group.prune()
            spent += time.perf_counter() - start
            if group is not None:
                _run(net, inputs)
        except Exception as error:
            raise _Failed(name, _said(error)) from error
    return net, spent


def _dead(layer: nn.Module) -> list[int]:
    """Output channels whose weights are all zero."""
    weight = layer.weight.detach()
    weight = weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight
    return torch.nonzero(weight.flatten(1).abs().sum(1) == 0).flatten().tolist()


def _bare(net: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters of no layer, and the axis along which their channels lie: the first that is longer than one."""
    known = (*LAYERS, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
    bare = [p for module in net.modules() if not isinstance(module, known) for p in module.parameters(recurse=False)]
    return [(parameter, next(axis for axis, size in enumerate(parameter.shape) if size > 1)) for parameter in bare]


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """Four lines: two kinds of dead channels, two tools."""
    case, found = STRANGERS[name], []
    for kind in ("zeroed", "shifted"):
        net = made(case)
        whole = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        zero_(net, case, trace(net, case.inputs()))
        if kind == "shifted":
            _shift_back(net, whole)
        _run(net, case.inputs())  # without gradients: the old kind of weight norm can be copied then
        before = widths_of(net)
        could = sum(before.values()) - sum(case.widths.values())
        tools: dict[str, Tool] = {"compress strip": ours, "Torch-Pruning": theirs}
        samples: dict[str, list[float]] = {tool: [] for tool in tools}
        for number in range(rounds):
            for tool, run in tools.items():
                done = run(net, case)
                samples[tool].append(done.seconds)
                if number == rounds - 1:
                    line = {"network": name, "dead": kind, "tool": tool, "could": could, "seconds": samples[tool]}
                    found.append({**line, **_outcome(net, done, case), "faults": done.faults})
    return found


def _outcome(net: nn.Module, done: Done, case: Stranger) -> dict[str, Any]:
    """`removed`: channels that layers write no more. `gap`: largest difference, as a share of the output's range, in float64."""
    if done.module is None:
        return {"removed": 0, "gap": None}
    worst = 0.0
    for size in case.sizes:
        wanted, found = _run(net, case.inputs(size)), _run(done.module, case.inputs(size))
        worst = max(worst, float((wanted - found).abs().max() / (wanted.max() - wanted.min())))
    return {"removed": sum(widths_of(net).values()) - sum(widths_of(done.module).values()), "gap": worst}


@torch.no_grad()
def _shift_back(net: nn.Module, whole: dict[str, Tensor]) -> None:
    for name, parameter in net.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.copy_(whole[name])


@torch.no_grad()
def _run(net: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    return net(*inputs)


def _said(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")


def _short(text: str) -> str:
    return textwrap.shorten(text, 120, placeholder=" ...")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=STRANGERS, help="this network; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "benchmarks" / "records")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    context = {**lines.context("torch", "torch-pruning"), "measure": "stripping", "threads": options.threads}
    found = []
    for name in options.only or STRANGERS:
        for line in measure(name, options.rounds):
            gap = "does not run" if line["gap"] is None else f"off by {line['gap']:.0e}"
            print(f"{name}, {line['dead']}, {line['tool']}: {line['removed']} of {line['could']}, {gap}, {line['faults'] or ''}")
            found.append({**context, **line})
    lines.write(options.output / "stripping.jsonl", found)


if __name__ == "__main__":
    main()
