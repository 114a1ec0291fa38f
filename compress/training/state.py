"""Everything that a training needs to go on exactly where it stopped, beside its checkpoint: `NET.state.safetensors`.

Tensors of the network, of the objective (adapters that are trained along), of the optimizer, and the random generators; the step
and what the training was asked to do as JSON. Never here: pickles.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from compress.errors import TrainingError
from compress.files import write_whole

_KEY = "mobile-compress-state"


def state_path(output: Path) -> Path:
    """`candy.safetensors` -> `candy.state.safetensors`, in the same folder."""
    return output.with_name(f"{output.stem}.state.safetensors")


def learned(network: nn.Module, objective: object) -> dict[str, Tensor]:
    """The live tensors that training changes: all of the network's, and what an objective trains along (its adapters)."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict(keep_vars=True).items()}
    if isinstance(objective, nn.Module):
        tensors |= {f"objective.{name}": p for name, p in objective.named_parameters() if p.requires_grad}
    return tensors


@dataclass(frozen=True)
class Moment:
    """Where a training is: `step` steps are done; `losses`: what is told of them, JSON values."""

    step: int
    losses: Mapping[str, Any] = field(default_factory=dict)


def save(path: Path, moment: Moment, plan: Mapping[str, Any], trained: Mapping[str, Tensor], optimizer: Optimizer) -> None:
    """Write the state of this moment. `trained`: as `learned` gives it. `plan`: what was asked, for `load`."""
    tensors = {f"model.{name}": t.detach().cpu().contiguous().clone() for name, t in trained.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    payload = to_bytes(tensors, {_KEY: json.dumps({**asdict(moment), "plan": plan}, sort_keys=True)})
    with write_whole(path) as partial:
        partial.write_bytes(payload)


def load(path: Path, plan: Mapping[str, Any], trained: Mapping[str, Tensor], optimizer: Optimizer) -> Moment:
    """Put a saved state back and return its moment. Raises TrainingError when there is none, or it is another training's."""
    tensors, header = _read(path)
    if header["plan"] != json.loads(json.dumps(plan)):
        asked = json.loads(json.dumps(plan))
        differs = sorted(k for k in {*asked, *header["plan"]} if header["plan"].get(k) != asked.get(k))
        raise TrainingError(
            f"{path} belongs to a training with other {', '.join(differs)}", "give the same options, or start again"
        )
    try:
        saved = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        if saved.keys() != trained.keys():
            raise KeyError(f"other tensors: {', '.join(sorted(saved.keys() ^ trained.keys())[:3])}")
        with torch.no_grad():
            for name, tensor in saved.items():
                trained[name].copy_(tensor)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        return Moment(int(header["step"]), dict(header["losses"]))
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise TrainingError(
            f"{path} does not fit this training: {str(error).splitlines()[0]}", "start again without --resume"
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise TrainingError(f"nothing to resume: there is no {path}", "start without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {})[_KEY])
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is damaged", "start again without --resume") from error
