"""A connection that breaks around COMMIT: was it committed? A proxy in front of a real PostgreSQL breaks it there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal

import psycopg
import pytest

from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgresstore import PostgresStore
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited
from tests.mediator.contractkit import applicant, invited
from tests.mediator.postgreskit import Postgres
from tests.mediator.test_admissions import NOW, document, key
from tests.support.patience import BUSY_S

DOCUMENT = document("10.64.0.0/12", approve="manual")
COMMIT = b"INSERT INTO writer"
"""Is in the message that commits, and in no other."""
READY = b"Z\x00\x00\x00\x05I"
"""ReadyForQuery, idle: the transaction is over (PostgreSQL 15, §55.7)."""
SOCKET = ".s.PGSQL.5432"
MANY = 1 << 16
SHORT_S = 4.0
"""Patience: enough for what is answered, on a busy machine too."""
Lost = Literal["question", "answer"]


class Proxy:
    """Between a store and its server. `lose`: what becomes of the next COMMIT; the connection ends with it."""

    def __init__(self, directory: Path, server: Path) -> None:
        self._directory, self._server = directory, server
        self.lose: Lost | None = None
        self.before_next: Callable[[], object] | None = None
        """Called before the next connection is passed on."""
        self.then_away = self.away = False
        """Whether connections are refused: `then_away` from the loss on."""
        self.lost = 0
        self.questions = 0
        """Count of what the store sent at once: its round trips."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_unix_server(self._serve, self._directory / SOCKET)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.away:
            to_client.close()
            return
        before, self.before_next = self.before_next, None
        if before is not None:
            await asyncio.to_thread(before)
        server, to_server = await asyncio.open_unix_connection(self._server / SOCKET)
        kept_back = asyncio.Event()
        back = awaited(_back(server, to_client, kept_back))
        try:
            while data := await client.read(MANY):
                self.questions += 1
                if self.lose is not None and COMMIT in data:
                    lose, self.lose = self.lose, None
                    self.lost += 1
                    self.away = self.then_away
                    if lose == "question":
                        break
                    kept_back.set()
                to_server.write(data)
        except OSError:
            pass
        finally:
            to_server.close()
            to_client.close()
            await back


async def _back(
    server: asyncio.StreamReader, to_client: asyncio.StreamWriter, kept_back: asyncio.Event
) -> None:
    unheard = b""
    with contextlib.suppress(OSError):
        while data := await server.read(MANY):
            if not kept_back.is_set():
                to_client.write(data)
                continue
            unheard += data
            if unheard.endswith(READY):
                assert b"COMMIT\x00" in unheard
                break
    to_client.close()


@contextlib.asynccontextmanager
async def behind_proxy(
    server: Postgres, directory: Path, patience_s: float = PATIENCE_S, *, shared: bool = False
) -> AsyncIterator[tuple[PostgresStore, Proxy, str]]:
    """A store that reaches its server through a proxy, and the way around that."""
    direct = server.database()
    proxy = Proxy(directory, server.directory)
    through = direct.replace(f"host={server.directory}", f"host={directory}")
    assert through != direct
    store = PostgresStore(PostgresPlace.parse(through), patience_s, shared=shared)
    async with asyncio.timeout(BUSY_S), proxy.listening():
        await store.open()
        try:
            yield store, proxy, direct
        finally:
            await store.close()


def approved(direct: str) -> int:
    """How often the log says so."""
    with psycopg.connect(direct) as other:
        (count,) = other.execute("SELECT count(*) FROM audit WHERE what='approved'").fetchone() or (0,)
        return int(count)


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_a_commit_whose_end_was_not_heard_of_happens_once_and_is_told_as_it_is(
    postgres: Postgres, tmp_path: Path, lost: Lost
) -> None:
    """Taken for kept, one that never arrived would be lost; taken for lost, one that arrived would happen twice."""

    async def main() -> None:
        async with behind_proxy(postgres, tmp_path) as (store, proxy, direct):
            token = await invited(store, 9)
            await store.redeem(DOCUMENT, applicant(10, token), NOW)
            await store.redeem(DOCUMENT, applicant(11, token, "other"), NOW)
            before = (await store.kept()).book
            proxy.lose = lost
            records = await store.approve(key(10), NOW, by="amy")
            assert proxy.lost == 1
            book = (await store.kept()).book
            assert [entry.pending for entry in book.admissions] == [False, True]
            assert before.changed(records) == book
            assert not store.in_doubt
            assert approved(direct) == 1
            # What does not bear a second time: a use of an invite, the number of a lease, an invite's id.
            proxy.lose = lost
            made, _ = await store.invite(
                "n", called="lan", uses=1, made_s=NOW, expires_s=NOW + 9, name="", by="amy"
            )
            assert [one.id for one in await store.invites()].count(made.id) == 1
            proxy.lose = lost
            verdict, _ = await store.redeem(DOCUMENT, applicant(12, token, "third"), NOW)
            assert verdict.fresh
            assert next(one for one in await store.invites() if one.id != made.id).used == 3
            assert proxy.lost == 3

    asyncio.run(main())


@pytest.mark.parametrize("lost", ["question", "answer"])
def test_what_another_mediator_writes_meanwhile_changes_nothing_about_it(
    postgres: Postgres, tmp_path: Path, lost: Lost
) -> None:
    """One mark for all writers would tell the outcome of the last one alone."""

    async def main() -> None:
        async with behind_proxy(postgres, tmp_path, shared=True) as (store, proxy, direct):
            token = await invited(store)
            await store.redeem(DOCUMENT, applicant(10, token), NOW)

            def written() -> None:
                async def elsewhere() -> None:
                    other = PostgresStore(PostgresPlace.parse(direct), shared=True)
                    await other.open()
                    await other.reserve_generation(7)
                    await other.close()

                asyncio.run(elsewhere())

            proxy.before_next = written
            proxy.lose = lost
            records = await store.approve(key(10), NOW, by="amy")
            assert proxy.lost == 1
            assert not store.in_doubt
            assert [entry.pending for entry in records.admissions] == [False]
            assert (await store.kept()).book.admissions == records.admissions
            assert approved(direct) == 1

    asyncio.run(main())


def test_where_it_cannot_be_told_the_asker_is_told_that_and_the_store_is_read_anew(
    postgres: Postgres, tmp_path: Path
) -> None:
    """The server does not answer again in time."""

    async def main() -> None:
        async with behind_proxy(postgres, tmp_path, SHORT_S) as (store, proxy, _):
            token = await invited(store)
            await store.redeem(DOCUMENT, applicant(10, token), NOW)
            proxy.then_away = True
            proxy.lose = "answer"
            with pytest.raises(LocalError, match="whether it took an approval shows when it is back"):
                await store.approve(key(10), NOW, by="amy")
            assert store.in_doubt
            proxy.away = False
            while store.in_doubt:
                with contextlib.suppress(LocalError):
                    kept = await store.kept()
            assert [entry.pending for entry in kept.book.admissions] == [False], "it was taken"

    asyncio.run(main())
