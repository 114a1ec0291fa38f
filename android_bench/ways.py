"""How PyTorch runs a network: what `--torch compiled+fp16+channels-last` asks for, as plain data. Imports no torch.

Never here: doing it (backends/torch_cpu.py, backends/torch_cuda.py).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from compress.errors import UsageError

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # word -> torch's name
MODES = ("eager", "compiled")
WORDS = "eager|compiled, fp32|fp16|bf16, channels-last, graphs"


@dataclass(frozen=True)
class Way:
    """`compiled`: by torch.compile. `precision`: of weights and inputs, a key of DTYPES. `channels_last`: pictures and
    weights lie in memory as NHWC. `graphs`: all launches of a run replayed as one CUDA graph."""

    compiled: bool = False
    precision: str = "fp32"
    channels_last: bool = False
    graphs: bool = False

    def __str__(self) -> str:
        """What `parse` reads; what is usual is left out."""
        words = (
            "compiled" if self.compiled else "",
            self.precision if self.precision != "fp32" else "",
            "channels-last" if self.channels_last else "",
            "graphs" if self.graphs else "",
        )
        return "+".join(filter(None, words)) or "eager"

    @classmethod
    def parse(cls, text: str) -> Way:
        """Words joined by +, in any order, each kind once. Raises UsageError."""
        words = text.split("+")
        known = {*MODES, *DTYPES, "channels-last", "graphs"}
        if unknown := [word for word in words if word not in known]:
            raise UsageError(f"--torch {text}: {unknown[0]!r} is no way to run a network", f"words joined by +: {WORDS}")
        modes, precisions = ([word for word in words if word in kinds] for kinds in (MODES, DTYPES))
        if len(modes) > 1 or len(precisions) > 1 or len(set(words)) < len(words):
            raise UsageError(f"--torch {text} contradicts or repeats itself", f"one of each, joined by +: {WORDS}")
        precision = precisions[0] if precisions else "fp32"
        return cls("compiled" in modes, precision, "channels-last" in words, "graphs" in words)

    def fits(self, device: str) -> bool:
        """Whether `device` can do that."""
        return device == "cuda" or not self.graphs

    def check(self, devices: Collection[str]) -> None:
        """Raises UsageError for what none of `devices` can do."""
        if not any(map(self.fits, devices)):
            raise UsageError(f"--torch {self}: CUDA graphs need --device cuda")
