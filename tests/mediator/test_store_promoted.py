"""PostgreSQL's primary is lost under load and its synchronous standby promoted: all that was acknowledged is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg

from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgresstore import PostgresStore
from netctl.system.tasks import awaited
from tests.mediator.patronikit import Pair, under_patroni
from tests.mediator.postgreskit import Postgres, running
from tests.mediator.test_admissions import LAN, NOW
from tests.mediator.test_store_killed import USES, History, explain, generations, grants, joins
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S, wait_for

SETTLE_S = 1.0
"""A commit takes milliseconds, and nobody is told anything for as long."""


@contextlib.contextmanager
def replicated(ports: list[int]) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary whose commits wait for its standby, and that standby."""
    with running(port=ports[0]) as primary, running(port=ports[1], of=primary) as standby:
        with psycopg.connect(primary.dsn("postgres"), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            admin.execute("SELECT pg_reload_conf()")
            asked = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
            wait_for("commits wait for the standby", lambda: admin.execute(asked).fetchone() == (1,))
        yield primary, standby


async def until_more(history: History, count: int) -> None:
    """So many more leases and members were acknowledged."""
    async with asyncio.timeout(BUSY_S):
        before = len(history.leases), len(history.joined)
        while len(history.leases) < before[0] + count or len(history.joined) < before[1] + count:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def under_load(place: PostgresPlace) -> AsyncIterator[History]:
    """Clients write all the while; afterwards the store must explain what they were told."""
    store, history, over = PostgresStore(place), History(), asyncio.Event()
    await store.open()
    _, token = await store.invite(
        LAN, called="lan", uses=USES, made_s=NOW, expires_s=NOW + 10**9, name="", by="amy"
    )
    clients = [
        awaited(grants(store, history, 1_000, over)),
        awaited(joins(store, history, 100_000, token, over)),
        awaited(generations(store, history, over)),
    ]
    await until_more(history, 10)
    yield history
    await until_more(history, 10)
    over.set()
    await asyncio.gather(*clients)
    kept, (invite,) = await store.kept(), await store.invites()
    assert len(await store.audit()) >= 1 + len(history.joined) + len(history.approved) + len(history.revoked)
    await store.close()
    explain(kept, invite.used, history)


async def load(primary: Postgres, standby: Postgres, place: PostgresPlace) -> History:
    async with under_load(place) as history:
        # The standby hears nothing any more: were it not synchronous, the primary would go on and take all that along.
        with psycopg.connect(primary.dsn("postgres"), autocommit=True) as admin:
            (
                primary.directory / f".s.PGSQL.{primary.port}"
            ).unlink()  # clients come by TCP, the standby by this
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
        async with asyncio.timeout(BUSY_S):
            told = -1
            while told != (told := len(history.leases) + len(history.joined)):
                await asyncio.sleep(SETTLE_S)  # answers that were under way
        await asyncio.sleep(2 * SETTLE_S)
        assert len(history.leases) + len(history.joined) == told, (
            "nobody is told what only one of the two has"
        )
        await asyncio.to_thread(primary.kill)
        with psycopg.connect(standby.dsn("postgres"), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")
    return history


def test_nothing_acknowledged_is_lost_with_the_primary() -> None:
    ports = [free_port(), free_port()]
    with replicated(ports) as (primary, standby):
        name = psycopg.conninfo.conninfo_to_dict(primary.database())["dbname"]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        place = PostgresPlace.parse(f"postgresql://netctl@{hosts}/{name}")
        history = asyncio.run(load(primary, standby, place))
    print(
        f"\ntold {len(history.leases)} leases, {len(history.joined)} members; {dict(history.unknown)} unknown"
    )


async def promoted(pair: Pair, place: PostgresPlace) -> History:
    """Patroni promotes the standby by itself, after the primary's machine has lost its power."""
    async with under_load(place) as history:
        lost = pair.primary
        await asyncio.to_thread(lost.kill)
    assert pair.primary is not lost
    return history


def test_nothing_acknowledged_is_lost_where_patroni_promotes_the_standby() -> None:
    with under_patroni() as pair:
        history = asyncio.run(promoted(pair, PostgresPlace.parse(pair.database())))
    print(
        f"\ntold {len(history.leases)} leases, {len(history.joined)} members; {dict(history.unknown)} unknown"
    )
