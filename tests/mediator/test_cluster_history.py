"""Two mediators at work, and everything between them goes: what hosts and operators were told holds in the end.

A round is a `kill -9` of a mediator, of the bus or of PostgreSQL, or one mediator that is cut off from store and bus.
Hosts that join and an operator write down what they were told; the end state must explain it. `make test-cluster` has
50 rounds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mediator.core.kept import Kept
from mediator.shell.postgresplace import PostgresPlace
from mediator.shell.postgresstore import PostgresStore
from netctl.agent.mediators.enrolclient import enrol
from netctl.agent.storage.keyfiles import Keys
from netctl.model.errors import LocalError, RemoteError
from netctl.system.tasks import awaited
from netctl.wire import operatorrequests as r
from netctl.wire.invite import Invite
from netctl.wire.jsonline import Request
from tests.mediator.cutproxy import CutProxy, proxied
from tests.mediator.loopbackkit import ANN, BOB, Member
from tests.mediator.natskit import Nats, nats
from tests.mediator.postgreskit import Postgres, running
from tests.mediator.test_standby import FIRST, SECOND, Server
from tests.mediator.test_store_killed import History, explain
from tests.mediator.test_two_mediators import Both, both, only
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S, wait_for

ROUNDS = int(os.environ.get("NETCTL_STORE_ROUNDS", "4"))
SEED = int(os.environ.get("NETCTL_STORE_SEED", "20"))
LASTS_S = (0.2, 2.0)
"""Of a loss, and of the time between two."""
USES = 10_000
RESTART_S = 0.5
"""`RestartSec=` of the mediator's unit."""
PACE_S = 0.3
"""Between two hosts that join: one source may ask four times a second."""


@dataclass
class Site:
    """Two mediators' processes, each with a way of its own to store and bus."""

    two: Both
    server: Postgres
    bus: Nats
    ways: dict[str, tuple[CutProxy, CutProxy]]
    database: str
    processes: dict[str, Server] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    """Mediators that a story has killed and not started again."""
    restarts: int = 0

    def start(self, host: str) -> None:
        store, bus = self.ways[host]
        log = self.two.directory / f"log{len(self.two.started)}"
        words = ["--cluster", "--bus", f"nats://127.0.0.1:{bus.port}"]
        dsn = f"postgresql://netctl@127.0.0.1:{store.port}/{self.database}"
        made = Server(self.two.sites[host], host, dsn, log, self.two.page, *words)
        self.two.started.append(made)
        self.processes[host] = made
        self.down.discard(host)

    def restart(self) -> None:
        """As systemd does: a mediator that starts while the store is away ends, and is tried again."""
        for host, server in self.processes.items():
            if host not in self.down and server.process.poll() is not None:
                self.restarts += 1
                self.start(host)

    def cut(self, host: str, *, silently: bool) -> None:
        for way in self.ways[host]:
            way.cut(silently=silently)

    def heal(self, host: str) -> None:
        for way in self.ways[host]:
            way.heal()

    def kill(self, host: str) -> None:
        self.down.add(host)
        process = self.processes[host].process
        process.kill()
        process.wait(BUSY_S)

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.database)


@contextmanager
def sites(directory: Path) -> Iterator[Site]:
    port = free_port()
    with (
        running(durable=True, port=port) as server,
        nats(directory / "nats.out") as bus,
        proxied(port) as one,
        proxied(bus.port) as two,
        proxied(port) as three,
        proxied(bus.port) as four,
        both(directory, server) as files,
    ):
        database = PostgresPlace.parse(files.dsn).parameters["dbname"]
        site = Site(files, server, bus, {FIRST: (one, two), SECOND: (three, four)}, database)
        text = files.text({"ann": ANN, "bob": BOB}, "manual")
        text["networks"]["lan"]["ipv4"] = "10.64.0.0/16"
        for entry in text["mediators"]:
            entry["relayPorts"] = "20000-29999"
        for host in site.ways:
            files.write(host, json.dumps(text))
            site.start(host)
            site.processes[host].says("listening")
        yield site


def key_pair(number: int) -> Keys:
    seed = hashlib.sha256(str(number).encode()).digest()  # X25519 leaves some bits of a number aside
    return Keys(X25519PrivateKey.from_private_bytes(seed), Ed25519PrivateKey.from_private_bytes(seed))


