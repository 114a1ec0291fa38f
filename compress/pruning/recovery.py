"""How a pruned network gets its quality back: the objective for its fine-tuning, and what must stay zero meanwhile.

Never here: the training loop, the losses themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.channels.graph import ChannelGraph, trace
from compress.losses.distillation import Distillation, DistillationConfig, FeatureMap, blocks, feature_maps
from compress.losses.perceptual import PerceptualLoss
from compress.networks.load import LoadedNetwork
from compress.pruning.iterative import Increments
from compress.pruning.schedules import starts
from compress.training.job import Job, Talk, picture_formats

Kept = Mapping[str, tuple[int, ...]]  # module name -> the channels of its output that stayed


def distil(student: LoadedNetwork, teacher: LoadedNetwork, config: DistillationConfig, kept: Kept | None) -> Distillation:
    """The objective in which `teacher` teaches `student`. `kept`: which of the teacher's channels are the student's; None: the
    two are no relatives, and outputs alone are compared. Raises NetworkError when one makes no picture of a picture.
    """
    picture_formats(student.spec)
    formats = picture_formats(teacher.spec)
    network = copy.deepcopy(teacher.module)
    maps: tuple[FeatureMap, ...] = ()
    if config.feature_weight and kept is not None:
        maps = feature_maps(student.module, network, torch.zeros(student.spec.examples[0]), kept)
    return Distillation(network, formats, config, student.module, maps)


def kept_by_history(student: LoadedNetwork, teacher: LoadedNetwork, teacher_sha256: str) -> Kept | None:
    """Which of the teacher's channels are the student's, if the student was pruned from that very file, once; else None."""
    entries = [entry for entry in student.checkpoint.history if entry.get("command") == "prune"]
    if len(entries) != 1 or entries[0].get("input", {}).get("sha256") != teacher_sha256:
        return None
    channels = entries[0].get("planned", {}).get("channels")
    if not channels:
        return {}
    graph = trace(teacher.module, tuple(torch.zeros(shape) for shape in teacher.spec.examples))
    return kept_outputs(teacher.module, graph, channels)


def kept_outputs(module: nn.Module, graph: ChannelGraph, channels: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """For each outer module of `module` (dense): the channels of its output that stay when `channels` (space name -> those
    that go) are removed. Its output is what its last parameter writes; where no space says so, the module is left out.
    """
    writers = {writer.tensor: space for space in graph.spaces for writer in space.writers if writer.index.shape[1] == 1}
    kept = {}
    for name, block in blocks(module).items():
        written = [f"{name}.{local}" for local, _ in block.named_parameters() if f"{name}.{local}" in writers]
        if written:
            space = writers[written[-1]]
            gone = set(channels.get(space.name, ()))
            kept[name] = tuple(channel for channel in range(space.width) if channel not in gone)
    return kept


def fine_tune(
    talk: Talk,
    loaded: LoadedNetwork,
    objective: Distillation | PerceptualLoss,
    job: Job,
    output: Path,
    entry: Mapping[str, Any],
    shares: Sequence[float] = (),
) -> dict[str, float]:
    """Train `loaded.module` in place and write it to `output`; zeros among its weights stay zero. Returns the losses.

    `shares`: of the total that are to be zero after each of so many equal parts of the training (see schedules.py).
    `entry`: what the history is to say. Raises what `Job.run` raises.
    """
    increments = dict(zip(starts(len(shares), job.config.steps), shares, strict=True)) if shares else {}
    try:
        return job.run(talk, loaded, objective, output, {**entry, "loss": objective.facts()}, Increments(increments))
    finally:
        if isinstance(objective, Distillation):
            objective.close()
