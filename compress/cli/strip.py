"""`compress strip`: dead and constant channels go, exactly, and the result is proved before it is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, open_net, output_option
from compress.files import check_output

if TYPE_CHECKING:
    from compress.channels.strip import Report
    from compress.networks.load import NetOptions


@command(
    example="""
    compress strip sparse.safetensors -o small.safetensors
    compress strip net.pth --network mypackage.models:Net --example 1x3x256x256 -o small.safetensors
    """
)
@click.argument("network_file", metavar="NET", type=PATH)
@net_options
@click.option("--size", "sizes", type=SIZE, multiple=True, help="Compare at this size (default: the example's and two others).")
@output_option("The stripped network (.safetensors).")
def strip(
    talk: Talk,
    network_file: Path,
    net: NetOptions,
    sizes: tuple[tuple[int, int], ...],
    output: Path,
    force: bool,
    seed: int,
) -> dict[str, Any]:
    """Remove every channel that is zero, constant or read by nobody, for every input and at every size.

    What a constant channel contributed is folded into the layers that read it. Both networks are then run and compared, in
    float64 and float32, at three sizes; nothing is written when they differ by more than 1e-5 of the output's range.
    """
    import torch

    from compress import checkpoint
    from compress.channels.strip import strip as stripped_of
    from compress.networks.load import snapshot

    check_output(output, force=force, inputs=[network_file])
    loaded = open_net(network_file, net, talk)
    generator = torch.Generator().manual_seed(seed)
    examples = [torch.randn(shape, generator=generator) for shape in loaded.spec.examples]
    stripped = stripped_of(loaded.module, examples, sizes=sizes or None)
    document = stripped.report.to_json()
    entry = {"command": "strip", "seed": seed, "measured": document["after"]}
    checkpoint.write(output, snapshot(stripped.module, loaded.spec, (*loaded.checkpoint.history, entry)))
    _show(talk, stripped.report, output)
    return {"output": str(output), **document}


def _show(talk: Talk, report: Report, output: Path) -> None:
    rows = [(s.name, s.before, s.after, s.why, _stays(s.held, s.reason)) for s in report.spaces]
    talk.table(("channels of", "before", "after", "went", "why others stay"), rows)
    for name, unit in (("parameters", "parameters"), ("macs", "MACs"), ("bytes", "bytes")):
        talk.show(f"{unit}: {getattr(report.before, name):,} -> {getattr(report.after, name):,}")
    if report.checks:
        worst = max(report.checks, key=lambda check: check.gap / check.limit)
        sizes = ", ".join(dict.fromkeys("x".join(map(str, check.size)) for check in report.checks))
        talk.show(f"proved at {sizes}: the output moves by at most {worst.gap:.1e} of its range ({worst.dtype})")
    else:
        talk.show("no channel is dead or constant: nothing removed")
    for unknown in report.not_understood:
        talk.warn(f"not understood, so its channels stay: {unknown}")
    for space, why in report.left_alone.items():
        talk.warn(f"{space} is left alone: {why}")
    for name in report.uncounted:
        talk.warn(f"the MACs do not include {name}")
    talk.show(f"written: {output}")


def _stays(held: int, reason: str | None) -> str:
    return reason or (f"{held} carry a constant, or keep groups equal" if held else "")
