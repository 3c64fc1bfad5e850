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
import time
from typing import TypeVar

from mediator.core.kept import Kept
from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.postgresconnect import FIRST_RETRY_S, LAST_RETRY_S, Commit, Held
from mediator.shell.postgresline import Lost, StoreLine
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.sqlsession import Session
from mediator.shell.storesql import Body, SqlStore
from netctl.model.errors import LocalError
from netctl.system.guard import Guard
from netctl.system.tasks import Tasks

_LOG = logging.getLogger("mediator.store")

T = TypeVar("T")
LOOK_S = 2.0
"""Interval of checks of an idle connection, so that its loss is known before the next use."""
WRITER_S = 30 * 86_400
"""Age at which the mark of a process without writes is removed, when another process starts."""


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
        self._lines: tuple[StoreLine, StoreLine] | None = None

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
        writer = StoreLine(self._place, self._name, writes=True, shared=self._shared)
        reader = StoreLine(self._place, f"{self._name} reads", writes=False, shared=self._shared)
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

    async def _stand_by(self, writer: StoreLine) -> None:
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

    async def _keep(self, line: StoreLine) -> None:
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
        while True:
            await self._connected(line, deadline)
            try:
                return await line.transaction(what, body, deadline)
            except Lost as lost:
                if lost.sent is None:
                    continue
                if await self._was_kept(line, lost.sent, deadline, what):
                    result: T = lost.value
                    return result

    async def _connected(self, line: StoreLine, deadline: float) -> None:
        if line.ready.is_set():
            return
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await line.ready.wait()
        except TimeoutError:
            raise LocalError((self._why or f"{self._place.name} cannot be reached").rstrip(".")) from None

    async def _was_kept(self, line: StoreLine, sent: Commit, deadline: float, what: str) -> bool:
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
