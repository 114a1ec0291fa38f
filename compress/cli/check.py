"""`compress check`: hold exported files, and what was measured of them, against a budget. Exit code 3 when a limit is broken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.common import PATH, Talk, command

if TYPE_CHECKING:
    from android_bench.budget import Budget, Entry, Verdict
    from android_bench.evidence import Evidence


@command(
    example="""
    compress check build/ --budget compress-budget.toml --update
    compress check build/ --budget compress-budget.toml
    compress check build/records.jsonl --budget compress-budget.toml --json
    """
)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="RECORDS|DIR...")
@click.option("--budget", "file", type=PATH, required=True, help="The limits (TOML).")
@click.option("--update", is_flag=True, help="Write limits from what is there; every other line of the file stays.")
def check(talk: Talk, paths: tuple[Path, ...], file: Path, update: bool, **_: Any) -> dict[str, Any]:
    """Hold exported files and their measurements against limits on bytes, parity and structure.

    DIR is what `compress export` wrote, with the records of `compress bench` in it, if any; RECORDS is one such file of records,
    beside the exported files. A file that the budget names and that is not there is a failure. Exit code 3: a limit is broken.
    """
    from android_bench.budget import entry_of, limits_from
    from android_bench.budget_file import read_budget, update_budget
    from android_bench.evidence import gather

    evidence = gather(paths)
    for record in evidence.stale:
        talk.warn(f"a record of {record.artifact} was made before the file changed, and says nothing of it; bench it again")
    if update:
        before = read_budget(file).entries if file.exists() else {}
        budget = update_budget(file, {entry_of(card): limits_from(card, evidence.records) for card in evidence.cards})
        return _updated(talk, file, before, budget, evidence)
    return _checked(talk, file, read_budget(file), evidence)


def _checked(talk: Talk, file: Path, budget: Budget, evidence: Evidence) -> dict[str, Any]:
    from android_bench.budget import entry_of
    from compress.errors import BudgetError, BudgetFileError

    if not budget.entries:
        raise BudgetFileError(f"{file} limits nothing", "--update writes limits from what is there")
    verdicts = [verdict for card in evidence.cards for verdict in budget.verdicts(card, evidence.records)]
    removed = budget.removed(evidence.cards)
    broken = [f"{' '.join(entry)}: is not there any more, and the budget names it" for entry in removed]
    broken += [verdict.line for verdict in verdicts if not verdict.kept]
    free = [entry_of(card) for card in evidence.cards if entry_of(card) not in budget.entries]
    document = {
        "budget": str(file),
        "limits": [verdict.to_json() for verdict in verdicts],
        "removed": [_named(entry) for entry in removed],
        "without_limits": [_named(entry) for entry in free],
        "broken": broken,
    }
    _show(talk, verdicts, free)
    for line in broken:
        talk.show(line)
    if broken:
        raise BudgetError(f"{len(broken)} of the budget's limits broken", "--update accepts what is there", document)
    return document


def _show(talk: Talk, verdicts: list[Verdict], free: list[Entry]) -> None:
    rows = [
        (
            " ".join(verdict.entry),
            verdict.limit.key,
            verdict.limit.show(verdict.allowed),
            "not measured" if verdict.measured is None else verdict.limit.show(verdict.measured),
            "kept" if verdict.kept else "BROKEN",
        )
        for verdict in verdicts
    ]
    talk.table(("file", "limit", "allowed", "measured", "verdict"), rows)
    for verdict in verdicts:
        if verdict.loose:
            talk.say(f"{verdict.line}: it can be tightened (--update)")
    for entry in free:
        talk.say(f"{' '.join(entry)}: no limits in the budget (--update adds them)")


def _updated(talk: Talk, file: Path, before: Any, budget: Budget, evidence: Evidence) -> dict[str, Any]:
    from android_bench.budget import LIMITS

    changes = [
        {"model": entry[0], "variant": entry[1], "limit": key, "before": before.get(entry, {}).get(key), "after": value}
        for entry, limits in budget.entries.items()
        for key, value in limits.items()
        if before.get(entry, {}).get(key) != value
    ]
    shown = [
        (f"{c['model']} {c['variant']}", c["limit"], "" if c["before"] is None else LIMITS[c["limit"]].show(c["before"]),
         LIMITS[c["limit"]].show(c["after"]))
        for c in changes
    ]  # fmt: skip
    talk.table(("file", "limit", "before", "now"), shown, title=f"{file}: {len(changes)} limits changed")
    removed = budget.removed(evidence.cards)
    for entry in removed:
        talk.warn(f"{' '.join(entry)}: not there, its limits stay in {file}; remove them by hand if it is gone for good")
    return {"budget": str(file), "changes": changes, "removed": [_named(entry) for entry in removed]}


def _named(entry: Entry) -> dict[str, str]:
    return {"model": entry[0], "variant": entry[1]}
