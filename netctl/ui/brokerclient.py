"""The server's side of the connection to its broker."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from netctl.model.errors import LocalError
from netctl.ui import brokerwire as w
from netctl.wire.jsonline import Request, error_of, parse_line

Reply = TypeVar("Reply")
GONE = "the other half of `netctl ui` has ended: start it again"
"""The error of every question after the broker has ended."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    answer: asyncio.Future[bytes]
    progress: Callable[[str], None] | None


class BrokerClient:
    """Asks the broker. Many questions can be open at the same time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self._open: dict[int, _Waiting] = {}
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Use the connection in the running event loop. Call it before `run`."""
        self._reader, self._writer = await asyncio.open_unix_connection(
            sock=self._connection, limit=w.MAX_LINE + 1
        )

    async def run(self) -> None:
        """Read answers until the broker ends; every question that is open then fails with LocalError."""
        reader = self._reader
        assert reader is not None, "connect first"
        decoder = msgspec.json.Decoder(w.Told)
        try:
            while line := await reader.readline():
                self._told(decoder.decode(line))
        except OSError:
            return  # the broker ended without reading all that we sent
        finally:
            self._writer = None
            for waiting in self._open.values():
                if not waiting.answer.done():
                    waiting.answer.set_exception(LocalError(GONE))

    def _told(self, told: w.Told) -> None:
        waiting = self._open.get(told.id)
        if waiting is None or waiting.answer.done():
            return
        if told.final:
            waiting.answer.set_result(bytes(told.line))
        elif waiting.progress is not None:
            said = parse_line(bytes(told.line)).progress
            waiting.progress(said if isinstance(said, str) else "")

    async def ask(
        self,
        to: str,
        request: Request[Reply],
        progress: Callable[[str], None] | None = None,
        *,
        by: str = "",
    ) -> Reply:
        """The reply of `to`: ``agent``, ``mediator`` or ``broker``. `by`: see `Question`. Raises NetctlError."""
        if self._writer is None:
            raise LocalError(GONE)
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._open[number] = _Waiting(answer, progress)
        try:
            question = w.Question(number, to, msgspec.Raw(msgspec.json.encode(request)), by)
            self._writer.write(msgspec.json.encode(question) + b"\n")
            await self._writer.drain()
            line = parse_line(await answer)
        except OSError:
            raise LocalError(GONE) from None
        finally:
            del self._open[number]
        if not isinstance(line.error, msgspec.UnsetType):
            raise error_of(line.error)
        if not isinstance(line.result, msgspec.Raw):
            raise LocalError("the broker answered with nothing")
        reply: Any = msgspec.json.decode(line.result, type=request.reply_type())
        return reply  # type: ignore[no-any-return]
