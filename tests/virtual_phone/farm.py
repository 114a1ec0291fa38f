"""Virtual phones on an adb server of their own, which no phone and no server of the user's ever sees."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.virtual_phone import benchmark_model
from tests.virtual_phone.faults import Faults
from tests.virtual_phone.server import VirtualPhone

FEATURES = ("shell_v2", "cmd", "stat_v2")


class Farm:
    """`add` makes a phone and connects it. `folder`: for what a test pushes and pulls."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.phones: list[VirtualPhone] = []

    def add(self, faults: Faults = Faults(), features: Sequence[str] = FEATURES, connect: bool = True) -> VirtualPhone:
        """A new phone; with `connect=False` it listens, and adb has not been told of it."""
        phone = VirtualPhone(self.folder / f"phone{len(self.phones)}", faults, features)
        self.phones.append(self._stack.enter_context(phone))
        if connect:
            self.adb("connect", phone.serial)
        return phone

    def adb(self, *words: object) -> str:
        """What the real adb says."""
        done = subprocess.run(
            ["adb", *map(str, words)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        return done.stdout + done.stderr

    def program(self) -> Path:
        """The benchmark program, as a file that a phone can execute."""
        path = self.folder / "benchmark_model"
        source = Path(benchmark_model.__file__).read_text(encoding="utf-8")
        path.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
        return path

    def settle(self, seconds: float = 5.0) -> list[str]:
        """What is left on the phones: files under /data/local/tmp, running commands. Those that are about to end get a moment."""
        end = time.monotonic() + seconds
        while True:
            left = [f"{phone.serial} {name}" for phone in self.phones for name in phone.system.left_behind()]
            left += [f"{phone.serial} runs {group}" for phone in self.phones for group in phone.running()]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.05)


@contextmanager
def farm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Farm]:
    """A farm without phones; afterwards its server is gone. Skips without adb."""
    if not shutil.which("adb"):
        pytest.skip("adb is not installed")
    with tempfile.TemporaryDirectory(prefix="phones-") as name:  # short: a socket's path has at most 107 characters
        own = {"ADB_SERVER_SOCKET": f"localfilesystem:{name}/adb.sock", "HOME": name, "TMPDIR": name}
        for key, value in {**own, "ADB_USB": "0", "ADB_EMU": "0", "ADB_MDNS": "0"}.items():
            monkeypatch.setenv(key, value)
        for key in ("ANDROID_SERIAL", "ANDROID_ADB_SERVER_PORT"):
            monkeypatch.delenv(key, raising=False)
        with ExitStack() as stack:
            made = Farm(Path(name), stack)
            try:
                yield made
            finally:
                made.adb("kill-server")
                _wait_for_the_end_of(name)


def _wait_for_the_end_of(folder: str) -> None:
    """Until no process has the farm's socket in its environment: the server has then let go of its folder."""
    end = time.monotonic() + 5
    while time.monotonic() < end and any(folder.encode() in _command(pid) for pid in Path("/proc").glob("[0-9]*")):
        time.sleep(0.02)


def _command(process: Path) -> bytes:
    try:
        line = (process / "cmdline").read_bytes()
        return (process / "environ").read_bytes() if line.startswith(b"adb\0") and int(process.name) != os.getpid() else b""
    except OSError:
        return b""
