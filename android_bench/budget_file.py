"""`compress-budget.toml`: read strictly, written without losing a line of it.

    version = 1
    [model."candy_256x256".dynamic]
    max_size = "1.80 MB"

A key that nobody understands is an error that names it: a typo must not open a gate. Never here: what limits mean (budget.py).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from android_bench.budget import LIMITS, Budget, Entry
from compress.errors import BudgetFileError
from compress.files import write_text

VERSION = 1
UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SIZES = ("max_size", "max_deflate_size")
_NEW = f"# Limits of `compress check`; `compress check --update` writes them.\nversion = {VERSION}\n"


def read_budget(path: Path) -> Budget:
    """Raises BudgetFileError for no file, no TOML, another version, an unknown key, a value that is no limit."""
    return parse_budget(_read(Path(path)), str(path))


def parse_budget(text: str, where: str = "budget") -> Budget:
    """The budget in `text`; `where` names it in errors."""
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BudgetFileError(f"{where} is no TOML: {error}") from error
    _refuse_unknown(top, ("version", "model"), where, "the top")
    if top.get("version") != VERSION or isinstance(top.get("version"), bool):
        raise BudgetFileError(f"{where} must say version = {VERSION}, got {top.get('version')!r}")
    entries = {}
    for model, variants in _table(top.get("model", {}), f"{where}: model").items():
        for variant, limits in _table(variants, f"{where}: model.{model}").items():
            place = f"model.{model}.{variant}"
            _refuse_unknown(_table(limits, f"{where}: {place}"), tuple(LIMITS), where, place)
            entries[model, variant] = {key: _value(key, value, f"{where}: {place}") for key, value in limits.items()}
    return Budget(entries)


def parse_bytes(value: Any) -> float:
    """`1800000`, `"1.80 MB"` (SI: a MB is 1,000,000 bytes), `"12 KiB"` -> bytes. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = re.fullmatch(r"(\d[\d_]*(?:\.\d+)?) ?([A-Za-z]+)", value) if isinstance(value, str) else None
    if not found or found[2] not in UNITS:
        raise ValueError(f'a size is a whole number of bytes, or like "1.80 MB" (units {", ".join(UNITS)}); got {value!r}')
    return round(float(found[1]) * UNITS[found[2]], 6)


def update_budget(path: Path, measured: Mapping[Entry, Mapping[str, float]]) -> Budget:
    """Write `measured` limits into the file; return what it says now. Raises BudgetFileError, OutputError.

    An entry that is there keeps its own choice of limits, and gets new values; a new entry is added with all of them. Everything
    else stays, comments too. A file that is not there is made.
    """
    path = Path(path)
    text = _read(path) if path.exists() else _NEW
    before = parse_budget(text, str(path))
    known = {
        e: {k: v for k, v in limits.items() if k in before.entries[e]} for e, limits in measured.items() if e in before.entries
    }
    new = {entry: limits for entry, limits in measured.items() if entry not in before.entries}
    text = _with_values(text, known) + "".join(_new_table(entry, limits) for entry, limits in new.items())
    wanted = {**before.entries, **{e: {**before.entries[e], **limits} for e, limits in known.items()}, **new}
    after = parse_budget(text, str(path))
    if after.entries != {entry: dict(limits) for entry, limits in wanted.items()}:
        raise BudgetFileError(
            f"{path} is written in a way that --update cannot edit", "one [model.NAME.VARIANT] table each, one limit a line"
        )
    write_text(path, text)
    return after


def _with_values(text: str, wanted: Mapping[Entry, Mapping[str, float]]) -> str:
    """`text` with the limits of `wanted` replaced, line by line."""
    lines, current = [], None
    for line in text.splitlines(keepends=True):
        if re.match(r"\s*\[", line):
            current = _entry_of_header(line)
        found = re.match(r"(\s*)([\w-]+)(\s*=\s*)(\"[^\"]*\"|[^\s#]+)(.*)", line, re.DOTALL)
        limits = wanted.get(current, {}) if current else {}
        if found and found[2] in limits:
            line = f"{found[1]}{found[2]}{found[3]}{_toml(found[2], limits[found[2]])}{found[5]}"
        lines.append(line)
    return "".join(lines) + ("" if text.endswith("\n") else "\n")


def _entry_of_header(line: str) -> Entry | None:
    """(model, variant) of `[model.NAME.VARIANT]`, None for any other header."""
    try:
        nested = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return None
    path = []
    while isinstance(nested, dict) and nested:
        name, nested = next(iter(nested.items()))
        path.append(name)
    return (path[1], path[2]) if len(path) == 3 and path[0] == "model" else None


def _new_table(entry: Entry, limits: Mapping[str, float]) -> str:
    header = ".".join(name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False) for name in entry)
    return "\n" + "\n".join([f"[model.{header}]", *(f"{key} = {_toml(key, value)}" for key, value in limits.items())]) + "\n"


def _toml(key: str, value: float) -> str:
    if key in SIZES:
        unit = next(u for u in ("MB", "kB", "B") if value >= UNITS[u] or u == "B")
        text = f'"{value / UNITS[unit]:.12g} {unit}"'
        return text if parse_bytes(text.strip('"')) == value else str(round(value))
    return str(int(value)) if key == "max_partitions" else repr(float(value))


def _value(key: str, value: Any, where: str) -> float:
    if key in SIZES:
        try:
            return parse_bytes(value)
        except ValueError as error:
            raise BudgetFileError(f"{where}.{key}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BudgetFileError(f"{where}.{key} must be a number, got {value!r}")
    return float(value)


def _refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...], where: str, place: str) -> None:
    unknown = sorted(table.keys() - set(known))
    if unknown:
        raise BudgetFileError(f"{where}: unknown {', '.join(map(repr, unknown))} in {place}", f"there are {', '.join(known)}")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BudgetFileError(f"{where} must be a table, got {value!r}", "[model.NAME.VARIANT]")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise BudgetFileError(f"{path}: no such file", "compress check --update writes one from what is there") from error
    except OSError as error:
        raise BudgetFileError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BudgetFileError(f"{path} is no text") from error
