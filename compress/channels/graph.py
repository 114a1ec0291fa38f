"""The channel spaces of a network: which channels must stay aligned, and which axis of which tensor holds them.

In: a module and examples. Out: a `ChannelGraph`, plain data about the module's structure; it holds no weights.
Never here: what an operator means (operators/), what is constant or read (facts.py), removal (strip.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from compress.channels import export
from compress.channels.cost import Cost, Layer, Sizes
from compress.channels.labels import Array
from compress.channels.operators import HANDLERS
from compress.channels.spaces import Binding, ChannelSpace, assemble
from compress.channels.steps import Joint, Linear, Opaque, Step
from compress.channels.walk import Balance, Unknown, Walk

__all__ = ["Binding", "ChannelGraph", "ChannelSpace", "trace"]


@dataclass(frozen=True)
class ChannelGraph:
    """`spaces`: those that weights write, in the order of the network. `not_understood`: operators that keep their channels.

    The rest is for the analysis: `steps` in order; `labels`: tensor of the graph -> its label array, in units (labels.py);
    `axes`: (tensor of the module, axis) -> unit of each position; `reasons`: for each unit why it may not go, or None;
    `grids`: channels laid over two axes, (rows, columns): the code keeps the rows, so whole columns go (align.py);
    `bundles`: unit -> channel, as the spaces number them.
    """

    spaces: tuple[ChannelSpace, ...]
    not_understood: tuple[Unknown, ...]
    steps: tuple[Step, ...]
    labels: Mapping[str, Array]
    axes: Mapping[tuple[str, int], Array]
    groups: Mapping[str, int]
    data: Mapping[str, str]
    balances: tuple[Balance, ...]
    grids: tuple[Array, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cancels: frozenset[str]
    reasons: tuple[str | None, ...]
    bundles: Array
    space_of: Array  # unit -> number of its class of units that share all places; every space is one or more classes
    sizes: Sizes

    def space(self, name: str) -> ChannelSpace:
        """Raises KeyError that lists what there is."""
        if name not in self._by_name:
            raise KeyError(f"no channel space {name!r}; there are {', '.join(self._by_name)}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, ChannelSpace]:
        return {space.name: space for space in self.spaces}

    def rows(self, space: ChannelSpace, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """For each weight (of a convolution or linear layer) that writes the space: (width, -1), what writes each channel.

        A channel that the weight does not write has zeros.
        """
        found = []
        for writer in (writer for writer in space.writers if writer.role == "weight"):
            part = _along(tensors[writer.tensor].detach(), writer)[writer.index].flatten(1)
            found.append(part.new_zeros(space.width, part.shape[1]).index_copy_(0, writer.channels, part))
        return found

    @torch.no_grad()
    def zero_(self, module: nn.Module, channels: Mapping[str, Sequence[int]]) -> None:
        """Zero every parameter that writes these channels (weights, biases, norm scale and shift), in place.

        `channels`: space name -> positions in the space, 0 <= position < width. A strip then removes exactly these, if their
        numbers are equal in each group of the space. Where zero becomes something else on the way (a sigmoid, a norm without
        scale), it is a constant, which a bias takes over, or one of the channels stays to carry through zero padding.
        """
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for name, positions in channels.items():
            chosen = torch.as_tensor(list(positions), dtype=torch.long)
            for writer in self.space(name).writers:
                hit = torch.isin(writer.channels, chosen)
                if writer.tensor in parameters and hit.any():
                    _zero(parameters[writer.tensor], writer, writer.index[hit].flatten())

    def predict(self, removed: Mapping[str, int]) -> Cost:
        """Parameters and MACs (for the example's size) when so many channels of each space are gone, equally in each group."""
        for name, count in removed.items():
            width = self.space(name).width
            if not 0 <= count < width:
                raise ValueError(f"cannot remove {count} of {width} channels of {name}")
        return self.sizes.cost(self.sizes.after(removed))


def trace(module: nn.Module, examples: Sequence[Tensor]) -> ChannelGraph:
    """Trace `module` (in eval mode; it is left as it is) on example inputs, and find its channel spaces.

    The graph holds at every input size that the module takes. Raises TraceError: the examples do not fit, or torch.export
    cannot follow the code.
    """
    return of_program(export.program(module, examples), module)


def of_program(program: ExportedProgram, module: nn.Module) -> ChannelGraph:
    """As `trace`, for those who have the program (`export.program(module, examples)`) and need it for more."""
    walk = Walk(program, module, HANDLERS)
    units = walk.labels.settle()
    axes = {site: units(labels) for site, labels in walk.axes.items()}
    labels = {name: units(array) for name, array in walk.labels_of.items()}
    grids = walk.settle_grids(units)
    balances = tuple(replace(balance, blocks=units(balance.blocks)) for balance in walk.balances)
    classes, spaces = assemble(walk, units)
    return ChannelGraph(
        spaces=spaces,
        not_understood=tuple(dict.fromkeys(walk.unknown)),
        steps=tuple(walk.steps),
        labels=labels,
        axes=axes,
        groups=walk.groups,
        data=walk.data,
        balances=balances,
        grids=grids,
        inputs=walk.inputs,
        outputs=walk.outputs,
        cancels=frozenset(walk.cancels),
        reasons=units.reasons,
        bundles=units.bundles,
        space_of=classes[units.bundles],
        sizes=_sizes(walk, spaces, module),
    )


def _sizes(walk: Walk, spaces: Sequence[ChannelSpace], module: nn.Module) -> Sizes:
    held: dict[tuple[str, int], dict[str, Fraction]] = {}
    for space in spaces:
        for binding in space.bindings:
            counts = held.setdefault((binding.tensor, binding.axis), {})
            counts[space.name] = counts.get(space.name, Fraction()) + Fraction(binding.index.numel(), space.width)
    parameters = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    layers = tuple(Layer(s.weight, s.groups, s.positions) for s in walk.steps if isinstance(s, Linear))
    opaque = [step for step in walk.steps if isinstance(step, Opaque | Joint)]
    return Sizes(
        parameters=parameters,
        groups=walk.groups,
        held=held,
        layers=layers,
        fixed_macs=sum(step.macs or 0 for step in opaque),
        uncounted=tuple(dict.fromkeys(f"{s.op} in {s.module}" if s.module else s.op for s in opaque if s.macs is None)),
    )


def _along(tensor: Tensor, binding: Binding) -> Tensor:
    """The tensor as (length of the bound axis over all groups, the rest)."""
    if binding.axis == 1 and binding.groups > 1:
        return tensor.unflatten(0, (binding.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    return tensor.movedim(binding.axis, 0).reshape(tensor.shape[binding.axis], -1)


def _zero(tensor: Tensor, binding: Binding, positions: Tensor) -> None:
    if binding.axis == 1 and binding.groups > 1:
        width = tensor.shape[1]
        tensor.unflatten(0, (binding.groups, -1))[positions // width, :, positions % width] = 0
    else:
        tensor.movedim(binding.axis, 0)[positions] = 0
