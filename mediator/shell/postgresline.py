"""A connection of the store to PostgreSQL, and its transactions: several writes share one, each can be undone alone."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from mediator.core.transactions import Outdated
from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.postgresconnect import Commit, Connector, Waits, reason_of
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgressession import PostgresSession
from mediator.shell.postgresturns import TOO_BUSY, Turns, Wish
from mediator.shell.severed import sever, severed_after
from mediator.shell.sqlsession import Row
from mediator.shell.storemark import Mark, refuse_other
from mediator.shell.storesql import Adding, Body, add_all
from netctl.model.errors import LocalError

T = TypeVar("T")
COMMIT_S = 5.0
"""Longest wait for a sent commit; an absent synchronous standby would delay it for ever."""
READ_ONLY, STOOD_STILL = "25006", "25P03"
"""SQLSTATEs of a write to a server that has become a standby, and of a transaction that did nothing for too long."""
MAX_BATCH = 64
"""Most writes in one transaction: with more, the first would wait longer for the last than for the disk."""
HASTE_S = 0.5
"""A write with less time left has a transaction of its own, as its limit would be that of all."""
BATCH_S = 0.25
"""After this time a transaction takes up no further write. Less than HASTE_S: each begins with time left."""
SEVER_S = 0.5
"""How much later than PostgreSQL's own limit the connection is cut."""
MARK_LEN = 8
"""Bytes of a transaction's random mark: unique during a mediator's life."""
STOPPED = frozenset({"55P03", "57014"})
"""SQLSTATEs of a statement that reached its limit in time."""
TAKEN = frozenset({"23505", "P0001"})
"""SQLSTATEs of a conflict with an existing row: a constraint's, and our triggers'."""


class Lost(Exception):
    """The connection was lost. `sent`: a commit sent before the loss; `value`: the result if that was kept."""

    def __init__(self, reason: str, sent: Commit | None = None, value: Any = None) -> None:
        super().__init__(reason)
        self.sent = sent
        self.value = value


def _is_lost(connection: AsyncConnection[Row], error: psycopg.Error) -> bool:
    """Whether the connection is unusable: it ended, or its server is read-only now."""
    state = error.sqlstate or ""
    ended = isinstance(error, psycopg.InterfaceError) or (
        isinstance(error, psycopg.OperationalError) and not state
    )
    return connection.closed or ended or state.startswith(("08", "57P")) or state in (READ_ONLY, STOOD_STILL)


def _milliseconds(seconds: float) -> int:
    """At least 1, as 0 is no limit for PostgreSQL."""
    return max(1, int(seconds * 1000))


def _limits(milliseconds: int) -> str:
    """Statements that limit all others of the transaction."""
    return f"SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = {milliseconds}"


@dataclass(slots=True, eq=False)
class _Turn:
    """A transaction at the server, and the wishes that are carried out in it."""

    connection: AsyncConnection[Row]
    wishes: list[Wish[Any]]
    began: float
    _cut: asyncio.TimerHandle | None = None
    _marked: bool = False
    """Whether there is a savepoint."""

    def cut_after(self, seconds: float) -> None:
        """Shut the connection down unless the next limit is set, or the transaction has ended, by then."""
        self.cut_never()
        self._cut = asyncio.get_running_loop().call_later(seconds, sever, self.connection)

    def cut_never(self) -> None:
        """The transaction has ended."""
        if self._cut is not None:
            self._cut.cancel()

    def is_long(self) -> bool:
        """Whether the transaction has taken so long that it takes up no further write."""
        return time.monotonic() - self.began > BATCH_S

    async def savepoint(self, until: float) -> None:
        """Keep all so far, and begin what may be undone by itself, in one round trip; `until` limits its statements."""
        before = "RELEASE SAVEPOINT wish; " if self._marked else ""
        self._marked = True
        limits = _limits(_milliseconds(until - time.monotonic()))
        await self.connection.execute(f"{before}SAVEPOINT wish; {limits}")


def _runs(wishes: Iterable[Wish[Any]]) -> Iterator[list[Wish[Any]]]:
    """Requests that can be carried out together, and each other wish by itself, in their order."""
    run: list[Wish[Any]] = []
    for wish in wishes:
        if isinstance(wish.body, Adding) and not wish.body.takes:
            run.append(wish)
            continue
        if run:
            yield run
        yield [wish]
        run = []
    if run:
        yield run


