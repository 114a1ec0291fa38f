"""What `compress bench --compare` shows, two files of records pair by pair, and what `--plot` draws. Never here: measuring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from compress.cli.common import Talk

_TAKEN = ("compare", "as_json", "quiet", "force", "seed")  # the last two have nothing to do, and do no harm

if TYPE_CHECKING:
    from android_bench.compare import Comparison, Pair
    from android_bench.job import Job
    from android_bench.record import Record


def compare_files(talk: Talk, before: Path, after: Path) -> dict[str, Any]:
    """Show what became faster or slower, what cannot be told, and what has no counterpart; return the JSON document.

    Raises MeasurementError that names file and line for damaged records, UsageError for options that only a measurement takes.
    """
    from android_bench.compare import compare
    from android_bench.record import read_records

    _check_alone()
    found = compare(read_records(before), read_records(after))
    _show(talk, found, f"{before} -> {after}")
    return {"before": str(before), "after": str(after), **found.to_json()}


def _check_alone() -> None:
    from compress.errors import UsageError

    context = click.get_current_context()
    beside = [
        parameter.opts[0] if parameter.name != "files" else "FILE"
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE and parameter.name not in _TAKEN
    ]
    if beside:
        raise UsageError(f"--compare measures nothing, and takes no {', '.join(beside)}")


def _show(talk: Talk, found: Comparison, title: str) -> None:
    from android_bench.compare import runs_on

    headers = ("file", "runs on", "before ms", "after ms", "after/before", "95 %", "p95 ms", "verdict")
    talk.table(headers, [_row(pair) for pair in found.pairs], title=f"{title}: {len(found.pairs)} compared")
    for pair in found.pairs:
        name = f"{pair.after.artifact} on {runs_on(pair.after)}"
        if pair.why:
            talk.show(f"{name}: cannot tell: {'; '.join(pair.why)}")
        for note in pair.notes:
            talk.say(f"{name}: {note}")
    for one in found.unmatched:
        talk.show(f"not compared: {one.record.artifact} on {runs_on(one.record)} ({one.side}): {one.why}")
    if not found.pairs:
        talk.warn("the two files have nothing in common that can be compared")


def _row(pair: Pair) -> tuple[str, ...]:
    from android_bench.compare import runs_on
    from android_bench.statistics import median, round_medians, summarise

    before, after, ratio = summarise(pair.before), summarise(pair.after), pair.ratio
    return (
        pair.after.artifact,
        runs_on(pair.after),
        f"{median(round_medians(pair.before)):.2f}",
        f"{median(round_medians(pair.after)):.2f}",
        f"{ratio.value:.3f}",
        f"{ratio.low:.3f}..{ratio.high:.3f}",
        f"{before.p95_ms:.2f} -> {after.p95_ms:.2f}",
        pair.verdict,
    )


def check_picture(path: Path, force: bool, inputs: Sequence[Path]) -> None:
    """Before anything is measured. Raises UsageError, MissingToolError, OutputError."""
    from android_bench.plot import SUFFIXES
    from compress.errors import UsageError, require
    from compress.files import check_output

    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: no picture format has the suffix {path.suffix!r}", f"one of {', '.join(SUFFIXES)}")
    require("matplotlib", "plot")
    check_output(path, force=force, inputs=inputs)


def draw_measured(talk: Talk, path: Path, measured: Sequence[tuple[Job, Record]]) -> None:
    """What was measured, as a picture."""
    from android_bench.compare import runs_on
    from android_bench.plot import draw, point
    from android_bench.plot_sustained import draw_sustained
    from android_bench.statistics import endurance

    if any(endurance(record) for _, record in measured):
        draw_sustained(path, [(f"{record.artifact} on {runs_on(record)}", record) for _, record in measured])
    else:
        draw(path, [point(Path(job.path), runs_on(record), record) for job, record in measured], "latency, size and quality")
    talk.say(f"picture: {path}")
