"""`compress demo`: the whole way on a bundled network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Talk, command

if TYPE_CHECKING:
    from compress.pipeline import Outcome, Row

DENSE, SHIPPED = "wave", "wave-small"


@command(
    example="""
    compress demo
    compress demo -o look --steps 200
    compress demo --style wave.jpg --weights vgg19.pth
    """
)
@click.option("-o", "--output", type=PATH, default=Path("demo"), show_default=True, help="Folder for all that is made.")
@click.option("--steps", type=click.IntRange(1), default=900, show_default=True, help="Steps of distillation.")
@click.option("--style", type=PATH, help="The painting, for the style and content columns.")
@click.option("--weights", type=PATH, help="The loss network's weights, for the same. [default: in $COMPRESS_WEIGHTS]")
def demo(
    talk: Talk, output: Path, steps: int, style: Path | None, weights: Path | None, force: bool, seed: int
) -> dict[str, Any]:
    """Prune a bundled network, distil it on the photos inside scikit-image, export, prove, time, check: a few minutes.

    Beside it stands the bundled small network, which was distilled for longer. Everything lands in one folder: networks, .tflite
    files, pictures.png, table.json, records and a budget. No downloads.
    """
    from compress import models
    from compress.errors import OutputError
    from compress.pipeline import Settings
    from compress.pipeline import demo as run

    if output.exists() and (not output.is_dir() or any(output.iterdir())) and not force:
        raise OutputError(f"{output} exists", "--force writes into it, -o names another folder")
    widths = {"*": 48, "down1.*": 16, "up2.*": 16, "down2.*": 32, "up1.*": 32}
    settings = Settings(widths, steps, seed=seed, style=style, weights=weights)
    shipped = models.path(SHIPPED) if SHIPPED in models.names() else None
    outcome = run(models.path(DENSE), shipped, output, settings, talk)
    _show(talk, outcome)
    return outcome.to_json()


def _show(talk: Talk, outcome: Outcome) -> None:
    headers = ("network, runs as", "bytes", "smaller", "ms", "faster", "PSNR dB", "SSIM", "style", "content")
    talk.table(
        headers, [_cells(row) for row in outcome.rows], title="against the dense network, means over the photos held aside"
    )
    if outcome.missing:
        talk.show(outcome.missing)
    talk.show(f"look at {outcome.folder / 'pictures.png'}; the files for your app are in {outcome.folder / 'files'}")


def _cells(row: Row) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        row.name,
        f"{row.bytes:,}",
        f"{row.times_smaller:.1f} x",
        f"{row.ms:.1f}",
        f"{row.times_faster:.1f} x",
        shown(row.psnr_db, ".1f"),
        shown(row.ssim, ".3f"),
        shown(row.style, ".3f"),
        shown(row.content, ",.0f"),
    )
