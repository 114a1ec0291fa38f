"""Tables of an op profile, as text (tab separated) or CSV, read by the names in their headers. Versions differ in the columns.

Node types hold blanks, commas and brackets, so text is split at tabs only, and CSV from its right end. Never here: latencies of
whole runs (latency.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from android_bench.benchmark_model.latency import read_block
from android_bench.benchmark_model.lines import LONGEST, Line
from android_bench.benchmark_model.result import Latency

_COLUMNS = {
    "node type": "node_type",
    "start": "start_ms",
    "first": "first_ms",
    "avg ms": "avg_ms",
    "avg_ms": "avg_ms",
    "%": "percent",
    "avg %": "percent",
    "cdf%": "cumulative_percent",
    "cdf %": "cumulative_percent",
    "mem kb": "memory_kb",
    "times called": "times_called",
    "name": "name",
    "count": "count",
}
_COUNTS = ("count", "times_called")
_TITLE = re.compile(r"={10,60} (\S.{0,80}?) ={10,60}")
_PHASES = {
    "Profiling Info for Benchmark Initialization:": "initialization",
    "Operator-wise Profiling Info for Regular Benchmark Runs:": "runs",
}
_GRAPH = re.compile(r"(Primary graph \(name: .{0,200}\)|Subgraph \(index: [0-9]{1,6}, name: .{0,200}\)) (?:profile|summary):")
_DELEGATE = "Delegate internal:"
_TIMINGS = "Timings (microseconds): "
_OBSERVED = re.compile(r"(?:Subgraph \(index: .{0,240}\) )?([0-9]{1,7}) nodes observed")
_REAL = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9]{1,2})?")
_FIXED = re.compile(r"-?[0-9]{1,15}\.[0-9]{3}")
_INTEGER = re.compile("[0-9]{1,15}")


@dataclass(frozen=True)
class Op:
    """One row; None: the table has no such column. Times in ms, of one run. `memory_kb`: 1000 bytes. `count`: nodes of it."""

    node_type: str
    name: str | None = None
    count: int | None = None
    start_ms: float | None = None
    first_ms: float | None = None
    avg_ms: float | None = None
    percent: float | None = None
    cumulative_percent: float | None = None
    memory_kb: float | None = None
    times_called: int | None = None


@dataclass(frozen=True)
class Table:
    """`title`: `Run Order`, `Top by Computation Time`, `Summary by node type`. `columns`: fields of its ops, in order."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Op, ...]


@dataclass(frozen=True)
class Profile:
    """One report. `phase`: `initialization`, `runs`, or None where it is not said. `graph`: which subgraph, or `delegate` for
    what a delegate does inside; None for the only one. `total`: all nodes together, per run. `nodes`: how many there are.

    `is_whole`: it has its end, and all rows; where it has not, a number at the end of a row is left out, for it may be cut.
    """

    phase: str | None
    graph: str | None
    tables: tuple[Table, ...]
    total: Latency | None
    nodes: int | None
    is_whole: bool

    def table(self, title: str) -> Table | None:
        """The table of that title, or None."""
        return next((table for table in self.tables if table.title == title), None)


def read_profiles(lines: Iterable[Line]) -> tuple[Profile, ...]:
    """Every report of a log, or of the text of a CSV file, in order."""
    return tuple(profile for profile in _read(lines) if profile.tables)


