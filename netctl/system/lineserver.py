"""The server of a local socket of JSON lines (`netctl.wire.jsonline`), for this user and root alone.

One request a connection. Every request gets an answer, also a malformed one, and none ends the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netctl.model.errors import LocalError
from netctl.wire.jsonline import Operations, Request, failure_line, progress_line, result_line

Progress = Callable[[str], None]
"""Sends one line to the person who waits. May be called from any thread."""
Perform = Callable[[Request[Any], Progress], Awaitable[Any]]
"""Performs a request and returns its result. Raises NetctlError."""
_CREDENTIALS = "3i"


@dataclass(frozen=True, slots=True)
class Service:
    """The service at a socket. `who`: agent or mediator, for messages; `max_request`: most bytes of a request."""

    who: str
    operations: Operations
    perform: Perform
    max_request: int

    async def answer(self, line: bytes, progress: Progress) -> bytes:
        """The last line of the answer to a request, also to a malformed one. Never raises."""
        try:
            result = await self.perform(self.operations.parse(line), progress)
            return result_line(result)
        except Exception as error:
            return failure_line(error, self.who)


class LineServer:
    """Listens at a Unix socket."""

    def __init__(self, path: Path, service: Service) -> None:
        self._path = path
        self._service = service
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. The socket has mode 0600 from its first moment. Raises OSError."""
        self._path.unlink(missing_ok=True)  # left by a dead server: a lock proves that no other server lives
        old = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, self._path, limit=self._service.max_request
            )
        finally:
            os.umask(old)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer_uid(writer.get_extra_info("socket")) not in (0, os.getuid()):
                return
            line = await reader.readline()
            if line:
                await self._answer(line, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:  # called from the engine's thread, too
            loop.call_soon_threadsafe(writer.write, progress_line(text))

        answer = await self._service.answer(line, progress)
        await asyncio.sleep(0)  # progress that a thread has queued goes first
        writer.write(answer)
        await writer.drain()


def _peer_uid(connection: socket.socket) -> int:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_CREDENTIALS))
    _, uid, _ = struct.unpack(_CREDENTIALS, raw)
    return int(uid)


def cannot_listen(path: Path, error: OSError, advice: str = "") -> LocalError:
    """The error of a failed `start`, in words."""
    return LocalError(f"cannot listen on {path}: {error.strerror or error}{advice}")
