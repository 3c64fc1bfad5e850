"""The real client against the real server: orders that come while it connects, and questions about presence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.audience import INTEREST_ABOVE
from netctl.agent.agent import Agent
from netctl.agent.host import Host
from netctl.agent.mediators.controlclient import DRILL
from netctl.agent.storage.keyfiles import Keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.engine import FakeEngine
from netctl.model.document import Mediator
from netctl.session import LoggedIn, PresenceKnown
from netctl.session.backoff import BASE_S
from netctl.system.tasks import awaited
from tests.mediator.cutproxy import CutProxy, proxied
from tests.mediator.loopbackkit import ANN, BOB, Member, Run, Site, end


@pytest.fixture
def proxy(site: Site) -> Iterator[CutProxy]:
    """A way to the mediator on which TLS hangs until it is healed."""
    with proxied(site.port) as made:
        made.cut(silently=True)
        yield made


def behind(proxy: CutProxy, mediator: Mediator) -> Mediator:
    return replace(mediator, port=proxy.port)


async def dialling(member: Member) -> None:
    while (await member.states.get()).state != "connecting":
        pass
    await asyncio.sleep(0)


def test_other_mediators_that_are_named_while_the_client_connects(
    run: Run, site: Site, proxy: CutProxy
) -> None:
    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, behind(proxy, mediator)) as ann:
            await dialling(ann)
            ann.client.set_mediators((mediator,))
            proxy.heal()
            await ann.until(lambda effect: isinstance(effect, LoggedIn))
            assert ann.client.mediator == mediator

    run(main())


def test_a_drill_that_begins_while_the_client_connects(run: Run, site: Site, proxy: CutProxy) -> None:
    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, behind(proxy, mediator)) as ann:
            await dialling(ann)
            ann.client.hold(600.0)
            proxy.heal()
            while (state := await ann.states.get()).state not in ("connected", "unreachable"):
                pass
            assert state.error == DRILL
            await ann.states.get()  # the drill itself: the client waits for its end

    run(main())


def test_interest_that_changes_just_after_the_session_was_made(run: Run, site: Site, proxy: CutProxy) -> None:
    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, behind(proxy, mediator)) as ann:
            await dialling(ann)
            proxy.heal()
            while ann.client.mediator is None:  # it is set where the session is made
                await asyncio.sleep(0)
            assert ann.client._wire is None, "the dial has not returned"
            ann.client.interested(frozenset({BOB.wireguard}))
            await ann.view()
            wire = ann.client._wire
            assert wire is not None
            assert wire.session is not None
            assert wire.session._interests._wanted == {BOB.wireguard}

    run(main())


def test_a_host_that_alone_lost_its_connection_returns_at_once(run: Run, site: Site, proxy: CutProxy) -> None:
    proxy.heal()

    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, behind(proxy, mediator)) as ann:
            await ann.view()
            ann.client._backoff.spread(1_000_000)  # as in a network of so many
            proxy.cut(silently=True)
            ann.client.prove()
            state = await ann.refused()
            assert "addresses or routes have changed" in str(state.error)
            assert ann.client._backoff.next_delay(1.0) == 2 * BASE_S, "the second failure"
            proxy.heal()

    run(main())


def large(site: Site) -> None:
    """A document with more members than are told of each other."""
    crowd = {
        f"m{number}": Keys(
            X25519PrivateKey.from_private_bytes((number << 8).to_bytes(32, "little")),
            Ed25519PrivateKey.from_private_bytes((number << 8).to_bytes(32, "little")),
        )
        for number in range(1, INTEREST_ABOVE)
    }
    site.write({"ann": ANN, "bob": BOB, **crowd})
    text = json.loads(site.document.read_text())
    text["networks"]["lan"]["ipv4"] = "10.1.0.0/22"
    site.document.write_text(json.dumps(text))


def test_who_looks_waits_for_an_answer_that_somebody_else_has_asked_for(run: Run, site: Site) -> None:
    large(site)

    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, mediator) as ann:
            changed = await ann.view()
            assert changed.view.members[BOB.wireguard].online is None
            while not ann.heard.empty():
                ann.heard.get_nowait()
            ann.client.look_at_all()
            await ann.client.know_all()
            told = ann.heard.get_nowait()
            assert isinstance(told, PresenceKnown)
            assert told.online[BOB.wireguard] is False

    run(main())


def test_who_looks_does_not_take_another_answer_for_that_about_all(
    run: Run, site: Site, proxy: CutProxy
) -> None:
    """A tunnel has just opened, and the answer about its peer comes before the answer about all."""
    large(site)
    proxy.heal()

    async def main() -> None:
        async with site.serving() as (_, mediator), Member(ANN, behind(proxy, mediator)) as ann:
            await ann.view()
            proxy.cut(silently=True)  # the mediator answers no more
            looking = awaited(ann.client.know_all())
            await asyncio.sleep(0)
            ann.client.deliver(PresenceKnown({BOB.wireguard: False}))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not looking.done()
            await looking  # it gives up by itself
            proxy.heal()

    run(main())


def test_a_status_for_nobody_who_looks_asks_for_nobody(run: Run, site: Site, tmp_path: Path) -> None:
    large(site)

    async def main() -> None:
        async with site.serving() as (server, mediator):
            here = Locations(*(tmp_path / name for name in ("f.yaml", "agent", "run", "hosts")))
            agent = Agent(ANN, StateStore(here), Host(FakeEngine))
            agent.client.set_mediators((mediator,))
            task = awaited(agent.client.run())
            while agent.client.kept is None:
                await asyncio.sleep(0.01)
            audience = server._hub._audience
            await agent.status(look=False)
            await asyncio.sleep(0.1)  # what was sent arrives
            assert not audience._all
            await agent.status()
            assert audience._all, "and it waits for the answer"
            await end(task)
            await agent.close()

    run(main())
