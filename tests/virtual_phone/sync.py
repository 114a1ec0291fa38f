"""`sync:`, the service behind push and pull: STAT, LIST, SEND, RECV, and LST2/STA2 where the phone announces `stat_v2`."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from tests.virtual_phone.wire import CutError, Stream

if TYPE_CHECKING:
    from tests.virtual_phone.server import VirtualPhone

CHUNK = 64 * 1024


async def serve(phone: VirtualPhone, stream: Stream) -> None:
    """Answer requests until the host quits."""
    while True:
        name, length = struct.unpack("<4sI", await stream.read(8))
        if name == b"QUIT":
            return
        path = (await stream.read(length)).decode()
        await _ANSWERS[name](phone, stream, path)


async def _stat(phone: VirtualPhone, stream: Stream, path: str) -> None:
    found = _lstat(phone.inside(path))
    mode, size, time = (found.st_mode, found.st_size, int(found.st_mtime)) if found else (0, 0, 0)
    await stream.write(struct.pack("<4sIII", b"STAT", mode, size, time))


async def _stat2(phone: VirtualPhone, stream: Stream, path: str, name: bytes = b"STA2") -> None:
    found = _lstat(phone.inside(path))
    if not found:
        await stream.write(struct.pack("<4sIQQIIIIQqqq", name, errno.ENOENT, *(0,) * 10))
        return
    plain = (found.st_dev, found.st_ino, found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    await stream.write(struct.pack("<4sIQQIIIIQqqq", name, 0, *plain, *times))


async def _lstat2(phone: VirtualPhone, stream: Stream, path: str) -> None:
    await _stat2(phone, stream, path, b"LST2")


async def _list(phone: VirtualPhone, stream: Stream, path: str) -> None:
    folder = phone.inside(path)
    for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
        found, name = entry.lstat(), entry.name.encode()
        head = struct.pack("<4sIIII", b"DENT", found.st_mode, found.st_size, int(found.st_mtime), len(name))
        await stream.write(head + name)
    await stream.write(struct.pack("<4sIIII", b"DONE", 0, 0, 0, 0))


async def _send(phone: VirtualPhone, stream: Stream, request: str) -> None:
    """What arrives is written as it arrives: a push that is cut leaves a part of the file, as on a phone."""
    path, _, mode = request.rpartition(",")
    target, total = phone.inside(path), 0
    failure = "" if target.parent.is_dir() else "remote couldn't create file: No such file or directory"
    with open(target if not failure else os.devnull, "wb") as file:
        while True:
            name, length = struct.unpack("<4sI", await stream.read(8))
            if name == b"DONE":
                break
            piece = await stream.read(length)
            total += len(piece)
            if phone.faults.cut_push_after is not None and total > phone.faults.cut_push_after:
                file.write(piece[: phone.faults.cut_push_after])
                file.flush()
                phone.vanish()
                raise CutError
            if phone.faults.hang_push:
                await asyncio.sleep(3600)
            if phone.faults.full_after is not None and total > phone.faults.full_after:
                failure = failure or "remote write failed: No space left on device"
            if not failure:
                file.write(piece)
    if failure:
        await _fail(stream, failure)
        return
    os.chmod(target, int(mode) & 0o777)
    if phone.faults.wrong_hash:
        _flip_a_byte(target)
    await stream.write(struct.pack("<4sI", b"OKAY", 0))


async def _receive(phone: VirtualPhone, stream: Stream, path: str) -> None:
    source = phone.inside(path)
    if not source.is_file():
        await _fail(stream, "remote open failed: No such file or directory")
        return
    with open(source, "rb") as file:
        while piece := file.read(CHUNK):
            await stream.write(struct.pack("<4sI", b"DATA", len(piece)) + piece)
    await stream.write(struct.pack("<4sI", b"DONE", 0))


async def _fail(stream: Stream, reason: str) -> None:
    await stream.write(struct.pack("<4sI", b"FAIL", len(reason)) + reason.encode())


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except OSError:
        return None


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))


_ANSWERS = {b"STAT": _stat, b"STA2": _stat2, b"LST2": _lstat2, b"LIST": _list, b"SEND": _send, b"RECV": _receive}