async def until_told(
    history: History, what: str, ask: Callable[[int], Awaitable[object]], kept_before: str = "?"
) -> object:
    """Ask one mediator, and then the other, until there is an answer. `kept_before`: words of an error that says so."""
    while True:
        history.asked[what] += 1
        try:
            return await ask(history.asked[what])
        except (LocalError, RemoteError) as error:
            if kept_before in str(error):
                return None
            history.unknown[what] += 1
            history.errors[what] = str(error)
            await asyncio.sleep(PACE_S)


async def hosts(site: Site, invite: Invite, history: History, first: int, over: asyncio.Event) -> None:
    """One after the other joins at either mediator, is approved at either, and every second one is shut out."""
    number = first
    while not over.is_set():
        pair, name = key_pair(number), f"h{number}"
        who = pair.wireguard

        async def joins(turn: int, pair: Keys = pair, name: str = name) -> object:
            return (await enrol(pair, only(invite, turn), name, exact=False)).name

        def asks(request: Request[Any]) -> Callable[[int], Awaitable[object]]:
            return lambda turn: asyncio.to_thread(site.two.ask, (FIRST, SECOND)[turn % 2], request)

        history.joined[who] = str(await until_told(history, "redeem", joins))
        await until_told(history, "approve", asks(r.Approve(name)), "does not wait")
        history.approved.add(who)
        if number % 2:
            history.wanted_revoked.add(who)
            await until_told(history, "revoke", asks(r.Revoke(name)))
            history.revoked.add(who)
        number += 1
        await asyncio.sleep(PACE_S)


async def systemd(site: Site) -> None:
    """`Restart=always` of the mediator's unit, `restart: unless-stopped` of a compose file."""
    while True:
        await asyncio.sleep(RESTART_S)
        site.restart()


@asynccontextmanager
async def served(site: Site) -> AsyncIterator[None]:
    """Mediators that end by themselves are started again, for the block."""
    restarting = awaited(systemd(site))
    try:
        yield
    finally:
        restarting.cancel()
        with suppress(asyncio.CancelledError):
            await restarting


async def lose(site: Site, number: int) -> str:
    """Lose something for a while, and have it back. `number`: the round, which has a seed of its own."""
    seed = SEED * 1_000 + number
    chance = random.Random(seed)
    await asyncio.sleep(chance.uniform(*LASTS_S))
    host = chance.choice((FIRST, SECOND))
    what = chance.choice(("mediator", "bus", "store", "way", "silent way"))
    lasts_s = chance.uniform(*LASTS_S)
    whose = f" of {host}" if "way" in what else f" {host}" if what == "mediator" else ""
    print(f"round {number}, seed {seed}: {what}{whose} for {lasts_s:.2f} s", flush=True)
    match what:
        case "mediator":
            await asyncio.to_thread(site.kill, host)
        case "bus":
            await asyncio.to_thread(site.bus.kill)
        case "store":
            await asyncio.to_thread(site.server.kill)
        case _:
            site.cut(host, silently=what == "silent way")
    await asyncio.sleep(lasts_s)
    match what:
        case "mediator":
            site.start(host)
        case "bus":
            await asyncio.to_thread(site.bus.start)
        case "store":
            await asyncio.to_thread(site.server.start)
        case _:
            site.heal(host)
    return what


def missing(site: Site) -> str:
    """What is missing until both mediators are ready, hear each other, and show the same state; empty: nothing."""
    found = []
    for host in site.ways:
        try:
            status, members = site.two.status(host), site.two.members(host)
        except LocalError as error:
            return f"{host}: {error}"
        if status.store is not None or status.bus_away is not None:
            return f"{host}: store {status.store}, bus {status.bus_away}"
        if [one.alive and one.current for one in status.mediators] != [True]:
            return f"{host}: other mediators {status.mediators}"
        rows = {name: (row.state, row.networks) for name, row in members.items()}
        found.append((status.mediators[0].state, status.document.digest, rows))
    (state, digest, rows), (other_state, other_digest, other_rows) = found
    if (state, digest) != (other_state, other_digest):
        return f"two states: {state} and {other_state}, {digest} and {other_digest}"
    differ = {
        name: (rows.get(name), other_rows.get(name))
        for name in sorted(rows.keys() | other_rows.keys())
        if rows.get(name) != other_rows.get(name)
    }
    return f"members: {differ}" if differ else ""


