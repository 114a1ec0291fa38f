"""Which single weights can be pruned: those of convolutions and linear layers. Biases and norms stay dense.

Never here: choosing among them (magnitude.py), channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class Prunable:
    """`tensors`: weight name -> the parameter itself, in the order of the network. `skipped`: what is a weight of a
    convolution or linear layer and yet cannot be pruned -> why.
    """

    tensors: Mapping[str, nn.Parameter]
    skipped: Mapping[str, str]

    @property
    def total(self) -> int:
        return sum(t.numel() for t in self.tensors.values())

    @property
    def zeros(self) -> int:
        return sum(zeros_in(t) for t in self.tensors.values())


def prunable_weights(module: nn.Module) -> Prunable:
    """The prunable weights of `module`; a weight that two layers share is counted once, under its first name.

    A weight that is computed (weight or spectral norm) has no zeros of its own to keep: it is skipped, and named.
    """
    tensors: dict[str, nn.Parameter] = {}
    skipped: dict[str, str] = {}
    seen: set[int] = set()
    for prefix, layer in module.named_modules(remove_duplicate=True):
        if not isinstance(layer, _ConvNd | nn.Linear):
            continue
        name = f"{prefix}.weight" if prefix else "weight"
        weight = layer._parameters.get("weight")
        if weight is None:
            skipped[name] = "is computed from other parameters (weight or spectral norm)"
        elif id(weight) not in seen:
            seen.add(id(weight))
            tensors[name] = weight
    return Prunable(tensors, skipped)


def zeros_in(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.count_nonzero())
