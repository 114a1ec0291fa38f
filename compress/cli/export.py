"""`compress export`: a network or an .onnx file becomes .onnx and .tflite files, each executed and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, open_net, output_option

if TYPE_CHECKING:
    from compress.image_format import ImageFormat
    from compress.networks.load import NetOptions
    from export.artifact import Parity
    from export.export import Made, Report
    from export.mixed import Search
    from export.source import Source


WORTH = 0.95  # a mixed file that takes more of dynamic's time than this is hardly worth its loss


@command(
    example="""
    compress export small.safetensors -o build/
    compress export candy.pth -o build/ --variants fp32,dynamic,int8 --size 256 --size 480x640 --calibration photos/
    compress export foreign.onnx -o build/ --image-format 0..1 --json
    """
)
@net_options
@click.argument("file", type=PATH, metavar="NET|FILE.onnx")
@output_option("Folder for the .onnx, the .tflite files and their cards, and Kotlin for an app.")
@click.option(
    "--variants",
    metavar="LIST",
    help="Of fp32,fp16,dynamic,int8,mixed,int16x8.  [default: fp32,fp16,dynamic; int8,mixed too with --calibration]",
)
@click.option("--size", "sizes", type=SIZE, multiple=True, help="Height and width; once a size.  [default: the network's own]")
@click.option("--calibration", type=PATH, help="Folder of photos: for int8, mixed and int16x8, and to compare on.")
@click.option("--photos", type=int, default=16, show_default=True, help="Calibrate with so many of them, evenly spaced.")
@click.option(
    "--percentile",
    type=float,
    default=100.0,
    show_default=True,
    help="Calibrate with the central share of each activation: 99.99 cuts outliers off, 100 is the whole range.",
)
@click.option(
    "--min-psnr",
    type=float,
    default=30.0,
    show_default=True,
    help="PSNR in dB that mixed must reach: the most sensitive layers stay in dynamic range until it does.",
)
@click.option("--target", type=click.Choice(["cpu", "gpu", "npu"]), default="cpu", show_default=True, help="What to rewrite for.")
@click.option(
    "--io",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="What files take and make: the network's own tensors, or RGB pixels, its image format folded in.",
)
@click.option("--strip/--no-strip", default=True, help="Remove dead channels first.  [default: strip]")
@click.option(
    "--backend",
    type=click.Choice(["onnx2tf", "litert-torch"]),
    default="onnx2tf",
    show_default=True,
    help="What converts to TFLite.",
)
@click.option("--converter-python", type=PATH, help="The Python that litert-torch is installed in: an environment of its own.")
@click.option("--explain", is_flag=True, help="Hold each layer of each variant against the float file's: where do they part?")
@click.option("--timeout", type=click.FloatRange(1, 86400), default=1800, show_default=True, help="Seconds for a conversion.")
def export(
    talk: Talk,
    net: NetOptions,
    file: Path,
    output: Path,
    variants: str | None,
    sizes: tuple[tuple[int, int], ...],
    calibration: Path | None,
    **options: Any,
) -> dict[str, Any]:
    """Make ONNX and TFLite files of a network, run each, and show how far each stage is from the network as given.

    Without --calibration the stages are compared on synthetic pictures. A variant that does not run is not kept, and the exit
    code is 1.
    """
    from compress.errors import ConversionError
    from compress.files import check_folder
    from export import variants as table
    from export.tools import check_tools

    default = ",".join(name for name, row in table.VARIANTS.items() if row.usual and (calibration or not row.calibrated))
    rows = table.parse(variants if variants is not None else default)
    check_tools()
    from export.export import ExportConfig
    from export.export import export as run

    config = ExportConfig(
        rows,
        options["target"],
        options["io"],
        calibration,
        options["photos"],
        options["percentile"],
        options["min_psnr"],
        options["seed"],
        options["force"],
        options["timeout"],
        options["backend"],
        options["converter_python"],
        options["explain"],
    )
    check_folder(output)
    report = run(_source(talk, file, net, tuple(dict.fromkeys(sizes)), options["strip"]), output, config, talk.say)
    document = _document(report)
    _show(talk, report)
    lost = [made for made in report.made if made.problem]
    if lost:
        raise ConversionError("; ".join(f"{one.variant} at {_size(one)}: {one.problem}" for one in lost), None, document)
    return document


def _source(talk: Talk, file: Path, net: NetOptions, sizes: tuple[tuple[int, int], ...], strip: bool) -> Source:
    from export import metadata, source

    if file.suffix.lower() != ".onnx":
        return source.from_network(file, open_net(file, net, talk), sizes, strip)
    said = metadata.read(file) if file.exists() else None
    own = (said.size_seen,) if said and said.size_seen else ()
    form = net.image_format or _format_by_card(file) or (said.image_format if said else None)
    return source.from_onnx(file, sizes or own, form)


def _format_by_card(file: Path) -> ImageFormat | None:
    """What the card of an .onnx file of ours says of its pictures; None without one. Raises ArtifactError for another's card."""
    from export.artifact import card_path, read_artifact

    if not (file.exists() and card_path(file).exists()):
        return None
    return next((port.format for port in read_artifact(file).card.inputs if port.format), None)


