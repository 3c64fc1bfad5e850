"""A limit for a server of PostgreSQL that does not answer.

To cancel a call of psycopg does not help: psycopg then asks the same server to cancel, and waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import AsyncConnection


def sever(connection: AsyncConnection[Any]) -> None:
    """Shut down a connection's socket, so that psycopg's pending call raises."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def severed_after(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Shut the connection down if the block takes longer. psycopg then raises its error."""
    limit = asyncio.get_running_loop().call_later(seconds, sever, connection)
    try:
        yield
    finally:
        limit.cancel()
