"""The toolkit in memory, for your own training loop: `compress.load`, `save`, `plan`, `apply`, `hold_masks`, `strip`.

Each is one call of the part that does the work. Never here: anything that those parts do not do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from compress import checkpoint
from compress.channels.export import check_tensors
from compress.channels.fold import fold_, folded, is_computed, unwrapped
from compress.channels.strip import Stripped
from compress.channels.strip import strip as strip_module
from compress.errors import NetworkError, UsageError
from compress.files import check_output
from compress.image_format import ImageFormat
from compress.networks.foreign import load_foreign
from compress.networks.load import NetOptions, build, call, open_network, snapshot
from compress.pruning import masks
from compress.pruning import plan as plans
from compress.pruning.masks import HeldMasks
from compress.pruning.plan import Plan
from compress.pruning.target import Amount, Target
from compress.spec import ModelSpec, Shape

Factory = Callable[..., nn.Module]
Example = Tensor | Sequence[Tensor]


def load(network: str | Factory, file: str | Path, **arguments: Any) -> nn.Module:
    """The network in `file`, with its weights and with the widths it was stripped to; eval mode, float32, on the CPU.

    `network`: a registered name, or the factory that makes it (a class or a function). `arguments`: for the factory, where the
    file does not say them (a foreign state dict). Raises CheckpointError, and NetworkError when the file holds another network or
    one that no longer computes what was saved.

    >>> import compress
    >>> from torch import nn
    >>> def net(width=16):
    ...     return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
    >>> compress.save(net(24), "dense.safetensors", net, {"width": 24})
    >>> compress.load(net, "dense.safetensors")[0]
    Conv2d(3, 24, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    if isinstance(network, str):
        return open_network(Path(file), NetOptions(network, arguments or None)).module
    if not checkpoint.is_ours(Path(file)):
        tensors = checkpoint.read_foreign(Path(file))
        return load_foreign(call(network, _name_of(network), arguments), tensors).eval()
    found = checkpoint.read(Path(file))
    if found.spec.network != _name_of(network):
        raise NetworkError(
            f"{file} holds {found.spec.network!r}, not {_name_of(network)!r}", "give the factory it was saved with"
        )
    if arguments and arguments != found.spec.arguments:
        raise NetworkError(f"{file} was saved with arguments {found.spec.arguments}, not {arguments}")
    return build(found, network)


def save(
    module: nn.Module,
    file: str | Path,
    network: str | Factory,
    arguments: Mapping[str, Any] | None = None,
    *,
    examples: Sequence[Shape] = ((1, 3, 256, 256),),
    image_format: str | None = None,
    force: bool = False,
) -> None:
    """Write `module`, whole or not at all, so that `load` and every command can open it; what shrank in it is kept.

    `network`, `arguments`: what builds it at full width. `examples`: an input shape each. `image_format`: how pixels become its
    input and its output pixels (`0..1`, `imagenet` ...), None when it makes no pictures. `force`: replace a file that exists.
    Raises OutputError, and NetworkError for NaN in the weights.

    >>> import compress
    >>> from compress.networks.johnson import Johnson
    >>> compress.save(Johnson(width=8), "small.safetensors", "johnson", {"width": 8}, image_format="imagenet")
    >>> compress.load("johnson", "small.safetensors").out.in_channels
    8
    """
    path = check_output(Path(file), force=force)
    name = network if isinstance(network, str) else _name_of(network)
    form = ImageFormat.parse(image_format) if image_format else None
    spec = ModelSpec(name, dict(arguments or {}), tuple(map(tuple, examples)), (form,) * len(examples), (form,))
    checkpoint.write(path, snapshot(unwrapped(module), spec))


def plan(module: nn.Module, example: Example, **target: Any) -> Plan:
    """Decide what goes, and touch nothing. One of: `sparsity=0.9` (single weights); `ratio=0.5`, `macs="25%"`,
    `params=400_000`, `widths={"0": 16}` (channels; also `rank`, `multiple`, see `compress.pruning.target.Target`).

    `example`: an input, or a sequence of them. Weights that are made of others (weight norm) count as what they make. Raises
    UsageError, PlanError, TraceError.

    >>> import compress, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 5, 3))
    >>> example = torch.rand(1, 3, 32, 32)
    >>> {name: len(gone) for name, gone in compress.plan(net, example, ratio=0.5, multiple=4).channels.items()}
    {'0': 12}
    >>> compress.plan(net, example, sparsity=0.9).zeros, round(0.9 * (24 * 3 * 9 + 5 * 24 * 9))
    (1555, 1555)
    """
    for name in ("macs", "params"):
        if target.get(name) is not None and not isinstance(target[name], Amount):
            target[name] = Amount.parse(str(target[name]))
    return plans.plan(folded(module), _examples(example), Target(**target))


def apply(module: nn.Module, plan: Plan) -> None:
    """Set to zero, in place, what `plan` names: single weights, or all that writes the channels. Removes nothing (`strip` does).

    Weights that are made of others (weight norm, spectral norm, masks) become plain first; an optimizer that is there already
    goes on with them.

    Raises PlanError, with nothing touched, when the plan was made for another network.

    >>> import compress, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    >>> compress.apply(net, compress.plan(net, torch.rand(1, 10), sparsity=0.75))
    >>> sum(int((layer.weight == 0).sum()) for layer in (net[0], net[2]))
    225
    """
    module = unwrapped(module)
    if is_computed(module):
        plans.apply(folded(module), plan)  # what it refuses leaves the module as it is
        fold_(module)
    plans.apply(module, plan)


def hold_masks(module: nn.Module, optimizer: Optimizer, plan: Plan | None = None) -> HeldMasks:
    """Keep at zero, through each step of `optimizer`, what is zero now: momentum and weight decay cannot revive it.

    With `plan`: exactly what it names, channels too. Without: every zero in the weights of convolutions and linear layers.
    Returns a handle: `remove()` lets go; it also works as a context manager.

    >>> import compress, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    >>> compress.apply(net, compress.plan(net, torch.rand(1, 10), sparsity=0.75))
    >>> optimizer = torch.optim.Adam(net.parameters(), 0.01)
    >>> with compress.hold_masks(net, optimizer):
    ...     for step in range(3):
    ...         optimizer.zero_grad()
    ...         net(torch.rand(8, 10)).square().mean().backward()
    ...         _ = optimizer.step()
    >>> sum(int((layer.weight == 0).sum()) for layer in (net[0], net[2]))
    225
    """
    return masks.hold_masks(unwrapped(module), optimizer, plan)


def strip(module: nn.Module, example: Example, **known: Any) -> Stripped:
    """Remove the channels that are zero, constant or read by nobody; the result computes the same, at every input size.

    Both networks are run and compared before anything is returned. Returns `module`, new and smaller, and `report`. `known`: what
    else a proof may rest on (`ranges`, `max_size`), or what was only seen (`observed`, `threshold`), as for
    `compress.channels.strip.strip`. Raises TraceError, ParityError, UsageError.

    >>> import compress, torch
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 5, 3)).eval()
    >>> example = torch.rand(1, 3, 32, 32)
    >>> compress.apply(net, compress.plan(net, example, ratio=0.5))
    >>> small = compress.strip(net, example).module
    >>> small[0].out_channels, torch.allclose(small(example), net(example), atol=1e-5)
    (16, True)
    """
    return strip_module(module, _examples(example), **known)


def _examples(example: Example) -> tuple[Tensor, ...]:
    """Raises TraceError for what are no tensors."""
    examples = (example,) if isinstance(example, Tensor) else example
    check_tensors(examples)
    return tuple(examples)


def _name_of(factory: Factory) -> str:
    """`package.module:factory`, as a checkpoint records it. Raises UsageError for what is no function and no class."""
    if not hasattr(factory, "__qualname__"):
        raise UsageError(f"a {type(factory).__name__} is no factory of networks", "a class, or a function that makes one")
    return f"{factory.__module__}:{factory.__qualname__}"
