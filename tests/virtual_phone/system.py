"""The phone as a folder: `/data/local/tmp`, `/sys` and `/proc` as files, Android's commands as small scripts that read them.

A test changes the phone by writing a file: `phone.system.state("battery").write_text(...)`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

TMP = "/data/local/tmp"
_OURS = re.compile(r"(?<![\w.])(/data/local/tmp|/sys/devices|/proc/(?=meminfo|cpuinfo|loadavg))")

PROPERTIES = {
    "ro.product.manufacturer": "Acme",
    "ro.product.model": "Slab 7",
    "ro.product.device": "slab7",
    "ro.product.board": "slab",
    "ro.board.platform": "acme990",
    "ro.soc.manufacturer": "Acme",
    "ro.soc.model": "A990",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.build.fingerprint": "acme/slab7/slab7:14/XYZ/1:user/release-keys",
    "ro.build.type": "user",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
}
MAX_KHZ = (1800000, 1800000, 1800000, 1800000, 2400000, 2400000, 2400000, 2840000)
SETTINGS = {"global.low_power": "0", "global.stay_on_while_plugged_in": "0"}

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {charging}
  Wireless powered: false
  Max charging current: 500000
  status: {status}
  health: 2
  present: true
  level: {level}
  scale: 100
  voltage: 4205
  temperature: {tenths}
  technology: Li-ion
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
	callbacks: 1
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=99.0, mType=0, mName=AP, mStatus=0}}
HAL Ready: true
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
	Temperature{{mValue={cpu}, mType=0, mName=AP, mStatus={status}}}
	Temperature{{mValue=25.7, mType=5, mName=PA, mStatus=0}}
	Temperature{{mValue=23.8, mType=2, mName=BAT, mStatus=0}}
	Temperature{{mValue={skin}, mType=3, mName=LRB, mStatus=0}}
	Temperature{{mValue=0.0, mType=4, mName=USB, mStatus=0}}
Current cooling devices from HAL:
Temperature static thresholds from HAL:
"""
DF = """Filesystem       1K-blocks     Used Available Use% Mounted on
/dev/block/dm-50 112345678 60000000  {free_kib} 54% /data
"""
POWER = "POWER MANAGER (dumpsys power)\n\nPower Manager State:\n  mWakefulness={wakefulness}\n  mIsPowered=true\n"
MEMORY = "MemTotal:        7812345 kB\nMemFree:          345678 kB\nMemAvailable:    3812345 kB\n"
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"

COMMANDS = {
    "getprop": """if [ $# -eq 0 ]; then exec cat "$PHONE/state/getprop"; fi
sed -n "s/^\\[$1\\]: \\[\\(.*\\)\\]$/\\1/p" "$PHONE/state/getprop\"""",
    "dumpsys": '[ -f "$PHONE/state/$1" ] && exec cat "$PHONE/state/$1"; echo "Can\'t find service: $1"',
    "df": 'exec cat "$PHONE/state/df"',
    "logcat": 'exec cat "$PHONE/state/logcat"',
    "settings": """file="$PHONE/settings/$2.$3"
case $1 in
get) if [ -f "$file" ]; then cat "$file"; else echo null; fi ;;
put) echo "$4" >"$file" ;;
delete) rm -f "$file"; echo "Deleted 1 rows" ;;
esac""",
    "input": """case $2 in
KEYCODE_WAKEUP) sed -i s/mWakefulness=.*/mWakefulness=Awake/ "$PHONE/state/power" ;;
KEYCODE_SLEEP) sed -i s/mWakefulness=.*/mWakefulness=Asleep/ "$PHONE/state/power" ;;
esac""",
    "taskset": """case $1 in *[!0-9a-f]*) echo "taskset: bad mask $1" >&2; exit 1 ;; esac
echo "$1" >>"$PHONE/state/masks"
shift
exec "$@\"""",
    "toybox": 'exec "$@"',
}


