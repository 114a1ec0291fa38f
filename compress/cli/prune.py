"""`compress prune`: weights or channels go, and what is left is fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Talk, command, net_options, open_net, output_option
from compress.cli.pruning import Asked, Tuning, pruning_options, tuning_options
from compress.errors import UsageError

if TYPE_CHECKING:
    from compress.losses.perceptual import PerceptualLoss
    from compress.networks.load import NetOptions
    from compress.pruning.plan import Plan
    from compress.pruning.stage import Pruned, Subject


@command(
    example="""
    compress prune candy.pth --sparsity 0.95 -o sparse.safetensors
    compress prune candy.pth --sparsity 0.95 --schedule iterative --finetune distill --images photos/ -o sparse.safetensors
    compress prune candy.pth --macs 25% --finetune distill --images photos/ --steps 1500 -o small.safetensors
    compress prune candy.pth --widths 'down1.conv=16,residual.*=48' --plan-only -o plan.json
    compress prune candy.pth --plan plan.json -o small.safetensors
    """
)
@click.argument("network_file", metavar="NET", type=PATH)
@net_options
@pruning_options
@tuning_options
@output_option("The pruned network (.safetensors); with --plan-only the plan (.json).", required=False)
def prune(
    talk: Talk,
    network_file: Path,
    net: NetOptions,
    asked: Asked,
    tuning: Tuning,
    output: Path | None,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Remove single weights (--sparsity) or whole channels (--ratio, --macs, --params, --widths), then fine-tune.

    Channels are stripped: the network gets smaller and faster, and is proved to compute the same as with those channels at zero.
    Single weights are set to zero and stay zero. Ctrl-C while it tunes leaves a usable network; --resume goes on exactly.
    """
    from compress import checkpoint, files
    from compress.pruning import plan as plans
    from compress.pruning import report, stage
    from compress.training.job import DTYPES

    output = _checked_output(network_file, asked, tuning, output, force)
    saved, judge = asked.saved_plan(), tuning.judge()  # first of all: they may be missing
    loaded = open_net(network_file, net, talk)
    if saved:
        saved.check_fits(loaded.module, loaded.spec)
    subject = stage.subject(loaded, asked.size, asked.needs_graph(saved))
    plan = saved or asked.new_plan(subject)
    if asked.plan_only:
        plans.write(output, plan)
        return _shown(talk, output, report.predicted(subject, plan))
    stepwise = asked.shares if tuning.job else ()
    if asked.shares and not stepwise:
        talk.warn("without --finetune, an iterative schedule removes what one-shot removes")
    entry = {"command": "prune", "input": files.identity(network_file), "seed": seed}
    pruned = stage.prune(subject, plan, {**entry, "shares": list(stepwise)} if stepwise else entry, at_once=not stepwise)
    losses = _tuned(talk, subject, pruned, plan, judge, tuning, stepwise, output)
    if losses is None:
        checkpoint.write(output, pruned.loaded.checkpoint.astype(DTYPES[tuning.dtype]))
    document = report.measured(subject, plan, pruned, checkpoint.read(output).tensors)
    return _shown(talk, output, document, losses)


def _checked_output(network_file: Path, asked: Asked, tuning: Tuning, output: Path | None, force: bool) -> Path:
    from compress.files import check_output

    if output is None and not asked.plan_only:
        raise UsageError("where does the pruned network go?", "-o FILE.safetensors; --plan-only writes none")
    output = output or network_file.with_suffix(".plan.json")
    inputs = [path for path in (network_file, asked.plan_file, tuning.style) if path]
    if tuning.job and not asked.plan_only:
        tuning.job.check(output, force, inputs)
        return output
    return check_output(output, force=force, inputs=inputs)


def _tuned(
    talk: Talk,
    before: Subject,
    pruned: Pruned,
    plan: Plan,
    judge: PerceptualLoss | None,
    tuning: Tuning,
    shares: tuple[float, ...],
    output: Path,
) -> dict[str, float] | None:
    """Fine-tune and write the network; None when that was not asked for."""
    from compress.pruning import recovery

    if tuning.job is None:
        return None
    objective: Any = judge
    if judge is None:
        kept = recovery.kept_outputs(before.loaded.module, before.graph, plan.channels) if before.graph else {}
        objective = recovery.distil(pruned.loaded, before.loaded, tuning.distillation, kept)
    entry = {"command": "finetune", "teacher": pruned.loaded.checkpoint.history[-1]["input"], "target": dict(plan.target)}
    return recovery.fine_tune(talk, pruned.loaded, objective, tuning.job, output, entry, shares)


def _shown(talk: Talk, output: Path, document: dict[str, Any], losses: dict[str, float] | None = None) -> dict[str, Any]:
    before, after = document["before"], document["after"]
    if "weights" in document:
        found = document["weights"]
        rows = [
            (t["name"], f"{t['weights']:,}", f"{t['weights'] - t['zeros']:,}", f"{1 - t['zeros'] / t['weights']:.1%}")
            for t in document["tensors"]
        ]
        talk.table(("tensor", "weights", "stay", "share"), rows)
        for name in (t["name"] for t in document["tensors"] if t["zeros"] == t["weights"]):
            talk.warn(f"{name} keeps no weight at all: nothing passes through it")
        talk.show(f"{found['zeros_after']:,} of {found['prunable']:,} weights are zero")
    else:
        rows = [(e["name"], e["before"], e["after"], e["reason"] or "") for e in document["spaces"]]
        talk.table(("channels of", "before", "after", "why it stays"), rows)
    for name, unit in (("parameters", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        if before[name] is not None and after[name] is not None:
            talk.show(f"{unit}: {before[name]:,} -> {after[name]:,}")
    for left in document["not_understood"]:
        talk.warn(f"left alone: {left}")
    if losses:
        talk.show("losses: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()))
    talk.show(f"written: {output}")
    return {"output": str(output), **document, "finetune": losses}
