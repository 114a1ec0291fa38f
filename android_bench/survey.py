"""Every phone that adb sees, with what it is and what stands in the way of measuring on it; all asked at once.

Never here: measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from android_bench.adb import Adb, Listed, usable
from android_bench.device import Obstacle, Phone, obstacles, read_condition, read_phone
from android_bench.link import Link
from compress.errors import DeviceError


@dataclass(frozen=True)
class Surveyed:
    """`phone`: None when it could not be asked."""

    listed: Listed
    phone: Phone | None
    obstacles: tuple[Obstacle, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is not known is null."""
        phone = self.phone
        return {
            "serial": self.listed.serial,
            "state": self.listed.state,
            "name": phone.name if phone else self.listed.details.get("model"),
            "soc": phone.soc if phone else None,
            "android": phone.android if phone else None,
            "api": phone.api if phone else None,
            "abis": list(phone.abis) if phone else None,
            "cores": len(phone.core_khz) if phone else None,
            "big_cores": f"{phone.big_cores:x}" if phone else None,
            "memory_bytes": phone.memory_bytes if phone else None,
            "obstacles": [asdict(obstacle) for obstacle in self.obstacles],
        }


def survey(adb: Adb) -> list[Surveyed]:
    """One entry a phone, in adb's order. A phone that fails is an entry too. Raises DeviceError only for adb itself."""
    listed = adb.devices()
    return _asked(adb, listed) if listed else []


def _asked(adb: Adb, listed: Sequence[Listed]) -> list[Surveyed]:
    with ThreadPoolExecutor(len(listed)) as pool:
        return list(pool.map(lambda one: _ask(adb, one), listed))


def _ask(adb: Adb, listed: Listed) -> Surveyed:
    try:
        link = Link(adb, usable(listed).serial)
        phone = read_phone(link)
        return Surveyed(listed, phone, tuple(obstacles(phone, read_condition(link))))
    except DeviceError as error:
        message = error.message.removeprefix(f"{listed.serial} is ").removeprefix(f"{listed.serial}: ")
        return Surveyed(listed, None, (Obstacle(error.reason, "error", message, error.hint),))
