"""What there is to check: the exported files of a folder with their cards, and the records of its measurements.

Each card must match its file, by sha256 and by size. Never here: judging (budget.py), torch, TensorFlow, ONNX.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from android_bench.budget import Entry, entry_of
from android_bench.record import Record, read_records
from compress.errors import ArtifactError
from export.artifact import Card, card_path, measure, read_artifact

SUFFIXES = (".onnx", ".tflite")


@dataclass(frozen=True)
class Evidence:
    """`cards`: one a file. `records`: all that were found; a card's own are those with its sha256."""

    cards: tuple[Card, ...]
    records: tuple[Record, ...]

    @property
    def stale(self) -> list[Record]:
        """Records of a file that has been replaced since: its name is here, its sha256 is not."""
        names, digests = {card.file for card in self.cards}, {card.sha256 for card in self.cards}
        return [record for record in self.records if record.artifact in names and record.sha256 not in digests]


def gather(paths: Iterable[Path]) -> Evidence:
    """From folders (their files, cards and `.jsonl` records) and files of records (cards lie in the same folder).

    Raises ArtifactError: nothing there, a card that does not match its file, two files of one name. MeasurementError: damaged
    records.
    """
    folders: dict[Path, None] = {}
    records: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ArtifactError(f"{path}: no such file or folder")
        folders[path if path.is_dir() else path.parent] = None
        records |= dict.fromkeys(sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    cards = [_card(file) for folder in folders for file in _exported(folder)]
    if not cards:
        raise ArtifactError(
            f"no exported files in {', '.join(map(str, folders))}", "compress export writes them, with a card each"
        )
    _refuse_twins(cards)
    return Evidence(tuple(cards), tuple(record for path in records for record in read_records(path)))


def _exported(folder: Path) -> list[Path]:
    """Every .onnx and .tflite file, and every one that only its card is left of."""
    files = {path for path in folder.iterdir() if path.suffix in SUFFIXES}
    carded = {path.with_suffix("") for path in folder.glob("*.json") if path.with_suffix("").suffix in SUFFIXES}
    return sorted(files | carded)


def _card(path: Path) -> Card:
    card, found = read_artifact(path).card, measure(path.read_bytes())
    for name in ("bytes", "deflate_bytes"):
        # zlib builds differ by a few bytes: only the file's own size must be exact
        slack = 0 if name == "bytes" else 64 + 0.01 * found[name]
        if abs(getattr(card, name) - found[name]) > slack:
            raise ArtifactError(f"{card_path(path)} says {name} {getattr(card, name):,}, the file has {found[name]:,}")
    if card.file != path.name:
        raise ArtifactError(f"{card_path(path)} is the card of {card.file}", "files keep the name that export gave them")
    return card


def _refuse_twins(cards: Sequence[Card]) -> None:
    seen: dict[Entry, Card] = {}
    for card in cards:
        if seen.setdefault(entry_of(card), card) is not card:
            raise ArtifactError(f"two files are {' '.join(entry_of(card))}", "check one folder of them at a time")
