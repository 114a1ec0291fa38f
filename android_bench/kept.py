"""The runs of one process that its record keeps: all of them, or, of a long measurement of a fast network, evenly thinned."""

from __future__ import annotations

MOST = 50_000  # some 2 MB of a record


class Kept:
    """`is_timed`: also keep when each run began, and no more than `most` runs: from then on every second, fourth, eighth ..."""

    def __init__(self, is_timed: bool, most: int = MOST) -> None:
        self.samples_ms: list[float] = []
        self.at_s: list[float] = []
        self.runs = 0
        self._is_timed, self._most, self._every = is_timed, most, 1

    def add(self, sample_ms: float, at_s: float) -> None:
        """One more run, which began `at_s` seconds after the first."""
        if self.runs % self._every == 0:
            self.samples_ms.append(sample_ms)
            if self._is_timed:
                self.at_s.append(at_s)
        self.runs += 1
        if self._is_timed and len(self.samples_ms) >= self._most:
            del self.samples_ms[1::2], self.at_s[1::2]
            self._every *= 2

    def told(self) -> dict[str, float]:
        """How many runs there were, where not all of them are kept."""
        return {"runs": float(self.runs)} if self.runs > len(self.samples_ms) else {}
