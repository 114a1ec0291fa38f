"""`compress devices`: the phones that adb sees, and what stands in the way of measuring on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.cli.common import Talk, command

if TYPE_CHECKING:
    from android_bench.survey import Surveyed


@command(
    example="""
    compress devices
    compress devices --json
    """
)
def devices(talk: Talk, **_: Any) -> dict[str, Any]:
    """List every phone that adb sees: its state, what it is, and what stands in the way of measuring on it.

    No phone is no error. Nothing is changed on a phone.
    """
    from android_bench.adb import CONNECT, Adb
    from android_bench.survey import survey

    found = survey(Adb())
    if found:
        talk.table(("serial", "state", "phone", "chip", "Android", "ABI", "in the way"), [_row(one) for one in found])
    else:
        talk.say(f"adb sees no phone: {CONNECT}")
    for one in found:
        for obstacle in one.obstacles:
            if obstacle.hint:
                talk.say(f"{one.listed.serial}: {obstacle.message}: {obstacle.hint}")
    return {"devices": [one.to_json() for one in found]}


def _row(one: Surveyed) -> tuple[str, ...]:
    phone = one.phone
    return (
        one.listed.serial,
        one.listed.state,
        phone.name if phone else one.listed.details.get("model", ""),
        phone.soc if phone else "",
        phone.android if phone else "",
        phone.abis[0] if phone and phone.abis else "",
        "; ".join(obstacle.message for obstacle in one.obstacles) or "nothing",
    )
