"""Distillation: a teacher shows what the outputs should be, and where the channels are known, the features on the way.

Photos are all that it needs: no labels, no loss network. Feature maps are compared channel by channel with those of the teacher
that the student kept, so nothing has to be learned only to be thrown away (no adapters). Never here: choosing channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import NetworkError, UsageError
from compress.image_format import ImageFormat
from compress.networks import pixels
from compress.networks.run import picture_of


@dataclass(frozen=True)
class DistillationConfig:
    """`output_weight`: of the mean squared difference of outputs, pixels on the 0..1 scale. `feature_weight`: of the part of
    the teacher's features that the student's miss, 0..1, mean over maps. 0 turns a term off.
    """

    output_weight: float = 1.0
    feature_weight: float = 0.3

    def __post_init__(self) -> None:
        for name in ("output_weight", "feature_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name.replace('_', ' ')} must be a number >= 0, got {getattr(self, name)}")
        if not self.output_weight and not self.feature_weight:
            raise UsageError("distillation with both weights 0 learns nothing")


@dataclass(frozen=True)
class FeatureMap:
    """The output of module `name` in both networks. `kept`: the teacher's channels that the student's are; None: all."""

    name: str
    kept: tuple[int, ...] | None = None


class Distillation(nn.Module):
    """An objective for training: (photos, outputs), RGB pixels (N, 3, H, W) on the 0..255 scale -> weighted terms.

    `formats`: of the teacher's input and output; the student's may differ. `maps`: the features to compare; the student is
    watched through hooks, until `close`. Raises UsageError when no term is left.
    """

    def __init__(
        self,
        teacher: nn.Module,
        formats: tuple[ImageFormat, ImageFormat],
        config: DistillationConfig = DistillationConfig(),
        student: nn.Module | None = None,
        maps: Sequence[FeatureMap] = (),
    ) -> None:
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.formats, self.config = formats, config
        self.maps = tuple(maps) if config.feature_weight and student is not None else ()
        if not self.maps and not config.output_weight:
            raise UsageError(
                "there is nothing to compare: no features of the two networks are known to be the same", "--output-weight 1"
            )
        self._theirs: dict[str, Tensor] = {}
        self._ours: dict[str, Tensor] = {}
        self._hooks = []
        if student is not None:
            for network, found in ((teacher, self._theirs), (student, self._ours)):
                self._hooks += [_watch(network.get_submodule(m.name), m.name, found) for m in self.maps]

    def forward(self, photos: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """{"output", "features"}: each weighted; their sum is the loss. A term with weight 0 is left out."""
        with torch.no_grad():
            made = picture_of(self.teacher, pixels.encode(photos, self.formats[0]), "the teacher")
            wanted = pixels.decode(made.float(), self.formats[1])
        if wanted.shape != outputs.shape:
            raise NetworkError(
                f"the teacher makes {tuple(wanted.shape)} where the network makes {tuple(outputs.shape)}",
                "distillation needs a teacher with outputs of the same size",
            )
        terms = {}
        if self.config.output_weight:
            terms["output"] = self.config.output_weight * F.mse_loss(outputs / 255, wanted / 255)
        if self.maps:
            missed = [_share_missed(self._ours[m.name], self._theirs[m.name], m.kept) for m in self.maps]
            terms["features"] = self.config.feature_weight * torch.stack(missed).mean()
        return terms

    def close(self) -> None:
        """Stop watching the student."""
        for hook in self._hooks:
            hook.remove()
        self._ours.clear()
        self._theirs.clear()

    def facts(self) -> dict[str, Any]:
        """What a history entry says of this objective."""
        weights = {"output": self.config.output_weight, "features": self.config.feature_weight if self.maps else 0.0}
        return {"kind": "distillation", "weights": weights, "maps": [m.name for m in self.maps]}


def feature_maps(
    student: nn.Module, teacher: nn.Module, example: Tensor, kept: Mapping[str, tuple[int, ...]]
) -> tuple[FeatureMap, ...]:
    """The maps that can be compared: outputs of outer modules that both networks have, in the order in which they run.

    `kept`: module name -> the teacher's channels that are the student's; a module that is not there has all of them.
    `example`: an input for both, (N, C, H, W).
    """
    ours, theirs = (_block_shapes(network, example) for network in (student, teacher))
    maps = []
    for name, shape in list(ours.items())[:-1]:  # the last one makes the output, which is compared anyway
        wanted = theirs.get(name)
        if wanted is None or len(shape) != 4 or (shape[0], *shape[2:]) != (wanted[0], *wanted[2:]):
            continue
        channels = kept.get(name, tuple(range(wanted[1])))
        if len(channels) == shape[1] and channels[-1] < wanted[1]:
            maps.append(FeatureMap(name, channels if shape != wanted else None))
    return tuple(maps)


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The outer modules of a network that run by themselves: its children, with plain containers opened. By name."""
    found: dict[str, nn.Module] = {}

    def open_up(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                open_up(child, f"{prefix}{name}.")
            else:
                found[prefix + name] = child

    open_up(network, "")
    return found


def _block_shapes(network: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    outputs: dict[str, Tensor] = {}
    hooks = [_watch(block, name, outputs) for name, block in blocks(network).items()]
    was_training = network.training
    with torch.no_grad():
        network.eval()(example)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return {name: tuple(output.shape) for name, output in outputs.items()}


def _watch(module: nn.Module, name: str, found: dict[str, Tensor]) -> Any:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            found[name] = output

    return module.register_forward_hook(keep)


def _share_missed(ours: Tensor, theirs: Tensor, kept: tuple[int, ...] | None) -> Tensor:
    """Squared difference over the teacher's variance: 0 is the same map, 1 is as good as its mean."""
    wanted = theirs.float() if kept is None else theirs[:, list(kept)].float()
    return F.mse_loss(ours.float(), wanted) / wanted.var(unbiased=False).clamp_min(1e-8)
