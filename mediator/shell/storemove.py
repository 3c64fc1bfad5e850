"""`netctl-mediator store move`: copy all rows of a store to another one, in SQLite or PostgreSQL.

The source is locked while rows are copied: a mediator that runs on it serves known members and accepts no changes;
afterwards it reports where the store is. After an interrupted move one of the two stores is in force, or neither until
the same move is repeated (`storemark.py`); never both.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import psycopg
from psycopg import AsyncConnection

from mediator.shell.postgresconnect import NOTICE_LOSS, reason_of
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgresschema import migrate
from mediator.shell.postgressession import PostgresSession
from mediator.shell.sqlsession import Row, Session, SqliteSession
from mediator.shell.store import Store
from mediator.shell.storemark import ARRIVING, MOVED, SERVING, Mark, read_mark, refuse_other, set_mark
from mediator.shell.storeschema import TABLES
from mediator.shell.storesql import name, rename
from netctl.model.errors import LocalError

LOCK_S = 10
"""Longest wait for the lock: a mediator's transaction takes milliseconds."""


class End(Protocol):
    """The source or the target of a move."""

    name: str
    """The store's name for people."""

    def transaction(self) -> AbstractAsyncContextManager[Session]:
        """A transaction that excludes other writers, whether the store is in force or not. Raises LocalError."""


class SqliteEnd:
    """A store in the state directory's file."""

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Of `End`."""
        with self._store.transaction("a move", anyway=True) as db:
            yield SqliteSession(db)


class PostgresEnd:
    """A store in PostgreSQL, which a mediator may use meanwhile."""

    def __init__(self, place: PostgresPlace) -> None:
        self.name = place.name
        self._place = place

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Of `End`."""
        try:
            async with await AsyncConnection[Row].connect(
                autocommit=True,
                **{**self._place.parameters, "application_name": "netctl-mediator store move"},
            ) as connection:
                await connection.execute(NOTICE_LOSS)
                await migrate(connection, self.name)
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_S}s'")
                    # Every writing transaction of a mediator begins with SELECT ... FOR UPDATE on this table's row.
                    await connection.execute("LOCK TABLE place IN EXCLUSIVE MODE")
                    session = PostgresSession(connection)
                    yield session
                    await session.flush()
        except (psycopg.Error, OSError) as error:
            raise LocalError(f"{self.name}: {reason_of(error)}") from error


async def move(source: End, target: End) -> dict[str, int]:
    """Copy all rows, and put the target in force. Returns the count of rows by table. Raises LocalError."""
    async with source.transaction() as old:
        mark = await read_mark(old)
        if mark.state == MOVED:
            return await _finish(mark, source, target)
        refuse_other(mark, source.name)
        mark = Mark(MOVED, secrets.token_hex(8), target.name)
        async with target.transaction() as new:
            await _refuse_to_overwrite(new, source, target)
            counts = await copy(old, new)
            await rename(new, await name(old))
            await set_mark(new, Mark(ARRIVING, mark.move, source.name))
        await set_mark(old, mark)
    await _finish(mark, source, target)
    return counts


async def _refuse_to_overwrite(new: Session, source: End, target: End) -> None:
    there = await read_mark(new)
    if there.state == SERVING and any((await count(new)).values()):
        raise LocalError(
            f"{target.name} has a store in force already: a store is moved to an empty place alone"
        )
    if there.state == ARRIVING and there.other != source.name:
        raise LocalError(f"{target.name} has a store that came from {there.other}: finish that move first")


async def _finish(mark: Mark, source: End, target: End) -> dict[str, int]:
    """Mark the source as moved, then the target as serving."""
    async with target.transaction() as new:
        there = await read_mark(new)
        if there.move != mark.move or there.state == MOVED:
            raise LocalError(f"the store was moved from {source.name} to {mark.other} already")
        await set_mark(new, Mark(SERVING, mark.move, source.name))
        return await count(new)


async def count(db: Session) -> dict[str, int]:
    """The count of rows by table."""
    found: dict[str, int] = {}
    for table in TABLES:
        found[table] = (await db.rows(f"SELECT count(*) FROM {table}"))[0][0]
    return found


async def copy(old: Session, new: Session) -> dict[str, int]:
    """Replace all rows by the source's. Returns the count of rows by table."""
    for table in reversed(TABLES):
        await new.change(f"DELETE FROM {table}")
    counts = {}
    for table, columns in TABLES.items():
        rows = await old.rows(f"SELECT {', '.join(columns)} FROM {table}")
        await new.insert_many(table, columns, rows)
        counts[table] = len(rows)
    return counts
