"""A server whose store others use too, in one process with its test."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mediator.shell.credentials import relay_secret
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.server import Server
from tests.mediator.loopbackkit import HOST, PATIENCE_S, Site
from tests.mediator.postgreskit import Postgres


def test_a_state_that_is_named_again_and_again_is_looked_for_by_one_task(
    tmp_path: Path, postgres: Postgres
) -> None:
    """A mediator says with each beat which state it shows: nothing may gather where the store is slow or away."""

    async def main() -> None:
        site = Site(tmp_path)
        store = PostgresStore(postgres.place(), shared=True)
        server = Server(
            document=site.document,
            state=site.state,
            listen=HOST,
            secret=relay_secret(site.state),
            store=store,
        )
        try:
            await server.load()
            before, ahead = server.status()["tasks"], 10**9
            for _ in range(100):
                server.store_moved(server._hub.generation + ahead)
            assert server.status()["tasks"] <= before + 1
            await server._tasks.wait(PATIENCE_S)
            number = await store.state()
            await store.reserve_generation(number + 7)
            server.store_moved(number + 7)
            await server._tasks.wait(PATIENCE_S)
            assert server._hub.generation == number + 7
        finally:
            await server.close()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
