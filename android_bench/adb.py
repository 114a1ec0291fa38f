"""The adb program: an argument list, a time limit and a clear error for each way it fails. Which phones there are.

ANDROID_ADB_SERVER_PORT and ADB_SERVER_SOCKET hold as for adb itself. Never here: what is done on a phone (link.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from compress.errors import DeviceError, MissingToolError, UsageError

START_S, ASK_S = 30.0, 15.0
TICK_S = 0.05
MOST_BYTES = 32 * 2**20  # of what one call says
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:%\[\]()-]{0,255}")
CONNECT = "connect a phone by cable with USB debugging on (Settings, Developer options), or adb connect ADDRESS:PORT"


@dataclass(frozen=True)
class Answer:
    """What a program said. `code`: its exit status."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Listed:
    """A line of `adb devices -l`. `state`: `device` when it can be used. `details`: product, model, usb, transport_id ..."""

    serial: str
    state: str
    details: Mapping[str, str] = field(default_factory=dict)


class Adb:
    """`program`: found in PATH or the Android SDK when None. `stop`: when it is set, whatever runs is ended with a DeviceError.

    Raises MissingToolError.
    """

    def __init__(self, program: str | None = None, stop: threading.Event | None = None) -> None:
        self.program = program or find()
        self.stop = stop or threading.Event()

    def without_stop(self) -> Adb:
        """The same adb for what has to be done even after a stop: cleaning up."""
        return Adb(self.program)

    def devices(self) -> list[Listed]:
        """Every phone that adb sees, in any state; starts adb's server. Raises DeviceError when that cannot be started."""
        started = self.run(["start-server"], START_S)
        if started.code:
            raise failure(started, "adb's server")
        listed = self.run(["devices", "-l"], ASK_S)
        if listed.code:
            raise failure(listed, "adb devices")
        return parse_devices(listed.out)

    def run(self, arguments: Sequence[str], timeout_s: float) -> Answer:
        """Run adb to its end. Raises DeviceError: `timeout`, `stopped`, `flood`; an exit status is for the caller to judge."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = subprocess.Popen(
                [self.program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
            try:
                self._wait(child, timeout_s, (out, err))
            finally:
                child.kill()
                child.wait()
            return Answer(child.returncode, _text(out), _text(err))

    def _wait(self, child: subprocess.Popen[bytes], timeout_s: float, said: Sequence[IO[bytes]]) -> None:
        end = time.monotonic() + timeout_s
        while True:
            try:
                child.wait(TICK_S)
                return
            except subprocess.TimeoutExpired:
                pass
            if self.stop.is_set():
                raise DeviceError("stopped", reason="stopped")
            if time.monotonic() > end:
                raise DeviceError(f"no answer within {timeout_s:.3g} s", _RECONNECT, "timeout")
            if sum(os.fstat(stream.fileno()).st_size for stream in said) > MOST_BYTES:
                raise DeviceError(f"said more than {MOST_BYTES // 2**20} MiB", reason="flood")


def find() -> str:
    """adb in PATH, or in the SDK that ANDROID_HOME or ANDROID_SDK_ROOT names. Raises MissingToolError."""
    folders = [os.environ[name] for name in ("ANDROID_HOME", "ANDROID_SDK_ROOT") if os.environ.get(name)]
    for candidate in ("adb", *(str(Path(folder) / "platform-tools" / "adb") for folder in folders)):
        if found := shutil.which(candidate):
            return found
    raise MissingToolError(
        "adb is not installed", "apt install adb, brew install --cask android-platform-tools, or Android's SDK Platform-Tools"
    )


def parse_devices(text: str) -> list[Listed]:
    """What `adb devices -l` prints; lines of other talk (a starting server) are passed over."""
    _, _, listing = text.partition("List of devices attached")
    found = []
    for line in filter(str.strip, listing.splitlines()):
        serial, *rest = line.split(maxsplit=1)
        words = rest[0].split() if rest else []
        if not words:
            continue
        details = dict(word.split(":", 1) for word in words if re.fullmatch(r"[a-z_]+:\S+", word))
        state = "no permissions" if words[:2] == ["no", "permissions"] else words[0]
        found.append(Listed(serial, state, details))
    return found


def checked_serial(serial: str) -> str:
    """The serial, when it can be one. Raises UsageError."""
    if not _SERIAL.fullmatch(serial):
        raise UsageError(f"{serial!r} is no serial number of a phone", "adb devices lists them")
    return serial


def chosen(listed: Sequence[Listed], serial: str | None) -> Listed:
    """The phone that was meant: `serial`, or ANDROID_SERIAL, or the only one there is. Raises DeviceError, UsageError."""
    serial = serial or os.environ.get("ANDROID_SERIAL")
    if serial:
        checked_serial(serial)
        for phone in listed:
            if phone.serial == serial:
                return usable(phone)
        others = ", ".join(phone.serial for phone in listed)
        raise DeviceError(f"{serial}: adb sees no such phone", f"it sees {others}" if others else CONNECT, "not-found")
    if not listed:
        raise DeviceError("adb sees no phone", CONNECT, "none")
    if len(listed) > 1:
        serials = ", ".join(phone.serial for phone in listed)
        raise UsageError(f"adb sees {len(listed)} phones: {serials}", "--device android:SERIAL takes one, --all-devices all")
    return usable(listed[0])


def usable(phone: Listed) -> Listed:
    """The phone, when its state lets it be used. Raises DeviceError that says what to do."""
    if phone.state != "device":
        reason, hint = _STATES.get(phone.state, (phone.state, "start Android on it"))
        raise DeviceError(f"{phone.serial} is {phone.state}" if reason != "no-permissions" else
                          f"{phone.serial}: this user may not use it", hint, reason)  # fmt: skip
    return phone


def failure(answer: Answer, name: str) -> DeviceError:
    """What adb's own words mean, about `name`."""
    said = f"{answer.err}\n{answer.out}"
    for pattern, reason, message, hint in _FAILURES:
        if re.search(pattern, said, re.IGNORECASE):
            return DeviceError(f"{name}: {message}", hint, reason)
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("*")]
    last = re.sub(r"^(adb: )?(error: )?", "", lines[-1])[:300] if lines else "without a word"
    return DeviceError(f"{name}: adb failed: {last}", reason="adb")


