"""The store in PostgreSQL, by psycopg: one connection that writes, and one that reads.

An advisory lock excludes others: a single mediator holds it exclusively, mediators of a cluster share it.

A transaction that lost its connection before its commit was sent did not happen, and is repeated on the next
connection while there is time. A transaction whose commit was sent wrote its own mark into this process's row of
`writer`. The mark shows on the next connection whether the commit was kept, whoever has written meanwhile.
(`pg_xact_status` cannot tell: a server that crashed, or was promoted, before the transaction was on its disk gives the
same number to another transaction, and then calls the lost one committed.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from mediator.core.kept import Kept
from mediator.core.transactions import Outdated
from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.sqlsession import Row, Session
from mediator.shell.storemark import Mark, refuse_other
from mediator.shell.storeschema import MIGRATIONS, for_postgres
from mediator.shell.storesql import Body, SqlStore
from netctl.model.errors import LocalError
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

_LOG = logging.getLogger("mediator.store")

T = TypeVar("T")
COMMIT_S = 5.0
"""Longest wait for a sent commit; an absent synchronous standby would delay it for ever."""
FIRST_RETRY_S, LAST_RETRY_S = 0.1, 3.0
"""Intervals of connection attempts, doubled each time: short for a restarting server, no flood for an absent one."""
LOOK_S = 2.0
"""Interval of checks of an idle connection, so that its loss is known before the next use."""
LOCK_S = 3.0
"""Longest wait of a new mediator for the lock of a mediator that has just ended."""
LOCK_CLASS = 0x6E657463
"""The advisory lock's first half, "netc"; the second half is a hash of the schema."""
MIGRATION_CLASS = LOCK_CLASS + 1
"""First half of the lock for the creation and update of tables."""
STANDBY_S = 0.5
"""Interval of a standby's requests for the lock: a take-over begins within it, at the cost of two small queries a
second. A query that waits for the lock would hold VACUUM back meanwhile.
"""
READ_ONLY = "25006"
"""SQLSTATE of a write to a server that has become a standby."""
MARK_LEN = 8
"""Bytes of a transaction's random mark: unique during a mediator's life."""
WRITER_S = 30 * 86_400
"""Age at which the mark of a process without writes is removed, when another process starts."""
MIGRATION_S = 10
"""Longest wait for that lock: mediators that start at once update the tables one by one, in milliseconds."""
TAKEN = frozenset({"23505", "P0001"})
"""SQLSTATEs of a conflict with an existing row: a constraint's, and our triggers'."""

_VERSION = "CREATE TABLE IF NOT EXISTS schema_version (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL)"
_HOLDER = """
SELECT application_name, client_addr FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND classid = %s AND objid = hashtext(current_schema())::oid AND granted LIMIT 1
"""


@dataclass(slots=True)
class Commit:
    """A sent commit."""

    mark: str
    kept: bool | None = None
    """Whether the next connection found the commit kept; None: unknown."""


class Held(LocalError):
    """Another mediator works with the store."""


class Lost(Exception):
    """The connection was lost. `sent`: a commit sent before the loss."""

    def __init__(self, reason: str, sent: Commit | None = None) -> None:
        super().__init__(reason)
        self.sent = sent


def _is_lost(connection: AsyncConnection[Row], error: psycopg.Error) -> bool:
    """Whether the connection is unusable: it ended, or its server is read-only now."""
    state = error.sqlstate or ""
    ended = isinstance(error, psycopg.InterfaceError) or (
        isinstance(error, psycopg.OperationalError) and not state
    )
    return connection.closed or ended or state.startswith(("08", "57P")) or state == READ_ONLY


