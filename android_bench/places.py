"""What `--device` names: `cpu`, `cuda`, `android`, `android:SERIAL`. Never here: measuring there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from android_bench.adb import CONNECT, Adb, checked_serial, chosen
from compress.errors import DeviceError


@dataclass(frozen=True)
class Place:
    """`device`: as backends call it. `serial`: of a phone."""

    device: str
    serial: str = ""


def places(names: Sequence[str], is_all: bool = False) -> list[Place]:
    """Each place once, in order; `cpu` when none is named. `android` alone: the phone of ANDROID_SERIAL, or the only one there
    is. `is_all`: also every phone that adb sees. Raises UsageError, DeviceError, MissingToolError."""
    found = [_place(name) for name in names or (() if is_all else ("cpu",))]
    if is_all:
        listed = Adb().devices()
        if not listed:
            raise DeviceError("adb sees no phone", CONNECT, "none")
        found += [Place("android", phone.serial) for phone in listed]
    return list(dict.fromkeys(found))


def _place(name: str) -> Place:
    device, colon, serial = name.partition(":")  # the first one: serials of wireless phones hold colons
    if device != "android":
        return Place(name)
    return Place(device, checked_serial(serial) if colon else chosen(Adb().devices(), None).serial)
