"""How pixels become a tensor and back. Made once, at training; travels to the phone in every card.

One rule for every format: `tensor = (pixel - mean) / std`, with pixels 0..255 and mean and std on that scale, one value a
channel in the tensor's channel order. Never here: reading files (photos.py), torch (networks/pixels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import UsageError

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # RGB pixels (N, H, W, 3), 0..255, to the same: a network in use
ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


@dataclass(frozen=True)
class ImageFormat:
    """Value range and channel order of a three-channel image tensor.

    `mean`, `std`: three numbers each, on the 0..255 scale, in the tensor's own channel order. `std` is positive.
    """

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise UsageError(f"channel order must be RGB or BGR, got {self.order!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(abs(v) < 1e6 for v in values):
                raise UsageError(f"{name} of an image format must be three finite numbers, got {values!r}")
        if not all(v > 1e-6 for v in self.std):
            raise UsageError(f"std of an image format must be positive, got {self.std!r}")

    @classmethod
    def parse(cls, text: str) -> ImageFormat:
        """A preset's name (`0..1`, `0..255`, `-1..1`, `imagenet`, `caffe`), or spelled out:
        `RGB;mean=123.7,116.3,103.5;std=58.4,57.1,57.4` (0..255 scale, in that channel order).
        """
        if text in PRESETS:
            return PRESETS[text]
        order, *fields = text.split(";")
        try:
            values = {key.strip(): tuple(float(v) for v in numbers.split(",")) for key, numbers in (f.split("=") for f in fields)}
            mean, std = values.pop("mean", (0.0, 0.0, 0.0)), values.pop("std", (1.0, 1.0, 1.0))
        except ValueError:
            values, mean, std = {"?": ()}, (), ()
        if values or order.strip().upper() not in ORDERS or len(mean) != 3 or len(std) != 3:
            raise UsageError(
                f"unknown image format {text!r}",
                f"one of {', '.join(PRESETS)}, or 'RGB;mean=123.7,116.3,103.5;std=58.4,57.1,57.4'",
            )
        return cls(order.strip().upper(), mean, std)

    @property
    def name(self) -> str:
        """The preset's name, or the spelled-out form that `parse` reads."""
        for name, preset in PRESETS.items():
            if preset == self:
                return name
        return f"{self.order};mean={','.join(map(repr, self.mean))};std={','.join(map(repr, self.std))}"

    def to_json(self) -> dict[str, Any]:
        return {"order": self.order, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Any) -> ImageFormat:
        """Inverse of `to_json`. Raises UsageError for anything else."""
        try:
            mean, std = (tuple(float(v) for v in value[key]) for key in ("mean", "std"))
            return cls(str(value["order"]), mean, std)  # type: ignore[arg-type]  # lengths are checked when built
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"not an image format: {value!r:.120}") from error

    def encode(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """RGB pixels (..., 3), 0..255, any dtype -> float32 tensor of the same shape, channels last."""
        ordered = np.asarray(pixels, np.float32)[..., ORDERS[self.order]]
        return (ordered - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def decode(self, tensor: NDArray[Any]) -> NDArray[np.float32]:
        """Tensor (..., 3), channels last -> RGB pixels, float32, clamped to 0..255, not rounded."""
        pixels = np.asarray(tensor, np.float32) * np.asarray(self.std, np.float32) + np.asarray(self.mean, np.float32)
        return np.clip(pixels[..., ORDERS[self.order]], 0, 255)


PRESETS = {
    "0..1": ImageFormat("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "0..255": ImageFormat("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ImageFormat("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ImageFormat("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ImageFormat("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
}
