"""JSON lines of what is measured here and is no record of `compress bench`: raw values, with host, versions and time.

Never here: statistics (tables.py computes them).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import compress
from android_bench import host
from compress.files import write_text

SCHEMA = 1


def context(*packages: str) -> dict[str, Any]:
    """Where and when: the same for every line of one run."""
    return {
        "schema": SCHEMA,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": host.facts(),
        "versions": {"mobile-compress": compress.__version__, **{package: version(package) for package in packages}},
    }


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    """One JSON object a line, whole or not at all; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    print(f"{len(lines)} lines in {path}")


def read(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in found:
        if line["schema"] != SCHEMA:
            raise ValueError(f"{path} has schema {line['schema']}, this program reads {SCHEMA}")
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
