"""`compress inspect`: look into a network. Nothing is changed, and no file is written but the picture that is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, open_net
from compress.cli.inspection import show
from compress.errors import UsageError, require
from compress.files import check_output

if TYPE_CHECKING:
    from compress.channels.inspect import Inspection
    from compress.networks.load import LoadedNetwork, NetOptions
    from compress.spec import ModelSpec


@command(
    example="""
    compress inspect net.safetensors
    compress inspect candy.pth --size 480x640 --observed photos/ --plot responses.png
    compress inspect net.pth --network mypackage.models:Net --example 1x3x256x256 --json
    """
)
@click.argument("network_file", metavar="NET", type=PATH)
@net_options
@click.option("--size", type=SIZE, help="Count MACs and windows at this size.  [default: the example's]")
@click.option("--observed", "folder", type=PATH, help="Folder of photos: see which channels they leave dead.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="See at most N of the photos.")
@click.option("--plot", type=PATH, help="Draw responses, photos x channels (.png, .svg or .pdf); needs --observed.")
@click.option("--space", "names", metavar="NAME", multiple=True, help="Only this space, in the table and the picture.")
@click.option("--all", "everything", is_flag=True, help="Every row of every table.")
def inspect(
    talk: Talk,
    network_file: Path,
    net: NetOptions,
    size: tuple[int, int] | None,
    folder: Path | None,
    limit: int,
    plot: Path | None,
    names: tuple[str, ...],
    everything: bool,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Show what a network is made of, what it costs, what its channels do, what it sees, and what a phone will make of it.

    Dead and constant channels are told apart by how that is known: proved for every input, proved up to a size, or observed on
    so many photos.
    """
    _check_plot(plot, folder, network_file, force)
    loaded = open_net(network_file, net, talk)
    spec = _at(loaded.spec, size)
    found = _look(loaded, spec, folder, limit, seed, talk)
    chosen = _chosen(found, names)
    show(talk, spec.network, found, chosen, everything)
    if plot:
        _draw(talk, plot, spec.network, found, names)
    document = {"network": spec.network, **found.to_json(), "plot": str(plot) if plot else None}
    kept = {space.name for space in chosen}
    return {**document, "spaces": [space for space in document["spaces"] if space["name"] in kept]}


def _look(loaded: LoadedNetwork, spec: ModelSpec, folder: Path | None, limit: int, seed: int, talk: Talk) -> Inspection:
    import torch

    from compress.channels.inspect import inspect as inspection_of
    from compress.cli.observing import Watched

    height, width = (spec.examples[0][2:] * 2)[:2] or (1, 1)
    watched = Watched(folder, spec, (height, width), talk, limit) if folder else None
    generator = torch.Generator().manual_seed(seed)
    examples = [torch.randn(shape, generator=generator) for shape in spec.examples]
    batches = watched.batches("watching") if watched else None
    return inspection_of(loaded.module, examples, formats=spec.inputs, batches=batches)


def _at(spec: ModelSpec, size: tuple[int, int] | None) -> ModelSpec:
    """`spec` with its example at this size, one picture at a time where there is one."""
    from dataclasses import replace

    if size is None:
        return spec
    if len(spec.examples) != 1 or len(spec.examples[0]) != 4:
        raise UsageError("--size is for networks with one picture as input", "--example gives every input its shape")
    return replace(spec, examples=((*spec.examples[0][:2], *size),))


def _check_plot(plot: Path | None, folder: Path | None, network_file: Path, force: bool) -> None:
    from compress.channels.plot import SUFFIXES

    if plot is None:
        return
    if plot.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{plot}: no picture format has the suffix {plot.suffix!r}", f"one of {', '.join(SUFFIXES)}")
    if folder is None:
        raise UsageError("--plot draws how channels respond to photos", "--observed PHOTOS gives the photos")
    require("matplotlib", "plot")
    check_output(plot, force=force, inputs=[network_file])


def _chosen(found: Inspection, names: Sequence[str]) -> list[Any]:
    known = [space.name for space in found.spaces]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3) or known[:3]
            raise UsageError(f"there is no space {name!r}", f"for example {', '.join(near)}")
    return [space for space in found.spaces if not names or space.name in names]


def _draw(talk: Talk, plot: Path, network: str, found: Inspection, names: Sequence[str]) -> None:
    from compress.channels.plot import chosen, draw

    responses = {name: array for name, array in found.responses.items() if not names or name in names}
    drawn = list(responses) if names else chosen(responses)
    photos = len(next(iter(responses.values()), ()))
    title = (
        f"{network}: how channels respond to {photos} photos" if photos != 1 else f"{network}: how channels respond to a photo"
    )
    note = "one row a photo, one column a channel; each panel to its own strongest response"
    if len(drawn) < len(responses):
        note += f"; the {len(drawn)} of {len(responses)} spaces with most dead channels"
    unread = {space.name: space.unread for space in found.spaces}
    draw(plot, {name: responses[name] for name in drawn}, unread, title, note)
    talk.show(f"\nwritten: {plot}")
