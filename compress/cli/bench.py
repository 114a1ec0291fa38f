"""`compress bench`: networks and files timed side by side, in interleaved rounds of fresh processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, SIZE, Talk, command, net_options, output_option

if TYPE_CHECKING:
    from android_bench.job import Job, Seen
    from android_bench.record import Record
    from compress.errors import CompressError
    from compress.networks.load import NetOptions

MEASURED = (".safetensors", ".onnx", ".tflite")


@command(
    example="""
    compress bench dense.safetensors build/dense.onnx build/dense_256x256_fp32.tflite
    compress bench dense.safetensors build/ --threads 2 --rounds 7 -o records.jsonl
    compress bench candy.pth --network johnson --size 480x640 --json
    """
)
@net_options
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE...")
@click.option("--device", "devices", multiple=True, default=("cpu",), show_default=True, help="Where to measure; once a device.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads of each.  [default: the cores of this machine]")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Fresh processes of each.")
@click.option("--samples", type=click.IntRange(1, 200), default=10, show_default=True, help="Timed runs a process, at least.")
@click.option("--size", type=SIZE, help="Height and width, where the file leaves them open.  [default: its own, or 256]")
@click.option("--timeout", type=click.FloatRange(1, 86400), default=300, show_default=True, help="Seconds for a process.")
@output_option("Records, one JSON line each (.jsonl).", required=False)
def bench(
    talk: Talk, net: NetOptions, files: tuple[Path, ...], output: Path | None, force: bool, **settings: Any
) -> dict[str, Any]:
    """Time networks (torch), .onnx (ONNX Runtime) and .tflite (XNNPACK) files side by side on this CPU.

    A folder stands for the networks and files in it. Ratios are to the first file, from paired rounds. After Ctrl-C the rounds
    that are done are kept.
    """
    from android_bench.protocol import Run
    from android_bench.statistics import document
    from compress.errors import CompressError, UsageError
    from compress.files import check_output

    paths = expanded(files)
    _check_cards(paths)
    if output:
        check_output(output, force=force, inputs=paths)
    run = Run(jobs_for(paths, net, settings), settings["rounds"], settings["seed"])
    try:
        run.measure(lambda index, job, seen: _say(talk, f"round {index + 1}/{run.rounds}", job, seen, len(run.jobs) == 1))
    except UsageError:
        raise
    except (CompressError, KeyboardInterrupt):  # what was measured stays
        _finish(talk, run.measured(), output)
        raise
    _finish(talk, run.measured(), output)
    return {"records": [document(record) for record in run.records()]}


def expanded(files: Sequence[Path]) -> list[Path]:
    """Each file, and for each folder what in it can be measured. Raises UsageError for a folder with nothing."""
    from compress.errors import UsageError

    found: list[Path] = []
    for path in files:
        inside = (
            [p for p in sorted(path.iterdir()) if p.suffix in MEASURED and ".state." not in p.name] if path.is_dir() else [path]
        )
        if not inside:
            raise UsageError(f"{path} holds nothing to measure", f"looked for {', '.join(MEASURED)}")
        found += inside
    return found


def _check_cards(paths: Sequence[Path]) -> None:
    """A card beside a file must be that file's: else the record would be of something that nobody exported."""
    from export.artifact import card_path, read_artifact

    for path in paths:
        if path.is_file() and path.suffix in (".onnx", ".tflite") and card_path(path).exists():
            read_artifact(path)


def jobs_for(paths: Sequence[Path], net: NetOptions, settings: dict[str, Any]) -> list[Job]:
    """One job for each file, device and backend that runs it there. Raises UsageError."""
    from android_bench import backends
    from android_bench.host import available_cores
    from android_bench.job import Job, Sampling

    told = {
        "network": net.network,
        "arguments": net.arguments,
        "examples": [list(shape) for shape in net.examples],
        "image_format": net.image_format.name if net.image_format else None,
    }
    sampling = Sampling(samples=settings["samples"], timeout_s=settings["timeout"])
    threads = settings["threads"] or available_cores()
    return [
        Job(str(path), backend.name, threads, settings["size"], settings["seed"], told, sampling)
        for path in paths
        for device in dict.fromkeys(settings["devices"])
        for backend in backends.for_file(path, device)
    ]


def _say(talk: Talk, progress: str, job: Job, seen: Seen | CompressError, is_alone: bool) -> None:
    from android_bench.job import Seen
    from android_bench.statistics import median

    if isinstance(seen, Seen):
        samples = seen.round.samples_ms
        talk.say(f"{progress}  {Path(job.path).name} on {job.backend}: {median(samples):.2f} ms ({len(samples)} runs)")
    elif not is_alone:  # the error itself ends the command
        talk.warn(f"{seen.message}; left out of the rounds to come")


def _finish(talk: Talk, measured: Sequence[tuple[Job, Record]], output: Path | None) -> None:
    """Show what was measured, if anything was, and then write it: a full disk does not take the table with it."""
    from android_bench.record import write_records

    if measured:
        _show(talk, measured)
    if measured and output:
        write_records(output, [record for _, record in measured])
        talk.say(f"{len(measured)} records in {output}")


def _show(talk: Talk, measured: Sequence[tuple[Job, Record]]) -> None:
    names = _names([Path(job.path) for job, _ in measured])
    records = [record for _, record in measured]
    headers = ("file", "runs on", "MB", "median ms", "95 %", "min ms", "x first")
    rows = [(name, *_cells(record, records[0])) for name, record in zip(names, records, strict=True)]
    inputs = " or ".join(dict.fromkeys("x".join(map(str, shape)) for record in records for shape in record.inputs))
    talk.table(headers, rows, title=f"input {inputs}, threads {records[0].threads}, rounds {len(records[0].rounds)}")
    _warn(talk, names, records)


def _cells(record: Record, first: Record) -> tuple[str, ...]:
    from android_bench.statistics import paired_ratio, summarise

    summary, ratio = summarise(record), paired_ratio(record, first)
    return (
        record.backend,
        f"{record.bytes / 1e6:.2f}",
        f"{summary.median_ms:.2f}",
        f"{summary.low_ms:.2f}..{summary.high_ms:.2f}",
        f"{summary.min_ms:.2f}",
        "1" if record is first else f"{ratio.value:.3g} ({ratio.low:.3g}..{ratio.high:.3g})",
    )


def _warn(talk: Talk, names: Sequence[str], records: Sequence[Record]) -> None:
    from android_bench.statistics import doubts

    for name, record in zip(names, records, strict=True):
        if found := doubts(record):
            talk.warn(f"{name} on {record.backend}: {'; '.join(found)}")
    if len({tuple(tuple(sorted(shape)) for shape in record.inputs) for record in records}) > 1:  # NCHW or NHWC: the same work
        talk.warn("the inputs differ in size: these ratios compare unlike work")


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, with the folder in front where two files share one."""
    shared = {path.name for path in paths if len({other for other in paths if other.name == path.name}) > 1}
    return [f"{path.parent.name}/{path.name}" if path.name in shared else path.name for path in paths]