class PostgresSession:
    """A `Session` of PostgreSQL."""

    def __init__(self, connection: AsyncConnection[Row], *, shared: bool = False) -> None:
        self._connection = connection
        self.shared = shared
        """Of `Session`."""

    async def rows(self, sql: str, *values: Any) -> list[Row]:
        """Of `Session`."""
        return await (await self._connection.execute(_sql(sql), values)).fetchall()

    async def change(self, sql: str, *values: Any) -> int:
        """Of `Session`."""
        return (await self._connection.execute(_sql(sql), values)).rowcount

    async def change_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Of `Session`: psycopg sends all rows together."""
        rows = list(rows)
        if rows:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(_sql(sql), rows)


def _sql(text: str) -> Any:
    return text.replace("?", "%s")


Waits = Callable[[Held], None]
"""Called repeatedly with the holder of the lock."""


class _Line:
    """One connection, reconnected after a loss. Transactions run one after another."""

    def __init__(self, place: PostgresPlace, name: str, *, writes: bool, shared: bool) -> None:
        self._place = place
        self._name = name
        self._writes = writes
        self._shared = shared
        self._connection: AsyncConnection[Row] | None = None
        self._turn = asyncio.Lock()
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()
        self._sent: Commit | None = None
        """A sent commit without an answer."""

    async def connect(self, waits: Waits | None = None) -> None:
        """Connect. If another mediator has the lock, wait if `waits` is given, else raise Held. Raises LocalError."""
        parameters = {**self._place.parameters, "application_name": self._name}
        try:
            connection = await AsyncConnection.connect(autocommit=True, **parameters)
        except (psycopg.Error, OSError) as error:
            raise LocalError(f"{self._place.name} cannot be reached: {reason_of(error)}") from error
        try:
            await self._prepare(connection, waits)
        except BaseException as error:
            await connection.close()
            if isinstance(error, psycopg.Error):
                raise LocalError(f"{self._place.name} cannot be used: {reason_of(error)}") from error
            raise
        self._connection = connection
        self.lost.clear()
        self.ready.set()

    async def _prepare(self, connection: AsyncConnection[Row], waits: Waits | None) -> None:
        """Bring a new connection into use: lock, schema, mark. Raises LocalError and psycopg's errors."""
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false) "
            "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        )
        if not self._writes:
            return
        # At the server, an earlier connection of this process may still hold the lock.
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = %s AND pid <> pg_backend_pid()",
            (self._name,),
        )
        await self._lock(connection, waits)
        await migrate(connection, self._place.name)
        if self._sent is not None:
            self._sent.kept = await self._last_mark(connection) == self._sent.mark
            self._sent = None

    async def _last_mark(self, connection: AsyncConnection[Row]) -> str | None:
        """The mark of this process's last committed transaction. Raises psycopg's errors.

        Waits for an earlier connection that may still commit, as that one holds `place`.
        """
        await connection.execute(
            f"BEGIN; SET LOCAL lock_timeout = '{LOCK_S}s'; SELECT 1 FROM place FOR UPDATE"
        )
        found = await (
            await connection.execute("SELECT mark FROM writer WHERE name = %s", (self._name,))
        ).fetchone()
        await connection.execute("COMMIT")
        return found[0] if found is not None else None

    async def _lock(self, connection: AsyncConnection[Row], waits: Waits | None) -> None:
        deadline = time.monotonic() + (LOCK_S if waits is None else 0.0)
        kind = "_shared" if self._shared else ""
        ask = f"SELECT pg_try_advisory_lock{kind}(%s, hashtext(current_schema()))"
        while True:
            found = await (await connection.execute(ask, (LOCK_CLASS,))).fetchone()
            if found is not None and found[0]:
                return
            if time.monotonic() < deadline:
                await asyncio.sleep(FIRST_RETRY_S)
                continue
            held = await self._held(connection)
            if waits is None:
                raise held
            waits(held)
            await asyncio.sleep(STANDBY_S)

    async def _held(self, connection: AsyncConnection[Row]) -> Held:
        holder = await (await connection.execute(_HOLDER, (LOCK_CLASS,))).fetchone()
        who = f" ({holder[0]}, from {holder[1] or 'this host'})" if holder is not None else ""
        return Held(f"another mediator works with {self._place.name}{who}")

    async def transaction(self, what: str, body: Body[T], deadline: float) -> T:
        """Run a transaction once. Raises Lost, LocalError, or the body's exceptions."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._turn.acquire()
        except TimeoutError:
            raise LocalError("the store is busy with what it was asked before") from None
        limit: asyncio.TimerHandle | None = None
        try:
            connection = self._connection
            if connection is None or connection.closed:
                self.drop()
                raise Lost("there is no connection")
            left = deadline - time.monotonic()
            if left <= 0:
                raise LocalError("the store is busy with what it was asked before")
            limit = loop.call_later(left + 0.5, self._sever, connection)
            sent: Commit | None = None
            try:
                milliseconds = max(1, int(left * 1000))
                mark = await self._begin(connection, milliseconds)
                if self._writes:
                    refuse_other(mark, self._place.name)
                result = await body(PostgresSession(connection, shared=self._shared))
                if self._writes:
                    limit.cancel()
                    limit = loop.call_later(COMMIT_S, self._sever, connection)
                    sent = Commit(secrets.token_hex(MARK_LEN))
                    await connection.execute(
                        # Our own literals: several statements in one query cannot have parameters.
                        "SET LOCAL statement_timeout = 0; INSERT INTO writer (name, mark, at_s) VALUES "
                        f"('{self._name}', '{sent.mark}', {int(time.time())}) ON CONFLICT (name) DO UPDATE "
                        "SET mark = excluded.mark, at_s = excluded.at_s; COMMIT"
                    )
                else:
                    await connection.execute("COMMIT")
                return result
            except psycopg.Error as error:
                if _is_lost(connection, error):
                    self._sent = sent
                    self.drop()
                    raise Lost(reason_of(error), sent) from error
                await self._roll_back(connection)
                taken = error.sqlstate in TAKEN
                raise (Outdated if taken else LocalError)(
                    f"the store refused {what}: {reason_of(error)}"
                ) from error
            except BaseException:
                await self._roll_back(connection)
                raise
        finally:
            if limit is not None:
                limit.cancel()
            self._turn.release()

    async def _begin(self, connection: AsyncConnection[Row], milliseconds: int) -> Mark:
        kind = "" if self._writes else " ISOLATION LEVEL REPEATABLE READ READ ONLY"
        cursor = await connection.execute(
            f"BEGIN{kind}; SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {milliseconds}; "
            f"SELECT state, move, other FROM place{'' if not self._writes else ' FOR UPDATE'}"
        )
        while cursor.nextset():
            pass
        rows = await cursor.fetchall()
        return Mark(*rows[0])

    async def _roll_back(self, connection: AsyncConnection[Row]) -> None:
        try:
            await connection.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def _sever(self, connection: AsyncConnection[Row]) -> None:
        """Shut down the socket of a server that does not answer, so that psycopg's pending call raises."""
        with (
            contextlib.suppress(psycopg.Error, OSError),
            socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end,
        ):
            end.shutdown(socket.SHUT_RDWR)

    async def look(self) -> None:
        """Check an idle connection; a running transaction notices a loss itself."""
        connection = self._connection
        if connection is None or self._turn.locked():
            return
        async with self._turn:
            limit = asyncio.get_running_loop().call_later(PATIENCE_S, self._sever, connection)
            try:
                await connection.execute("SELECT 1")
            except psycopg.Error:
                self.drop()
            finally:
                limit.cancel()

    def drop(self) -> None:
        """Close the connection as lost."""
        self.ready.clear()
        self.lost.set()
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    async def close(self) -> None:
        """Close the connection after the running transaction."""
        async with self._turn:
            self.ready.clear()
            if self._connection is not None:
                await self._connection.close()
                self._connection = None