class System:
    """The files of one phone under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.properties = dict(PROPERTIES)
        for folder in ("data/local/tmp", "system/bin", "state", "settings", "proc"):
            (root / folder).mkdir(parents=True)
        self.tmp = root / "data/local/tmp"
        for name, body in COMMANDS.items():
            self.command(name, body)
        self._cores()
        self.property("ro.product.model", "Slab 7")
        self.battery()
        self.thermal()
        self.space()
        self.screen()
        (root / "proc/meminfo").write_text(MEMORY)
        (root / "proc/cpuinfo").write_text(f"processor\t: 0\nFeatures\t: {FEATURES}\n")
        (root / "proc/loadavg").write_text("0.31 0.52 0.61 2/812 10012\n")
        self.state("logcat").write_text("")
        self.state("second").write_text("0.05")
        for name, value in SETTINGS.items():
            (root / "settings" / name).write_text(f"{value}\n")

    def state(self, name: str) -> Path:
        """The file that a command or service reads."""
        return self.root / "state" / name

    def command(self, name: str, body: str) -> None:
        """Give the phone a command, or replace one."""
        path = self.root / "system/bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def without(self, *names: str) -> None:
        """Commands that this phone does not have."""
        for name in names:
            self.command(name, f'echo "/system/bin/sh: {name}: inaccessible or not found" >&2; exit 127')

    def property(self, name: str, value: str) -> None:
        """Set what getprop says."""
        self.properties[name] = value
        self.state("getprop").write_text("".join(f"[{key}]: [{text}]\n" for key, text in sorted(self.properties.items())))

    def battery(self, level: int = 81, charging: bool = True, celsius: float = 25.5) -> None:
        text = BATTERY.format(level=level, status=2 if charging else 3, charging=str(charging).lower(), tenths=int(10 * celsius))
        self.state("battery").write_text(text)

    def thermal(self, status: int = 0, cpu: float = 31.5, skin: float = 29.0) -> None:
        self.state("thermalservice").write_text(THERMAL.format(status=status, cpu=cpu, skin=skin))

    def space(self, free_bytes: int = 50 * 10**9) -> None:
        self.state("df").write_text(DF.format(free_kib=free_bytes // 1024))

    def screen(self, wakefulness: str = "Awake") -> None:
        self.state("power").write_text(POWER.format(wakefulness=wakefulness))

    def setting(self, name: str) -> str | None:
        """The value of `global.NAME`, None when it is not set."""
        path = self.root / "settings" / name
        return path.read_text().strip() if path.exists() else None

    def misbehave(self, **faults: Any) -> None:
        """Tell `benchmark_model` what to do wrong (see its file)."""
        self.state("faults.json").write_text(json.dumps(faults))

    def left_behind(self) -> list[str]:
        """What lies in /data/local/tmp."""
        return sorted(path.name for path in self.tmp.iterdir())

    def to_host(self, text: str) -> str:
        """Paths of the phone in `text` as paths of this machine."""
        return _OURS.sub(lambda found: f"{self.root}{found[1]}", text)

    def to_phone(self, data: bytes) -> bytes:
        """The way back, in what a command says."""
        return data.replace(os.fsencode(self.root), b"")

    def environment(self) -> dict[str, str]:
        """Of a command: nothing of ours but the machine's own tools, after the phone's."""
        return {
            "PATH": f"{self.root}/system/bin:/usr/bin:/bin",
            "PHONE": str(self.root),
            "HOME": str(self.root),
            "LC_ALL": "C.UTF-8",
        }

    def _cores(self) -> None:
        for number, khz in enumerate(MAX_KHZ):
            folder = self.root / f"sys/devices/system/cpu/cpu{number}/cpufreq"
            folder.mkdir(parents=True)
            for name in ("cpuinfo_max_freq", "scaling_max_freq"):
                (folder / name).write_text(f"{khz}\n")
