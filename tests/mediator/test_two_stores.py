"""Two mediators in one document, over TLS on loopback: a member goes to both only when they have one store."""

from __future__ import annotations

import shutil
from pathlib import Path

from mediator.shell.store import STORE_FILE
from mediator.shell.storeplace import open_store
from netctl.node.linkstate import LinkState
from tests.mediator.loopbackkit import BOB, Member, Run, Site

REFUSED = "has another store than"


def make_sites(directory: Path) -> tuple[Site, Site]:
    for name in ("one", "two"):
        (directory / name).mkdir()
    return Site(directory / "one"), Site(directory / "two")


async def next_end(member: Member) -> LinkState:
    """Where its next tries lead: connected, or refused for the store's sake."""
    while (found := await member.states.get()).state != "connected" and REFUSED not in str(found.error):
        member.client.poke()
    return found


def test_one_with_another_store_is_refused_in_words_and_the_first_keeps_its_members(
    run: Run, tmp_path: Path
) -> None:
    one, two = make_sites(tmp_path)

    async def main() -> None:
        async with two.serving() as (server, second):
            async with one.serving() as (_, first), Member(BOB, first) as member:
                await member.view()
                assert (await next_end(member)).state == "connected"
                member.client.set_mediators((first, second))
                assert (await next_end(member)).state == "connected"
                member.lose()
                found = await next_end(member)
                assert not found.final, "the first may let it in"
                assert f"{second.host}:{second.port} {REFUSED} {first.host}:{first.port}" in str(found.error)
                assert member.client.stores.trouble == found.error
                while (again := await next_end(member)).state != "connected":
                    assert again.error == found.error, (
                        "a poke during the try began a round, with the second in it"
                    )
                await member.view()
                assert member.client.mediator == first
                assert member.client.stores.trouble is not None, "the second is still what it was"
            assert server._hub.online == 0

    run(main())


def test_one_with_the_same_store_is_as_good_as_the_first(run: Run, tmp_path: Path) -> None:
    one, two = make_sites(tmp_path)

    async def main() -> None:
        open_store(one.state).close()
        shutil.copy(one.state / STORE_FILE, two.state / STORE_FILE)  # as if both reached it
        async with two.serving() as (_, second), one.serving() as (_, first), Member(BOB, first) as member:
            await member.view()
            assert (await next_end(member)).state == "connected"
            member.client.set_mediators((first, second))
            assert (await next_end(member)).state == "connected"
            await member.view()
            assert member.client.mediator == first, "another list is no reason to leave"
            member.lose()
            assert (await next_end(member)).state == "connected"
            await member.view()
            assert member.client.mediator == second
            assert member.client.stores.trouble is None

    run(main())
