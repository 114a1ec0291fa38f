"""`compress train`: a style network from photos and one painting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Talk, command, net_options, output_option
from compress.cli.training import perceptual_options, training_options

if TYPE_CHECKING:
    from compress.losses.perceptual import PerceptualConfig
    from compress.networks.load import NetOptions
    from compress.training.job import Job


@command(
    example="""
    compress train --network johnson --style painting.jpg --images photos/ --weights vgg19.pth -o mine.safetensors
    compress train --network johnson --args '{"width": 16}' --style painting.jpg --images photos/ -o small.safetensors
    compress train ... -o mine.safetensors --resume
    """
)
@net_options
@click.option("--style", type=PATH, required=True, help="The painting.")
@click.option("--like", type=PATH, help="A NET whose network and widths are taken, with fresh weights.")
@perceptual_options
@training_options(steps=8000)
@output_option("The trained network (.safetensors).")
def train(
    talk: Talk,
    net: NetOptions,
    style: Path,
    like: Path | None,
    perceptual: PerceptualConfig,
    job: Job,
    output: Path,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Train a style network with Johnson's perceptual loss: content, style by Gram matrices, total variation.

    Writes the network, and while it runs NET.state.safetensors (for --resume) and NET.preview.jpg (a look at how it is getting
    on). Ctrl-C leaves a usable network, and --resume goes on exactly where it stopped.
    """
    from compress.losses.perceptual import PerceptualLoss
    from compress.networks.load import fresh_network
    from compress.photos import decode

    job.check(output, force, inputs=[style, *([like] if like else [])])
    loaded = fresh_network(net, seed, like)
    objective = PerceptualLoss(perceptual, decode(style))
    talk.say(f"{loaded.spec.network}: {sum(p.numel() for p in loaded.module.parameters()):,} parameters")
    entry = {"command": "train", "style": style.name, "loss": objective.facts()}
    losses = job.run(talk, loaded, objective, output, entry)
    talk.show(f"{output}: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items()))
    return {"output": str(output), "steps": job.config.steps, "losses": losses}
