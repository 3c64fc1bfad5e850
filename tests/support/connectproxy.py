"""An HTTP proxy that knows CONNECT alone: `python connectproxy.py PORT [USER:PASSWORD]`, or in a test's event loop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys


class ConnectProxy:
    """Counts what it was asked for."""

    def __init__(self, login: str | None = None, answer: bytes | None = None) -> None:
        """`answer`: said to everybody instead of connecting."""
        self.asked: list[str] = []
        self._wanted = None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        self._server = await asyncio.start_server(self._client, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        self.asked.append(target)
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        if self._answer is not None:
            writer.write(self._answer)
            await writer.drain()
            return
        if method != "CONNECT" or headers.get("Proxy-Authorization") != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            await writer.drain()
            return
        host, _, port = target.rpartition(":")
        there, out = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        try:
            await asyncio.gather(_copy(reader, out), _copy(there, writer))
        finally:
            out.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()


async def _main(port: int, login: str | None) -> None:
    await ConnectProxy(login).start("0.0.0.0", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
