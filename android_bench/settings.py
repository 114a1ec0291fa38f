"""Keeps a phone awake while it is measured, and leaves it as it was, whatever happens. Never here: what stays changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from android_bench.link import Link
from compress.errors import DeviceError

STAY_ON = ("global", "stay_on_while_plugged_in")
ANY_POWER = "7"  # on the charger, on USB, wireless


@contextmanager
def kept_awake(link: Link, is_awake: bool | None) -> Iterator[dict[str, str]]:
    """The screen on while the block runs: with it off, phones park cores. Yields what is changed, for the record.

    Raises DeviceError that says how to set it back by hand when the phone is gone at the end.
    """
    before = link.read(["settings", "get", *STAY_ON])
    if before == ANY_POWER and is_awake is not False:
        yield {}
        return
    try:
        if is_awake is False:
            link.shell(["input", "keyevent", "KEYCODE_WAKEUP"])
        link.shell(["settings", "put", *STAY_ON, ANY_POWER])
        yield {"stay_on_while_plugged_in": ANY_POWER}
    finally:
        _restore(replace(link, adb=link.adb.without_stop()), before, is_awake)


def _restore(link: Link, before: str, is_awake: bool | None) -> None:
    back = ["put", *STAY_ON, before] if before.isdigit() else ["delete", *STAY_ON]
    try:
        link.insist(["settings", *back])
        if is_awake is False:
            link.insist(["input", "keyevent", "KEYCODE_SLEEP"])
        return
    except DeviceError as error:
        why = error.message
    # raised out here, its context is what went wrong before, and not this
    raise DeviceError(f"{why}; its screen may stay on", f"adb -s {link.serial} shell settings {' '.join(back)}", "left")
