"""From a module to the graph of its operators, by torch.export. What can go wrong there becomes one clear line.

Never here: what the operators mean.
"""

from __future__ import annotations

import copy
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from compress.channels.walk import in_place, op_of
from compress.errors import TraceError

# What a user's forward, and torch.export on it, are known to raise.
RUN_ERRORS = (
    RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError, NotImplementedError,
)  # fmt: skip
_TORCH = str(Path(torch.__file__).parent)
_VIEWS = {
    "alias", "chunk", "detach", "expand", "flatten", "getitem", "narrow", "permute", "reshape", "select", "slice",
    "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


def program(module: nn.Module, examples: Sequence[Tensor]) -> ExportedProgram:
    """The exported program of `module` in eval mode; `module` is not touched. Raises TraceError."""
    module = copied(module).eval()
    with torch.no_grad():
        try:
            module(*examples)
        except RUN_ERRORS as error:
            shapes = ", ".join("x".join(map(str, example.shape)) for example in examples)
            raise TraceError(
                f"the network does not run on {shapes}: {_said(error)}", "--example gives its input shape"
            ) from error
        with _quiet():
            try:
                found = torch.export.export(module, tuple(examples))
                return _functional(found)
            except RUN_ERRORS as error:
                raise TraceError(f"torch.export cannot follow the network: {_said(error)}", _where(error)) from error


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; tensors that the module keeps of a run (the old weight norm's) come without their history.

    Raises TraceError for a module that cannot be copied.
    """
    check_ready(module)
    kept = [leaf for part in module.modules() for leaf in pytree.tree_leaves(dict(vars(part))) if isinstance(leaf, Tensor)]
    try:
        return copy.deepcopy(module, {id(t): t.detach().clone() for t in kept if not t.is_leaf})
    except RUN_ERRORS as error:
        raise TraceError(f"the network cannot be copied: {_said(error)}", "copy.deepcopy(module) must work") from error


def check_ready(module: nn.Module) -> None:
    """Raise TraceError for a module that is no network to work on: scripted, or lazy and never run."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise TraceError("a scripted network cannot be traced", "give the module that it was scripted from")
    if lazy := [name for name, t in (*module.named_parameters(), *module.named_buffers()) if is_lazy(t)]:
        raise TraceError(f"the network has no shapes yet: {lazy[0]} is lazy", "run it once on an example where it is made")


def _functional(found: ExportedProgram) -> ExportedProgram:
    """Without writes into views and without nested graphs; the program as it is when it has none."""
    if any(node.op == "get_attr" or _writes_into_view(node) for node in found.graph.nodes):
        return found.run_decompositions({})
    return found


def _writes_into_view(node: Node) -> bool:
    if not in_place(node) or not node.args or not isinstance(node.args[0], Node):
        return False
    return any(op_of(other) in _VIEWS for other in (node.args[0], *node.args[0].users))


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export logs and warns at length about what it raises anyway."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0][:200]}" if lines else type(error).__name__


def _where(error: BaseException) -> str | None:
    """The line of the network's own code at which the trace stopped."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_TORCH)]
    ours = [frame for frame in frames if Path(frame.filename) != Path(__file__) and not frame.filename.startswith("<")]
    if ours:
        return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}: {ours[-1].line}"
    named = [found for found in re.findall(r'File "([^"]+)", line (\d+)', str(error)) if not found[0].startswith(_TORCH)]
    return f"{Path(named[-1][0]).name}:{named[-1][1]}" if named else None
