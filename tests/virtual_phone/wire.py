"""The adb transport: 24-byte little-endian headers, and streams with one unanswered WRTE each. Never here: services."""

from __future__ import annotations

import asyncio
import struct

VERSION = 0x01000001  # from this one on nobody checks checksums
MAX_PAYLOAD = 256 * 1024


def command(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (command(name) for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))
TOKEN = 1  # AUTH's first argument when the phone asks


class CutError(ConnectionError):
    """The connection is gone, or the phone has decided that it is."""


class Transport:
    """Messages over one TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def receive(self) -> tuple[int, int, int, bytes]:
        """(command, first argument, second argument, payload). Raises CutError."""
        try:
            kind, first, second, length, _, magic = struct.unpack("<6I", await self.reader.readexactly(24))
            assert magic == kind ^ 0xFFFFFFFF, "not the adb protocol"
            return kind, first, second, await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise CutError from error

    async def send(self, kind: int, first: int, second: int, payload: bytes = b"") -> None:
        """One message. Raises CutError."""
        assert len(payload) <= MAX_PAYLOAD
        header = struct.pack("<6I", kind, first, second, len(payload), sum(payload) & 0xFFFFFFFF, kind ^ 0xFFFFFFFF)
        try:
            self.writer.write(header + payload)
            await self.writer.drain()
        except ConnectionError as error:
            raise CutError from error

    def cut(self) -> None:
        """Drop the connection without a word, unsent bytes included."""
        self.writer.transport.abort()


class Stream:
    """One service. `ours`, `theirs`: its ids. Written bytes wait for the host's OKAY, piece by piece."""

    def __init__(self, transport: Transport, ours: int, theirs: int) -> None:
        self.transport, self.ours, self.theirs = transport, ours, theirs
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.acknowledged = asyncio.Event()
        self.closed = False
        self._rest = b""
        self._one_at_a_time = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """All of `data`, in order, also when several tasks write. Raises CutError when the host has closed the stream."""
        async with self._one_at_a_time:
            for start in range(0, len(data), MAX_PAYLOAD):
                if self.closed:
                    raise CutError
                self.acknowledged.clear()
                await self.transport.send(WRTE, self.ours, self.theirs, data[start : start + MAX_PAYLOAD])
                await self.acknowledged.wait()

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises CutError when the host closes before."""
        while len(self._rest) < count:
            piece = await self.incoming.get()
            if piece is None:
                raise CutError
            self._rest += piece
            await self.transport.send(OKAY, self.ours, self.theirs)  # only now may the host send the next one
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    async def close(self) -> None:
        """Tell the host that there is no more."""
        if not self.closed:
            self.closed = True
            await self.transport.send(CLSE, self.ours, self.theirs)

    def ended(self) -> None:
        """The host has closed, or is gone: whoever waits is woken."""
        self.closed = True
        self.acknowledged.set()
        self.incoming.put_nowait(None)
