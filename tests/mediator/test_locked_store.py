"""Another process holds the store's writer lock: everybody else is served, and what was asked gets its answer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from loopbackkit import ANN, BOB, STRANGER, Member, Site, keys
from patience import BUSY_S
from test_admissions import DOCUMENT, LAN, NOW, host, identity, key
from test_exhausted import addresses, serving

from mediator.core import admissions as a
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant, pair_of
from mediator.shell.asking import ask_mediator
from mediator.shell.memberstore import PATIENCE_S, MemberStore
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storethread import StoreThread
from netctl.agent.enrol import enrol
from netctl.model.errors import LocalError, RemoteError
from netctl.wire import operatorrequests as r
from netctl.wire.invite import Invite, parse_invite

LOCKED_S = 8.0
"""Longer than anybody waits for the store, shorter than members take to notice a mediator that stands still."""
STALL_S = 2.0
"""A loop that waits for the lock stands still for 5 s and more."""
LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
db.execute("COMMIT")
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """By a process of its own."""
    command = [sys.executable, "-c", LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            other.stdin.close()


def open_house(site: Site, members: dict[str, object], absent: str = "") -> None:
    """The site's document, with a network that lets invites in."""
    site.write(members)  # type: ignore[arg-type]
    text = json.loads(site.document.read_text())
    text["id"] = "lock-0001"
    text["networks"]["lan"]["join"] = {"invites": True}
    if absent:
        text["members"][absent]["state"] = "absent"
    site.document.write_text(json.dumps(text))


async def admitted(number: int, invite: Invite, name: str) -> str:
    """The name it got, or why not."""
    try:
        return (await enrol(keys(number), invite, name, exact=False)).name
    except RemoteError as error:
        return str(error)


def test_a_locked_store_holds_up_only_what_needs_it(site: Site, tmp_path: Path) -> None:
    log, path = tmp_path / "log", site.state / STORE_FILE
    open_house(site, {"ann": ANN, "bob": BOB})

    async def main() -> None:
        made = ask_mediator(site.state, r.CreateInvite("lan", 5)).reply
        invite = parse_invite(made.invite)
        async with Member(ANN, site.entry()) as ann, Member(BOB, site.entry()) as bob:
            await ann.view(lambda changed: len(addresses(changed.view)) == 2)
            await bob.view()
            with locked(path):
                began = time.monotonic()
                early = asyncio.create_task(admitted(10, invite, "early"))
                open_house(site, {"ann": ANN, "bob": BOB, "new": STRANGER}, absent="bob")
                gone = await ann.view(lambda changed: len(changed.view.members) == 2)
                assert "no member any more" in str((await bob.refused()).error)
                assert len(addresses(gone.view)) == 1, "the new member waits for its address"
                async with Member(STRANGER, site.entry()) as new:
                    await new.view()
                assert "let anybody in just now" in await early
                assert time.monotonic() - began < BUSY_S
                revoke = r.Revoke("new")
                with pytest.raises(LocalError, match="locked"):
                    await asyncio.to_thread(ask_mediator, site.state, revoke)
                late = asyncio.create_task(admitted(11, invite, "late"))
                await asyncio.sleep(max(1.0, LOCKED_S - (time.monotonic() - began)))
            assert await late == "late", "asked while it was locked, answered when it was not"
            whole = await ann.view(lambda changed: len(changed.view.members) == 3)
            while len(addresses(whole.view)) < 3:
                whole = await ann.view()
            assert await admitted(10, invite, "early") == "early"
        used = ask_mediator(site.state, r.ListInvites()).reply[0].used
        assert used == 2, "what was told of an error took no use"
        assert ask_mediator(site.state, r.ServerStatusRequest()).plain["longest_stall_s"] < STALL_S

    with serving(site, log):
        asyncio.run(asyncio.wait_for(main(), 3 * BUSY_S))
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count("no new leases: ") == 1, "said once, not at each try"
    assert "the store takes leases again" in said
    with closing(Store(path)) as store:
        assert store.check() == []


# -- the contract: whatever stands behind `MemberStore` passes this ------------------------------------------

