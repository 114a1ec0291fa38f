"""Limits on files: bytes, parity, structure. `broken_by(card, records)` says which are broken, in words and numbers.

A limit that cannot be measured is broken: a gate is never silently open. Never here: torch, TensorFlow, ONNX; reading TOML
(budget_file.py); latency, which no shared machine can promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from android_bench.record import Record
from compress.errors import BudgetFileError
from export.artifact import Card

Entry = tuple[str, str]  # (model, variant): `candy_256x256`, `dynamic`
Measure = Callable[[Card, Sequence[Record]], float | None]  # None: not measured

NOISE_DB = 80.0  # above it a difference is rounding, which differs from CPU to CPU
NOISE_ERR = 0.05  # the same on the 0..255 scale


@dataclass(frozen=True)
class Limit:
    """One row of the table below. `leave(measured)`: the limit that `--update` writes. `loose(limit, measured)`: so much better
    than the limit that it can be tightened. `show`: a value with its unit."""

    key: str
    at_most: bool
    measure: Measure
    leave: Callable[[float], float]
    loose: Callable[[float, float], bool]
    show: Callable[[float], str]

    def keeps(self, limit: float, measured: float) -> bool:
        return measured <= limit if self.at_most else measured >= limit


@dataclass(frozen=True)
class Verdict:
    """One limit held against one file. `measured`: None when nothing measured it."""

    entry: Entry
    limit: Limit
    allowed: float
    measured: float | None

    @property
    def kept(self) -> bool:
        return self.measured is not None and self.limit.keeps(self.allowed, self.measured)

    @property
    def loose(self) -> bool:
        return self.kept and self.measured is not None and self.limit.loose(self.allowed, self.measured)

    @property
    def line(self) -> str:
        """`candy_256x256 dynamic: max_size is 1,920,344 bytes, the limit is 1,800,000 bytes`."""
        if self.measured is None:
            return f"{' '.join(self.entry)}: {self.limit.key} was not measured, the limit is {self.limit.show(self.allowed)}"
        value, limit = self.limit.show(self.measured), self.limit.show(self.allowed)
        return f"{' '.join(self.entry)}: {self.limit.key} is {value}, the limit is {limit}"

    def to_json(self) -> dict[str, Any]:
        measured = None if self.measured is None or math.isinf(self.measured) else self.measured
        return {
            "model": self.entry[0],
            "variant": self.entry[1],
            "limit": self.limit.key,
            "allowed": self.allowed,
            "measured": measured,
            "kept": self.kept,
            "loose": self.loose,
        }


@dataclass(frozen=True)
class Budget:
    """`entries`: for each model and variant, its limits by name (sizes in bytes)."""

    entries: Mapping[Entry, Mapping[str, float]]

    def __post_init__(self) -> None:
        for entry, limits in self.entries.items():
            for key, value in limits.items():
                if key not in LIMITS:
                    raise BudgetFileError(f"{' '.join(entry)}: unknown limit {key!r}", f"there are {', '.join(LIMITS)}")
                if not math.isfinite(value):
                    raise BudgetFileError(f"{' '.join(entry)}: {key} must be a finite number, got {value}")

    def verdicts(self, card: Card, records: Iterable[Record] = ()) -> list[Verdict]:
        """Every limit on the card's file, held against the card and those of `records` that have its sha256."""
        entry, own = entry_of(card), [record for record in records if record.sha256 == card.sha256]
        return [
            Verdict(entry, LIMITS[key], allowed, LIMITS[key].measure(card, own))
            for key, allowed in self.entries.get(entry, {}).items()
        ]

    def broken_by(self, card: Card, records: Iterable[Record] = ()) -> list[Verdict]:
        """The limits that this file breaks; empty when it keeps them all, or when there are none on it."""
        return [verdict for verdict in self.verdicts(card, records) if not verdict.kept]

    def removed(self, cards: Iterable[Card]) -> list[Entry]:
        """What the budget names and no card is: a variant that vanished is a regression."""
        there = {entry_of(card) for card in cards}
        return [entry for entry in self.entries if entry not in there]


def entry_of(card: Card) -> Entry:
    """`candy_256x256_dynamic.tflite`, variant `dynamic` -> (`candy_256x256`, `dynamic`); `candy.onnx` -> (`candy`, `onnx`)."""
    variant = card.variant if card.kind == "tflite" else card.kind
    return Path(card.file).stem.removesuffix(f"_{variant}"), variant


def limits_from(card: Card, records: Iterable[Record] = ()) -> dict[str, float]:
    """Every limit that can be measured, with the headroom of its row: what `--update` writes for a new file."""
    own = [record for record in records if record.sha256 == card.sha256]
    measured = {key: limit.measure(card, own) for key, limit in LIMITS.items()}
    return {key: LIMITS[key].leave(value) for key, value in measured.items() if value is not None}


def _psnr(card: Card, _: Sequence[Record]) -> float | None:
    parity = card.own_parity
    if parity and parity.psnr_db is None and parity.unit == "pixels" and parity.max_abs == 0:
        return math.inf
    return parity.psnr_db if parity else None


def _largest_error(card: Card, _: Sequence[Record]) -> float | None:
    return card.own_parity.max_abs if card.own_parity else None


def _mean_error(card: Card, _: Sequence[Record]) -> float | None:
    return card.own_parity.mean_abs if card.own_parity else None


def _partitions(_: Card, records: Sequence[Record]) -> float | None:
    found = [record.executed["partitions"] for record in records if isinstance(record.executed.get("partitions"), int)]
    return max(found, default=None)


def _up(value: float, digits: int = 3) -> float:
    """Rounded up to `digits` significant digits."""
    if value <= 0:
        return 0.0
    scale = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return round(math.ceil(round(value / scale, 6)) * scale, 12)


def _size_limit(key: str, measure: Measure) -> Limit:
    return Limit(key, True, measure, lambda n: _up(1.01 * n), lambda limit, n: n < 0.95 * limit, lambda n: f"{n:,.0f} bytes")


def _error_limit(key: str, measure: Measure) -> Limit:
    return Limit(
        key,
        True,
        measure,
        lambda n: _up(max(1.1 * n, NOISE_ERR), 2),
        lambda limit, n: limit > NOISE_ERR and n < 0.7 * limit,
        lambda n: f"{n:.4g}",
    )


LIMITS: dict[str, Limit] = {
    limit.key: limit
    for limit in (
        _size_limit("max_size", lambda card, _: card.bytes),
        _size_limit("max_deflate_size", lambda card, _: card.deflate_bytes),
        Limit(
            "min_psnr_db",
            False,
            _psnr,
            lambda db: min(math.floor(10 * (db - 0.5)) / 10, NOISE_DB) if math.isfinite(db) else NOISE_DB,
            lambda limit, db: limit < NOISE_DB and db > limit + 2,
            lambda db: f"{db:.2f} dB",
        ),
        _error_limit("max_abs_err", _largest_error),
        _error_limit("max_mean_err", _mean_error),
        Limit("max_partitions", True, _partitions, float, lambda limit, n: n < limit, lambda n: f"{n:.0f}"),
    )
}