def until_whole(site: Site) -> None:
    last = "?"

    def whole() -> bool:
        nonlocal last
        last = missing(site)
        return not last

    try:
        wait_for("both are whole", whole)
    except AssertionError as error:
        logs = {host: one.log.read_text()[-3000:] for host, one in site.processes.items()}
        raise AssertionError(f"{error}: {last}\n{logs}") from error


def test_what_was_told_holds_whatever_is_lost(tmp_path: Path) -> None:
    history = History()
    lost: Counter[str] = Counter()

    async def story(site: Site, invite: Invite) -> None:
        over = asyncio.Event()
        clients = [awaited(hosts(site, invite, history, first, over)) for first in (1_000, 200_000)]
        async with served(site):
            for number in range(ROUNDS):
                lost[await lose(site, number)] += 1
            over.set()
            _, waiting = await asyncio.wait(clients, timeout=BUSY_S)
            for client in waiting:  # what is not whole says why they still wait
                client.cancel()
            await asyncio.to_thread(until_whole, site)
            assert not waiting, f"{len(waiting)} still wait for an answer: {history}"
            await asyncio.gather(*clients)

    async def end_state(site: Site) -> tuple[Kept, int]:
        store = PostgresStore(PostgresPlace.parse(site.dsn), shared=True)
        await store.open()
        kept, (found,) = await store.kept(), await store.invites()
        await store.close()
        return kept, found.used

    with sites(tmp_path) as site:
        asyncio.run(story(site, site.two.invite(FIRST, USES)))
        kept, used = asyncio.run(end_state(site))
    history.numbers.append(kept.generation)
    explain(replace(kept, book=replace(kept.book, leases={})), used, history)
    print(
        f"\n{ROUNDS} losses, seed {SEED}: {dict(lost)}; told {len(history.joined)} that they joined, "
        f"{len(history.approved)} that they are approved, {len(history.revoked)} that they are revoked; "
        f"asked {dict(history.asked)}, unknown {dict(history.unknown)}; {site.restarts} starts failed and were repeated"
    )
    assert len(history.joined) > ROUNDS, "there was load"


def test_a_mediator_that_is_cut_off_admits_nobody_and_says_so_and_heals_without_a_restart(
    tmp_path: Path,
) -> None:
    async def story(site: Site) -> None:
        invite = site.two.invite(FIRST, 10)
        first, _ = site.two.document.mediators
        process, page = site.processes[FIRST].process, site.processes[FIRST].page
        site.cut(FIRST, silently=False)
        await asyncio.to_thread(wait_for, "it says that the store is away", lambda: page("/readyz")[0] == 503)
        with pytest.raises(RemoteError, match="cannot let anybody in just now"):
            await enrol(key_pair(1), only(invite, 0), "new", exact=False)
        status = await asyncio.to_thread(site.two.status, FIRST)
        assert status.store is not None
        await asyncio.to_thread(
            wait_for, "it misses the bus", lambda: site.two.status(FIRST).bus_away is not None
        )
        async with Member(ANN, first) as ann:
            await ann.view()
        assert (await enrol(key_pair(2), only(invite, 1), "other", exact=False)).name == "other"
        site.heal(FIRST)
        await asyncio.to_thread(until_whole, site)
        assert "other" in await asyncio.to_thread(site.two.members, FIRST)
        assert (await enrol(key_pair(1), only(invite, 0), "new", exact=False)).name == "new"
        assert process.poll() is None

    with sites(tmp_path) as site:
        asyncio.run(asyncio.wait_for(story(site), 2 * BUSY_S))


def test_a_mediator_that_starts_while_the_store_is_away_ends_with_the_reason_and_comes_when_it_is_started_again(
    tmp_path: Path,
) -> None:
    async def story(site: Site) -> None:
        async with served(site):
            site.kill(FIRST)
            site.server.kill()
            site.start(FIRST)
            await asyncio.to_thread(wait_for, "it is started again", lambda: site.restarts > 0)
            assert any("cannot be reached" in one.log.read_text() for one in site.two.started)
            await asyncio.to_thread(site.server.start)
            await asyncio.to_thread(until_whole, site)

    with sites(tmp_path) as site:
        asyncio.run(asyncio.wait_for(story(site), 2 * BUSY_S))
