"""The interface between transactions and their database, the same for SQLite and PostgreSQL.

Statements use SQL that both understand, with `?` for values. Values are int, str, bytes and None.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Session(Protocol):
    """A running transaction; its beginner ends it."""

    @property
    def shared(self) -> bool:
        """Whether several mediators use the store."""

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """The rows of a query."""

    async def change(self, sql: str, *values: Any) -> int:
        """Run a statement; returns the count of changed rows."""

    async def change_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of these rows of values, in order."""

    async def insert_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert these rows of values."""

    async def delete_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Delete the rows that have the values of one of these in the columns; none of them is NULL."""


class SqliteSession:
    """A `Session` of SQLite. Its coroutines never wait, so `finished` can run them without an event loop."""

    def __init__(self, db: sqlite3.Connection, *, shared: bool = False) -> None:
        self._db = db
        self.shared = shared
        """Of `Session`. Files have one mediator; the simulated world has several."""

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """Of `Session`."""
        return self._db.execute(sql, values).fetchall()

    async def change(self, sql: str, *values: Any) -> int:
        """Of `Session`."""
        return self._db.execute(sql, values).rowcount

    async def change_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`."""
        rows = list(rows)
        if len(rows) == 1:
            self._db.execute(sql, rows[0])
        elif rows:  # else SQLite would look at the statement all the same
            self._db.executemany(sql, rows)

    async def insert_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`."""
        marks = ",".join("?" * len(columns))
        await self.change_many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)

    async def delete_many(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`."""
        same = " AND ".join(f"{column}=?" for column in columns)
        await self.change_many(f"DELETE FROM {table} WHERE {same}", rows)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits; returns its result and raises its exceptions."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("a transaction of SQLite waited for something")
