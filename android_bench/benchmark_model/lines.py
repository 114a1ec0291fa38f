"""What the tool and the runtime print, as lines without the prefixes of loggers and logcat. Never here: what a line means.

A line whose end is missing was cut: it is kept as text, and no number is read from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 4096  # characters; no line with a result is longer, and none that is gets near a regular expression

_THREADTIME = re.compile(
    r"(?:[0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:.]{8,18} +(?P<pid>[0-9]{1,7}) +[0-9]{1,7} (?P<level>[VDIWEFS])"
    r" (?P<tag>[^:]{0,60}?) *: ?"
)
_TIME = re.compile(
    r"(?:[0-9]{4}-)?[0-9]{2}-[0-9]{2} [0-9:.]{8,18} (?P<level>[VDIWEFS])/(?P<tag>[^(:]{0,60}?) *\( *(?P<pid>[0-9]{1,7})\): ?"
)
_LEVEL = re.compile(r"(INFO|WARN|WARNING|ERROR|FATAL|VERBOSE): ?")
_PLACE = re.compile(r"\[[\w./-]{1,100}:[0-9]{1,6}\] ?", re.ASCII)
_LEVELS = {"V": "VERBOSE", "D": "VERBOSE", "I": "INFO", "W": "WARN", "E": "ERROR", "F": "FATAL", "S": "FATAL", "WARNING": "WARN"}


@dataclass(frozen=True)
class Line:
    """`text`: without prefixes and outer blanks. `cells`: the same with the tabs of a table in front. `level`: INFO, WARN, ERROR,
    FATAL, VERBOSE, or None where the line does not say. `tag`, `pid`: of logcat. `is_whole`: its end was there.
    `is_sealed`: nothing can have been written into it, as far as one line tells: a blank one follows, or logcat brought it."""

    text: str
    cells: str
    level: str | None
    tag: str | None
    pid: int | None
    is_whole: bool
    is_sealed: bool = False


def lines_of(text: str) -> list[Line]:
    """The lines of one stream in order, blank ones left out."""
    return [line for line in _all_of(text) if line.text]


def _all_of(text: str) -> Iterator[Line]:
    parts = [part.rstrip("\r") for part in text.split("\n")]  # not splitlines: names may hold its other separators
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        yield _line(part, following)


def _line(raw: str, following: str | None) -> Line:
    if len(raw) > LONGEST:
        return Line(raw.strip(), raw, None, None, None, is_whole=False)
    rest, level, tag, pid = raw, None, None, None
    logcat = _THREADTIME.match(rest) or _TIME.match(rest)
    if logcat:
        rest, level, tag, pid = rest[logcat.end() :], logcat["level"], logcat["tag"], int(logcat["pid"])
    if own := _LEVEL.match(rest.lstrip()):
        rest, level = rest.lstrip()[own.end() :], own[1]
        if place := _PLACE.match(rest):
            rest = rest[place.end() :]
    is_sealed = following == "" or logcat is not None
    return Line(rest.strip(), rest, _LEVELS.get(level, level) if level else None, tag, pid, following is not None, is_sealed)
