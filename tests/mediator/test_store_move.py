"""A store moves from SQLite to PostgreSQL and back: nothing is lost, however it is cut off, and one is in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant, pair_of
from mediator.shell.asking import ask_mediator
from mediator.shell.main import main as mediator_main
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.sqlsession import Row, Session, SqliteSession, finished
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storemove import End, PostgresEnd, SqliteEnd, move
from mediator.shell.storeschema import TABLES
from mediator.shell.storethread import StoreThread
from netctl.model.errors import LocalError
from netctl.wire import operatorrequests as r
from tests.mediator.contractkit import applicant, invited
from tests.mediator.loopbackkit import ANN, Member, Site
from tests.mediator.postgreskit import Postgres
from tests.mediator.test_admissions import DOCUMENT, NOW, identity, key
from tests.mediator.test_postgres_store import serving

Rows = dict[str, list[Row]]


async def fill(store: MemberStore) -> None:
    """Something in every table."""
    await store.add(
        [GrantLease("n", key(n), IPv4Address("255.9.0.1") + n) for n in range(1, 40)],
        [(key(n), 40000 + n) for n in range(1, 20)],
        [PairGrant(pair_of(key(1), key(2)), 41000, 1)],
    )
    await store.reserve_generation(1 << 52)
    token = await invited(store, 9)
    for number in range(10, 14):
        await store.redeem(DOCUMENT, applicant(number, token, f"h{number}"), NOW)
    await store.revoke(key(10), "h10", NOW, by="amy", unix_s=NOW)
    await store.rekey(key(11), key(30), identity(30), NOW, by="amy", unix_s=NOW)
    made, _ = await store.invite(
        "n", called="lan", uses=3, made_s=NOW, expires_s=NOW + 9, name="büro", by="amy"
    )
    await store.revoke_invite(made.id, NOW, by="amy")
    await store.offer("text", "digest", 0, NOW, by="amy", detail="")


async def everything(end: End) -> Rows:
    async with end.transaction() as db:
        return {
            table: sorted(await db.rows(f"SELECT {', '.join(columns)} FROM {table}"))
            for table, columns in TABLES.items()
        }


@asynccontextmanager
async def opened(store: MemberStore) -> AsyncIterator[MemberStore]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def test_every_table_of_the_schema_moves(tmp_path: Path) -> None:
    with closing(Store(tmp_path / STORE_FILE)) as store, store.reading("its tables") as db:
        asked = SqliteSession(db)
        tables = {
            name for (name,) in finished(asked.rows("SELECT name FROM sqlite_master WHERE type='table'"))
        }
        columns = {
            table: {row[1] for row in finished(asked.rows(f"PRAGMA table_info({table})"))} for table in TABLES
        }
    assert tables - {"place", "writer"} == TABLES.keys()
    assert columns == {table: set(names) for table, names in TABLES.items()}


def test_there_and_back_with_nothing_lost(postgres: Postgres, tmp_path: Path) -> None:
    place, path = postgres.place(), tmp_path / STORE_FILE

    async def main() -> None:
        async with opened(StoreThread(Store(path))) as first:
            await fill(first)
            kept = await first.kept()
            assert kept.name
        with closing(Store(path)) as store:
            sqlite, server = SqliteEnd(store, "the file"), PostgresEnd(place)
            before = await everything(sqlite)
            assert all(before.values())
            counts = await move(sqlite, server)
            assert counts == {table: len(rows) for table, rows in before.items()}
            assert await everything(server) == before
            with pytest.raises(LocalError, match=r"was moved from .* to postgresql://"):
                store.reserve_generation(1)
            async with opened(PostgresStore(place)) as there:
                assert await there.kept() == kept
                await there.leave(key(12), NOW, unix_s=NOW)
                await there.reserve_generation((1 << 52) + 1)
            after = await everything(server)
            assert after != before
            await move(server, sqlite)
            assert await everything(sqlite) == after
            with pytest.raises(LocalError, match="was moved from postgresql://"):
                await PostgresStore(place).open()
        async with opened(StoreThread(Store(path))) as back:
            await back.reserve_generation((1 << 52) + 2)
            assert [entry.name for entry in (await back.kept()).book.admissions] == ["h11", "h13"]

    asyncio.run(main())


class Cut(Exception):
    """The process is killed here."""


class Frail:
    """An end whose process is killed at its nth step: as a transaction begins, before its commit, or after it."""

    def __init__(self, end: End, steps: list[int]) -> None:
        self.name = end.name
        self._end, self._steps = end, steps

    def _step(self) -> None:
        self._steps[0] -= 1
        if self._steps[0] == 0:
            raise Cut

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        self._step()
        async with self._end.transaction() as db:
            yield db
            self._step()
        self._step()


async def in_force(end: End) -> bool:
    async with end.transaction() as db:
        return bool((await db.rows("SELECT state FROM place"))[0][0] == "serving")


@pytest.mark.parametrize("back", [False, True], ids=["to-postgres", "to-sqlite"])
def test_cut_off_anywhere_it_is_done_by_asking_again(postgres: Postgres, tmp_path: Path, back: bool) -> None:
    async def once(cut: int) -> bool:
        place, path = postgres.place(), tmp_path / f"{cut}.db"
        with closing(Store(path)) as store:
            one: End = SqliteEnd(store, "the file")
            two: End = PostgresEnd(place)
            if back:
                one, two = two, one
                async with opened(PostgresStore(place)) as first:
                    await fill(first)
            else:
                async with opened(StoreThread(Store(path))) as first:
                    await fill(first)
            before = await everything(one)
            steps = [cut]
            try:
                await move(Frail(one, steps), Frail(two, steps))
                done = True
            except Cut:
                done = False
            assert not (await in_force(one) and await in_force(two) and any((await everything(two)).values()))
            if await in_force(one):
                assert await everything(one) == before
            await move(one, two)
            assert await everything(two) == before
            assert [await in_force(one), await in_force(two)] == [False, True]
            return done

    cut = 1
    while not asyncio.run(once(cut)):
        cut += 1
    assert cut >= 9, "three transactions at least"


def test_nothing_is_moved_onto_a_store_in_force(postgres: Postgres, tmp_path: Path) -> None:
    place = postgres.place()

    async def main() -> None:
        async with opened(PostgresStore(place)) as there:
            await fill(there)
        with closing(Store(tmp_path / STORE_FILE)) as store:
            store.reserve_generation(5)
            server = PostgresEnd(place)
            before = await everything(server)
            with pytest.raises(LocalError, match="in force already"):
                await move(SqliteEnd(store, "the file"), server)
            assert await everything(server) == before
            assert store.generation() == 5
            store.reserve_generation(6)

    asyncio.run(main())


def test_a_server_that_runs_is_moved_under_and_started_anew(
    site: Site, postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = postgres.database()

    def store_move(*words: str) -> int:
        return mediator_main(["store", "move", *words, "--state", str(site.state)])

    async def before() -> None:
        async with site.serving():
            async with Member(ANN, site.entry()) as ann:
                await ann.view(lambda changed: bool(changed.view.members))
                assert await asyncio.to_thread(store_move, "--to", dsn) == 0
                with pytest.raises(LocalError, match="was moved"):
                    await asyncio.to_thread(ask_mediator, site.state, r.Revoke("bob"))
            async with Member(ANN, site.entry()) as again:
                await again.view()

    async def after() -> None:
        async with Member(ANN, site.entry()) as ann:
            await ann.view()
        reply = await asyncio.to_thread(ask_mediator, site.state, r.Revoke("bob"))
        assert reply.reply == "bob"

    with closing(Store(site.state / STORE_FILE)) as store:
        store.reserve_generation(1 << 40)
    asyncio.run(before())
    said = capsys.readouterr().out
    assert "1 generation" in said
    assert "start the server with --store postgresql://" in said
    with serving(site, dsn, tmp_path / "log"):
        asyncio.run(after())
    assert store_move("--from", dsn, "--to", "sqlite") == 0
    with closing(Store(site.state / STORE_FILE)) as store:
        assert len(store.relay_ports()) == 1
        assert store.generation() > 1 << 40
    assert store_move("--to", "mysql://x") == 1
    assert store_move("--to", "sqlite") == 1
