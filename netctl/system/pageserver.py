"""A small HTTP server for monitoring: a few pages at fixed paths, only GET (RFC 9110), one request a connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

from netctl.model.errors import LocalError, RemoteError
from netctl.wire import http

REQUEST_S = 5.0
"""Seconds for a whole request and its answer."""
MAX_CLIENTS = 16
"""Concurrent clients: one or two scrapers are usual, and each holds a file descriptor that a member could use."""
TEXT = "text/plain; charset=utf-8"

Page = Callable[[], tuple[int, str, bytes]]
"""Status, content type and body, made when somebody asks."""


class PageServer:
    """Serves pages by path. Another path or method is answered 404, an invalid request 400 or not at all."""

    def __init__(self, address: str, pages: Mapping[str, Page], *, example_port: int) -> None:
        """`address`: HOST:PORT; `example_port`: for the message about another form. Raises LocalError."""
        host, _, port = address.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise LocalError(
                f"--metrics wants HOST:PORT, for example 127.0.0.1:{example_port}, not '{address}'"
            )
        self._host, self._port = host.strip("[]"), int(port)
        self._pages = dict(pages)
        self._server: asyncio.Server | None = None
        self._clients = 0

    async def start(self) -> None:
        """Listen. Raises LocalError."""
        try:
            self._server = await asyncio.start_server(self._serve, self._host, self._port)
        except OSError as error:
            where = f"{self._host} port {self._port}"
            raise LocalError(f"cannot serve metrics on {where}: {error.strerror or error}") from error

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(REQUEST_S):
                    answer = await self._answer(reader) if self._clients <= MAX_CLIENTS else None
                    if answer is not None:
                        writer.write(answer)
                        await writer.drain()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            self._clients -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> bytes | None:
        served = http.Served()
        try:
            while (asked := served.receive(await reader.read(http.MAX_HEAD))) is None:
                pass
        except RemoteError as error:
            return served.answer(400, TEXT, f"{error}\n".encode()) if served.can_answer else None
        method, path = asked
        page = self._pages.get(path) if method == "GET" else None
        if page is None:
            return served.answer(404, TEXT, f"GET {' or '.join(self._pages)}\n".encode())
        return served.answer(*page())
