"""A way to a server that can be cut: a TCP proxy in a thread of its own, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from netctl.system.tasks import awaited
from tests.mediator.loopbackkit import HOST
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S

MANY = 1 << 16


class CutProxy:
    """Passes bytes on to `target`, until it is cut."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._ends: set[asyncio.StreamWriter] = set()
        self._passes = asyncio.Event()
        self._passes.set()
        self._refuses = False
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def start(self) -> None:
        """And wait until it listens."""
        self._listens = threading.Event()
        self._thread.start()
        assert self._listens.wait(BUSY_S)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(BUSY_S)
        self._loop.close()

    def cut(self, *, silently: bool) -> None:
        """`silently`: connections stay and nothing passes, as where packets are dropped; else they are ended."""
        self._loop.call_soon_threadsafe(self._cut, silently)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._heal)

    def _cut(self, silently: bool) -> None:
        if silently:
            self._passes.clear()
            return
        self._refuses = True
        for end in self._ends:
            end.transport.abort()

    def _heal(self) -> None:
        self._refuses = False
        self._passes.set()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._serve, HOST, self.port)
        self._listens.set()
        await self._over.wait()
        self._passes.set()
        server.close()
        for end in list(self._ends):
            end.transport.abort()
        while self._ends:
            await asyncio.sleep(0.01)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._ends.add(to_client)
        to_server: asyncio.StreamWriter | None = None
        try:
            await self._passes.wait()
            if self._refuses or self._over.is_set():
                return
            server, to_server = await asyncio.open_connection(HOST, self._target)
            self._ends.add(to_server)
            back = awaited(self._pass(server, to_client))
            try:
                await self._pass(client, to_server)
            finally:
                to_server.transport.abort()
                await back
        except OSError:
            pass
        finally:
            for end in (to_client, to_server):
                if end is not None:
                    end.transport.abort()
                    self._ends.discard(end)

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(MANY):
                await self._passes.wait()
                to.write(data)
                await to.drain()
        to.transport.abort()


@contextlib.contextmanager
def proxied(target: int) -> Iterator[CutProxy]:
    """A proxy for the block."""
    proxy = CutProxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
