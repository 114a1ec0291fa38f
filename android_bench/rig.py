"""A phone made ready for a measurement: awake, with a folder of its own and what it needs in it; left as it was afterwards.

What cannot be cleaned up, because the phone is gone, is said with the command that does it by hand. Never here: what is run.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from android_bench.adb import Adb, Answer, chosen
from android_bench.device import TMP, Needs, Obstacle, Phone, obstacles, read_condition, read_phone, refuse
from android_bench.link import Link
from android_bench.settings import kept_awake
from android_bench.thermal import Thermal
from compress.errors import DeviceError
from compress.files import identity

# Both know the folder as $1. The shell becomes env, that taskset, that the program: one process id. It may be somebody else's by
# the time that it is killed, unless the folder stands in its command line.
START = 'folder=$1; shift; echo $$ >"$folder/pid"; exec "$@"'
END = 'pid=$(cat "$1/pid" 2>/dev/null) && grep -q "$1" "/proc/$pid/cmdline" 2>/dev/null && kill -9 "$pid"; true'


@dataclass
class Rig:
    """`folder`: on the phone. `warnings`: obstacles that do not stop a measurement. `start`: how warm it was at the beginning.
    `changed`: its settings, while it is measured. `lost`: why nothing can be run on it any more."""

    link: Link
    phone: Phone
    folder: str
    warnings: Sequence[Obstacle]
    start: Thermal
    changed: dict[str, str]
    lost: DeviceError | None = None
    _brought: dict[str, str] = field(default_factory=dict)

    def bring(self, path: Path, name: str | None = None, executable: bool = False) -> str:
        """Push a file, once however often it is asked for: where it lies. `name`: None for its hash. Raises DeviceError."""
        digest = identity(path)["sha256"]
        name = name or f"{digest[:16]}{Path(path).suffix.lower()}"
        if self._brought.get(name) != digest:
            self.link.push(path, f"{self.folder}/{name}", executable)
            self._brought[name] = digest
        return f"{self.folder}/{name}"

    def run(self, words: Sequence[str], timeout_s: float) -> Answer:
        """Run a program of the folder in a fresh process. It is gone afterwards, here and there. Raises DeviceError."""
        if self.lost:
            raise self.lost
        program = ["env", f"LD_LIBRARY_PATH={self.folder}", *words]
        try:
            return self.link.shell(["sh", "-c", START, "sh", self.folder, *program], timeout_s)
        except DeviceError as error:
            try:
                _cleaning(self.link).insist(["sh", "-c", END, "sh", self.folder])
            except DeviceError:  # cleaning up will say what is left there
                self.lost = error
            raise


@contextmanager
def rig(serial: str, needs: Needs, stop: threading.Event) -> Iterator[Rig]:
    """Check the phone and make it ready for as long as the block runs.

    Raises DeviceError: what stands in the way, or (reason `left`) what could not be set back at the end.
    """
    adb = Adb(stop=stop)
    link = Link(adb, chosen(adb.devices(), serial).serial)
    phone, now = read_phone(link), read_condition(link)
    found = obstacles(phone, now, needs)
    refuse(phone, found)
    with kept_awake(link, now.is_awake) as changed, _own_folder(link) as folder:
        yield Rig(link, phone, folder, found, now.thermal, changed)


@contextmanager
def _own_folder(link: Link) -> Iterator[str]:
    folder = f"{TMP}/mobile-compress-{secrets.token_hex(8)}"
    try:
        made = link.shell(["mkdir", folder])
        if made.code:
            raise DeviceError(f"{link.serial}: {TMP} cannot be written: {made.err.strip()[-200:]}", reason="refused")
        yield folder
    finally:
        _remove(_cleaning(link), folder)


def _remove(link: Link, folder: str) -> None:
    try:
        link.insist(["sh", "-c", END, "sh", folder])
        removed = link.insist(["rm", "-rf", folder])
        if removed.code == 0:
            return
        why = f"{link.serial}: {removed.err.strip()[-200:]}"
    except DeviceError as error:
        why = error.message
    # raised out here, its context is what went wrong before, and not this
    raise DeviceError(f"{why}; {folder} is left on it", f"adb -s {link.serial} shell rm -rf {folder}", "left")


def _cleaning(link: Link) -> Link:
    return replace(link, adb=link.adb.without_stop())
