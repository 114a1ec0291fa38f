"""Give a freshly built module the widths of a stripped one: set the recorded attributes, resize the tensors, nothing else.

The record says per module what shapes alone do not: a grouped convolution 16 -> 12 has the same weight shape whether one group
went or one filter of each; a non-affine InstanceNorm has no tensor at all; a bias can have been added. The record stays with
the module (`record_of`), so that saving it needs nothing more. Never here: deciding what goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.channels.fold import FOLDED, computed, fold_owner_
from compress.channels.record import Record, note, record_of
from compress.errors import CheckpointError, NetworkError

# The only attributes that a file may set on a module, with the type that each must have.
ATTRIBUTES: dict[str, tuple[type, ...]] = {
    "in_channels": (int,),
    "out_channels": (int,),
    "groups": (int,),
    "num_features": (int,),
    "num_channels": (int,),
    "num_groups": (int,),
    "in_features": (int,),
    "out_features": (int,),
    "num_parameters": (int,),
    "normalized_shape": (list, tuple),
}
ADDED_BIAS = "added_bias"  # in a module's record: it had `bias=None`, now it has one

__all__ = ["ADDED_BIAS", "ATTRIBUTES", "Record", "check_fit", "load_strictly", "rebuild", "record_of"]


def rebuild(module: nn.Module, record: Record, shapes: Mapping[str, torch.Size]) -> nn.Module:
    """Resize `module` in place, and return it; its new tensors hold nothing yet: load weights next.

    `record`: module name -> attributes. `shapes`: tensor name -> shape, as in the checkpoint.
    Raises CheckpointError when the record names a module or an attribute that there is not, or contradicts the shapes.
    """
    modules = dict(module.named_modules(remove_duplicate=False))  # a shared module is shrunk under each of its names
    done: dict[int, tuple[Tensor, Tensor]] = {}  # tied tensors stay tied; the old one is kept, so that no other gets its id
    for name, entry in record.items():
        target = modules.get(name)
        if target is None:
            raise CheckpointError(f"the checkpoint shrinks a module {name!r} that the network does not have")
        _set_attributes(target, name, entry, shapes)
        for kind in (target._parameters, target._buffers):
            for local, tensor in list(kind.items()):
                shape = shapes.get(f"{name}.{local}" if name else local)
                if tensor is not None and shape is not None and shape != tensor.shape:
                    kind[local] = done.setdefault(id(tensor), (tensor, _resized(tensor, shape)))[1]
        _check_consistent(target, name)
    note(module, record)
    return module


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Load every tensor into its place. Raises NetworkError that names the first ones that do not fit; nothing is skipped."""
    check_fit(module, tensors)
    module.load_state_dict(dict(tensors))
    return module


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise NetworkError unless `tensors` has exactly the names and shapes of `module`, which may be on the meta device."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    odd = sorted(name for name in wanted.keys() & tensors.keys() if wanted[name] != tensors[name].shape)
    if missing or unexpected or odd:
        parts = [f"{label} {_few(names)}" for label, names in (("missing", missing), ("unexpected", unexpected)) if names]
        parts += [f"{n} is {tuple(tensors[n].shape)}, must be {tuple(wanted[n])}" for n in odd[:2]]
        raise NetworkError(f"weights do not fit the network: {'; '.join(parts)}", "check --network and --args")


def _set_attributes(module: nn.Module, name: str, entry: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> None:
    for attribute, value in entry.items():
        if attribute == FOLDED and _are_tensors(value, module):
            fold_owner_(module)
        elif attribute == ADDED_BIAS and _is_width(value) and shapes.get(f"{name}.bias") == (value,):
            like = module.weight
            assert isinstance(like, Tensor)
            module.register_parameter("bias", nn.Parameter(torch.zeros(value, dtype=like.dtype, device=like.device)))
        elif attribute not in ATTRIBUTES or not hasattr(module, attribute) or not _is_allowed(attribute, value):
            raise CheckpointError(f"the checkpoint sets {attribute}={value!r:.60} on {name!r}: not understood")
        else:
            setattr(module, attribute, tuple(value) if isinstance(value, list) else value)


def _are_tensors(names: object, module: nn.Module) -> bool:
    """Names of tensors that the module computes, or has as they are."""
    known = {*computed(module), *module._parameters, *module._buffers}
    return isinstance(names, list | tuple) and all(isinstance(name, str) and name in known for name in names)


def _is_allowed(attribute: str, value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return list in ATTRIBUTES[attribute] and all(map(_is_width, value))
    return int in ATTRIBUTES[attribute] and _is_width(value)


def _is_width(value: object) -> bool:
    return type(value) is int and 1 <= value < 1 << 31


def _check_consistent(module: nn.Module, name: str) -> None:
    """What torch would only notice when the module runs, and then in words of its own."""
    expected: tuple[int, ...]
    if isinstance(module, nn.modules.conv._ConvNd):
        divided = module.in_channels % module.groups == 0 and module.out_channels % module.groups == 0
        first, second = module.out_channels, module.in_channels
        if module.transposed:
            first, second = second, first
        expected = (first, second // module.groups) if divided else ()
    elif isinstance(module, nn.Linear):
        expected = (module.out_features, module.in_features)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        expected = (module.num_features,)
    else:
        return
    weight = module.weight
    if weight is not None and tuple(weight.shape[:2]) != expected:
        raise CheckpointError(f"the checkpoint's record of {name!r} contradicts its weight of shape {tuple(weight.shape)}")


def _resized(tensor: Tensor, shape: torch.Size) -> Tensor:
    empty = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
