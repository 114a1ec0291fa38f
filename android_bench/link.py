"""One phone, over adb: run a command, bring a file and prove that it arrived whole, fetch one, remove.

A shell string is what adb sends; it is made here only, from an argument list, quoted. adb ends with 0 and no word when the
connection is cut while a command runs, so each command is followed by a mark with its exit status, and no mark is an error.
Never here: which phone (adb.py), what a phone is like (device.py).
"""

from __future__ import annotations

import re
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from android_bench.adb import ASK_S, Adb, Answer, checked_serial, failure
from compress.errors import DeviceError
from compress.files import identity

SLOWEST_BYTES_S = 500_000  # of a transfer, over a poor wireless link
INSIST_S = 5.0
_REMOTE = re.compile(r"/[A-Za-z0-9_./+-]*")


@dataclass(frozen=True)
class Link:
    """`adb -s SERIAL`. Every method raises DeviceError: `offline`, `unauthorized`, `not-found`, `disconnected`, `timeout`..."""

    adb: Adb
    serial: str

    def __post_init__(self) -> None:
        checked_serial(self.serial)

    def shell(self, words: Sequence[str], timeout_s: float | None = None) -> Answer:
        """Run `words` on the phone: exit status, stdout and stderr apart (merged on phones before Android 7)."""
        mark = f"mark-{secrets.token_hex(8)}:"
        answer = self._adb(["shell", f"{shlex.join(words)}; echo {mark}$?"], timeout_s or ASK_S)
        out, found, code = answer.out.rpartition(mark)
        if found and code.strip().isdigit():
            return Answer(int(code), out, answer.err)
        if answer.err.strip() and answer.code:
            raise failure(answer, self.serial)
        raise DeviceError(f"{self.serial}: the connection was lost while {words[0]} ran", "plug it in again", "disconnected")

    def read(self, words: Sequence[str]) -> str:
        """What the command says, stripped; empty when it fails: an old phone does not have every service."""
        answer = self.shell(words)
        return answer.out.strip() if answer.code == 0 else ""

    def push(self, local: Path, remote: str, executable: bool = False) -> None:
        """Bring a file, under another name first; it gets its own when its sha256 is that of `local`. Also raises `full`,
        `refused`, `hash`."""
        size, part = Path(local).stat().st_size, f"{_checked(remote)}.part"
        pushed = self._adb(["push", str(Path(local).resolve()), part], ASK_S + size / SLOWEST_BYTES_S)
        if pushed.code:
            raise failure(pushed, f"{self.serial}: {Path(local).name}")
        if self.sha256(part, size) != identity(local)["sha256"]:
            raise DeviceError(
                f"{self.serial}: {Path(local).name} did not arrive as it is here (sha256 differs)",
                "another cable or port, or less traffic on the wireless link",
                "hash",
            )
        self._must(["chmod", "755" if executable else "644", part])
        self._must(["mv", part, remote])

    def pull(self, remote: str, local: Path, size: int = 2**30) -> None:
        """Fetch a file of at most about `size` bytes (for the time limit)."""
        pulled = self._adb(["pull", _checked(remote), str(Path(local).resolve())], ASK_S + size / SLOWEST_BYTES_S)
        if pulled.code:
            raise failure(pulled, f"{self.serial}: {remote}")

    def remove(self, remote: str) -> None:
        """A file or folder under /data/local/tmp and all in it, there or not."""
        if not re.fullmatch(r"/data/local/tmp(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+", remote):
            raise ValueError(f"{remote} is not ours to remove")
        self._must(["rm", "-rf", remote])

    def sha256(self, remote: str, size: int) -> str:
        """Of a file there; a phone without such a program sends the file back."""
        for tool in (["sha256sum"], ["toybox", "sha256sum"]):
            answer = self.shell([*tool, _checked(remote)], ASK_S + size / SLOWEST_BYTES_S)
            found = re.match(r"[0-9a-f]{64}\b", answer.out.strip())
            if answer.code == 0 and found:
                return found[0]
        with tempfile.TemporaryDirectory(prefix="compress-adb-") as folder:
            self.pull(remote, Path(folder) / "back", size)
            return identity(Path(folder) / "back")["sha256"]

    def insist(self, words: Sequence[str]) -> Answer:
        """`shell`, for cleaning up: once more over a new connection when the old one is lost or frozen."""
        try:
            return self.shell(words, INSIST_S)
        except DeviceError:
            self.restore()
            return self.shell(words, INSIST_S)

    def restore(self) -> None:
        """Drop the connection, which may be frozen, and ask for a new one. Says nothing of the success."""
        if re.search(r":\d+$", self.serial):
            attempts = (["disconnect", self.serial], ["connect", self.serial])
        else:
            attempts = (["-s", self.serial, "reconnect"], ["-s", self.serial, "wait-for-device"])
        for words in attempts:
            with suppress(DeviceError):
                self.adb.run(words, INSIST_S)

    def _must(self, words: Sequence[str]) -> None:
        answer = self.shell(words)
        if answer.code:
            raise failure(answer, f"{self.serial}: {words[0]}")

    def _adb(self, words: Sequence[str], timeout_s: float) -> Answer:
        try:
            return self.adb.run(["-s", self.serial, *words], timeout_s)
        except DeviceError as error:
            raise DeviceError(f"{self.serial}: {error.message}", error.hint, error.reason) from error


def _checked(remote: str) -> str:
    """We name what lies on the phone: anything odd is our mistake."""
    if not _REMOTE.fullmatch(remote) or ".." in remote:
        raise ValueError(f"{remote!r} is no name for a file on a phone")
    return remote
