"""The options of `compress prune`, and which of them contradict each other. They arrive as two configs: what is to go, and how
quality comes back."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Function
from compress.cli.training import distillation_options, perceptual_options, training_options
from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.losses.distillation import DistillationConfig
    from compress.losses.perceptual import PerceptualConfig, PerceptualLoss
    from compress.pruning.plan import Plan
    from compress.pruning.stage import Subject
    from compress.pruning.target import Target
    from compress.training.job import Job

HOW_MUCH = "--sparsity for single weights; --ratio, --macs, --params or --widths for channels"


@dataclass(frozen=True)
class Asked:
    """What is to go: a target or a plan file. `shares`: what is zero after each increment; empty for one-shot."""

    target: Target | None
    plan_file: Path | None
    plan_only: bool
    shares: tuple[float, ...]
    size: tuple[int, int] | None

    def __post_init__(self) -> None:
        if not self.target and not self.plan_file:
            raise UsageError("how much is to go?", HOW_MUCH)
        if self.target and self.plan_file:
            raise UsageError("--plan says already what goes", f"leave it away, or {HOW_MUCH}")
        if self.plan_only and self.plan_file:
            raise UsageError("--plan-only makes a plan, --plan applies one: one at a time")
        if self.shares and self.plan_only:
            raise UsageError("an iterative schedule chooses after each tuning: it has no plan", "--schedule one-shot has one")

    def saved_plan(self) -> Plan | None:
        """What the plan file says. Raises PlanError."""
        from compress.pruning import plan as plans

        return plans.read(self.plan_file) if self.plan_file else None

    def needs_graph(self, saved: Plan | None) -> bool:
        """True for channels: they cannot go without a trace of the network."""
        return bool(saved.channels) if saved else not (self.target and self.target.removes_weights)

    def new_plan(self, subject: Subject) -> Plan:
        """Raises PlanError when the target cannot be met."""
        from compress.pruning.plan import plan

        assert self.target
        return plan(subject.loaded.module, subject.examples, self.target, subject.loaded.spec, subject.graph)


@dataclass(frozen=True)
class Tuning:
    """How quality comes back: `none`, `distill` or `perceptual`."""

    kind: str
    job: Job | None
    style: Path | None
    perceptual: PerceptualConfig
    distillation: DistillationConfig
    dtype: str
    resume: bool

    def __post_init__(self) -> None:
        if self.kind == "none":
            given = {"--images": self.job, "--style": self.style, "--resume": self.resume}
            for name in (name for name, value in given.items() if value):
                raise UsageError(f"{name} is for fine-tuning", "--finetune distill, or --finetune perceptual")
        elif self.job is None:
            raise UsageError(f"--finetune {self.kind} needs photos", "--images FOLDER")
        elif self.kind == "perceptual" and not self.style:
            raise UsageError("--finetune perceptual needs a painting", "--style FILE; --finetune distill needs none")
        elif self.kind == "distill" and self.style:
            raise UsageError("--style says nothing to --finetune distill", "--finetune perceptual paints in a style")

    def judge(self) -> PerceptualLoss | None:
        """The perceptual loss, where it is what tunes. Raises MissingToolError without its weights, ImageError."""
        if self.kind != "perceptual" or self.style is None:
            return None
        from compress.losses.perceptual import PerceptualLoss
        from compress.photos import decode

        return PerceptualLoss(self.perceptual, decode(self.style))


def pruning_options(function: Function) -> Function:
    """Add what says what goes; the command gets it as `asked: Asked`."""

    @functools.wraps(function)
    def with_asked(*args: Any, **kwargs: Any) -> Any:
        from compress.pruning.target import Amount, Target
        from compress.pruning.widths import parse_widths

        names = ("method", "sparsity", "ratio", "rank", "multiple")
        said = {name: kwargs.pop(name) for name in names}
        amounts: dict[str, Any] = {
            name: Amount.parse(text) for name in ("macs", "params") if (text := kwargs.pop(name)) is not None
        }
        widths = parse_widths(text) if (text := kwargs.pop("widths")) is not None else {}
        given = bool(amounts or widths) or any(said[name] is not None for name in ("method", "sparsity", "ratio"))
        target = Target(**said, **amounts, widths=widths) if given else None
        shares = _shares(target, kwargs.pop("schedule"), kwargs.pop("increment"))
        kwargs["asked"] = Asked(target, kwargs.pop("plan"), kwargs.pop("plan_only"), shares, kwargs.pop("size"))
        return function(*args, **kwargs)

    for option in reversed(
        (
            click.option("--sparsity", type=float, metavar="S", help="Share of single weights to remove: 0.95."),
            click.option("--ratio", type=float, metavar="R", help="Share of channels to remove, of each space: 0.5."),
            click.option("--macs", metavar="N|P%", help="Multiply-adds that stay: 2.5G, 25%."),
            click.option("--params", metavar="N|P%", help="Parameters that stay: 400k, 25%."),
            click.option("--widths", metavar="GLOB=N,...", help="Channels that stay: 'down1.conv=16,residual.*=48'."),
            click.option("--method", metavar="NAME", help="magnitude (single weights), filters (channels). [default: by target]"),
            click.option(
                "--rank",
                type=click.Choice(["uniform", "global"]),
                default="uniform",
                show_default=True,
                help="The same share of every space, or the lowest of all.",
            ),
            click.option("--multiple", type=int, default=8, show_default=True, help="Widths that stay are multiples of it."),
            click.option("--size", type=SIZE, help="Picture size at which --macs counts. [default: the example's]"),
            click.option(
                "--schedule",
                type=click.Choice(["one-shot", "iterative"]),
                default="one-shot",
                show_default=True,
                help="All at once, or a little at a time with tuning between.",
            ),
            click.option("--increment", type=float, default=0.1, show_default=True, help="Of the total, each time."),
            click.option("--plan-only", is_flag=True, help="Print and save what would go (-o, or NET.plan.json)."),
            click.option("--plan", type=PATH, help="Remove what a saved plan says."),
        )
    ):
        with_asked = option(with_asked)
    return with_asked  # type: ignore[return-value]


def _shares(target: Target | None, schedule: str, increment: float) -> tuple[float, ...]:
    from compress.pruning.schedules import iterative

    if schedule == "one-shot":
        return ()
    if target is None or target.sparsity is None:
        raise UsageError("--schedule iterative goes with --sparsity", "channels are removed at once, and fine-tuned then")
    return iterative(target.sparsity, increment)


def tuning_options(function: Function) -> Function:
    """Add what says how quality comes back; the command gets it as `tuning: Tuning`."""

    @functools.wraps(function)
    def with_tuning(*args: Any, **kwargs: Any) -> Any:
        names = ("job", "style", "perceptual", "distillation", "dtype", "resume")
        kwargs["tuning"] = Tuning(kwargs.pop("finetune"), **{name: kwargs.pop(name) for name in names})
        return function(*args, **kwargs)

    wrapped: Any = with_tuning
    for decorate in (
        training_options(steps=1500, images_required=False, size_option="--crop-size"),
        perceptual_options,
        click.option("--style", type=PATH, help="The painting, for --finetune perceptual."),
        distillation_options,
        click.option(
            "--finetune",
            type=click.Choice(["none", "distill", "perceptual"]),
            default="none",
            show_default=True,
            help="The dense network teaches, or a loss network and a painting.",
        ),
    ):
        wrapped = decorate(wrapped)
    return wrapped  # type: ignore[no-any-return]
