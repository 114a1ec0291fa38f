"""Phones that a real adb connects to: `with VirtualPhone(folder) as phone: adb connect 127.0.0.1:PORT`.

Each phone is a TCP server with an event loop in a thread of its own, and a folder that is all it has of a file system.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from tests.virtual_phone import shell, sync
from tests.virtual_phone.faults import Faults
from tests.virtual_phone.system import System
from tests.virtual_phone.wire import AUTH, CLSE, CNXN, MAX_PAYLOAD, OKAY, OPEN, TOKEN, VERSION, WRTE, CutError, Stream, Transport


class VirtualPhone:
    """`features`: what it announces to adb (no `shell_v2`: a phone before Android 7). `faults`: may change at any time."""

    def __init__(self, root: Path, faults: Faults = Faults(), features: Sequence[str] = ("shell_v2", "cmd", "stat_v2")) -> None:
        self.system = System(root)
        self.faults, self.features = faults, tuple(features)
        self.children: list[asyncio.subprocess.Process] = []  # each leads a process group
        self.port = 0
        self._transports: list[Transport] = []
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def inside(self, path: str) -> Path:
        """Where a path of the phone lies on this machine."""
        return Path(self.system.to_host(path))

    def __enter__(self) -> VirtualPhone:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"phone {self.port}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for group in self.running():
            os.killpg(group, signal.SIGKILL)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def running(self) -> list[int]:
        """Process groups of commands that somebody still runs in."""
        return [child.pid for child in self.children if _is_alive(child.pid)]

    def vanish(self) -> None:
        """CutError every connection and take no new one: the cable is out. Called in the phone's own thread."""
        if self._server:
            self._server.close()
        for transport in self._transports:
            transport.cut()

    def disappear(self) -> None:
        """`vanish`, for tests."""
        self._loop.call_soon_threadsafe(self.vanish)

    async def _stop(self) -> None:
        self.vanish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(asyncio.wait_for(child.wait(), 5) for child in self.children))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = Transport(reader, writer)
        self._transports.append(transport)
        streams: dict[int, Stream] = {}
        try:
            while True:
                await self._handle(transport, streams, *await transport.receive())
        except (CutError, asyncio.CancelledError):
            pass
        finally:
            for stream in streams.values():
                stream.ended()
            transport.cut()

    async def _handle(
        self, transport: Transport, streams: dict[int, Stream], kind: int, first: int, second: int, payload: bytes
    ) -> None:
        if kind in (CNXN, AUTH):
            await self._greet(transport)
        elif kind == OPEN and not self.faults.frozen:
            ours = len(streams) + 1
            streams[ours] = Stream(transport, ours, first)
            self._spawn(self._serve(streams[ours], payload.rstrip(b"\0").decode()))
        elif kind == OKAY and second in streams:
            streams[second].acknowledged.set()
        elif kind == WRTE and second in streams and not self.faults.frozen:
            streams[second].incoming.put_nowait(payload)
        elif kind == CLSE and second in streams:
            streams[second].ended()

    async def _greet(self, transport: Transport) -> None:
        if self.faults.silent:
            return
        if self.faults.unauthorized:
            await transport.send(AUTH, TOKEN, 0, bytes(20))
            return
        model = self.system.properties["ro.product.model"].replace(" ", "_")
        banner = f"device::ro.product.name=virtual;ro.product.model={model};ro.product.device=virtual;"
        await transport.send(CNXN, VERSION, MAX_PAYLOAD, f"{banner}features={','.join(self.features)}".encode())

    async def _serve(self, stream: Stream, name: str) -> None:
        try:
            if self.faults.cut_at and self.faults.cut_at in name:
                self.vanish()
                return
            if self.faults.freeze_at and self.faults.freeze_at in name:
                self.faults = replace(self.faults, frozen=True)
                return
            v2 = re.match(r"shell,v2[^:]*:(.+)", name, re.DOTALL)
            old = re.match(r"(?:shell|exec):(.+)", name, re.DOTALL)
            is_refused = self.faults.refuse or (self.faults.refuse_at and self.faults.refuse_at in name)
            if is_refused or not (v2 or old or name == "sync:"):
                await stream.transport.send(CLSE, 0, stream.theirs)
                return
            await stream.transport.send(OKAY, stream.ours, stream.theirs)
            if v2:
                await shell.serve_v2(self, stream, v2[1])
            elif old:
                await shell.serve_v1(self, stream, old[1])
            else:
                await sync.serve(self, stream)
            await stream.close()
        except CutError:
            stream.ended()

    def _spawn(self, work: object) -> None:
        task = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_alive(group: int) -> bool:
    """Zombies do not count: their parent is us."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False
