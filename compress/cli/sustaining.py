"""`compress bench --sustained 10m`: how a duration is written, and the clock that people see meanwhile. Never measures."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import Talk

if TYPE_CHECKING:
    from android_bench.job import Job

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LONGEST_S = 24 * 3600.0
TICK_S = 0.5


class DurationType(click.ParamType[float]):
    """Seconds, from `90s`, `10m`, `1.5h`; from a second to a day."""

    name = "90s|10m|1h"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """As it is: click would write it in capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises UsageError."""
        from compress.errors import UsageError

        found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", str(value))
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not 1 <= seconds <= LONGEST_S:
            raise UsageError(f"{value} is no time to run for", "from 1s to 24h, as 90s, 10m, 1.5h")
        return seconds


DURATION = DurationType()


@contextmanager
def clock(talk: Talk, jobs: Sequence[Job]) -> Iterator[None]:
    """On a terminal a bar of the time that a sustained measurement takes; nothing elsewhere, and of other measurements."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console, seconds = talk.stderr, _seconds(jobs)
    if not seconds or not console.is_terminal or console.quiet:
        yield
        return
    ends = TextColumn(f"of {int(seconds) // 60}:{int(seconds) % 60:02}")
    over = threading.Event()
    with Progress(TextColumn("sustained"), BarColumn(), TimeElapsedColumn(), ends, console=console) as bar:
        task = bar.add_task("sustained", total=seconds)

        def tick() -> None:
            while not over.wait(TICK_S):
                bar.advance(task, TICK_S)

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield
        finally:
            over.set()
            ticking.join()


def _seconds(jobs: Sequence[Job]) -> float:
    """Those of this machine one after the other, then phones, all at once."""
    places = {job.place for job in jobs}
    each = {place: sum(job.sampling.sustained_s for job in jobs if job.place == place) for place in places}
    return each.pop("", 0.0) + max(each.values(), default=0.0)
