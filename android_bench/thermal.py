"""How hot a phone is, and waiting until it has cooled down. Never here: whether that is too hot to start (device.py)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from android_bench.link import Link
from compress.errors import DeviceError

MODERATE = 2
STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
KINDS = {0: "cpu", 1: "gpu", 3: "skin", 9: "npu"}
WARMER = 2.0  # degrees above the start
LONGEST_S, LOOK_S = 120.0, 2.0


@dataclass(frozen=True)
class Thermal:
    """`status`: 0..6, None before Android 10. `celsius`: the hottest sensor of each kind. `is_forced`: not the phone's own."""

    status: int | None = None
    celsius: Mapping[str, float] = field(default_factory=dict)
    is_forced: bool = False

    @property
    def name(self) -> str:
        """The status as Android calls it."""
        return "unknown" if self.status is None else STATUS[min(self.status, len(STATUS) - 1)]


def read_thermal(link: Link) -> Thermal:
    """Raises DeviceError when the phone is gone."""
    return parse_thermal(link.read(["dumpsys", "thermalservice"]))


def parse_thermal(text: str) -> Thermal:
    """What `dumpsys thermalservice` prints: the HAL's temperatures rather than cached ones; 0.0 and NaN are no temperatures."""
    status = re.search(r"Thermal Status: (\d+)", text)
    _, _, current = text.partition("Current temperatures from HAL:")
    current = re.split(r"\n\S", current, maxsplit=1)[0]
    celsius: dict[str, float] = {}
    for value, kind in re.findall(r"Temperature\{mValue=([-\d.]+), mType=(-?\d+),", current or text):
        name = KINDS.get(int(kind))
        if name and re.fullmatch(r"-?\d+(\.\d+)?", value) and float(value):
            celsius[name] = max(float(value), celsius.get(name, -273.0))
    return Thermal(int(status[1]) if status else None, celsius, "IsStatusOverride: true" in text)


def has_cooled(now: Thermal, start: Thermal) -> bool:
    """As cool as at the start: no higher status, and neither processor nor skin much warmer."""
    if (now.status or 0) > (start.status or 0):
        return False
    return all(now.celsius[kind] <= start.celsius[kind] + WARMER for kind in now.celsius if kind in start.celsius)


def cool_down(link: Link, start: Thermal) -> tuple[Thermal, float, bool]:
    """Wait until the phone is as cool as at the start, LONGEST_S at most: how it is then, seconds waited, and whether it is.

    Raises DeviceError when the phone is gone, or on a stop.
    """
    begun = time.monotonic()
    while True:
        now, waited = read_thermal(link), time.monotonic() - begun
        if has_cooled(now, start) or waited > LONGEST_S:
            return now, waited, has_cooled(now, start)
        if link.adb.stop.wait(LOOK_S):
            raise DeviceError("stopped", reason="stopped")
