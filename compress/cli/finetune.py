"""`compress finetune`: a network learns from a teacher, or from a loss network and a painting."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Function, JsonObject, Talk, command, net_options, open_net, output_option
from compress.cli.training import distillation_options, perceptual_options, training_options
from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.losses.distillation import DistillationConfig
    from compress.losses.perceptual import PerceptualConfig
    from compress.networks.load import LoadedNetwork, NetOptions
    from compress.training.job import Job


@dataclass(frozen=True)
class Lesson:
    """Who teaches: a network (`teacher`, opened with `options`), or a painting (`style`)."""

    teacher: Path | None
    options: NetOptions
    style: Path | None
    perceptual: PerceptualConfig
    distillation: DistillationConfig

    def __post_init__(self) -> None:
        if bool(self.teacher) == bool(self.style):
            said = "a teacher and a painting: one at a time" if self.teacher else "who teaches?"
            raise UsageError(said, "--teacher NET, or --style IMG with a loss network's --weights")

    def objective(self, student: LoadedNetwork, talk: Talk) -> tuple[Any, dict[str, Any]]:
        """The loss, and what the history says of who teaches."""
        from compress.files import identity
        from compress.losses.perceptual import PerceptualLoss
        from compress.photos import decode
        from compress.pruning.recovery import distil, kept_by_history

        if self.style:
            return PerceptualLoss(self.perceptual, decode(self.style)), {"style": self.style.name}
        assert self.teacher
        teacher, named = open_net(self.teacher, self.options, talk), identity(self.teacher)
        kept = kept_by_history(student, teacher, named["sha256"])
        if kept is None and self.distillation.feature_weight:
            talk.say("outputs alone are compared: this network was not pruned from that teacher")
        return distil(student, teacher, self.distillation, kept), {"teacher": named}


def lesson_options(function: Function) -> Function:
    """Add what says who teaches; the command gets it as `lesson: Lesson`."""

    @functools.wraps(function)
    def with_lesson(*args: Any, **kwargs: Any) -> Any:
        from compress.image_format import ImageFormat
        from compress.networks.load import NetOptions

        text = kwargs.pop("teacher_format")
        image_format = ImageFormat.parse(text) if text else None
        options = NetOptions(kwargs.pop("teacher_network"), kwargs.pop("teacher_args"), (), image_format)
        taken = {name: kwargs.pop(name) for name in ("teacher", "style", "perceptual", "distillation")}
        kwargs["lesson"] = Lesson(options=options, **taken)
        return function(*args, **kwargs)

    wrapped: Any = with_lesson
    for decorate in (
        perceptual_options,
        click.option("--style", type=PATH, help="The painting: learn from a loss network instead of a teacher."),
        distillation_options,
        click.option("--teacher-format", metavar="F", help="The teacher's image format, when its file does not say."),
        click.option("--teacher-args", type=JsonObject(), help="Arguments of the teacher's factory."),
        click.option("--teacher-network", metavar="NAME|PKG.MODULE:FACTORY", help="Which network --teacher holds."),
        click.option("--teacher", type=PATH, help="A NET whose outputs are to be learned; photos are all that it needs."),
    ):
        wrapped = decorate(wrapped)
    return wrapped  # type: ignore[no-any-return]


@command(
    example="""
    compress finetune small.safetensors --teacher candy.pth --images photos/ --steps 2000 -o better.safetensors
    compress finetune small.safetensors --style painting.jpg --weights vgg19.pth --images photos/ -o better.safetensors
    """
)
@click.argument("network_file", metavar="NET", type=PATH)
@net_options
@lesson_options
@training_options(steps=1500)
@output_option("The fine-tuned network (.safetensors).")
def finetune(
    talk: Talk,
    network_file: Path,
    net: NetOptions,
    lesson: Lesson,
    job: Job,
    output: Path,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Fine-tune a network on photos: a teacher shows what its outputs should be, or a loss network judges them.

    Weights that are zero stay zero. Ctrl-C leaves a usable network, and --resume goes on exactly where it stopped.
    """
    from compress.files import identity
    from compress.pruning.recovery import fine_tune
    from compress.pruning.weights import prunable_weights

    job.check(output, force, [path for path in (network_file, lesson.teacher, lesson.style) if path])
    student = open_net(network_file, net, talk)
    objective, who = lesson.objective(student, talk)
    held = prunable_weights(student.module)
    if held.zeros:
        talk.say(f"{held.zeros:,} of {held.total:,} weights are zero and stay zero")
    entry = {"command": "finetune", "input": identity(network_file), **who}
    losses = fine_tune(talk, student, objective, job, output, entry)
    talk.show(f"{output}: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()))
    return {"output": str(output), "steps": job.config.steps, "losses": losses}
