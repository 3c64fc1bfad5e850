"""What a transaction asks of its database: the same for SQLite and PostgreSQL.

SQL here is what both understand, with `?` for values. Values are int, str, bytes and None.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Session(Protocol):
    """A transaction that has begun. Whoever began it ends it."""

    @property
    def shared(self) -> bool:
        """Whether several mediators work with the store."""

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """What a query finds."""

    async def change(self, sql: str, *values: Any) -> int:
        """How many rows a statement has changed."""

    async def change_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """The same statement for each of these, in this order."""


class SqliteSession:
    """A `Session` of SQLite, whose coroutines never wait: `finished` runs them where they are called."""

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
        self._db.executemany(sql, rows)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that never waits returns. Raises what it raises."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise RuntimeError("a transaction of SQLite waited for something")
