"""Two files of records held side by side: what became faster or slower, and what cannot be said.

Only the same work in the same place is compared: a file of the same name on the same backend, device and host, with the same
threads and inputs. Records of two runs have no paired rounds, so rounds of both are drawn independently; what the machine did
between the runs is in the ratio, and is said. Never here: reading files, printing, merging two hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from android_bench.record import Record
from android_bench.statistics import (
    FEWEST_ROUNDS,
    Ratio,
    busy_threads,
    doubts,
    median,
    paired_ratio,
    round_medians,
    summarise,
    unpaired_ratio,
)

# Facts that make a host another one; the rest (system, Python) is only said.
_SAME_HOST = ("id", "cpu", "machine", "cores")
_NOT_SAID = ("doubts", "core_khz", "features", "memory_bytes")  # a kernel keeps a little more or less for itself at each start
_WORK = ("backend", "device", "threads", "inputs")
_ASKED = ("requested", "fp32", "core_mask", "gpu")  # and got, where there is a choice
UNLIKE_LOAD = 0.1  # share of the processor time
VERDICTS = ("faster", "slower", "cannot tell")


@dataclass(frozen=True)
class Pair:
    """The same work before and after. `ratio`: after / before, below 1 is faster. `verdict`: one of VERDICTS. `why`: reasons that
    nothing can be told, or none. `notes`: what else differs, and what speaks against the numbers."""

    before: Record
    after: Record
    ratio: Ratio
    verdict: str
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_same_file(self) -> bool:
        return self.before.sha256 == self.after.sha256

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **{name: getattr(self.after, name) for name in ("artifact", "backend", "device", "threads")},
            "inputs": [list(shape) for shape in self.after.inputs],
            "before": _side(self.before),
            "after": _side(self.after),
            "same_file": self.is_same_file,
            "ratio": asdict(self.ratio),
            "verdict": self.verdict,
            "why": list(self.why),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Unmatched:
    """A record of one side without its counterpart. `side`: `before` or `after`."""

    side: str
    record: Record
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = {name: getattr(self.record, name) for name in ("artifact", "backend", "device", "threads")}
        return {"side": self.side, **plain, "why": self.why}


@dataclass(frozen=True)
class Comparison:
    pairs: tuple[Pair, ...]
    unmatched: tuple[Unmatched, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"pairs": [pair.to_json() for pair in self.pairs], "unmatched": [one.to_json() for one in self.unmatched]}


def compare(before: Sequence[Record], after: Sequence[Record]) -> Comparison:
    """Pair up what can be paired, in the order of `after`. Of several records of the same work on one side, the last counts."""
    old, new = (_latest(record for record in records if _has_times(record)) for records in (before, after))
    kept = {id(record) for record in (*old.values(), *new.values())}
    pairs = tuple(_pair(old[key], record) for key, record in new.items() if key in old)
    unmatched = [
        Unmatched(side, record, _why_alone(record, others.values()) if id(record) in kept else _why_dropped(record))
        for side, records, others in (("before", before, new), ("after", after, old))
        for record in records
        if id(record) not in kept or _key(record) not in others
    ]
    return Comparison(pairs, tuple(unmatched))


def _has_times(record: Record) -> bool:
    return min(record.samples_ms) > 0


def _why_dropped(record: Record) -> str:
    return "a later record of the same work counts" if _has_times(record) else "some of its runs took 0 ms"


def _latest(records: Iterable[Record]) -> dict[tuple[Any, ...], Record]:
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        found[_key(record)] = record
    return found


def _key(record: Record) -> tuple[Any, ...]:
    return record.artifact, *_work(record).values(), *(str(record.host.get(name)) for name in _SAME_HOST)


def _work(record: Record) -> dict[str, Any]:
    asked = {name: str(record.executed.get(name)) for name in _ASKED if name in record.executed}
    return {name: getattr(record, name) for name in _WORK} | {name: asked.get(name, "") for name in _ASKED}


def _why_alone(record: Record, others: Iterable[Record]) -> str:
    """What of its nearest counterpart differs."""
    named = [other for other in others if other.artifact == record.artifact]
    if not named:
        return "the other side has no record of that file"
    nearest = min((_differences(record, other) for other in named), key=len)
    return f"the other side differs in {', '.join(nearest)}"


def _differences(record: Record, other: Record) -> list[str]:
    ours, theirs = _work(record), _work(other)
    work = [f"{name} ({_short(ours[name])}, there {_short(theirs[name])})" for name in ours if ours[name] != theirs[name]]
    return work + _host_differences(record.host, other.host, _SAME_HOST)


def runs_on(record: Record) -> str:
    """The backend, of a phone its name, and what was asked for there, where it is not the usual."""
    if record.device != "android":
        return " ".join(filter(None, (record.backend, record.executed.get("requested"))))
    precision = " fp32" if record.executed.get("fp32") else ""
    return f"{record.host.get('name')} {record.executed.get('requested')}{precision}"


def _host_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    return [f"host {name} ({_short(ours.get(name))}, there {_short(theirs.get(name))})" for name in differing]


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join("x".join(map(str, shape)) for shape in value)
    return str(value)[:60] or "nothing"


def _pair(before: Record, after: Record) -> Pair:
    is_one_run = before.run == after.run and {r.index for r in before.rounds} & {r.index for r in after.rounds}
    ratio = paired_ratio(after, before) if is_one_run else unpaired_ratio(after, before)
    why = _why_not_told(ratio, before, after)
    verdict = "cannot tell" if why else "faster" if ratio.high < 1 else "slower"
    return Pair(before, after, ratio, verdict, why, (*_changes(before, after), *_doubts(before, after)))


def _why_not_told(ratio: Ratio, before: Record, after: Record) -> tuple[str, ...]:
    if before.executed.get("delegate") != after.executed.get("delegate"):
        return ("it was not executed by the same delegates",)
    if ratio.rounds < FEWEST_ROUNDS:
        return (f"{ratio.rounds} round{'s' * (ratio.rounds > 1)} on one side: it takes {FEWEST_ROUNDS}",)
    if not ratio.differs:
        return ("the interval holds 1",)
    return () if before.run == after.run else _unlike_load(before, after)


def _unlike_load(before: Record, after: Record) -> tuple[str, ...]:
    """Busy neighbours in one of two runs make any file slower. Of several threads another file may keep fewer busy by itself."""
    if before.threads > 1 and before.sha256 != after.sha256:
        return ()
    then, now = (median(busy) if (busy := busy_threads(one)) else None for one in (before, after))
    if then is None or now is None or abs(now - then) <= UNLIKE_LOAD * max(then, now):
        return ()
    return (f"the machine was loaded in one run: {then:.2f} and {now:.2f} of {after.threads} threads were kept busy",)


def _changes(before: Record, after: Record) -> list[str]:
    """What differs besides the time."""
    found = [] if before.sha256 == after.sha256 else [f"the file changed: {before.bytes:,} to {after.bytes:,} bytes"]
    names = sorted({*before.versions, *after.versions})
    found += [
        f"{name} {before.versions.get(name, 'absent')} to {after.versions.get(name, 'absent')}"
        for name in names
        if before.versions.get(name) != after.versions.get(name)
    ]
    others = [name for name in sorted({*before.host, *after.host}) if name not in (*_SAME_HOST, *_NOT_SAID)]
    if before.run != after.run:
        found.append("measured in two runs: what the machine did in between is in the ratio")
    return found + _host_differences(before.host, after.host, others)


def _doubts(before: Record, after: Record) -> list[str]:
    return [f"{side}: {doubt}" for side, record in (("before", before), ("after", after)) for doubt in doubts(record)]


def _side(record: Record) -> dict[str, Any]:
    plain = {name: getattr(record, name) for name in ("sha256", "bytes", "run", "measured_at")}
    return {**plain, "round_medians_ms": round_medians(record), **asdict(summarise(record))}
