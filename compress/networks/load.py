"""From a NET file to a module that runs, and back. The one place where a spec becomes a network.

A name in a file is built only when it is registered; a `package.module:factory` is called only when the caller gives it, and
must equal what the file says.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import checkpoint as checkpoints
from compress import networks
from compress.channels.export import check_ready, place_of
from compress.channels.fold import fold_, is_computed, unwrapped
from compress.channels.rebuild import check_fit, load_strictly, rebuild, record_of
from compress.checkpoint import Checkpoint
from compress.errors import NetworkError, TheirCode, UsageError, said_by
from compress.image_format import ImageFormat
from compress.memory import is_exhausted
from compress.networks import known_answer
from compress.networks.foreign import load_foreign
from compress.spec import ModelSpec, Shape

Factory = Callable[..., nn.Module]


@dataclass(frozen=True)
class NetOptions:
    """What the caller says of a NET: `--network`, `--args`, `--example`, `--image-format`. None: as the file says."""

    network: str | None = None
    arguments: dict[str, Any] | None = None
    examples: tuple[Shape, ...] = ()
    image_format: ImageFormat | None = None


@dataclass(frozen=True)
class LoadedNetwork:
    """`module` in eval mode, float32, on the CPU; `checkpoint` as read, with the caller's options in its spec."""

    module: nn.Module
    checkpoint: Checkpoint

    @property
    def spec(self) -> ModelSpec:
        return self.checkpoint.spec


def open_network(path: Path, options: NetOptions = NetOptions()) -> LoadedNetwork:
    """Read a checkpoint or a foreign state dict and build its network, with all its weights plain (see channels/fold.py).

    Raises CheckpointError, NetworkError.
    """
    path = Path(path)
    is_ours = checkpoints.is_ours(path)
    if is_ours:
        found = checkpoints.read(path)
        if options.network and options.network != found.spec.network:
            raise NetworkError(f"{path} holds {found.spec.network!r}, not {options.network!r}", "give the name it was made with")
        if options.arguments is not None and options.arguments != found.spec.arguments:
            raise NetworkError(f"{path} was made with --args {found.spec.arguments}, not {options.arguments}")
        if not found.spec.is_registered and not options.network:
            hint = f"--network {found.spec.network} runs that code: only where you know it"
            raise NetworkError(f"{path} needs code that it may not call by itself", hint)
    else:
        found = _recognised(path, options)
    found = replace(found, spec=_with_options(found.spec, options))
    module = build(found) if is_ours or found.spec.is_registered else load_foreign(new_module(found.spec), found.tensors).eval()
    if is_computed(module):
        fold_(module)
        checkpoints.check_finite(module.state_dict(), path)  # numbers that are finite can make one that is not
    return LoadedNetwork(module, found)


def build(checkpoint: Checkpoint, factory: Factory | None = None) -> nn.Module:
    """The module of a checkpoint, with its weights, in eval mode. `factory` overrides the spec's own. Raises NetworkError when
    the weights do not fit, or when it does not compute what was saved.

    A file's arguments are not trusted: a registered network is laid out on torch's meta device first, which holds no numbers,
    and gets memory only when every shape is that of a tensor in the file.
    """
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if factory or not checkpoint.spec.is_registered:
        module = new_module(checkpoint.spec, factory)
        check_ready(module)
        rebuild(module, checkpoint.modules, shapes)
    else:
        with torch.device("meta"):
            made = call(networks.get(checkpoint.spec.network).factory, checkpoint.spec.network, checkpoint.spec.arguments)
            module = rebuild(made, checkpoint.modules, shapes)
            check_fit(module, checkpoint.tensors)
            _try(module, checkpoint.spec)
        _allocate(module)
    load_strictly(module, checkpoint.tensors).eval()
    known_answer.check(module, checkpoint)
    return module


def new_module(spec: ModelSpec, factory: Factory | None = None) -> nn.Module:
    """A freshly initialised network of full width. Raises NetworkError when the factory refuses its arguments, or when they
    ask a registered network for more memory than the machine has.
    """
    if factory is None and spec.is_registered:
        factory = networks.get(spec.network).factory
        with torch.device("meta"):
            needed = sum(p.numel() * p.element_size() for p in call(factory, spec.network, spec.arguments).parameters())
        if needed > _memory_bytes():
            raise NetworkError(f"{spec.network} with --args {spec.arguments} needs {needed / 1e9:,.0f} GB", "a smaller width")
    return call(factory or find_factory(spec.network), spec.network, spec.arguments)


