"""What `compress bench` shows of its records: a table with ratios, profiles and photos of phones, doubts. Never measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from android_bench.compare import runs_on
from android_bench.job import Job
from android_bench.record import Record
from android_bench.statistics import doubts, endurance, paired_ratio, summarise
from compress.cli.common import Talk

SLOWEST_OPS = 10


@dataclass(frozen=True)
class Row:
    """`name`: of the file. `where`: what it ran on. `first`: the record that its ratio is to, of the same place."""

    name: str
    where: str
    record: Record
    first: Record

    @property
    def title(self) -> str:
        """Both, for a line of text."""
        return f"{self.name} on {self.where}"


def show(talk: Talk, measured: Sequence[tuple[Job, Record]]) -> None:
    """The table on stdout, doubts on stderr."""
    rows = _rows(measured)
    if any(endurance(row.record) for row in rows):
        _show_sustained(talk, rows)
        return
    records = [row.record for row in rows]
    inputs = " or ".join(dict.fromkeys("x".join(map(str, shape)) for record in records for shape in record.inputs))
    threads = " or ".join(dict.fromkeys(str(record.threads) for record in records))
    headers = ("file", "runs on", "MB", "median ms", "95 %", "min ms", "p95 ms", "spread", "x first")
    title = f"input {inputs}, threads {threads}, rounds {len(records[0].rounds)}"
    cells = [_cells(row) for row in rows]
    talk.table(headers, cells, title=title)
    if any(row[-1].endswith("?") for row in cells):
        talk.say("? cannot be told from the first: the interval holds 1, or there are too few rounds")
    for row in rows:
        _show_parity(talk, row)
        _show_profile(talk, row)
    _warn(talk, rows)


def _rows(measured: Sequence[tuple[Job, Record]]) -> list[Row]:
    names, wheres = _names([Path(job.path) for job, _ in measured]), _wheres(measured)
    firsts: dict[str, Record] = {}  # each place has rounds of its own
    for job, record in measured:
        firsts.setdefault(job.place, record)
    return [
        Row(name, where, record, firsts[job.place]) for name, where, (job, record) in zip(names, wheres, measured, strict=True)
    ]


def _names(paths: Sequence[Path]) -> list[str]:
    """File names, with the folder in front where two files share one."""
    shared = {path.name for path in paths if len({other for other in paths if other.name == path.name}) > 1}
    return [f"{path.parent.name}/{path.name}" if path.name in shared else path.name for path in paths]


def _wheres(measured: Sequence[tuple[Job, Record]]) -> list[str]:
    """The backend; of a phone its name and what was asked for there, with the serial where two phones share a name."""
    places: dict[str, set[str]] = {}
    for job, record in measured:
        places.setdefault(str(record.host.get("name")), set()).add(job.place)
    return [_where(job, record, len(places[str(record.host.get("name"))]) > 1) for job, record in measured]


def _where(job: Job, record: Record, is_shared: bool) -> str:
    if not job.place:
        return runs_on(record)
    serial = f" {job.place}" if is_shared else ""
    precision = " fp32" if record.executed.get("fp32") else ""
    return f"{record.host.get('name')}{serial} {record.executed.get('requested')}{precision}"


def _cells(row: Row) -> tuple[str, ...]:
    summary, ratio = summarise(row.record), paired_ratio(row.record, row.first)
    return (
        row.name,
        row.where,
        f"{row.record.bytes / 1e6:.2f}",
        f"{summary.median_ms:.2f}",
        f"{summary.low_ms:.2f}..{summary.high_ms:.2f}",
        f"{summary.min_ms:.2f}",
        f"{summary.p95_ms:.2f}",
        f"{summary.mad_ms / summary.median_ms:.1%}" if summary.median_ms else "",
        "1"
        if row.record is row.first
        else f"{ratio.value:.3g} ({ratio.low:.3g}..{ratio.high:.3g}){'' if ratio.is_told else ' ?'}",
    )


def _show_sustained(talk: Talk, rows: Sequence[Row]) -> None:
    """Medians of the first and the last minute: whether heat slows it down."""
    cells, windows = [], []
    for row in rows:
        if lasted := endurance(row.record):
            runs = sum(round_.runs for round_ in row.record.rounds)
            times = (summarise(row.record).median_ms, lasted.first_ms, lasted.last_ms)
            ratio = "" if lasted.ratio is None else f"{lasted.ratio:.3f}"
            cells.append((row.name, row.where, f"{runs:,}", *(f"{ms:.2f}" for ms in times), ratio))
            windows.append(f"{lasted.window_s:.2g}")
    seconds = " or ".join(dict.fromkeys(windows))
    headers = ("file", "runs on", "runs", "median ms", "first ms", "last ms", "last/first")
    talk.table(headers, cells, title=f"sustained: medians of all runs, of the first and of the last {seconds} s")
    for row in rows:
        _show_parity(talk, row)
        _show_profile(talk, row)
    _warn(talk, rows)


def _show_parity(talk: Talk, row: Row) -> None:
    for parity in (round_.parity for round_ in row.record.rounds if round_.parity):
        if parity["psnr_db"] is None:
            talk.show(f"{row.title}: the photo comes out exactly as here")
        else:
            apart = f"{parity['psnr_db']:.1f} dB from here, at most {parity['max_abs']:.1f} of 255"
            talk.show(f"{row.title}: the photo comes out {apart}")


def _show_profile(talk: Talk, row: Row) -> None:
    """The slowest ops: a network has hundreds, and the record has them all."""
    ops = sorted((op for round_ in row.record.rounds for op in round_.profile), key=lambda op: -(op["avg_ms"] or 0))
    cells = [(op["name"] or "", op["op"], op["graph"] or "", f"{op['avg_ms'] or 0:.3f}") for op in ops[:SLOWEST_OPS]]
    if cells:
        talk.table(("op", "kind", "inside", "ms"), cells, title=f"{row.title}: the {len(cells)} slowest of {len(ops)} ops")


def _warn(talk: Talk, rows: Sequence[Row]) -> None:
    for row in rows:
        if found := doubts(row.record):
            talk.warn(f"{row.title}: {'; '.join(found)}")
    if len({tuple(tuple(sorted(shape)) for shape in row.record.inputs) for row in rows}) > 1:  # NCHW or NHWC: the same work
        talk.warn("the inputs differ in size: these ratios compare unlike work")
