"""A phone as data: what it is, how it is at the moment, and what stands in the way of measuring on it.

What a phone does not say is None, and no obstacle. Never here: changing anything on it (settings.py), running anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from android_bench.link import Link
from android_bench.program import Program
from android_bench.thermal import MODERATE, Thermal, read_thermal
from compress.errors import DeviceError

TMP = "/data/local/tmp"
LEAST_BATTERY = 30  # percent, of a phone that is not charging
SPARE_BYTES = 32 * 2**20
FREQUENCIES = (
    "cd /sys/devices/system/cpu && for cpu in cpu[0-9]*; do echo $cpu $(cat $cpu/cpufreq/cpuinfo_max_freq 2>/dev/null); done"
)
LIMITS = "cd /sys/devices/system/cpu && cat cpu[0-9]*/cpufreq/scaling_max_freq 2>/dev/null; true"


@dataclass(frozen=True)
class Phone:
    """`soc`: its chip. `abis`: best first. `core_khz`: the highest frequency of each core, 0 where it is not said."""

    serial: str
    manufacturer: str = ""
    model: str = ""
    soc: str = ""
    android: str = ""
    api: int | None = None
    build: str = ""
    abis: tuple[str, ...] = ()
    core_khz: tuple[int, ...] = ()
    memory_bytes: int | None = None
    features: tuple[str, ...] = ()
    is_emulator: bool = False

    @property
    def name(self) -> str:
        """Manufacturer and model, for people."""
        return f"{self.manufacturer} {self.model}".strip() or self.serial

    @property
    def big_cores(self) -> int:
        """Bit n for core n: every core that is faster than the slowest; all of them where they are alike. 0 when unknown."""
        slowest = min(self.core_khz, default=0)
        cores = [n for n, khz in enumerate(self.core_khz) if khz > slowest] or range(len(self.core_khz))
        return sum(1 << n for n in cores)

    def facts(self) -> dict[str, Any]:
        """For a record: no serial number, but `id`, which tells two phones of a model apart."""
        return {
            "id": hashlib.sha256(self.serial.encode()).hexdigest()[:12],
            "name": self.name,
            "soc": self.soc,
            "android": self.android,
            "api": self.api,
            "build": self.build,
            "abi": self.abis[0] if self.abis else "",
            "cores": len(self.core_khz) or None,
            "core_khz": list(self.core_khz),
            "memory_bytes": self.memory_bytes,
            "features": list(self.features),
            "emulator": self.is_emulator,
        }


@dataclass(frozen=True)
class Condition:
    """How a phone is at the moment. `battery_percent`, `free_bytes` (under /data/local/tmp), `load`: of the last minute."""

    thermal: Thermal = Thermal()
    battery_percent: int | None = None
    battery_celsius: float | None = None
    is_charging: bool | None = None
    is_awake: bool | None = None
    is_saving: bool | None = None
    free_bytes: int | None = None
    load: float | None = None


@dataclass(frozen=True)
class Obstacle:
    """`reason`: one word. An `error` stops a measurement, a `warning` goes into its record."""

    reason: str
    severity: Literal["error", "warning"]
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Needs:
    """Of a measurement: the program that is to run there, and how much is brought."""

    program: Program | None = None
    bytes: int = 0


def read_phone(link: Link) -> Phone:
    """What it is. Raises DeviceError."""
    said = dict(re.findall(r"^\[([^\]]+)\]: \[(.*?)\]\s*$", link.read(["getprop"]), re.MULTILINE))
    soc = f"{said.get('ro.soc.manufacturer', '')} {said.get('ro.soc.model', '')}".strip()
    total = re.search(r"^MemTotal:\s+(\d+) kB", link.read(["cat", "/proc/meminfo"]), re.MULTILINE)
    features = re.search(r"^(?:Features|flags)\s*:\s*(.+)$", link.read(["cat", "/proc/cpuinfo"]), re.MULTILINE)
    api = said.get("ro.build.version.sdk", "")
    return Phone(
        serial=link.serial,
        manufacturer=said.get("ro.product.manufacturer", ""),
        model=said.get("ro.product.model", ""),
        soc=soc or said.get("ro.board.platform", "") or said.get("ro.hardware", ""),
        android=said.get("ro.build.version.release", ""),
        api=int(api) if api.isdigit() else None,
        build=said.get("ro.build.fingerprint", ""),
        abis=tuple(filter(None, (said.get("ro.product.cpu.abilist") or said.get("ro.product.cpu.abi", "")).split(","))),
        core_khz=_core_khz(link.read(["sh", "-c", FREQUENCIES])),
        memory_bytes=1024 * int(total[1]) if total else None,
        features=tuple(features[1].split()) if features else (),
        is_emulator="1" in (said.get("ro.kernel.qemu"), said.get("ro.boot.qemu")),
    )


def read_condition(link: Link) -> Condition:
    """How it is. Raises DeviceError."""
    battery = dict(re.findall(r"^\s*([\w ]+): (\S+)\s*$", link.read(["dumpsys", "battery"]), re.MULTILINE))
    awake = re.search(r"[wW]akefulness(?:Raw|Locked\(\))?=(\w+)", link.read(["dumpsys", "power"]))
    saving = link.read(["settings", "get", "global", "low_power"])
    load = re.match(r"\d+\.\d+", link.read(["cat", "/proc/loadavg"]))
    tenths = _number(battery.get("temperature"))
    return Condition(
        thermal=read_thermal(link),
        battery_percent=_number(battery.get("level")),
        battery_celsius=tenths / 10 if tenths is not None else None,
        is_charging=any(battery.get(f"{way} powered") == "true" for way in ("AC", "USB", "Wireless")) if battery else None,
        is_awake=awake[1] == "Awake" if awake else None,
        is_saving=saving == "1" if saving in ("0", "1") else None,
        free_bytes=free_bytes(link.read(["df", "-k", TMP])),
        load=float(load[0]) if load else None,
    )


def limits_khz(link: Link) -> list[int]:
    """The frequency that each core may reach now: less than `core_khz` when the phone holds itself back."""
    return [int(word) for word in link.read(["sh", "-c", LIMITS]).split() if word.isdigit()]


def obstacles(phone: Phone, now: Condition, needs: Needs = Needs()) -> list[Obstacle]:
    """What stands in the way, the worst first."""
    found = [*_of_the_program(phone, now, needs), *_of_power(now), *_of_heat(now.thermal), *_of_the_rest(phone, now)]
    return sorted(found, key=lambda obstacle: obstacle.severity != "error")


def refuse(phone: Phone, found: Sequence[Obstacle]) -> None:
    """Raise DeviceError for the first error among `found`, naming the others."""
    errors = [obstacle for obstacle in found if obstacle.severity == "error"]
    if errors:
        raise DeviceError(
            f"{phone.serial} ({phone.name}): {'; '.join(one.message for one in errors)}", errors[0].hint, errors[0].reason
        )


def free_bytes(df: str) -> int | None:
    """From `df -k`: the column that its header calls Available (toybox), Avail or Free."""
    lines = [line.split() for line in df.splitlines() if line.strip()]
    if len(lines) < 2:
        return None
    names = [name.lower() for name in lines[0]]
    column = next((names.index(name) for name in ("available", "avail", "free") if name in names), None)
    row = lines[-1] if len(lines) == 2 else [word for line in lines[1:] for word in line]  # a long device name breaks the line
    value = row[column] if column is not None and column < len(row) else ""
    return 1024 * int(value) if value.isdigit() else None


def _of_the_program(phone: Phone, now: Condition, needs: Needs) -> list[Obstacle]:
    found = []
    if needs.program and needs.program.abi and phone.abis and needs.program.abi not in phone.abis:
        message = f"it runs {', '.join(phone.abis)}, and {needs.program.path.name} is for {needs.program.abi}"
        found.append(Obstacle("abi", "error", message, f"--benchmark-binary for {phone.abis[0]}"))
    if now.free_bytes is not None and now.free_bytes < needs.bytes + SPARE_BYTES:
        message = f"{now.free_bytes / 1e6:.0f} MB are free under {TMP}, {(needs.bytes + SPARE_BYTES) / 1e6:.0f} MB are needed"
        found.append(Obstacle("full", "error", message, "free some space on the phone"))
    return found


def _of_power(now: Condition) -> list[Obstacle]:
    found = []
    if now.battery_percent is not None and now.battery_percent < LEAST_BATTERY:
        severity: Literal["error", "warning"] = "warning" if now.is_charging else "error"
        found.append(Obstacle("battery", severity, f"its battery is at {now.battery_percent} %", "charge it first"))
    if now.is_saving:
        found.append(Obstacle("low-power", "error", "it is saving power", "switch battery saver off"))
    if now.is_awake is False:
        found.append(Obstacle("screen", "warning", "its screen was off (a measurement wakes it, and lets it sleep again)"))
    return found


def _of_heat(thermal: Thermal) -> list[Obstacle]:
    found = []
    if thermal.status is not None and thermal.status >= MODERATE:
        found.append(Obstacle("hot", "error", f"it is hot (thermal status {thermal.name})", "let it cool down"))
    elif thermal.status:
        found.append(Obstacle("warm", "warning", f"it is warm (thermal status {thermal.name})", "let it cool down"))
    if thermal.is_forced:
        found.append(
            Obstacle("thermal-override", "warning", "somebody has forced its thermal status", "cmd thermalservice reset")
        )
    return found


def _of_the_rest(phone: Phone, now: Condition) -> list[Obstacle]:
    found = []
    if now.load is not None and phone.core_khz and now.load > len(phone.core_khz):
        found.append(Obstacle("load", "warning", f"it is busy with something else (load {now.load:g})", "close other apps"))
    if phone.is_emulator:
        found.append(Obstacle("emulator", "warning", "it is an emulator: its times say nothing of a phone"))
    return found


def _core_khz(text: str) -> tuple[int, ...]:
    found = {int(n): int(khz or 0) for n, khz in re.findall(r"^cpu(\d+) ?(\d*)$", text, re.MULTILINE)}
    return tuple(found.get(n, 0) for n in range(max(found, default=-1) + 1))


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
