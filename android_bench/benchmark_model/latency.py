"""Latencies from the `count=` lines and the summaries, each confirmed by the other; what is not certainly right is left out.

A log may be cut anywhere, and another stream may have written into the middle of a line. So a line counts only when it is whole
and nothing else is in it; its numbers must be possible together; the blank line that the tool prints after a block of runs must
be there; and the block must agree with the summary at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from android_bench.benchmark_model.lines import Line
from android_bench.benchmark_model.result import Latency

_INT = "[0-9]{1,15}"
_FLOAT = r"[0-9]{1,15}(?:\.[0-9]{1,12})?(?:[eE][+-]?[0-9]{1,2})?"
_TWO = r"[0-9]{1,15}\.[0-9]{2}"  # LiteRT's numbers have two decimals: a cut one has not

_COUNT = re.compile(
    rf"count=(?P<count>{_INT})"
    rf"(?: curr=(?P<only>{_INT})(?P<same>\(all same\))?"
    rf"| first=(?P<first>{_INT}) curr=(?P<last>{_INT}) min=(?P<min>{_INT}) max=(?P<max>{_INT}) avg=(?P<avg>{_FLOAT})"
    rf" std=(?P<std>{_INT}))?"
    rf"(?: p5=(?P<p5>{_INT}) median=(?P<median>{_INT}) p95=(?P<p95>{_INT}))?"
)
_CLASSIC = re.compile(
    rf"Inference timings in us: Init: (?P<init>{_INT}), First inference: (?P<first>{_INT}),"
    rf" Warmup \(avg\): (?P<warmup>{_FLOAT}), Inference \(avg\): (?P<main>{_FLOAT})"
)
_OLD = re.compile(
    rf"Average inference timings in us: Warmup: (?P<warmup>{_FLOAT}), Init: (?P<init>{_INT}),"
    rf" (?:no stats|Inference): (?P<main>{_FLOAT})"
)
_LITERT_TITLE = "BENCHMARK RESULTS"
_LITERT = {
    "init": re.compile(rf"Model initialization: *({_TWO}) ms"),
    "first": re.compile(rf"(?:Warmup \(first\)|First inference): *({_TWO}) ms"),
    "warmup": re.compile(rf"Warmup \(avg\): *({_TWO}) ms \(({_INT}) runs\)"),
    "main": re.compile(rf"Inference \(avg\): *({_TWO}) ms \(({_INT}) runs\)"),
    "min": re.compile(rf"Inference \(min\): *({_TWO}) ms"),
    "max": re.compile(rf"Inference \(max\): *({_TWO}) ms"),
    "std": re.compile(rf"Inference \(std\): *({_TWO})"),
}
_INITIALIZED = re.compile(rf"Initialized session in ({_FLOAT}) ?ms\.?")
_NO_RUNS = re.compile("count=0(?: p5=0 median=0 p95=0)?")
# A piece of a line with numbers: something was written into its middle, or its rest is lost.
_SHARD = re.compile(
    r"count=[0-9]+ (?:first|curr)="
    r"|\b(?:curr|min|max|avg|std|p5|median)=[0-9.e+]* ?(?:curr|min|max|avg|std|p5|median|p95)="
    r"|\b(?:median|p95)=[0-9]|Inference timings in us|^\.?[0-9][0-9.]*(?:e[+-]?[0-9]+)?$",
    re.ASCII,
)
_OTHERS = ("Timings (microseconds): ", "Memory (bytes): ")  # of an op profile, in the shape of a count= line
_HALF_DIGIT_MS = 0.00501  # of a number with two decimals


@dataclass(frozen=True)
class Block:
    """One `count=` line, in microseconds as printed; `avg` has six significant digits. `percentiles`: p5, median, p95."""

    count: int
    first: int
    last: int
    min: int
    max: int
    avg: float
    std: int
    percentiles: tuple[int, int, int] | None

    def latency(self) -> Latency:
        """The same in milliseconds. Runs that took equally long have percentiles, printed or not."""
        percentiles = (self.min, self.min, self.min) if self.min == self.max else self.percentiles
        p5, median, p95 = percentiles or (None, None, None)
        return Latency(
            count=self.count,
            avg_ms=_ms(self.avg),
            min_ms=_ms(self.min),
            max_ms=_ms(self.max),
            std_ms=_ms(self.std),
            first_ms=_ms(self.first),
            last_ms=_ms(self.last),
            median_ms=None if median is None else _ms(median),
            p5_ms=None if p5 is None else _ms(p5),
            p95_ms=None if p95 is None else _ms(p95),
        )


def _ms(us: float) -> float:
    """Milliseconds with no more digits than the microseconds have."""
    return round(us / 1e3, 9)


@dataclass(frozen=True)
class Timings:
    """What a log says of times, all of it confirmed. `missing`: number -> why it is not here. `kind`: whose summary it was.

    `is_complete`: there was one, and only one. `spoilt`: why no number of this log can be trusted.
    """

    warmup: Latency | None = None
    main: Latency | None = None
    init_ms: float | None = None
    first_ms: float | None = None
    kind: str | None = None
    is_complete: bool = False
    spoilt: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Summary:
    """The end of a log. `warmup`, `main`: averages in the unit that is printed (classic: microseconds; litert: ms)."""

    kind: str
    init_ms: float
    first_ms: float | None
    warmup: float
    main: float
    latency: Latency | None = None  # of the measured runs, where the summary alone says it

    def has_average(self, block: Block, printed: float) -> bool:
        if self.kind == "litert":
            return abs(_ms(block.avg) - printed) <= _HALF_DIGIT_MS + 6e-6 * printed
        return float(f"{block.avg:.6g}") == printed

    def has_first(self, block: Block) -> bool:
        return self.first_ms is None or self._is(_ms(block.first), self.first_ms)

    def has_rest(self, block: Block) -> bool:
        if self.latency is None:
            return True
        ours, printed = block.latency(), self.latency
        pairs = ((ours.min_ms, printed.min_ms), (ours.max_ms, printed.max_ms), (ours.std_ms, printed.std_ms))
        return ours.count == printed.count and all(self._is(*pair) for pair in pairs)

    def _is(self, ours_ms: float, printed_ms: float) -> bool:
        return abs(ours_ms - printed_ms) <= (_HALF_DIGIT_MS if self.kind == "litert" else 0.0)


def read_block(text: str) -> Block | None:
    """The block of one `count=` line; None for any other line, for no runs, and for numbers that cannot be of one sample."""
    found = _COUNT.fullmatch(text)
    if not found:
        return None
    value = {name: int(text) for name, text in found.groupdict().items() if text and name not in ("avg", "same")}
    percentiles = (value["p5"], value["median"], value["p95"]) if "p5" in value else None
    if "only" in value:
        only, count = value["only"], value["count"]
        fits = bool(found["same"]) == (count > 1) and count > 0 and percentiles in (None, (only, only, only))
        return Block(count, only, only, only, only, float(only), 0, percentiles) if fits else None
    if "first" not in value:
        return None
    own = {name: value[name] for name in ("count", "first", "last", "min", "max", "std")}
    block = Block(avg=float(found["avg"]), percentiles=percentiles, **own)
    return block if _is_possible(block) else None


def _is_possible(block: Block) -> bool:
    """True when there are samples with these statistics. A number that has lost a digit hardly ever passes."""
    n, low, high, width = block.count, block.min, block.max, block.max - block.min
    inside = (block.first, block.last, *(block.percentiles or ()))
    if n < 2 or width <= 0 or not all(low <= value <= high for value in inside):
        return False
    if block.percentiles and list(block.percentiles) != sorted(block.percentiles):
        return False
    slack = 6e-6 * high  # six digits were printed
    if not low + width / n - slack <= block.avg <= high - width / n + slack:
        return False
    doubt = 1 + 1e-7 * high  # whole microseconds, and what the tool's own sums cancel
    return width / math.sqrt(2 * n) - doubt <= block.std <= width / 2 + doubt


def read_timings(lines: Sequence[Line]) -> Timings:
    """The times of one run. Of several runs, of one that did not end, or of a torn log: nothing but the reason."""
    lines = _without_echoes(lines)
    summaries = list(dict.fromkeys(_summaries(lines)))
    blocks = [block for line in lines if line.is_whole and (block := read_block(line.text))]
    kind = summaries[0].kind if len(summaries) == 1 else None
    spoilt = None
    if len(summaries) > 1 or len(blocks) > 2 or sum(line.text == "STARTING!" for line in lines) > 1:
        spoilt = "the log holds more than one run"
    elif any(map(_is_shard, lines)):
        spoilt = "the log is torn: lines with numbers are cut, or have others inside"
    if not summaries:
        died = ("before the end of the warm-up", "after the warm-up", "after the last run")[min(len(blocks), 2)]
        return Timings(spoilt=spoilt, missing=_all_missing(f"the log ends {died}, without a summary"))
    if spoilt:
        return Timings(kind=kind, is_complete=kind is not None, spoilt=spoilt, missing=_all_missing(spoilt))
    return _confirmed(summaries[0], blocks, _initialized_ms(lines))


def _all_missing(why: str) -> dict[str, str]:
    return dict.fromkeys(("warmup", "main", "init_ms", "first_ms"), why)


def _confirmed(summary: _Summary, blocks: Sequence[Block], initialized_ms: float | None) -> Timings:
    main = blocks[-1] if blocks and summary.has_average(blocks[-1], summary.main) and summary.has_rest(blocks[-1]) else None
    warmup = blocks[0] if len(blocks) == 2 and summary.has_average(blocks[0], summary.warmup) else None
    if warmup and not summary.has_first(warmup):
        warmup = None
    if main and len(blocks) == 1 and summary.has_average(main, summary.warmup) and summary.has_first(main):
        main = None  # it may as well be the warm-up, with the measured runs lost
    first_ms = _ms(warmup.first) if warmup else summary.first_ms
    timings = Timings(
        warmup=warmup.latency() if warmup else None,
        main=main.latency() if main else summary.latency if not blocks else None,
        init_ms=summary.init_ms,
        first_ms=first_ms,
        kind=summary.kind,
        is_complete=True,
    )
    slack = _HALF_DIGIT_MS if summary.kind == "litert" else 0.0
    if initialized_ms is not None and not abs(summary.init_ms - initialized_ms) <= slack + 6e-6 * initialized_ms:
        timings = replace(timings, init_ms=None)
    why = "the log has no line that agrees with its summary"
    absent = [name for name in ("warmup", "main", "init_ms", "first_ms") if getattr(timings, name) is None]
    return replace(timings, missing=dict.fromkeys(absent, why))


def _without_echoes(lines: Iterable[Line]) -> list[Line]:
    """Some loggers print every line twice."""
    kept: list[Line] = []
    for line in lines:
        if not kept or (line.text, line.is_whole) != (kept[-1].text, kept[-1].is_whole):
            kept.append(line)
    return kept


def _is_shard(line: Line) -> bool:
    text = line.text
    if len(text) > 1000:
        return any(key in text for key in ("count=", "median=", "Inference timings"))
    if text.startswith(_OTHERS) or _NO_RUNS.fullmatch(text):
        return False
    if read_block(text):
        return not (line.is_whole and line.is_sealed)
    if _CLASSIC.fullmatch(text) or _OLD.fullmatch(text):
        return not line.is_whole
    return text.startswith("count=") or bool(_SHARD.search(text))


def _initialized_ms(lines: Iterable[Line]) -> float | None:
    found = [_INITIALIZED.fullmatch(line.text) for line in lines if line.is_whole and line.text.startswith("Initialized session")]
    values = [float(match[1]) for match in found if match]
    return values[-1] if values else None


def _summaries(lines: Iterable[Line]) -> list[_Summary]:
    found: list[_Summary] = []
    section: list[str] = []
    for line in lines:
        if not line.is_whole:
            continue
        if match := _CLASSIC.fullmatch(line.text) or _OLD.fullmatch(line.text):
            value = {name: float(text) for name, text in match.groupdict().items()}
            first_ms = _ms(value["first"]) if "first" in value else None
            found.append(_Summary("classic", _ms(value["init"]), first_ms, value["warmup"], value["main"]))
        elif line.text.strip("= ") == _LITERT_TITLE:
            found += _litert(section)
            section = [line.text]
        elif section:
            section.append(line.text)
    return found + _litert(section)


def _litert(section: Sequence[str]) -> list[_Summary]:
    """The summary of the lines from the title on; [] when it is not whole, or says something twice and differently."""
    said: dict[str, tuple[str, ...]] = {}
    for text in section:
        for name, pattern in _LITERT.items():
            match = pattern.fullmatch(text)
            if match and said.setdefault(name, match.groups()) != match.groups():
                return []
    if not {"init", "warmup", "main"} <= said.keys():
        return []
    value, count = {name: float(groups[0]) for name, groups in said.items()}, int(said["main"][1])
    latency = None
    if {"min", "max", "std"} <= said.keys() and count > 0 and value["min"] <= value["main"] <= value["max"]:
        latency = Latency(count, value["main"], value["min"], value["max"], value["std"])
    return [_Summary("litert", value["init"], value.get("first"), value["warmup"], value["main"], latency)]
