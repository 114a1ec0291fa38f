"""How much is to go, and by which method. Refuses nonsense and contradictions when built.

Never here: choosing what goes (magnitude.py, channels.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compress.errors import UsageError

MAGNITUDE = "magnitude"
RANKS = ("uniform", "global")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class Amount:
    """What stays: a number, or a share of what there is."""

    value: float
    is_share: bool = False

    def __post_init__(self) -> None:
        if self.is_share and not 0 < self.value < 1:
            raise UsageError(f"a share that stays must be above 0 % and below 100 %, got {self.value:.4%}")
        if not self.is_share and not (self.value >= 1 and float(self.value).is_integer()):
            raise UsageError(f"an amount that stays must be a positive whole number, got {self.value}", "or a share: 25%")

    @classmethod
    def parse(cls, text: str) -> Amount:
        """`25%`, `400000`, `400k`, `1.5G` (thousand, million, thousand million)."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([%kmg]?)\s*", text.lower())
        if not found:
            raise UsageError(f"not an amount: {text!r}", "a number (400000, 400k, 1.5G) or a share that stays (25%)")
        number, unit = float(found[1]), found[2]
        return cls(number / 100, True) if unit == "%" else cls(round(number * _UNITS[unit]))

    def of(self, total: int) -> int:
        """The number that may stay of `total`."""
        return int(total * self.value) if self.is_share else int(self.value)

    def __str__(self) -> str:
        return f"{self.value:.4%}".rstrip("0%").rstrip(".") + "%" if self.is_share else f"{self.value:.0f}"


@dataclass(frozen=True)
class Target:
    """Exactly one of `sparsity`, `ratio`, `macs`, `params`, `widths` says how much.

    `sparsity`: share of single weights that are zero in the end (method `magnitude`). The others take channels away, with a
    criterion's name as method. `ratio`: share removed of each space. `macs`, `params`: what stays. `widths`: glob pattern of
    space names -> channels that stay. `rank`: `uniform` takes the same share of every space, `global` compares channels
    between spaces. `multiple`: widths that stay are multiples of it, where a space is that wide.
    """

    method: str | None = None
    sparsity: float | None = None
    ratio: float | None = None
    macs: Amount | None = None
    params: Amount | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
    rank: str = "uniform"
    multiple: int = 8

    def __post_init__(self) -> None:
        given = [n for n in ("sparsity", "ratio", "macs", "params", "widths") if getattr(self, n) not in (None, {})]
        if len(given) != 1:
            said = " and ".join(f"--{n}" for n in given) + ": one at a time" if given else "how much is to go?"
            raise UsageError(said, "--sparsity for single weights; --ratio, --macs, --params or --widths for channels")
        for name in ("sparsity", "ratio"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise UsageError(f"--{name} must be at least 0 and below 1, got {share}", "it is the share removed: 0.5 is half")
        if self.method is not None and (self.method == MAGNITUDE) != (given == ["sparsity"]):
            needs = "--sparsity" if self.method == MAGNITUDE else "--ratio, --macs, --params or --widths"
            raise UsageError(f"--method {self.method} does not take --{given[0]}", f"it takes {needs}")
        if self.rank not in RANKS:
            raise UsageError(f"no rank named {self.rank!r}", f"one of {', '.join(RANKS)}")
        if self.multiple < 1:
            raise UsageError(f"--multiple must be at least 1, got {self.multiple}")
        if given[0] in ("sparsity", "widths") and (self.rank, self.multiple) != ("uniform", 8):
            raise UsageError(f"--rank and --multiple say nothing with --{given[0]}", "leave them away")

    @property
    def removes_weights(self) -> bool:
        """True for single weights, False for channels."""
        return self.sparsity is not None

    @property
    def criterion(self) -> str:
        """The name of the criterion that scores channels."""
        return self.method or "filters"

    def to_json(self) -> dict[str, Any]:
        """The options that say something, as plain data."""
        said: dict[str, Any] = {"method": MAGNITUDE if self.removes_weights else self.criterion}
        for name in ("sparsity", "ratio"):
            if getattr(self, name) is not None:
                said[name] = getattr(self, name)
        for name in ("macs", "params"):
            if getattr(self, name) is not None:
                said[name] = str(getattr(self, name))
        if self.widths:
            return {**said, "widths": dict(self.widths)}
        return said if self.removes_weights else {**said, "rank": self.rank, "multiple": self.multiple}