async def migrate(connection: AsyncConnection[Row], name: str) -> None:
    """Create or update the schema; each step is one transaction. Raises LocalError and psycopg's errors."""
    version = await _version(connection)
    if version > len(MIGRATIONS):
        raise LocalError(f"{name} was written by another version of netctl (schema {version})")
    if version == len(MIGRATIONS):  # then a role without the right to create tables is enough
        return
    lock = f"({MIGRATION_CLASS}, hashtext(current_schema()))"
    await connection.execute(f"SET lock_timeout = '{MIGRATION_S}s'")
    await connection.execute(f"SELECT pg_advisory_lock{lock}")
    await _migrate(connection, await _version(connection))  # on an error the caller closes the connection
    await connection.execute(f"SELECT pg_advisory_unlock{lock}")
    await connection.execute("RESET lock_timeout")


async def _version(connection: AsyncConnection[Row]) -> int:
    there = await (await connection.execute("SELECT to_regclass('schema_version') IS NOT NULL")).fetchone()
    if there is None or not there[0]:
        return 0
    found = await (await connection.execute("SELECT version FROM schema_version")).fetchone()
    return int(found[0]) if found is not None else 0


async def _migrate(connection: AsyncConnection[Row], version: int) -> None:
    await connection.execute(_VERSION)
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        write = (
            f"INSERT INTO schema_version (one, version) VALUES (1, {number}) "
            f"ON CONFLICT (one) DO UPDATE SET version = {number}"
        )
        await connection.execute(f"BEGIN; {for_postgres(step)} {write}; COMMIT")