def call(factory: Factory, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """What `factory`, which messages call `name`, makes; without the wrappers of DataParallel and torch.compile.

    Raises NetworkError when it refuses its arguments, fails, or makes no module.
    """

    def refused(error: BaseException) -> NetworkError | None:
        at = f" ({':'.join(place.split(':')[:2])})" if (place := place_of(error)) else ""
        said = f"{name}{at} refuses --args {dict(arguments)}: {said_by(error)}"
        return None if is_exhausted(error) else NetworkError(said)

    with TheirCode(refused):
        module = factory(**arguments)
    if not isinstance(module, nn.Module):
        raise NetworkError(f"{name} made a {type(module).__name__}, not a torch module")
    return unwrapped(module)


def _try(module: nn.Module, spec: ModelSpec) -> None:
    """Run a meta module on its meta examples: widths that contradict each other show, and nothing is computed."""
    try:
        with torch.no_grad():
            module(*(torch.empty(shape) for shape in spec.examples))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = " ".join("x".join(map(str, shape)) for shape in spec.examples)
        raise NetworkError(f"{spec.network} does not run on {shapes}: {str(error).splitlines()[0]}", "check --example") from error


def _allocate(module: nn.Module) -> None:
    """Give every meta tensor of `module` memory on the CPU, its numbers to come; tied ones stay tied."""
    made: dict[int, torch.Tensor] = {}

    def on_the_cpu(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty_like(tensor, device="cpu")
            made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return made[id(tensor)]

    for owner in module.modules():
        places: tuple[dict[str, Any], ...] = (owner._parameters, owner._buffers)
        for place in places:
            place.update({name: on_the_cpu(tensor) for name, tensor in place.items() if tensor is not None})


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 36


def fresh_network(options: NetOptions, seed: int, like: Path | None = None) -> LoadedNetwork:
    """A network with fresh weights, full width, or with the widths of the NET file `like`; the same for the same seed.

    Raises UsageError when neither names a network, NetworkError when a module of `like` cannot be initialised again.
    """
    if like is not None:
        found = open_network(like, options)
        torch.manual_seed(seed)
        _reset(found.module)
        return LoadedNetwork(found.module, snapshot(found.module, found.spec))
    if not options.network:
        raise UsageError("no network is named", f"--network {'|'.join(networks.names())} or package.module:factory")
    spec = ModelSpec(options.network, options.arguments or {})
    if spec.is_registered:
        network = networks.get(spec.network)
        spec = replace(spec, examples=(network.example,), inputs=(network.format,), outputs=(network.format,))
    spec = _with_options(spec, options)
    torch.manual_seed(seed)
    module = new_module(spec).eval()
    return LoadedNetwork(module, snapshot(module, spec))


def find_factory(name: str) -> Factory:
    """A registered network's factory, or the object that `package.module:factory` names; the current folder is importable."""
    if ":" not in name:
        return networks.get(name).factory
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    help = f"a module, not a file: {module_name.removesuffix('.py')}:{attribute}" if module_name.endswith(".py") else None
    with TheirCode(lambda error: NetworkError(f"cannot import --network {name}: {said_by(error)}", help)):
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    if not callable(target):
        raise NetworkError(f"--network {name} is not callable")
    return target


def snapshot(module: nn.Module, spec: ModelSpec, history: tuple[Mapping[str, Any], ...] = ()) -> Checkpoint:
    """The checkpoint of a module as it is now: its tensors, what shrank in it, and an answer to know it by."""
    tensors = dict(copy.deepcopy(module.state_dict()))  # deepcopy, not clone: tied weights stay tied
    return Checkpoint(spec, tensors, record_of(module), history, known_answer.ask(module, spec))


def _reset(module: nn.Module) -> None:
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
        elif part._parameters:
            raise NetworkError(f"{name} ({type(part).__name__}) has no reset_parameters(): it cannot start afresh")


def _recognised(path: Path, options: NetOptions) -> Checkpoint:
    tensors = checkpoints.read_foreign(path)
    if options.network and ":" in options.network:
        return Checkpoint(ModelSpec(options.network, options.arguments or {}), tensors)
    for name in [options.network] if options.network else networks.names():
        network = networks.get(name)
        found = network.recognise(tensors)
        if found:
            arguments = {**found.arguments, **(options.arguments or {})}
            spec = ModelSpec(name, arguments, (network.example,), (found.format,), (found.format,))
            return Checkpoint(spec, found.tensors)
        if options.network:
            spec = ModelSpec(name, options.arguments or {}, (network.example,), (network.format,), (network.format,))
            return Checkpoint(spec, tensors)
    raise UsageError(f"{path} does not say which network it is", "--network NAME or --network package.module:factory")


def _with_options(spec: ModelSpec, options: NetOptions) -> ModelSpec:
    if options.examples:
        inputs = (*spec.inputs, *(None,) * len(options.examples))[: len(options.examples)]
        spec = replace(spec, examples=options.examples, inputs=inputs)
    if options.image_format:
        spec = replace(
            spec, inputs=(options.image_format,) * len(spec.examples), outputs=(options.image_format,) * len(spec.outputs)
        )
    return spec
