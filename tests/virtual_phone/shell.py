"""`shell,v2`, `shell` and `exec`: a command in the phone's sandbox, its two streams, its exit status.

As on a phone, a command outlives the connection that started it.
"""

from __future__ import annotations

import asyncio
import os
import struct
from typing import TYPE_CHECKING

from tests.virtual_phone.wire import CutError, Stream

if TYPE_CHECKING:
    from tests.virtual_phone.server import VirtualPhone

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


async def serve_v2(phone: VirtualPhone, stream: Stream, command: str) -> None:
    """Streams apart, exit status at the end."""
    child = await _start(phone, command, asyncio.subprocess.PIPE)
    feeding = asyncio.create_task(_feed(stream, child))
    try:
        await asyncio.gather(_pump(phone, child.stdout, stream, STDOUT), _pump(phone, child.stderr, stream, STDERR))
        code = await child.wait()
        await stream.write(struct.pack("<BIB", EXIT, 1, code if code >= 0 else 128 - code))
    finally:
        feeding.cancel()
        _hang_up(child)


async def serve_v1(phone: VirtualPhone, stream: Stream, command: str) -> None:
    """One stream, no exit status: phones before Android 7."""
    child = await _start(phone, command, asyncio.subprocess.STDOUT)
    assert child.stdin
    child.stdin.close()
    try:
        await _pump(phone, child.stdout, stream, None)
        await child.wait()
    finally:
        _hang_up(child)


async def _start(phone: VirtualPhone, command: str, stderr: int) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", phone.system.to_host(command), stdin=pipe, stdout=pipe, stderr=stderr, env=phone.system.environment(),
        cwd=phone.system.root, start_new_session=True, limit=2**20,
    )  # fmt: skip
    phone.children.append(child)
    return child


def _hang_up(child: asyncio.subprocess.Process) -> None:
    """Nobody reads any more: a command that goes on writing gets SIGPIPE, one that is silent goes on."""
    for number in (0, 1, 2):
        if pipe := child._transport.get_pipe_transport(number):  # type: ignore[attr-defined]
            pipe.close()


async def _feed(stream: Stream, child: asyncio.subprocess.Process) -> None:
    assert child.stdin
    while True:
        kind, length = struct.unpack("<BI", await stream.read(5))
        data = await stream.read(length)
        if kind == STDIN:
            child.stdin.write(data)
        elif kind == CLOSE_STDIN:
            child.stdin.close()


async def _pump(phone: VirtualPhone, source: asyncio.StreamReader | None, stream: Stream, kind: int | None) -> None:
    """Line by line, so that paths of this machine are found and turned back into the phone's."""
    assert source
    while line := await _line(source):
        said = phone.system.to_phone(line)
        if phone.faults.cut_when_said and phone.faults.cut_when_said in said:
            phone.vanish()
            raise CutError
        await stream.write(said if kind is None else struct.pack("<BI", kind, len(said)) + said)


async def _line(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError:
        return await source.read(os.sysconf("SC_PAGE_SIZE"))
