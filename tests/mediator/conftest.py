"""What the tests over TLS run on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.mediator.loopbackkit import PATIENCE_S, Run, Site
from tests.mediator.postgreskit import Postgres, running

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Run a coroutine to its end; a task or handler that fails unseen fails the test."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        unseen: list[dict[str, object]] = []
        runner.get_loop().set_exception_handler(lambda _, context: unseen.append(context))

        def until_done(main: Awaitable[None]) -> None:
            async def limited() -> None:
                async with asyncio.timeout(PATIENCE_S):
                    await main

            runner.run(limited())

        yield until_done
        assert unseen == []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One for all tests of this process that leave it running."""
    with running() as server:
        yield server
