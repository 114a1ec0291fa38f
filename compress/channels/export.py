"""From a module to the graph of its operators, by torch.export. What can go wrong there becomes one clear line.

Never here: what the operators mean.
"""

from __future__ import annotations

import copy
import linecache
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from compress.channels.walk import in_place, op_of
from compress.errors import TheirCode, TraceError, said_by

# What a user's forward, and torch.export on it, are known to raise.
RUN_ERRORS = (
    RuntimeError, TypeError, ValueError, AssertionError, LookupError, AttributeError, ArithmeticError, NotImplementedError,
)  # fmt: skip
_TORCH, _PYTHON = str(Path(torch.__file__).parent), str(Path(copy.__file__).parent)
_OURS = str(Path(__file__).parent.parent) + os.sep
_NAMED = re.compile(r'File "([^"]+)", line (\d+)')
_LONGEST = 200
_OUTPUTS = "tensors in tuples, lists and dicts are known; torch.export.register_dataclass makes a dataclass known"
_VIEWS = {
    "alias", "chunk", "detach", "expand", "flatten", "getitem", "narrow", "permute", "reshape", "select", "slice",
    "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


def program(module: nn.Module, examples: Sequence[Tensor], *, run: bool = True) -> ExportedProgram:
    """The exported program of `module` in eval mode; `module` is not touched. `run`: see first that it runs on the examples.

    Raises TraceError that names the line of the network's own code, where it is known.
    """
    module = copied(module).eval()
    check_tensors(examples)
    with torch.no_grad():
        with TheirCode(lambda error: _does_not_run(error, examples)):
            made = module(*examples) if run else examples
        if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(made)):
            raise TraceError(f"the network gives no tensor, but {type(made).__name__}", _OUTPUTS)
        with TheirCode(_not_traced), quiet():
            return _functional(torch.export.export(module, tuple(examples)))


def check_tensors(examples: object) -> None:
    """Raise TraceError for inputs that are no sequence of tensors with finite numbers in them."""
    given = examples if isinstance(examples, Sequence) else [examples]
    odd = [one for one in given if not isinstance(one, Tensor)]
    if odd:
        help = "wrap the network in one whose forward takes tensors"
        raise TraceError(f"inputs must be tensors, got a {type(odd[0]).__name__}", help)
    for one in (tensor for tensor in given if isinstance(tensor, Tensor)):
        if not one.numel() or not bool(one.isfinite().all()):
            what = "NaN or inf in it" if one.numel() else "no numbers in it"
            raise TraceError(f"an input of {_shape_of(one)} has {what}", "torch.rand makes one that serves")


def copied(module: nn.Module) -> nn.Module:
    """A deep copy; tensors that the module keeps of a run (the old weight norm's) come without their history.

    Raises TraceError for a module that cannot be copied.
    """
    check_ready(module)
    kept = [leaf for part in module.modules() for leaf in pytree.tree_leaves(dict(vars(part))) if isinstance(leaf, Tensor)]
    with TheirCode(lambda e: TraceError(f"the network cannot be copied: {said_by(e)}", "copy.deepcopy(module) must work")):
        return copy.deepcopy(module, {id(t): t.detach().clone() for t in kept if not t.is_leaf})


def check_ready(module: nn.Module) -> None:
    """Raise TraceError for a module that is no network to work on: scripted, lazy and never run, or without numbers."""
    scripted = [name for name, part in module.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        where = f" (here {scripted[0]})" if scripted[0] else ""
        raise TraceError(f"a scripted network cannot be traced{where}", "give the module that it was scripted from")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise TraceError(f"the network has no shapes yet: {name} is lazy", "run it once on an example where it is made")
        if tensor.is_meta:
            raise TraceError(f"the network has no numbers: {name} is on the meta device", "load its weights first")


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
def quiet() -> Iterator[None]:
    """torch.export logs, warns and prints at length about what it raises anyway; and the network's own prints come once more."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _does_not_run(error: BaseException, examples: Sequence[Tensor]) -> TraceError:
    shapes, place = ", ".join(map(_shape_of, examples)), place_of(error)
    said = said_by(error)[:_LONGEST] + (f", at {place}" if place else "")
    whole = "Long" in said and all(example.is_floating_point() for example in examples)
    help = "compress.strip(module, example) takes whole numbers, commands give fractions" if whole else None
    return TraceError(f"the network does not run on {shapes}: {said}", help or "--example gives its input shape")


def _not_traced(error: BaseException) -> TraceError:
    """What torch.export raised, in words for someone who wrote a network: what it could not do, where, and what helps."""
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        said, help = "it decides by the numbers in a tensor", "torch.where or a mask takes one way for every input"
        return TraceError(f"torch.export cannot follow the network: {said}", _at(error, help))
    if "known type" in text:
        return TraceError(f"torch.export does not know what the network gives: {said_by(error)[:_LONGEST]}", _OUTPUTS)
    help = "only torch operators on tensors can be traced; the rest belongs outside of forward"
    return TraceError(f"torch.export cannot follow the network: {said_by(error)[:_LONGEST]}", _at(error, help))


def _at(error: BaseException, help: str) -> str:
    place = place_of(error)
    return f"{place}  ({help})" if place else help


def _shape_of(example: object) -> str:
    return ("x".join(map(str, example.shape)) or "a number") if isinstance(example, Tensor) else f"a {type(example).__name__}"


def place_of(error: BaseException) -> str | None:
    """`net.py:42: if x.mean() > 0:`: the innermost line of the network's own code in the traceback of `error`, or in its words;
    of a library where there is no other; None where only torch and this program were at work."""
    frames = [(frame.filename, frame.lineno, frame.line or "") for frame in traceback.extract_tb(error.__traceback__)]
    named = [(file, int(line), linecache.getline(file, int(line))) for file, line in _NAMED.findall(str(error))]
    for found in (frames, named):
        theirs = [frame for frame in found if not frame[0].startswith((_TORCH, _OURS, "<"))]
        libraries = [frame for frame in theirs if "-packages" in frame[0]]
        own = [frame for frame in theirs if frame not in libraries and not frame[0].startswith(_PYTHON)]
        for file, line, code in reversed(own or libraries):
            return f"{Path(file).name}:{line}" + (f": {code.strip()}" if code.strip() else "")
    return None