class PostgresStore(SqlStore):
    """A `MemberStore` in PostgreSQL. Known members are served while it is away; requests to it fail with the reason."""

    def __init__(
        self,
        place: PostgresPlace,
        patience_s: float = PATIENCE_S,
        *,
        standby: bool = False,
        shared: bool = False,
    ) -> None:
        """`standby`: while another mediator uses the store, `open` waits.

        `shared`: other mediators with this option may use the store at the same time.
        """
        self._standby = standby
        self._shared = shared
        self._replaced: str | None = None
        self._place = place
        self._patience_s = patience_s
        self._guard = Guard(_LOG.warning)
        self._tasks = Tasks(self._guard)
        self._why: str | None = None
        self._doubt = False
        self._name = f"netctl-mediator {secrets.token_hex(4)}"
        self._lines: tuple[_Line, _Line] | None = None

    @property
    def takes_nothing(self) -> str | None:
        """Of `MemberStore`."""
        return self._why

    @property
    def in_doubt(self) -> bool:
        """Of `MemberStore`."""
        return self._doubt

    @property
    def replaced(self) -> str | None:
        """Of `MemberStore`."""
        return self._replaced

    @property
    def shared(self) -> bool:
        """Of `MemberStore`."""
        return self._shared

    async def open(self) -> None:
        """Of `MemberStore`."""
        writer = _Line(self._place, self._name, writes=True, shared=self._shared)
        reader = _Line(self._place, f"{self._name} reads", writes=False, shared=self._shared)
        if self._standby:
            await self._stand_by(writer)
        else:
            try:
                await writer.connect()
            except Held as error:
                raise LocalError(f"{error}: {self._instead}") from None
        try:
            await reader.connect()
        except BaseException:
            await writer.close()
            raise
        self._lines = writer, reader
        for line in self._lines:
            self._tasks.keep("the connection to PostgreSQL", lambda line=line: self._keep(line))  # type: ignore[misc]
        try:
            await self.within("a look at its place", _forget_writers)
        except BaseException:
            await self.close()
            raise

    @property
    def _instead(self) -> str:
        """Advice if another mediator has the lock."""
        if self._shared:
            return "it was started without --cluster, which all mediators of one store need that work at once"
        return (
            "one store serves one mediator, so stop the other, or have this one wait for its end (--standby), or start "
            "all with --cluster"
        )

    async def _stand_by(self, writer: _Line) -> None:
        """Connect once no other mediator uses the store. Raises LocalError if the first attempt fails otherwise."""

        def waits(held: Held) -> None:
            if self._why is None:
                _LOG.info(f"{held}: this one stands by, and takes over when that has ended")
            self._why = f"{held}: this one stands by."

        while True:
            try:
                await writer.connect(waits)
                break
            except LocalError as error:
                if self._why is None:
                    raise
                # Already standing by: wait also for a server that restarts or fails over.
                self._why = f"{error}; this one stands by."
            await asyncio.sleep(LAST_RETRY_S * random.uniform(0.25, 0.5))
        if self._why is not None:
            self._why = None
            _LOG.info("no other mediator works with the store any more: this one takes over")

    async def _keep(self, line: _Line) -> None:
        """Check the connection, and reconnect after each loss."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await line.lost.wait()
            if not line.lost.is_set():
                await line.look()
                continue
            wait = FIRST_RETRY_S
            while True:
                try:
                    await line.connect()
                    break
                except LocalError as error:
                    if isinstance(error, Held):
                        self._replaced = str(error)
                    if self._why is None:
                        _LOG.warning(
                            f"{error}; known members are served, and it is tried again until it answers"
                        )
                    self._why = f"{error}."
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))
                wait = min(2 * wait, LAST_RETRY_S)
            if (
                self._why is not None
                and self._lines is not None
                and all(x.ready.is_set() for x in self._lines)
            ):
                self._why = None
                _LOG.info(f"{self._place.name} answers again")

    async def within(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        """Of `SqlStore`. A cancelled caller gets no answer; a transaction that has begun completes."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._tasks.start(what, self._answer(answer, what, body, writes))
        return await answer

    async def _answer(self, answer: asyncio.Future[T], what: str, body: Body[T], writes: bool) -> None:
        try:
            result = await self._carry(what, body, writes)
        except asyncio.CancelledError:
            if not answer.done():
                answer.set_exception(LocalError("the store is being closed"))
            raise
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            return
        if not answer.done():
            answer.set_result(result)

    async def _carry(self, what: str, body: Body[T], writes: bool) -> T:
        if self._lines is None:
            raise LocalError("the store is not open")
        line = self._lines[0 if writes else 1]
        deadline = time.monotonic() + self._patience_s
        result: T

        async def noting(db: Session) -> T:
            nonlocal result
            result = await body(db)
            return result

        while True:
            await self._connected(line, deadline)
            try:
                return await line.transaction(what, noting, deadline)
            except Lost as lost:
                if lost.sent is None:
                    continue
                if await self._was_kept(line, lost.sent, deadline, what):
                    return result

    async def _connected(self, line: _Line, deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await line.ready.wait()
        except TimeoutError:
            raise LocalError((self._why or f"{self._place.name} cannot be reached").rstrip(".")) from None

    async def _was_kept(self, line: _Line, sent: Commit, deadline: float, what: str) -> bool:
        """Whether a commit without an answer was kept. Raises LocalError if that is unknown."""
        try:
            await self._connected(line, max(deadline, time.monotonic() + self._patience_s / 2))
        except LocalError as error:
            self._doubt = True
            raise LocalError(f"{error}: whether it took {what} shows when it is back") from error
        if sent.kept is None:
            self._doubt = True
            raise LocalError(f"the connection to the store was lost: look whether it took {what}")
        return sent.kept

    async def kept(self, known: str = "") -> Kept:
        """Of `MemberStore`."""
        doubt, self._doubt = self._doubt, False
        try:
            return await super().kept(known)
        except BaseException:
            self._doubt = self._doubt or doubt
            raise

    async def close(self) -> None:
        """Of `MemberStore`."""
        await self._tasks.end()
        if self._lines is not None:
            for line in self._lines:
                await line.close()


async def _forget_writers(db: Session) -> None:
    """Remove the marks of processes that ended long ago. Also checks the store's mark."""
    await db.change("DELETE FROM writer WHERE at_s < ?", int(time.time()) - WRITER_S)


def reason_of(error: BaseException) -> str:
    """PostgreSQL's message in one line: it names hosts and users, never a password."""
    return " ".join(str(error).split()) or type(error).__name__