_RECONNECT = "plug it in again, or adb reconnect; a wireless phone: adb disconnect, then adb connect ADDRESS:PORT"
_ALLOW = "unlock the phone and allow this computer in the dialog on its screen"
_UDEV = "install udev rules (apt install android-sdk-platform-tools-common) and join the group plugdev"

# state -> reason, what to do
_STATES = {
    "unauthorized": ("unauthorized", _ALLOW),
    "authorizing": ("unauthorized", _ALLOW),
    "offline": ("offline", _RECONNECT),
    "connecting": ("offline", "wait a moment"),
    "no permissions": ("no-permissions", _UDEV),
}

# pattern in what adb says -> reason, message, what to do
_FAILURES: tuple[tuple[str, str, str, str | None], ...] = (
    (r"unauthorized|still authorizing", "unauthorized", "the phone has not allowed this computer", _ALLOW),
    (r"device offline|still connecting", "offline", "the phone is offline", _RECONNECT),
    (r"insufficient permissions|no permissions", "no-permissions", "this user may not use it", _UDEV),
    (r"device '.*' not found|no devices/emulators found|device not found", "not-found", "the phone is not there", _RECONNECT),
    (r"more than one device", "several", "several phones answer to this", "--device android:SERIAL"),
    (r"no space left on device", "full", "no space left on the phone", "free some under /data/local/tmp"),
    (r"read-only file system|permission denied", "refused", "the phone does not let adb write there", None),
    (r"cannot connect to daemon|failed to (start|check) (daemon|server)|didn't ACK|smartsocket|cannot bind|version of adb|"
     r"could not read ok from ADB Server", "server", "adb's server cannot be started", "adb kill-server, then try again"),
    (r"protocol fault", "protocol", "adb and the phone misunderstood each other", _RECONNECT),
    (r"error: closed", "closed", "the phone closed the connection at once", _RECONNECT),
    (r"connection reset|broken pipe|couldn't read from device|failed to read|connect failed|EOF|transport|"
     r"connection (closed|lost)", "disconnected", "the connection to the phone was lost", _RECONNECT),
)  # fmt: skip


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", errors="replace").replace("\r\n", "\n")