@dataclass
class _Open:
    """A report while it is read. `table`: the one that the next rows belong to."""

    phase: str | None = None
    graph: str | None = None
    title: str = ""
    tables: list[tuple[str, _Rows, list[Op]]] = field(default_factory=list)
    table: tuple[str, _Rows, list[Op]] | None = None
    total: Latency | None = None

    def takes_row(self, line: Line) -> bool:
        op = self.table[1](line.cells) if self.table and line.is_whole else None
        if self.table and op:
            self.table[2].append(op)
        return op is not None

    def takes_heading(self, line: Line) -> None:
        self.table = None
        if title := _TITLE.fullmatch(line.text):
            self.title = title[1]
        elif line.text.startswith(_TIMINGS):
            block = read_block(line.text.removeprefix(_TIMINGS)) if line.is_whole else None
            self.total = block.latency() if block else None
        elif reader := _header(line.cells):
            self.table = (self.title, reader, [])
            self.tables.append(self.table)

    def closed(self, nodes: int | None = None) -> Profile:
        tables = tuple(Table(title, reader.columns, tuple(rows)) for title, reader, rows in self.tables)
        is_whole = nodes is not None and all(_has_all(table, nodes) for table in tables)
        if not is_whole:
            tables = tuple(_without_last_number(table) for table in tables)
        return Profile(self.phase, self.graph, tables, self.total if is_whole else None, nodes, is_whole)


def _read(lines: Iterable[Line]) -> Iterator[Profile]:
    state = _Open()
    for line in lines:
        if len(line.cells) > LONGEST or state.takes_row(line):
            continue
        graph = _GRAPH.fullmatch(line.text)
        if line.text in _PHASES:
            yield state.closed()
            state = _Open(phase=_PHASES[line.text])
        elif graph or line.text == _DELEGATE:
            yield state.closed()
            state = _Open(phase=state.phase, graph=graph[1] if graph else "delegate")
        elif (observed := _OBSERVED.fullmatch(line.text)) and line.is_whole:
            yield state.closed(int(observed[1]))
            state = _Open(phase=state.phase)
        else:
            state.takes_heading(line)
    yield state.closed()


def _has_all(table: Table, nodes: int) -> bool:
    if "count" in table.columns:
        return sum(row.count or 0 for row in table.rows) == nodes
    return len(table.rows) == nodes or (table.title.startswith("Top by") and 0 < len(table.rows) < nodes)


def _without_last_number(table: Table) -> Table:
    last = table.columns[-1]
    if last in ("name", "node_type"):
        return table
    cleared: dict[str, Any] = {last: None}
    return replace(table, rows=tuple(replace(row, **cleared) for row in table.rows))


@dataclass(frozen=True)
class _Rows:
    """Reads the rows under one header; called with a line, gives its op, or None when it is no row of this table."""

    columns: tuple[str, ...]
    is_csv: bool

    def __call__(self, line: str) -> Op | None:
        if self.is_csv:
            cells = [cell.strip() for cell in line.strip("\r").rsplit(",", len(self.columns) - 1)]
        else:
            cells = [cell.strip() for cell in line.strip(" ").lstrip("\t").split("\t")] if "\t" in line else []
        if len(cells) != len(self.columns) or not cells[0]:
            return None
        values = {name: self._value(name, cell) for name, cell in zip(self.columns, cells, strict=True)}
        return None if None in values.values() else Op(**values)  # type: ignore[arg-type]

    def _value(self, column: str, cell: str) -> str | int | float | None:
        if column in ("node_type", "name"):
            return cell
        if column in _COUNTS:
            return int(cell) if _INTEGER.fullmatch(cell) else None
        if column.endswith("percent"):
            if not cell.endswith("%"):
                return None
            cell = cell[:-1]
        pattern = _REAL if self.is_csv else _FIXED  # in text all have three decimals: a cut one has not
        return float(cell) if pattern.fullmatch(cell) and math.isfinite(float(cell)) else None


def _header(line: str) -> _Rows | None:
    if "\t" in line:
        return _rows([cell.strip().removeprefix("[").removesuffix("]") for cell in line.strip().split("\t")], is_csv=False)
    return _rows([cell.strip() for cell in line.split(",")], is_csv=True)


def _rows(names: Sequence[str], is_csv: bool) -> _Rows | None:
    columns = tuple(_COLUMNS.get(name.lower(), "") for name in names)
    if len(columns) < 3 or columns[0] != "node_type" or "" in columns or len(set(columns)) < len(columns):
        return None
    return _Rows(columns, is_csv)
