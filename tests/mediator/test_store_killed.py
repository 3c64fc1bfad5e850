"""`kill -9` of PostgreSQL under load: what was acknowledged is kept, once; the end state explains what everybody heard.

Each client writes down what it was told. An error says that it does not know: such a change may be kept or not, and is
asked for again. `make test-cluster` has 50 rounds.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address

import pytest

from mediator.core.admissions import Book
from mediator.core.kept import Kept
from mediator.core.leasegrants import GrantLease
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.system.tasks import awaited
from tests.mediator.contractkit import applicant
from tests.mediator.postgreskit import Postgres, running
from tests.mediator.test_admissions import LAN, NOW, document, key
from tests.support import patience

ROUNDS = int(os.environ.get("NETCTL_STORE_ROUNDS", "3"))
SEED = int(os.environ.get("NETCTL_STORE_SEED", "20"))
BUSY_S = (0.05, 0.6)
"""Between two kills."""
USES = 10_000
DOCUMENT = document("10.64.0.0/12", approve="manual")


@dataclass(slots=True)
class History:
    """What clients were told. `asked` counts every try, told or not."""

    leases: dict[WireGuardKey, IPv4Address] = field(default_factory=dict)
    joined: dict[WireGuardKey, str] = field(default_factory=dict)
    approved: set[WireGuardKey] = field(default_factory=set)
    revoked: set[WireGuardKey] = field(default_factory=set)
    generation: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    """Errors, each of which leaves open what became of it."""
    errors: dict[str, str] = field(default_factory=dict)
    """The last error of each kind of request."""
    wanted_revoked: set[WireGuardKey] = field(default_factory=set)
    numbers: list[int] = field(default_factory=list)
    """Of states that acknowledged changes have made, where several mediators work."""

    async def until_told(self, what: str, ask: Callable[..., Awaitable[object]], *values: object) -> object:
        """Ask until there is an answer."""
        while True:
            self.asked[what] += 1
            try:
                return await ask(*values)
            except LocalError as error:
                if what == "approve" and "does not wait" in str(error):
                    return None  # an earlier one was kept, and its answer lost
                self.unknown[what] += 1
                await asyncio.sleep(0.01)


async def grants(store: MemberStore, history: History, first: int, over: asyncio.Event) -> None:
    number = first
    while not over.is_set():
        who, address = key(number), IPv4Address("10.128.0.0") + number
        told = await history.until_told("lease", store.add, [GrantLease("n", who, address)], [(who, number)])
        history.leases[who] = address
        if store.shared:
            assert isinstance(told, int)
            history.numbers.append(told)
        number += 1


async def joins(store: MemberStore, history: History, first: int, token: bytes, over: asyncio.Event) -> None:
    number = first
    while not over.is_set():
        who = key(number)
        host = applicant(number, token, f"h{number}")
        answer = await history.until_told("redeem", store.redeem, DOCUMENT, host, NOW)
        assert isinstance(answer, tuple)
        history.joined[who] = answer[0].admission.name
        await history.until_told("approve", partial(store.approve, by="amy"), who, NOW)
        history.approved.add(who)
        if number % 2:
            history.wanted_revoked.add(who)
            await history.until_told(
                "revoke", partial(store.revoke, by="amy", unix_s=NOW), who, f"h{number}", NOW
            )
            history.revoked.add(who)
        number += 1


async def generations(store: MemberStore, history: History, over: asyncio.Event) -> None:
    while not over.is_set():
        wanted = history.generation + 1
        await history.until_told("generation", store.reserve_generation, wanted)
        history.generation = wanted
        await asyncio.sleep(0.005)


def explain(kept: Kept, used: int, history: History) -> None:
    """Whether the end state is one that could have told everybody what it was told."""
    leases = {who: address for (network, who), address in kept.leases.items() if network == "n"}
    for who, address in history.leases.items():
        assert leases[who] == address, "an acknowledged lease is lost"
    assert len(leases) - len(history.leases) <= 2, "leases that nobody asked for"
    assert len(set(leases.values())) == len(leases)
    present = {entry.key: entry for entry in kept.book.admissions}
    assert len(present) == len(kept.book.admissions), "somebody is in twice"
    for who in history.joined.keys() - history.wanted_revoked:
        assert who in present, "an acknowledged member is lost"
        assert present[who].name == history.joined[who]
    for who in history.approved - history.wanted_revoked:
        assert not present[who].pending, "an acknowledged approval is lost"
    assert history.revoked <= kept.book.revoked.keys() <= history.wanted_revoked
    assert not present.keys() & history.revoked, "who was shut out is in"
    everybody = present.keys() | kept.book.revoked.keys()
    assert used == len(everybody), "a use was lost or counted twice"
    assert history.joined.keys() <= everybody
    if history.numbers:
        assert len(set(history.numbers)) == len(history.numbers), "two changes have made one state"
        assert max(history.numbers) <= kept.generation
    else:
        assert kept.generation in (history.generation, history.generation + 1)


async def load(server: Postgres, rounds: int, *, several: bool = False) -> History:
    place = server.place()
    store, history, over = PostgresStore(place, shared=several), History(), asyncio.Event()
    chance = random.Random(SEED)
    await store.open()
    other = PostgresStore(place, shared=True) if several else store
    if several:
        await other.open()
    _, token = await store.invite(
        LAN, called="lan", uses=USES, made_s=NOW, expires_s=NOW + 10**9, name="", by="amy"
    )
    clients = [
        awaited(grants(store, history, 1_000, over)),
        awaited(grants(other, history, 30_000, over)),
        awaited(joins(store, history, 100_000, token, over)),
        awaited(joins(other, history, 200_000, token, over)),
    ]
    if not several:
        clients.append(awaited(generations(store, history, over)))
    for number in range(rounds):
        wait_s = chance.uniform(*BUSY_S)
        print(f"round {number}: kill -9 after {wait_s:.2f} s", flush=True)
        await asyncio.sleep(wait_s)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await asyncio.sleep(BUSY_S[1])
    async with asyncio.timeout(patience.BUSY_S):
        while min(len(history.leases), len(history.joined), len(history.approved)) <= rounds:
            await asyncio.sleep(BUSY_S[0])
    over.set()
    await asyncio.gather(*clients)
    kept, (invite,) = await store.kept(), await store.invites()
    await store.close()
    if several:
        await other.close()
    explain(kept, invite.used, history)
    again = PostgresStore(place, shared=several)  # not only as one connection sees it
    await again.open()
    assert await again.kept() == kept
    await again.close()
    return history


@pytest.mark.parametrize("several", [False, True], ids=["one-mediator", "two-mediators"])
def test_no_acknowledged_write_is_lost_or_doubled(several: bool) -> None:
    with running(durable=True) as server:
        history = asyncio.run(load(server, ROUNDS, several=several))
    told = {"lease": len(history.leases), "redeem": len(history.joined), "approve": len(history.approved)}
    print(
        f"\n{ROUNDS} kills, seed {SEED}: told {told}, revoked {len(history.revoked)}, {dict(history.unknown)} unknown"
    )
    assert min(told.values()) > ROUNDS, "there was load"


def test_the_checker_sees_a_lost_and_a_doubled_one() -> None:
    """It can fail."""
    who = key(1)
    history = History(leases={who: IPv4Address("10.0.0.1")})
    explain(Kept(a_book({("n", who): IPv4Address("10.0.0.1")})), 0, history)
    for kept, used in (
        (Kept(a_book({})), 0),
        (Kept(a_book({("n", who): IPv4Address("10.0.0.2")})), 0),
        (Kept(a_book({("n", who): IPv4Address("10.0.0.1")})), 1),
        (Kept(a_book({("n", who): IPv4Address("10.0.0.1")}), generation=2), 0),
    ):
        try:
            explain(kept, used, history)
        except (AssertionError, KeyError):
            continue
        raise RuntimeError(f"{kept} explains nothing, and was taken")


def a_book(leases: dict[tuple[str, WireGuardKey], IPv4Address]) -> Book:
    return Book(leases=leases)
