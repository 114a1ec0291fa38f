"""What a network costs: parameters and MACs (one multiply-add is one MAC), at the traced size, as it is or with channels gone.

Counted: convolutions, linear layers and matrix products; activations, norms and resizes count as nothing. What is not known is
named, never taken for zero. Never here: time, which is measured (benchmarks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod

from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """`uncounted`: operators whose multiply-adds are not in `macs`."""

    parameters: int
    macs: int
    uncounted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layer:
    """One use of a weight. `positions`: how often each of its numbers is used."""

    weight: str
    groups: int
    positions: int


@dataclass(frozen=True)
class Sizes:
    """`parameters`: name -> shape. `held`: (tensor, axis) -> how many positions a channel of each space takes
    there, on average over its groups."""

    parameters: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, int]
    held: Mapping[tuple[str, int], Mapping[str, Fraction]]
    layers: tuple[Layer, ...]
    fixed_macs: int
    uncounted: tuple[str, ...]

    def cost(self, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
        """With these shapes in place of the traced ones; parameters that were added count too."""
        shapes = {**self.parameters, **shapes}
        macs = sum(layer.positions * prod(shapes[layer.weight]) for layer in self.layers)
        return Cost(sum(map(prod, shapes.values())), macs + self.fixed_macs, self.uncounted)

    def after(self, removed: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters with so many channels of each space gone, equally in each group."""
        return {
            name: tuple(size - self._gone(name, axis, removed) for axis, size in enumerate(shape))
            for name, shape in self.parameters.items()
        }

    def _gone(self, tensor: str, axis: int, removed: Mapping[str, int]) -> int:
        gone = int(sum(each * removed.get(space, 0) for space, each in self.held.get((tensor, axis), {}).items()))
        groups = self.groups.get(tensor, 1)
        if axis != 1 or groups == 1:
            return gone
        return 0 if self._whole_groups(tensor, groups, removed) else gone // groups

    def _whole_groups(self, tensor: str, groups: int, removed: Mapping[str, int]) -> bool:
        """Depthwise: the groups themselves go, and a group keeps its size."""
        both = [set(self.held.get((tensor, axis), {})) for axis in (0, 1)]
        return bool(both[0] & both[1]) and self._one_each(tensor, groups)

    def _one_each(self, tensor: str, groups: int) -> bool:
        shape = self.parameters[tensor]
        return shape[1] == 1 or shape[0] == groups


def measure(module: nn.Module, examples: Sequence[Tensor]) -> Cost:
    """Parameters and MACs of `module` on `examples`. Raises TraceError."""
    from compress.channels.graph import trace

    return trace(module, examples).predict({})