Open = Callable[[], MemberStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Open:
    return lambda: StoreThread(Store(tmp_path / "m.db"), patience_s=0.5)


def run(open_store: Open, main: Callable[[MemberStore], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = open_store()
        try:
            await main(store)
        finally:
            await store.close()

    asyncio.run(whole())


async def invited(store: MemberStore, uses: int = 1) -> bytes:
    _, token = await store.invite(LAN, uses=uses, made_s=NOW, expires_s=NOW + 100, name="")
    return token


def applicant(number: int, token: bytes, name: str = "newbie") -> a.Applicant:
    who = host(number, name)
    return a.Applicant(who.key, who.identity, who.name, False, token)


def test_what_returned_is_kept_and_the_book_is_the_one_that_is_kept(open_store: Open) -> None:
    pair = PairGrant(pair_of(key(1), key(2)), 40100, 1)

    async def first(store: MemberStore) -> None:
        assert (await store.kept()).book == a.Book()
        await store.add([GrantLease("n", key(1), IPv4Address("10.9.0.1"))], [(key(1), 40000)], [pair])
        await store.reserve_generation(77)
        token = await invited(store, 3)
        for number, name in ((12, "zoe"), (10, "amy"), (11, "bob")):
            verdict, book = await store.redeem(DOCUMENT, applicant(number, token, name), NOW)
            assert verdict.admission.name == name
            assert book == (await store.kept()).book
        verdict, book = await store.redeem(DOCUMENT, applicant(11, token), NOW)
        assert (verdict.fresh, book) == (False, (await store.kept()).book)
        await store.add([], [(key(10), 40001), (key(11), 40002), (key(12), 40003)])
        for change in (
            lambda: store.rekey(key(10), key(30), identity(30), NOW),
            lambda: store.revoke(key(11), "bob", NOW),
            lambda: store.leave(key(12), NOW),
            lambda: store.restore(key(11)),
        ):
            assert await change() == (await store.kept()).book

    async def second(store: MemberStore) -> None:
        kept = await store.kept()
        assert [entry.name for entry in kept.book.admissions] == ["amy"]
        assert kept.book.revoked == {key(10): "amy"}
        assert kept.leases["n", key(1)] == IPv4Address("10.9.0.1")
        assert (kept.ports, sorted(kept.resting)) == ({key(1): 40000}, [40001, 40002, 40003])
        assert (kept.pairs, kept.generation) == ((pair,), 77)
        (invite,) = await store.invites()
        assert (invite.used, invite.uses) == (3, 3)

    run(open_store, first)
    run(open_store, second)


def test_of_many_at_once_as_many_come_in_as_there_are_uses(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        token = await invited(store, 3)
        asked = [store.redeem(DOCUMENT, applicant(100 + n, token, f"h{n}"), NOW) for n in range(8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(answer, RemoteError) for answer in answers] == 3 * [False] + 5 * [True]
        kept = await store.kept()
        assert len(kept.book.admissions) == len(set(kept.leases.values())) == 3

    run(open_store, main)


def test_an_address_or_port_that_is_taken_is_refused_and_with_it_all_the_rest(open_store: Open) -> None:
    async def main(store: MemberStore) -> None:
        await store.add([GrantLease("n", key(1), IPv4Address("10.9.0.1"))], [(key(1), 40000)])
        before = await store.kept()
        for leases, ports in (
            ([GrantLease("n", key(2), IPv4Address("10.9.0.1"))], [(key(2), 40001)]),
            ([GrantLease("n", key(2), IPv4Address("10.9.0.2"))], [(key(2), 40000)]),
        ):
            with pytest.raises(LocalError):
                await store.add(leases, ports)
        assert await store.kept() == before

    run(open_store, main)


def test_who_waits_for_a_lock_is_told_so_in_time_and_nothing_happened(
    open_store: Open, tmp_path: Path
) -> None:
    """Of SQLite: another process may lock its file."""

    async def main(store: MemberStore) -> None:
        token = await invited(store, 9)
        before = await store.kept()
        with locked(tmp_path / "m.db"):
            asked = [store.redeem(DOCUMENT, applicant(100 + n, token), NOW) for n in range(5)]
            asked.append(store.revoke(key(1), "x", NOW))  # type: ignore[arg-type]
            began = time.monotonic()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(answer, LocalError) for answer in answers)
            assert time.monotonic() - began < len(asked) * 0.5, "they wait together, not one after another"
            assert await store.kept() == before, "whoever reads waits for no writer"
        assert await store.kept() == before
        assert (await store.redeem(DOCUMENT, applicant(100, token), NOW))[0].fresh

    run(open_store, main)


def test_the_patience_of_a_store_ends_before_that_of_whoever_asks() -> None:
    from mediator.core.hub import LOGIN_TIMEOUT_S
    from netctl.agent.enrol import ANSWER_TIMEOUT_S

    assert min(LOGIN_TIMEOUT_S, ANSWER_TIMEOUT_S) > PATIENCE_S
