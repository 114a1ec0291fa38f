"""The options that all commands which learn share: `train`, `finetune`, `prune`. They arrive as configs, not as options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from compress.cli.common import PATH, Function

_OF_CONFIG = ("steps", "learning_rate", "precision", "device", "clip", "save_every")
_OF_JOB = ("images", "preview_every", "dtype", "resume")


def training_options(
    steps: int, rate: float = 1e-3, images_required: bool = True, size_option: str = "--size"
) -> Callable[[Function], Function]:
    """Add `--images --steps --size --batch ...`; the command gets them as `job: Job`.

    Where images are not required, `job` is None without them, and the command gets `dtype` and `resume` too.
    `size_option`: the name of the option for the side of a crop, where `--size` says something else.
    """
    options = (
        click.option("--resume", is_flag=True, help="Go on where a stopped run was."),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float16"]),
            default="float32",
            show_default=True,
            help="Of the written tensors.",
        ),
        click.option(
            "--preview-every",
            type=click.IntRange(0),
            default=250,
            show_default=True,
            help="Steps between preview sheets; 0: none.",
        ),
        click.option("--save-every", type=click.IntRange(1), default=250, show_default=True, help="Steps between saved states."),
        click.option("--clip", type=click.FloatRange(0), default=0.0, help="Largest gradient norm; 0: no limit."),
        click.option("--device", default="cpu", show_default=True, metavar="cpu|cuda", help="Where to train."),
        click.option(
            "--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True, help="Of the forward pass."
        ),
        click.option(
            "--rate-schedule",
            type=click.Choice(["cosine", "constant"]),
            default="cosine",
            show_default=True,
            help="Of the learning rate.",
        ),
        click.option("--learning-rate", type=float, default=rate, show_default=True, help="Adam's learning rate."),
        click.option("--batch", type=click.IntRange(1), default=4, show_default=True, help="Crops a step."),
        click.option(
            size_option, "crop_size", type=click.IntRange(16), default=256, show_default=True, help="Side of a crop in pixels."
        ),
        click.option("--steps", type=click.IntRange(1), default=steps, show_default=True, help="Steps of training."),
        click.option("--images", type=PATH, required=images_required, help="Folder of photos (searched recursively)."),
    )

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_job(*args: Any, **kwargs: Any) -> Any:
            also = {} if images_required else {name: kwargs[name] for name in ("dtype", "resume")}
            kwargs["job"] = _job(kwargs)
            kwargs.update(also)
            return function(*args, **kwargs)

        wrapped: Any = with_job
        for option in options:
            wrapped = option(wrapped)
        return wrapped  # type: ignore[no-any-return]

    return decorate


def perceptual_options(function: Function) -> Function:
    """Add `--loss-network --weights` and the layers and weights; the command gets them as `perceptual: PerceptualConfig`."""

    @functools.wraps(function)
    def with_config(*args: Any, **kwargs: Any) -> Any:
        from compress.losses.perceptual import PerceptualConfig, parse_layers

        layers: dict[str, Any] = {name: parse_layers(kwargs.pop(name)) for name in ("content_layers", "style_layers")}
        names = ("loss_network", "weights", "content_weight", "style_weight", "tv_weight", "style_size")
        kwargs["perceptual"] = PerceptualConfig(**layers, **{name: kwargs.pop(name) for name in names})
        return function(*args, **kwargs)

    wrapped: Any = with_config
    for option in (
        click.option("--style-size", type=int, default=512, show_default=True, help="Longer side of the painting in pixels."),
        click.option("--tv-weight", type=float, help="Of total variation. [default: by weight file]"),
        click.option("--style-weight", type=float, help="Of the Gram matrices. [default: by weight file]"),
        click.option("--content-weight", type=float, help="Of the content features. [default: by weight file]"),
        click.option("--style-layers", metavar="relu1_2,...", help="[default: by loss network]"),
        click.option("--content-layers", metavar="relu3_3,...", help="[default: by loss network]"),
        click.option("--weights", type=PATH, help="The loss network's weights. [default: in $COMPRESS_WEIGHTS]"),
        click.option(
            "--loss-network",
            type=click.Choice(["vgg16", "vgg19"]),
            default="vgg19",
            show_default=True,
            help="Judge of the pictures.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def distillation_options(function: Function) -> Function:
    """Add `--output-weight --feature-weight`; the command gets them as `distillation: DistillationConfig`."""

    @functools.wraps(function)
    def with_config(*args: Any, **kwargs: Any) -> Any:
        from compress.losses.distillation import DistillationConfig

        kwargs["distillation"] = DistillationConfig(kwargs.pop("output_weight"), kwargs.pop("feature_weight"))
        return function(*args, **kwargs)

    wrapped: Any = with_config
    for option in (
        click.option("--feature-weight", type=float, default=0.3, show_default=True, help="Of the teacher's features; 0: off."),
        click.option("--output-weight", type=float, default=1.0, show_default=True, help="Of the teacher's outputs; 0: off."),
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _job(kwargs: dict[str, Any]) -> Any:
    """Take this file's options out of `kwargs` and make a Job of them; `seed` stays, it belongs to every command."""
    taken = {name: kwargs.pop(name) for name in (*_OF_CONFIG, *_OF_JOB, "crop_size", "batch", "rate_schedule")}
    if taken["images"] is None:
        return None
    from compress.training.images import CropConfig
    from compress.training.job import Job
    from compress.training.loop import TrainingConfig

    seed = kwargs["seed"]
    crops = CropConfig(taken["crop_size"], taken["batch"], seed=seed)
    config = TrainingConfig(seed=seed, schedule=taken["rate_schedule"], **{name: taken[name] for name in _OF_CONFIG})
    return Job(crops=crops, config=config, **{name: taken[name] for name in _OF_JOB})
