"""A running transaction of PostgreSQL, as the store's transactions see it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from mediator.shell.sqlsession import Row

MAX_LATER = 256
"""Most statements that wait to be sent with the next one. With more, a round trip is the smaller part."""
MAX_ROWS = 500
"""Most rows of one statement, which has at most 65,535 values."""


class PostgresSession:
    """A `Session` of PostgreSQL.

    Writes of many rows share a round trip with the statement after them; `flush` sends those that have none.
    """

    def __init__(
        self, connection: AsyncConnection[Row], *, shared: bool = False, until: float = math.inf
    ) -> None:
        """`until`: the time (of `time.monotonic`) after which statements fail, as if by PostgreSQL's own limit."""
        self._open = connection
        self._until = until
        self._later: list[tuple[str, list[Sequence[Any]]]] = []
        """Writes that are still to be sent, with the rows of values of each."""
        self.shared = shared
        """Of `Session`."""

    @property
    def _connection(self) -> AsyncConnection[Row]:
        if time.monotonic() > self._until:
            raise psycopg.errors.QueryCanceled("there is no time left for it")
        return self._open

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """Of `Session`."""
        return await (await self._execute(sql, values)).fetchall()

    async def change(self, sql: str, *values: Any) -> int:
        """Of `Session`."""
        return (await self._execute(sql, values)).rowcount

    async def change_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`. What PostgreSQL has against a row is raised by a later call, at the latest by `flush`.

        So with the methods below.
        """
        await self._put_off(_sql(sql), list(rows))

    async def insert_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`: one statement for many rows."""
        for values, count in _parts(list(rows)):
            marks = _marks(len(columns), count)
            await self._put_off(f"INSERT INTO {table} ({', '.join(columns)}) VALUES {marks}", [values])

    async def delete_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`: one statement for many rows."""
        same = " AND ".join(f"{table}.{column} = gone.{column}" for column in columns)
        for values, count in _parts(list(rows)):
            gone = f"(VALUES {_marks(len(columns), count)}) AS gone ({', '.join(columns)})"
            await self._put_off(f"DELETE FROM {table} USING {gone} WHERE {same}", [values])

    async def _put_off(self, sql: str, rows: list[Sequence[Any]]) -> None:
        if rows:
            self._later.append((sql, rows))
        if sum(len(found) for _, found in self._later) > MAX_LATER:
            await self.flush()

    async def flush(self) -> None:
        """Send the writes that wait."""
        if self._later:
            connection = self._connection
            async with connection.pipeline():
                await self._send(connection)

    async def _execute(self, sql: str, values: Sequence[Any]) -> AsyncCursor[Row]:
        connection = self._connection
        if not self._later:
            return await connection.execute(_sql(sql), values)
        async with connection.pipeline():
            await self._send(connection)
            return await connection.execute(_sql(sql), values)  # the end of the pipeline waits for the result

    async def _send(self, connection: AsyncConnection[Row]) -> None:
        later, self._later = self._later, []
        for sql, rows in later:
            if len(rows) == 1:
                await connection.execute(sql.encode(), rows[0])
            else:
                await connection.cursor().executemany(sql.encode(), rows)


def _sql(text: str) -> Any:
    return text.replace("?", "%s")


def _marks(columns: int, rows: int) -> str:
    """Placeholders for rows of values."""
    return ",".join([f"({','.join(['%s'] * columns)})"] * rows)


def _parts(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[list[Any], int]]:
    """The values of at most `MAX_ROWS` rows at a time, one after another, and the count of rows."""
    for start in range(0, len(rows), MAX_ROWS):
        part = rows[start : start + MAX_ROWS]
        yield [value for row in part for value in row], len(part)
