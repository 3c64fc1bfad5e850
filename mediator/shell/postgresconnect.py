"""Opens a connection of the store to PostgreSQL: lock, tables, and what became of a commit that was not answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection

from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgresschema import LOCK_CLASS, migrate
from mediator.shell.severed import severed_after
from mediator.shell.sqlsession import Row
from netctl.model.errors import LocalError

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 3.0
"""Intervals of connection attempts, doubled each time: short for a restarting server, no flood for an absent one."""
LOCK_S = 3.0
"""Longest wait of a new mediator for the lock of a mediator that has just ended."""
STANDBY_S = 0.5
"""Interval of a standby's requests for the lock: a take-over begins within it, at the cost of two small queries a
second. A query that waits for the lock would hold VACUUM back meanwhile.
"""
ANSWER_S = 10.0
"""Longest wait for the answer to a statement before the connection is used. A server that stands still, as on a disk
that does not answer, keeps the connection; another one may have taken its place.
"""
NOTICE_LOSS = (
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; "
    "SET tcp_user_timeout = 10000"
)
"""Has the server notice within some ten seconds that this machine has vanished. By the server's own settings it takes
two hours, for which the connection's locks stay: nobody else can write.
"""
NOTICE_STILL = "SET idle_in_transaction_session_timeout = 10000"
"""Has the server end a transaction in which nothing is asked, as of a mediator that stands still. Longer than
`COMMIT_S` and `PATIENCE_S`, within which a mediator that works goes on.
"""

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


Waits = Callable[[Held], None]
"""Called repeatedly with the holder of the lock."""


@dataclass(frozen=True, slots=True)
class Connector:
    """Opens the connections of one process, one after another."""

    place: PostgresPlace
    name: str
    """The name of this process at the server, by which it ends its own lost connections."""
    writes: bool
    shared: bool
    """Whether other mediators may use the store at the same time."""

    async def connect(self, sent: Commit | None = None, waits: Waits | None = None) -> AsyncConnection[Row]:
        """A connection that can be used. Notes in `sent` whether this commit, which was not answered, was kept.

        If another mediator has the lock, waits if `waits` is given, else raises Held. Raises LocalError.
        """
        parameters = {**self.place.parameters, "application_name": self.name}
        try:
            connection = await AsyncConnection.connect(autocommit=True, **parameters)
        except (psycopg.Error, OSError) as error:
            raise LocalError(f"{self.place.name} cannot be reached: {reason_of(error)}") from error
        try:
            await self._prepare(connection, sent, waits)
        except BaseException as error:
            await connection.close()
            if isinstance(error, psycopg.Error):
                raise LocalError(f"{self.place.name} cannot be used: {reason_of(error)}") from error
            raise
        return connection

    async def _prepare(
        self, connection: AsyncConnection[Row], sent: Commit | None, waits: Waits | None
    ) -> None:
        """Bring a new connection into use: settings, lock, schema, mark. Raises LocalError and psycopg's errors."""
        with severed_after(connection, ANSWER_S):
            await connection.execute(f"{NOTICE_LOSS}; {NOTICE_STILL}")
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) "
                "WHERE current_setting('synchronous_commit') IN ('off', 'local')"
            )
            if not self.writes:
                return
            # At the server, an earlier connection of this process may still hold the lock.
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = %s AND pid <> pg_backend_pid()",
                (self.name,),
            )
        await self._lock(connection, waits)
        await migrate(connection, self.place.name)
        if sent is not None:
            with severed_after(connection, ANSWER_S):
                sent.kept = await self._last_mark(connection) == sent.mark

    async def _last_mark(self, connection: AsyncConnection[Row]) -> str | None:
        """The mark of this process's last committed transaction. Raises psycopg's errors.

        Waits for an earlier connection that may still commit, as that one holds `place`.
        """
        await connection.execute(
            f"BEGIN; SET LOCAL lock_timeout = '{LOCK_S}s'; SELECT 1 FROM place FOR UPDATE"
        )
        found = await (
            await connection.execute("SELECT mark FROM writer WHERE name = %s", (self.name,))
        ).fetchone()
        await connection.execute("COMMIT")
        return found[0] if found is not None else None

    async def _lock(self, connection: AsyncConnection[Row], waits: Waits | None) -> None:
        deadline = time.monotonic() + (LOCK_S if waits is None else 0.0)
        kind = "_shared" if self.shared else ""
        ask = f"SELECT pg_try_advisory_lock{kind}(%s, hashtext(current_schema()))"
        while True:
            with severed_after(connection, ANSWER_S):
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
        with severed_after(connection, ANSWER_S):
            holder = await (await connection.execute(_HOLDER, (LOCK_CLASS,))).fetchone()
        who = f" ({holder[0]}, from {holder[1] or 'this host'})" if holder is not None else ""
        return Held(f"another mediator works with {self.place.name}{who}")


def reason_of(error: BaseException) -> str:
    """PostgreSQL's message in one line: it names hosts and users, never a password."""
    return " ".join(str(error).split()) or type(error).__name__