def _show(talk: Talk, report: Report) -> None:
    from export.contact import AMPLIFIED

    for size, stages in report.stages.items():
        rows = [(stage.stage, *_numbers(stage)) for stage in stages]
        title = f"{size[0]}x{size[1]} on {report.pictures[size]}: how far from the network as given"
        talk.table(("stage", "max", "mean", "PSNR", "SSIM"), rows, title=title)
    files = [(one.artifact.path.name, f"{one.artifact.card.bytes:,}", f"{one.artifact.card.deflate_bytes:,}")
             for one in report.made if one.artifact]  # fmt: skip
    talk.table(("file", "bytes", "deflated"), files)
    for path in report.sheets.values():
        talk.show(f"side by side, and {AMPLIFIED} times the differences: {path}")
    if report.kotlin:
        talk.show(f"for an Android app: {report.kotlin}")
    _show_layers(talk, report.made)
    for one in report.made:
        if one.search:
            _show_search(talk, one.search)
        if one.is_far:
            talk.warn(f"{one.variant} at {_size(one)} runs, but is far from the network: {_numbers(one.parity)[2]}")


def _show_layers(talk: Talk, made: Sequence[Made]) -> None:
    """A row a layer, a column a variant; and for each variant where it parts from the float file."""
    from export.explain import APART_DB, first_apart

    for size in dict.fromkeys(one.size for one in made):
        known = [one for one in made if one.size == size and one.layers]
        if known:
            rows = [
                (f"{gaps[0].number}: {gaps[0].kind}", *(f"{gap.db:.1f}" for gap in gaps))
                for gaps in zip(*(one.layers for one in known), strict=True)
            ]
            title = f"{size[0]}x{size[1]}: how near the output of each layer is to the float file's, in dB"
            talk.table(("layer", *(one.variant for one in known)), rows, title=title)
    for one in made:
        if one.layers:
            first = first_apart(one.layers)
            said = f"parts at layer {first.number} ({first.name}, {first.db:.1f} dB)" if first else "parts nowhere"
            talk.show(f"{one.variant} at {_size(one)} {said}, at {APART_DB:g} dB")
        if one.layers_unknown:
            talk.warn(f"where {one.variant} at {_size(one)} parts from the float file is not known: {one.layers_unknown}")


def _show_search(talk: Talk, search: Search) -> None:
    left = f"{search.chosen.dynamic} of {len(search.order)} layers in dynamic range"
    talk.show(f"mixed: {left}, {search.chosen.db:.1f} dB from the float file, {search.x_dynamic:.2f} x the time of dynamic here")
    if search.x_dynamic > WORTH:
        talk.warn("mixed is hardly faster than dynamic on this machine; a phone may differ: bench both")


def _document(report: Report) -> dict[str, Any]:
    return {
        "onnx": {"path": str(report.onnx.path), "bytes": report.onnx.card.bytes, "parity": _parity(report.onnx.card.own_parity)},
        "kotlin": str(report.kotlin) if report.kotlin else None,
        "sheets": {f"{height}x{width}": str(path) for (height, width), path in report.sheets.items()},
        "pictures": {f"{height}x{width}": about for (height, width), about in report.pictures.items()},
        "artifacts": [
            {
                "path": str(one.artifact.path) if one.artifact else None,
                "variant": one.variant,
                "size": list(one.size),
                "bytes": one.artifact.card.bytes if one.artifact else None,
                "runs": one.problem or True,
                "search": one.search.to_json() | {"x_dynamic": one.search.x_dynamic} if one.search else None,
                "layers": [asdict(gap) for gap in one.layers] or None,
                "parity": _parity(one.parity),
            }
            for one in report.made
        ],
        "stages": [
            {"size": list(size), "stage": stage.stage, **(_parity(stage) or {})}
            for size, stages in report.stages.items()
            for stage in stages
        ],
    }


def _parity(parity: Parity | None) -> dict[str, Any] | None:
    if parity is None:
        return None
    return {
        "max_abs": parity.max_abs,
        "mean_abs": parity.mean_abs,
        "psnr_db": parity.psnr_db,
        "relative": parity.relative,
        "unit": parity.unit,
        "ssim": parity.ssim,
    }


def _numbers(parity: Parity | None) -> tuple[str, str, str, str]:
    assert parity is not None
    same = "identical" if parity.max_abs == 0 else f"{parity.relative:.1e} of range"
    psnr = f"{parity.psnr_db:.1f} dB" if parity.psnr_db is not None else same
    return f"{parity.max_abs:.3g}", f"{parity.mean_abs:.3g}", psnr, "" if parity.ssim is None else f"{parity.ssim:.4f}"


def _size(one: Made) -> str:
    return f"{one.size[0]}x{one.size[1]}"