class StoreLine:
    """One connection, reconnected after a loss. Transactions run one after another."""

    def __init__(self, place: PostgresPlace, name: str, *, writes: bool, shared: bool) -> None:
        self._place = place
        self._name = name
        self._writes = writes
        self._shared = shared
        self._connector = Connector(place, name, writes, shared)
        self._connection: AsyncConnection[Row] | None = None
        self._turns = Turns()
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()
        self._sent: Commit | None = None
        """A sent commit without an answer."""

    async def connect(self, waits: Waits | None = None) -> None:
        """Connect. If another mediator has the lock, wait if `waits` is given, else raise Held. Raises LocalError."""
        self._connection = await self._connector.connect(self._sent, waits)
        self._sent = None
        self.lost.clear()
        self.ready.set()

    @property
    def waiting(self) -> int:
        """The count of transactions that wait for their turn."""
        return len(self._turns)

    async def transaction(self, what: str, body: Body[T], deadline: float) -> T:
        """Run a transaction once. Raises Lost, LocalError, or the body's exceptions.

        Writes that wait for the same turn are one transaction for the server: they share its wait for the disk.
        """
        wish = await self._turns.wait(what, body, deadline)
        if not wish.over:
            try:
                await self._carry_out(wish)
            finally:
                self._turns.pass_on()
        return wish.result()

    def _others(self, first: Wish[Any]) -> list[Wish[Any]]:
        """Who may share the transaction: no reads; of writes, all that wait and have the time to."""
        soon = time.monotonic() + HASTE_S
        if not self._writes or first.deadline <= soon:
            return []
        return [wish for wish in self._turns if wish.deadline > soon][: MAX_BATCH - 1]

    async def _carry_out(self, first: Wish[Any]) -> None:
        """Carry out the wish whose turn it is, and others that wait, in one transaction.

        Notes what became of each. An error of one undoes that one alone. Whoever the transaction has no time for goes
        on waiting for its own turn.
        """
        batch = [first]
        try:
            await self._attempt(batch)
        except Lost as lost:
            for wish in batch:
                # Whoever was refused has changed nothing, and may have been refused for what is lost.
                sent = lost.sent if wish.error is None else None
                wish.error = Lost(str(lost), sent, wish.value)
        except Exception as error:
            for wish in batch:
                wish.error = error
        except BaseException:
            for wish in batch:
                wish.error = LocalError("the store is being closed")
            raise
        finally:
            for wish in batch:
                wish.over = True
                wish.call()

    async def _attempt(self, batch: list[Wish[Any]]) -> None:
        """Carry out the batch's only wish, and add to the batch those that wait and are carried out with it.

        Raises Lost, or what a commit raises.
        """
        connection = self._connection
        if connection is None or connection.closed:
            self.drop()
            raise Lost("there is no connection")
        first = batch[0]
        left = first.deadline - time.monotonic()
        if left <= 0:
            raise LocalError(TOO_BUSY)
        turn = _Turn(connection, batch, time.monotonic())
        turn.cut_after(left + SEVER_S)
        sent: Commit | None = None
        try:
            mark = await self._begin(connection, _milliseconds(left))
            if self._writes:
                refuse_other(mark, self._place.name)
            await self._carry_out_all(
                turn, self._others(first)
            )  # who came while the server began is among them
            if all(wish.error is not None for wish in batch):
                await self._roll_back(connection)
                return
            if self._writes:
                turn.cut_after(COMMIT_S)
                sent = Commit(secrets.token_hex(MARK_LEN))
                await connection.execute(
                    # Our own literals: several statements in one query cannot have parameters.
                    "SET LOCAL statement_timeout = 0; INSERT INTO writer (name, mark, at_s) VALUES "
                    f"('{self._name}', '{sent.mark}', {int(time.time())}) ON CONFLICT (name) DO UPDATE "
                    "SET mark = excluded.mark, at_s = excluded.at_s; COMMIT"
                )
            else:
                await connection.execute("COMMIT")
        except psycopg.Error as error:
            if _is_lost(connection, error):
                self._sent = sent
                self.drop()
                raise Lost(reason_of(error), sent) from error
            await self._roll_back(connection)
            raise LocalError(f"the store refused {first.what}: {reason_of(error)}") from error
        except BaseException:
            await self._roll_back(connection)
            raise
        finally:
            turn.cut_never()

    async def _carry_out_all(self, turn: _Turn, others: list[Wish[Any]]) -> None:
        """Carry out the turn's first wish, and those of the others for which there is time, in their order."""
        first = turn.wishes[0]
        if not others:
            await self._one_of(turn, first, alone=True)
            return
        for run in _runs([first, *others]):
            if await self._together(turn, run):
                continue
            for wish in run:
                if wish is first:
                    await self._one_of(turn, wish)
                elif not await self._another(turn, wish):
                    return

    def _take(self, turn: _Turn, wishes: Iterable[Wish[Any]]) -> float:
        """Take wishes that wait into the turn. Those before them wait for their end, so they have no more time."""
        for wish in wishes:
            self._turns.leave(wish)
            turn.wishes.append(wish)
        until = min(one.deadline for one in turn.wishes)
        turn.cut_after(until - time.monotonic() + SEVER_S)
        return until

    def _give_back(self, turn: _Turn, wishes: Sequence[Wish[Any]]) -> None:
        """Let wishes of the turn go on waiting, at the head."""
        for wish in wishes:
            turn.wishes.remove(wish)
        self._turns.return_to(wishes)
        self._take(turn, [])

    async def _another(self, turn: _Turn, wish: Wish[Any]) -> bool:
        """Carry out a wish that waits. False: the turn has no time for more."""
        if turn.is_long():
            return False
        if wish not in self._turns:
            return True
        until = self._take(turn, [wish])
        if await self._one_of(turn, wish, until=until):
            return True
        self._give_back(turn, [wish])
        return False

    async def _together(self, turn: _Turn, run: list[Wish[Any]]) -> bool:
        """Carry out requests for leases by the same few statements. False: undone, each has to be tried by itself.

        Raises psycopg's error of a lost connection.
        """
        first = turn.wishes[0]
        more = [wish for wish in run if wish in self._turns]
        wishes = [*(run[:1] if run[0] is first else ()), *more]
        if len(wishes) < 2 or turn.is_long():
            return False
        until = self._take(turn, more)
        await turn.savepoint(until)
        session = PostgresSession(turn.connection, shared=self._shared, until=until)
        try:
            values = await add_all(session, [wish.body for wish in wishes if isinstance(wish.body, Adding)])
            await session.flush()
        except Exception as error:
            if isinstance(error, psycopg.Error) and _is_lost(turn.connection, error):
                raise
            await turn.connection.execute("ROLLBACK TO SAVEPOINT wish")
            self._give_back(turn, more)
            return False
        for wish, value in zip(wishes, values, strict=True):
            wish.value = value
        return True

    async def _one_of(
        self, turn: _Turn, wish: Wish[Any], *, until: float = math.inf, alone: bool = False
    ) -> bool:
        """Run a wish's body within the transaction. Raises psycopg's error of a lost connection.

        `until`: when the first of those in the transaction has no time left. False: the wish needed longer and has
        more time itself; it is undone.
        """
        connection = turn.connection
        if not alone:
            await turn.savepoint(min(until, wish.deadline))
        try:
            session = PostgresSession(connection, shared=self._shared, until=until)
            wish.value = await wish.body(session)
            await session.flush()
        except Exception as error:
            refused: Exception = error
            if isinstance(error, psycopg.Error):
                if _is_lost(connection, error):
                    raise
                taken = error.sqlstate in TAKEN
                refused = (Outdated if taken else LocalError)(
                    f"the store refused {wish.what}: {reason_of(error)}"
                )
                refused.__cause__ = error
            if not alone:
                await connection.execute("ROLLBACK TO SAVEPOINT wish")
            if isinstance(error, psycopg.Error) and error.sqlstate in STOPPED and until < wish.deadline:
                return False
            wish.error = refused
        return True

    async def _begin(self, connection: AsyncConnection[Row], milliseconds: int) -> Mark:
        kind = "" if self._writes else " ISOLATION LEVEL REPEATABLE READ READ ONLY"
        cursor = await connection.execute(
            f"BEGIN{kind}; {_limits(milliseconds)}; "
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

    async def look(self) -> None:
        """Check an idle connection; a running transaction notices a loss itself."""
        connection = self._connection
        if connection is None or self._turns.taken:
            return
        self._turns.take()
        try:
            with severed_after(connection, PATIENCE_S):
                await connection.execute("SELECT 1")
        except psycopg.Error:
            self.drop()
        finally:
            self._turns.pass_on()

    def drop(self) -> None:
        """Close the connection as lost."""
        self.ready.clear()
        self.lost.set()
        if self._connection is not None:
            self._connection.pgconn.finish()
            self._connection = None

    async def close(self) -> None:
        """Close the connection after the running transactions."""
        await self._turns.idle.wait()
        self.ready.clear()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
