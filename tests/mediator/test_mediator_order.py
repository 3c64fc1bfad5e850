"""The real client and several mediators in its document, over TLS on loopback: who is measured, tried and left."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from mediator.shell.store import STORE_FILE
from mediator.shell.storeplace import open_store
from netctl.model.document import Mediator
from netctl.model.keys import IdentityKey
from netctl.session.mediatorchoice import name_of
from tests.mediator.loopbackkit import BOB, Member, Run, Site
from tests.support.freeports import free_ports
from tests.support.patience import BUSY_S

RELAY = Mediator("192.0.2.9", 8443, (IdentityKey(b"\x09" * 32),), relay_only=True)


def two_of_one_store(directory: Path) -> tuple[Site, Site]:
    for name in ("one", "two"):
        (directory / name).mkdir()
    one, two = Site(directory / "one"), Site(directory / "two")
    open_store(one.state).close()
    shutil.copy(one.state / STORE_FILE, two.state / STORE_FILE)  # as if both reached it
    return one, two


def test_with_a_relay_apart_mediators_are_measured_and_a_lost_one_is_left_for_another(
    run: Run, tmp_path: Path
) -> None:
    one, two = two_of_one_store(tmp_path)

    async def main() -> None:
        async with one.serving() as (_, first), two.serving() as (_, second), Member(BOB, first) as member:
            client = member.client
            client.set_mediators((first, second, RELAY))
            await member.view()
            async with asyncio.timeout(BUSY_S):
                while client._choice._rtt_ms.keys() != {name_of(first), name_of(second)}:
                    await asyncio.sleep(0.01)
            for _ in range(3):
                lost = client.mediator
                member.lose()
                await member.view()
                assert client.mediator in (first, second)
                assert client.mediator != lost
            stays = client.mediator
            client.set_mediators((second, first, RELAY))
            await member.view()
            assert client.mediator == stays

    run(main())


def test_mediators_that_are_down_are_passed_over_without_a_wait(run: Run, tmp_path: Path) -> None:
    one, _ = two_of_one_store(tmp_path)
    down = [
        Mediator("127.0.0.1", port, (IdentityKey(bytes([n]) * 32),), stun=(port,))
        for n, port in enumerate(free_ports(3), 1)
    ]

    async def main() -> None:
        async with one.serving() as (_, first), Member(BOB, first) as member:
            for others in ((*down, first), (first, *down, RELAY), (*down, RELAY, first)):
                member.client.set_mediators(others)
                await member.view()
                member.lose()
                await member.view()
                assert member.client.mediator == first

    run(main())
