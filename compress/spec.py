"""Which network, with which arguments, what it eats and what it makes. Plain data; builds nothing (networks/ does).

Never here: importing what a spec names. A spec comes out of a file, and a file is not trusted.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from compress.errors import UsageError
from compress.image_format import ImageFormat

Shape = tuple[int, ...]
MOST_ELEMENTS = 1 << 27  # of all example inputs together: half a gigabyte, more than any picture that is traced


@dataclass(frozen=True)
class ModelSpec:
    """`network`: a registered name, or `package.module:factory`. `arguments`: its keyword arguments, JSON values only.

    `examples`: one NCHW (or other) shape an input. `inputs`, `outputs`: one ImageFormat or None for each input and output;
    None means that the tensor is no picture (a classifier's logits), and is what an input gets that is not said.
    """

    network: str
    arguments: dict[str, Any] = field(default_factory=dict)
    examples: tuple[Shape, ...] = ((1, 3, 256, 256),)
    inputs: tuple[ImageFormat | None, ...] = (None,)
    outputs: tuple[ImageFormat | None, ...] = (None,)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.\-]+(:[\w.]+)?", self.network):
            raise UsageError(f"not a network name: {self.network!r}", "a registered name or package.module:factory")
        if not isinstance(self.arguments, dict):
            raise UsageError(f"arguments of a network must be a JSON object, got {self.arguments!r}")
        if not self.examples or any(not s or any(type(n) is not int or n < 1 for n in s) for s in self.examples):
            raise UsageError(f"example shapes must be positive whole numbers, got {self.examples!r:.120}")
        if sum(math.prod(s) for s in self.examples) > MOST_ELEMENTS:
            raise UsageError(f"example shapes are too large: {self.examples!r:.120}", f"at most {MOST_ELEMENTS:,} numbers in all")
        if not 1 <= len(self.inputs) <= len(self.examples) or not self.outputs:
            raise UsageError(
                f"{len(self.examples)} example shapes, but {len(self.inputs)} input and {len(self.outputs)} output formats"
            )
        object.__setattr__(self, "inputs", (*self.inputs, *(None,) * (len(self.examples) - len(self.inputs))))

    @property
    def is_registered(self) -> bool:
        """True for a name of the product's own registry: the only kind that is ever built without the user's word."""
        return ":" not in self.network

    def to_json(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "arguments": self.arguments,
            "examples": [list(s) for s in self.examples],
            "inputs": [f.to_json() if f else None for f in self.inputs],
            "outputs": [f.to_json() if f else None for f in self.outputs],
        }

    @classmethod
    def from_json(cls, value: Any) -> ModelSpec:
        """Inverse of `to_json`. Raises UsageError for anything else."""
        try:
            return cls(
                str(value["network"]),
                value["arguments"],
                tuple(tuple(s) for s in value["examples"]),
                tuple(ImageFormat.from_json(f) if f is not None else None for f in value["inputs"]),
                tuple(ImageFormat.from_json(f) if f is not None else None for f in value["outputs"]),
            )
        except (KeyError, TypeError) as error:
            raise UsageError(f"not a network spec: {json.dumps(value, default=str)[:120]}") from error


def parse_shape(text: str) -> Shape:
    """`1x3x256x256` -> (1, 3, 256, 256)."""
    if not re.fullmatch(r"[1-9]\d{0,8}(x[1-9]\d{0,8})*", text):
        raise UsageError(f"not a shape: {text!r}", "for example 1x3x256x256")
    return tuple(int(n) for n in text.split("x"))


def parse_size(text: str) -> tuple[int, int]:
    """`256` -> (256, 256); `480x640` -> (480, 640), height first."""
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})?", text):
        raise UsageError(f"not a size: {text!r}", "for example 256, or 480x640 (height x width)")
    numbers = [int(n) for n in text.split("x")]
    return (numbers[0], numbers[-1])
