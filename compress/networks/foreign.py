"""A stranger's state dict for a user's class: the same tensors under the names that the class has for them.

What other tools add to names (wrappers, another style of the same parametrization) is taken off or exchanged; nothing is dropped,
nothing is guessed: the names must fit all together, or they stay, and loading them says which do not. Never here: reading files.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.utils import prune, spectral_norm, weight_norm

from compress.channels.export import check_ready, copied
from compress.channels.fold import fold_
from compress.channels.rebuild import load_strictly

Tensors = Mapping[str, Tensor]
_COUNTER = "num_batches_tracked"  # files from before torch 0.4.1 have none; it counts, and nothing is computed of it
# The older hooks' names of what a weight is made of, and those that torch.nn.utils.parametrizations gives the same tensors.
_STYLES = (("_g", "original0"), ("_v", "original1"), ("_orig", "original"), ("_u", "0._u"), ("_v", "0._v"))


def load_foreign(module: nn.Module, tensors: Tensors) -> nn.Module:
    """`module` with a state dict of another tool, loaded strictly.

    Where one of the two has a weight whole and the other in parts (weight norm, spectral norm, pruning masks), a copy with whole
    weights comes back. Raises NetworkError that names what does not fit, TraceError for a lazy or scripted network.
    """
    check_ready(module)
    named = named_for(module, tensors)
    if named.keys() != module.state_dict().keys():
        other = _in_parts_like(module, tensors)
        found = named_for(other, tensors)
        if found.keys() == other.state_dict().keys():
            fold_(load_strictly(other, found))
            return other
    return load_strictly(module, named)


def named_for(module: nn.Module, tensors: Tensors) -> dict[str, Tensor]:
    """`tensors` under the names of `module`, where there is one way to do it for all; else as they are."""
    wanted = module.state_dict().keys()
    counters = {name for name in wanted if name.endswith(_COUNTER)}
    for rename in _renames(wanted, tensors.keys()):
        named = {rename(name): tensor for name, tensor in tensors.items()}
        if len(named) == len(tensors) and named.keys() | counters == wanted:
            return {**{name: torch.tensor(0) for name in counters}, **named}
    return dict(tensors)


def _renames(wanted: Set[str], given: Set[str]) -> Iterator[Callable[[str], str]]:
    """The simplest first: as it is, wrappers inside off, an outer name off, an outer name on; each also in the other style."""
    ways: list[Callable[[str], str]] = [lambda name: name, lambda name: name.replace(".module.", ".")]
    ways += [lambda name, p=prefix: name.removeprefix(p) for prefix in _shared(given)]  # type: ignore[misc]
    ways += [lambda name, p=prefix: p + name for prefix in _shared(wanted)]  # type: ignore[misc]
    for way in ways:
        yield way
        yield lambda name, way=way: _in_style(way(name), wanted)  # type: ignore[misc]


def _shared(names: Set[str]) -> list[str]:
    """Leading parts that all names share, each with its dot: `model.`, `model.net.`."""
    first = min(names, default="").split(".")[:-1]
    return [prefix for prefix in accumulate(f"{part}." for part in first) if all(name.startswith(prefix) for name in names)]


def _in_style(name: str, wanted: Set[str]) -> str:
    old = _old_style(name)
    owner, _, local = name.rpartition(".")
    parts = [(local.removesuffix(suffix), part) for suffix, part in _STYLES if local.endswith(suffix)]
    new = [".".join(filter(None, (owner, "parametrizations", weight, part))) for weight, part in parts]
    return next((other for other in (old, *new) if other in wanted), name)


def _old_style(name: str) -> str:
    found = re.fullmatch(r"(?P<owner>(?:.*\.)?)parametrizations\.(?P<weight>\w+)\.(?P<part>.+)", name)
    suffix = next((suffix for suffix, part in _STYLES if found and found["part"] == part), None)
    return f"{found['owner']}{found['weight']}{suffix}" if found and suffix else name


def _in_parts_like(module: nn.Module, tensors: Tensors) -> nn.Module:
    """A copy of `module` whose weights are whole, but for those that `tensors` has in parts: they get the older hooks."""
    module = copied(module)
    fold_(module)
    places = [
        (layer, local, f"{name}.{local}" if name else local)
        for name, layer in module.named_modules()
        for local, parameter in layer._parameters.items()
        if parameter is not None
    ]
    for prefix in ("", *_shared(tensors.keys())):
        parts = {_old_style(name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
        hooked = [_hook(layer, local, full, parts) for layer, local, full in places if full not in parts]
        if any(hooked):
            break
    return module


def _hook(layer: nn.Module, local: str, full: str, parts: Tensors) -> bool:
    rank = getattr(layer, local).dim()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older hooks are deprecated; they are gone again when the weights are loaded
        if f"{full}_mask" in parts and f"{full}_orig" in parts:
            prune.identity(layer, local)
        elif f"{full}_g" in parts and f"{full}_v" in parts and parts[f"{full}_g"].dim() in (0, rank):
            weight_norm(layer, local, _axis(parts[f"{full}_g"]))
        elif f"{full}_u" in parts and f"{full}_orig" in parts and rank > 1:
            spectral_norm(layer, local)
        else:
            return False
    return True


def _axis(lengths: Tensor) -> int:
    """The one that weight norm has a length for each position of; -1 when there is one length for all."""
    return next((axis for axis, size in enumerate(lengths.shape) if size > 1), 0 if lengths.dim() else -1)
