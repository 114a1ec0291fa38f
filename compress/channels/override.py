"""The network as given, but for some channels that are set to constants: what a removal by observation is exactly equal to.

The program is exported anew for each input size, and interpreted. Never here: which channels, which constants (evidence.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node

from compress.channels import export
from compress.channels.labels import Array
from compress.channels.observe import arguments_of
from compress.channels.walk import in_place


class Overridden(nn.Module):
    """`constants`: tensor of the graph -> value of each channel, in the shape of its label array; NaN where it stays as it is."""

    def __init__(self, module: nn.Module, constants: Mapping[str, Array]) -> None:
        super().__init__()
        self.inner = module
        self._constants = dict(constants)

    def forward(self, *inputs: Tensor) -> list[Any]:
        program = export.program(self.inner, [tensor.clone() for tensor in inputs], run=False)
        found = _Override(program, self._constants).run(*arguments_of(program, inputs))
        return list(found)[-len(program.graph_signature.user_outputs) :]


class _Override(fx.Interpreter):
    def __init__(self, program: ExportedProgram, constants: Mapping[str, Array]) -> None:
        super().__init__(program.graph_module)
        self._constants = constants

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.name not in self._constants:
            return value
        constant = torch.from_numpy(self._constants[n.name]).to(device=value.device)
        changed = torch.where(constant.isnan(), value, constant.to(value.dtype))
        return value.copy_(changed) if in_place(n) else changed
