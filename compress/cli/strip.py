"""`compress strip`: dead and constant channels go, exactly, and the result is proved before it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, open_net, output_option
from compress.errors import UsageError
from compress.files import check_output

if TYPE_CHECKING:
    from torch import nn

    from compress.channels.report import Report
    from compress.channels.strip import Stripped, Threshold
    from compress.cli.observing import Watched
    from compress.networks.load import LoadedNetwork, NetOptions

Size = tuple[int, int]


@command(
    example="""
    compress strip sparse.safetensors -o small.safetensors
    compress strip net.pth --network mypackage.models:Net --example 1x3x256x256 -o small.safetensors
    compress strip candy.safetensors -o small.safetensors --observed photos/ --threshold 1%
    """
)
@click.argument("network_file", metavar="NET", type=PATH)
@net_options
@click.option("--size", "sizes", type=SIZE, multiple=True, help="Compare at this size (default: the example's and two others).")
@click.option("--max-size", type=SIZE, help="No input will be higher or wider: use proofs that hold up to here.")
@click.option("--observed", "folder", type=PATH, help="Folder of photos: remove channels that are silent on them too.")
@click.option(
    "--threshold",
    metavar="T|T%",
    help="An activation up to this is silent; with %, a share of its layer's largest.  [default: 0, never fired]",
)
@output_option("The stripped network (.safetensors).")
def strip(
    talk: Talk,
    network_file: Path,
    net: NetOptions,
    sizes: tuple[Size, ...],
    max_size: Size | None,
    folder: Path | None,
    threshold: str | None,
    output: Path,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Remove every channel that is zero, constant or read by nobody, for every input and at every size.

    What a constant channel contributed is folded into the layers that read it. Both networks are then run and compared, in
    float64 and float32, at three sizes; nothing is written when they differ by more than 1e-12 and 1e-5 of the output's range, or
    than the network's own rounding where that is more.

    Where the image format of an input is known, its pixels are taken to be 0..255, and channels that this proves dead go too.
    With --observed, so do channels that are silent on the photos: that is no proof, and how far the output moves is printed.
    """
    from compress import checkpoint
    from compress.channels.evidence import Threshold
    from compress.networks.load import snapshot

    if threshold is not None and folder is None:
        raise UsageError("--threshold says what is silent on photos", "--observed PHOTOS gives the photos")
    limit = Threshold.parse(threshold or "0")
    check_output(output, force=force, inputs=[network_file])
    loaded = open_net(network_file, net, talk)
    watched = _watched(folder, loaded, max_size, talk) if folder else None
    stripped = _stripped(loaded, watched, limit, sizes, max_size, seed)
    document = stripped.report.to_json()
    moved = {"moved": document["moved"]} if document["moved"] else {}
    entry = {"command": "strip", "seed": seed, **stripped.report.conditions, "measured": {**document["after"], **moved}}
    checkpoint.write(output, snapshot(stripped.module, loaded.spec, (*loaded.checkpoint.history, entry)))
    _show(talk, stripped.report, output)
    return {"output": str(output), **document}


def _watched(folder: Path, loaded: LoadedNetwork, max_size: Size | None, talk: Talk) -> Watched:
    """At the example's size, or the largest size where that is smaller."""
    from compress.cli.observing import Watched

    height, width = (loaded.spec.examples[0][2:] * 2)[:2] or (1, 1)
    most = max_size or (height, width)
    return Watched(folder, loaded.spec, (min(height, most[0]), min(width, most[1])), talk)


def _stripped(
    loaded: LoadedNetwork, watched: Watched | None, limit: Threshold, sizes: tuple[Size, ...], max_size: Size | None, seed: int
) -> Stripped:
    import torch

    from compress.channels.fold import folded
    from compress.channels.moved import moved
    from compress.channels.observe import observe
    from compress.channels.ranges import ranges_of
    from compress.channels.strip import strip as stripped_of

    generator = torch.Generator().manual_seed(seed)
    examples = [torch.randn(shape, generator=generator) for shape in loaded.spec.examples]
    known: dict[str, Any] = {"sizes": sizes or None, "ranges": ranges_of(loaded.spec.inputs), "max_size": max_size}
    if watched is None:
        return stripped_of(loaded.module, examples, **known)
    module: nn.Module = folded(loaded.module)  # in which the tensors have the names that strip knows
    seen = observe(module, watched.batches("watching"))
    found = stripped_of(module, examples, **known, observed=seen, threshold=limit)
    change = moved(module, found.module, watched.batches("comparing"), loaded.spec.outputs)
    return replace(found, report=replace(found.report, moved=change))


def _show(talk: Talk, report: Report, output: Path) -> None:
    from compress.channels.report import staying

    rows = [(s.name, s.before, s.after, s.why, s.known, staying(s.reason, s.held)) for s in report.spaces]
    talk.table(("channels of", "before", "after", "went", "known", "why others stay"), rows)
    for name, unit in (("parameters", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        talk.show(f"{unit}: {getattr(report.before, name):,} -> {getattr(report.after, name):,}")
    worst = max(report.checks, key=lambda check: check.gap / check.limit)
    sizes = ", ".join(dict.fromkeys("x".join(map(str, check.size)) for check in report.checks))
    if report.removed:
        given = "with what was observed set to constants, the output" if any(s.observed for s in report.spaces) else "the output"
        talk.show(f"proved at {sizes}: {given} moves by at most {worst.gap:.1e} of its range ({worst.dtype})")
    else:
        talk.show(f"no channel that could go is dead or constant: nothing removed (compared at {sizes} all the same)")
    _show_grounds(talk, report)
    for unknown in report.not_understood:
        talk.warn(f"not understood, so its channels stay: {unknown}")
    for space, why in report.left_alone.items():
        talk.warn(f"{space} is left alone: {why}")
    for name in report.uncounted:
        talk.warn(f"the MACs do not include {name}")
    talk.show(f"written: {output}")


def _show_grounds(talk: Talk, report: Report) -> None:
    """What the proof rests on beside the weights, and what was only observed."""
    bounds, sized = (sum(len(getattr(s.proved, name)) for s in report.spaces) for name in ("bounds", "size"))
    if bounds:
        which = "inputs made of pixels 0..255" if any(report.bounded) else "every input"
        talk.show(f"{_channels(bounds)} by bounds: proved for {which}")
    if report.max_size:
        talk.show(f"{_channels(sized)} up to a size: the result holds for inputs up to {'x'.join(map(str, report.max_size))}")
    elif later := [found.pixels for space in report.spaces for found in space.proved_up_to]:
        each = f"{min(later):,}" if min(later) == max(later) else f"{min(later):,} to {max(later):,}"
        are = "is" if len(later) == 1 else "are"
        talk.show(f"{_channels(len(later))} more {are} proved for inputs of up to {each} pixels: see --max-size")
    if report.evidence is None:
        return
    seen = [channel for space in report.spaces for channel in space.observed]
    photos = f"{report.evidence.photos} photos, threshold {report.evidence.threshold}"
    if seen:
        largest = max(channel.largest or 0.0 for channel in seen)
        talk.show(f"{_channels(len(seen))} observed on {photos}: no proof; the largest activation there was {largest:.2g}")
    else:
        talk.show(f"no channel beyond what is proved was silent on {photos}, and could go")
    if moved := report.moved:
        psnr = "no difference" if moved.psnr_db is None else f"{moved.psnr_db:.1f} dB"
        talk.show(
            f"on these photos the output moved by {moved.max:.2g} {moved.unit} at most, {moved.mean:.2g} on average ({psnr})"
        )


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count:,} channels"
