"""Make computed weights plain: weight norm, spectral norm, any parametrization, pruning masks. Exact: the value in eval mode.

A computed weight is no parameter of its network; it is made of others before each run, by `torch.nn.utils.parametrize` or by the
older hooks (`weight_g`, `weight_v`, `weight_orig`, `weight_u`, `weight_mask`). Here it becomes the parameter its layer wants,
and what made it goes. The module's record says so, and a fresh module is folded in the same way before weights are loaded.

Never here: hooks of other kinds (they stay), resizing (rebuild.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook, SpectralNormStateDictHook
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from compress.channels.export import check_ready, copied
from compress.channels.record import note, record_of

FOLDED = "folded"  # in a module's record: names of its tensors that its factory computes, and that are plain now
Hook = WeightNorm | SpectralNorm | BasePruningMethod
_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)
_VERSIONS = (SpectralNormStateDictHook, SpectralNormLoadStateDictPreHook)
_SOURCES = ("_g", "_v", "_orig", "_u", "_mask")  # what the hooks make a weight of, after its name


def computed(owner: nn.Module) -> tuple[str, ...]:
    """Names of the tensors of this very module that are computed, the last one made first."""
    hooked = [_target(hook) for hook in owner._forward_pre_hooks.values() if isinstance(hook, _HOOKS)]
    parametrised = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
    return tuple(reversed([*parametrised, *hooked]))


def is_computed(module: nn.Module) -> bool:
    """True when `module`, or a module in it, has a computed tensor."""
    return any(computed(owner) for owner in module.modules())


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside `torch.nn.DataParallel`, its distributed kin, or what `torch.compile` made; else `module` itself."""
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def folded(module: nn.Module) -> nn.Module:
    """`module` itself, without wrappers, when all its weights are plain; else a copy where they are, and whose record says which
    were not. Raises TraceError for a network that is scripted, lazy, or cannot be copied."""
    module = unwrapped(module)
    check_ready(module)
    if not is_computed(module):
        return module
    module = copied(module)
    fold_(module)
    return module


def fold_(module: nn.Module) -> None:
    """Make every computed weight of `module` plain, in place, and note it in the module's record.

    Of the tensors that a weight was made of, the one of its own shape becomes the weight: an optimizer that had it keeps it.
    """
    owners = dict(module.named_modules())
    used = Counter(id(tensor) for owner in owners.values() for tensor in owner._parameters.values())
    once = {number for number, count in used.items() if count == 1}
    names = {name: fold_owner_(owner, once) for name, owner in reversed(owners.items()) if computed(owner)}  # innermost first
    left, before = dict(module.named_modules()), record_of(module)
    entries = {}
    for name in (name for name in names if name in left):
        entry = before.get(name, {})
        there = {*left[name]._parameters, *left[name]._buffers}
        entries[name] = {**entry, FOLDED: sorted(there & {*names[name], *entry.get(FOLDED, ())})}
    if entries:
        note(module, entries)


@torch.no_grad()
def fold_owner_(owner: nn.Module, reusable: Collection[int] = ()) -> tuple[str, ...]:
    """Make the computed tensors of this very module plain, in place; returns their names. `reusable`: ids of parameters that may
    become one of them."""
    found = computed(owner)
    for hook in reversed([hook for hook in owner._forward_pre_hooks.values() if isinstance(hook, _HOOKS)]):
        value, sources = _without_hook(owner, hook)
        _put(owner, _target(hook), value, sources, reusable)
    if parametrize.is_parametrized(owner):
        for name, (value, sources) in _without_parametrizations(owner).items():
            _put(owner, name, value, sources, reusable)
    return found


def _inner(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return module.module
    compiled = getattr(module, "_orig_mod", None)
    return compiled if isinstance(compiled, nn.Module) else None


def _put(owner: nn.Module, name: str, value: Tensor, sources: Sequence[Tensor], reusable: Collection[int]) -> None:
    parameters = [source for source in sources if isinstance(source, nn.Parameter)]
    if not parameters:
        owner.register_buffer(name, value)
        return
    fits = (
        p for p in parameters if id(p) in reusable and (p.shape, p.dtype, p.device) == (value.shape, value.dtype, value.device)
    )
    made = next(fits, None)
    if made is None:
        made = nn.Parameter(value, any(p.requires_grad for p in parameters))
    else:
        made.data = value
    setattr(owner, name, made)  # not register_parameter: recurrent layers keep a list of their weights


def _without_parametrizations(owner: nn.Module) -> dict[str, tuple[Tensor, list[Tensor]]]:
    """Each parametrised tensor: its value, and what it was made of. torch's own removal would take the property from the class,
    which copies of the module share, and write into tensors that other layers may share."""
    found = {}
    for name, made in owner.parametrizations.items():  # type: ignore[union-attr, operator]
        made.eval()
        sources = [tensor for tensor in (*made._parameters.values(), *made._buffers.values()) if tensor is not None]
        found[name] = (getattr(owner, name).detach().clone(), sources)
    owner.__class__ = type(owner).__bases__[0]
    del owner.parametrizations
    return found


def _without_hook(owner: nn.Module, hook: Hook) -> tuple[Tensor, list[Tensor]]:
    name, training = _target(hook), owner.training
    owner.training = False  # spectral norm would learn from being asked
    hook(owner, ())  # what lies there may be of before the weights were loaded
    owner.training = training
    value = getattr(owner, name).detach().clone()
    for hooks in (owner._forward_pre_hooks, owner._state_dict_hooks, owner._load_state_dict_pre_hooks):
        for number in [number for number, other in hooks.items() if _belongs(other, hook)]:
            del hooks[number]
    delattr(owner, name)
    return value, list(_taken(owner, name))


def _belongs(other: Any, hook: Hook) -> bool:
    """True for `hook` itself, and for what spectral norm adds to say its version in state dicts."""
    other = getattr(other, "hook", other)  # torch wraps those for loading
    return other is hook or (isinstance(other, _VERSIONS) and other.fn is hook)


def _taken(owner: nn.Module, name: str) -> Iterator[Tensor]:
    """What the weight was made of, taken out of its layer."""
    for suffix in _SOURCES:
        for place in (owner._parameters, owner._buffers):
            tensor = place.pop(name + suffix, None)
            if tensor is not None:
                yield tensor


def _target(hook: Hook) -> str:
    return str(hook._tensor_name) if isinstance(hook, BasePruningMethod) else str(hook.name)
