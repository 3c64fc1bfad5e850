"""Compare one mediator with SQLite, one with PostgreSQL (Debian's, durable), and two on one PostgreSQL and NATS.

All parts in one run on one disk; `--only PART …` runs some of them:

- `stores`: leases granted per second, single (one asked after another, and by 40 askers at once) and in the batches of
  100 that a new document requests, and admissions by invite per second; beside them a bare table in that PostgreSQL.
- `logins`: logins per second of the mediators' processor time and memory a member, of one with SQLite, and of two;
  with `--apart` also of two that know nothing of each other: what two processes on these cores cost by themselves.
- `presence`: how long a member's log-out and login take to the members at the other mediator that see it.
- `failover`: one of two mediators is killed; how long until its members are whole again at the other.
- `relays`: how many simulated pairs are carried by the right relay of four.

Only the ratios matter, as all wait for the same disk and processors. Run: python bench/cluster.py [--members N].
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import uvloop
from control import PORT, TICKS, Client, Mediator, Member, close, context, log_in, make_members, source_of

from mediator.core.leasegrants import GrantLease
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from netctl.model.keys import IdentityKey
from netctl.session.backoff import Backoff
from tests.mediator.contractkit import applicant
from tests.mediator.natskit import nats
from tests.mediator.postgreskit import Postgres, why_not
from tests.mediator.test_admissions import LAN, NOW, document, key
from tests.paths.test_relay_choice import choice_in_a_random_placement

PARTS = ("stores", "logins", "presence", "failover", "relays")
SINGLE, BATCHES, BATCH, JOINS = 300, 60, 100, 150
ASKERS, EACH = 40, 25
"""Concurrent requests for single leases, and how many each makes."""
DOCUMENT = document("10.64.0.0/12")
HOSTS = ("127.0.0.1", "127.0.0.2")
NETWORK = 20
"""Members of a network; each network has members at both mediators."""
CHANGES = 40
"""Members that log out and in again."""
SETTLE_S = 2.0
"""After a start the mediators read each other's first writes; after logins they send the last news."""
MOVING = 2_000
"""Members of the mediator that is killed, at most."""
LOGIN_S = 10.0
"""The patience of a member with a login, as `netctl.agent.mediators.controlclient.LOGIN_TIMEOUT_S`."""
WHOLE_S = 60.0
"""Longest wait for all members to be whole again."""


def lease(number: int) -> GrantLease:
    return GrantLease("n", key(number), IPv4Address("10.0.0.0") + number)


# -- stores -------------------------------------------------------------------------------------------------


async def crowd(store: MemberStore, askers: int, first: int) -> None:
    """Many ask for a lease at a time, as hosts that enrol do."""

    async def ask(number: int) -> None:
        for lease_number in range(number, number + EACH):
            await store.add([lease(lease_number)], [])

    await asyncio.gather(*(ask(first + n * EACH) for n in range(askers)))


async def measure(store: MemberStore) -> dict[str, float]:
    """Operations per second, by name."""
    await store.open()
    found = {}
    began = time.perf_counter()
    for number in range(SINGLE):
        await store.add([lease(number)], [])
    found["leases, one by one"] = SINGLE / (time.perf_counter() - began)
    began = time.perf_counter()
    await crowd(store, ASKERS, 1_000_000)
    found[f"leases, {ASKERS} askers"] = ASKERS * EACH / (time.perf_counter() - began)
    began = time.perf_counter()
    for first in range(10_000, 10_000 + BATCHES * BATCH, BATCH):
        await store.add([lease(first + n) for n in range(BATCH)], [])
    found[f"leases, {BATCH} at once"] = BATCHES * BATCH / (time.perf_counter() - began)
    _, token = await store.invite(
        LAN, called="lan", uses=JOINS, made_s=NOW, expires_s=NOW + 100, name="", by="amy"
    )
    began = time.perf_counter()
    for number in range(100_000, 100_000 + JOINS):
        await store.redeem(DOCUMENT, applicant(number, token, f"h{number}"), NOW)
    found["admissions"] = JOINS / (time.perf_counter() - began)
    await store.close()
    return found


async def measure_two(stores: list[MemberStore]) -> dict[str, float]:
    """The same operations, half of them asked of each of two mediators' stores at the same time."""
    for store in stores:
        await store.open()
    await stores[0].reserve_generation(1)
    found: dict[str, float] = {}

    async def singles(store: MemberStore, first: int) -> None:
        for number in range(first, first + SINGLE // 2):
            await store.add([lease(number)], [])

    async def batches(store: MemberStore, first: int) -> None:
        for start in range(first, first + BATCHES // 2 * BATCH, BATCH):
            await store.add([lease(start + n) for n in range(BATCH)], [])

    async def joins(store: MemberStore, first: int, token: bytes) -> None:
        for number in range(first, first + JOINS // 2):
            await store.redeem(DOCUMENT, applicant(number, token, f"h{number}"), NOW)

    _, token = await stores[0].invite(
        LAN, called="lan", uses=JOINS, made_s=NOW, expires_s=NOW + 100, name="", by="amy"
    )
    for what, count, works in (
        ("leases, one by one", SINGLE, [singles(one, 5_000 * n) for n, one in enumerate(stores)]),
        (
            f"leases, {ASKERS} askers",
            ASKERS * EACH,
            [crowd(one, ASKERS // 2, 1_000_000 * (n + 1)) for n, one in enumerate(stores)],
        ),
        (
            f"leases, {BATCH} at once",
            BATCHES * BATCH,
            [batches(one, 20_000 + 20_000 * n) for n, one in enumerate(stores)],
        ),
        ("admissions", JOINS, [joins(one, 100_000 + 1_000 * n, token) for n, one in enumerate(stores)]),
    ):
        began = time.perf_counter()
        await asyncio.gather(*works)
        found[what] = count / (time.perf_counter() - began)
    for store in stores:
        await store.close()
    return found


def bare_table(server: Postgres) -> dict[str, float]:
    """The same rows into a table with the same keys, by psycopg without a store: what there is to be reached."""
    import psycopg

    row = "INSERT INTO bare (network, address, member) VALUES ('n', %s, %s)"
    with psycopg.connect(server.database(), autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE bare (network TEXT, address BIGINT, member BYTEA, PRIMARY KEY (network, address), "
            "UNIQUE (network, member))"
        )
        found = {}
        for what, count, size in (
            ("leases, one by one", SINGLE, 1),
            (f"leases, {ASKERS} askers", ASKERS * EACH, ASKERS),
            (f"leases, {BATCH} at once", BATCHES * BATCH, BATCH),
        ):
            began = time.perf_counter()
            for first in range(count * 10, count * 11, size):
                with connection.transaction():
                    rows = [(first + n, key(first + n).raw) for n in range(size)]
                    connection.cursor().executemany(row, rows)
            found[what] = count / (time.perf_counter() - began)
    return found


def stores(directory: Path, server: Postgres) -> None:
    """Measure and print leases and admissions."""
    sqlite = asyncio.run(measure(StoreThread(Store(directory / "mediator.db"))))
    bare = bare_table(server)
    there = asyncio.run(measure(PostgresStore(server.place())))
    place = server.place()
    two = asyncio.run(measure_two([PostgresStore(place, shared=True) for _ in range(2)]))
    for what, per_second in sqlite.items():
        other, shared = there[what], two[what]
        beside = f"bare table {bare[what]:7.0f}/s" if what in bare else ""
        print(
            f"{what:20} SQLite {per_second:7.0f}/s  PostgreSQL {other:7.0f}/s  ratio {other / per_second:.2f}  "
            f"two on PostgreSQL {shared:7.0f}/s  ratio {shared / other:.2f}  {beside}",
            flush=True,
        )


# -- mediators ----------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """What logins cost the mediators."""

    per_s: float
    """Logins a second of processor time."""
    memory_kb: float
    """Memory a member, in all mediators together."""
    wall_s: float
    others: Others
    """What the other processes took meanwhile, and for how long the mediators waited for a core."""


@dataclass
class Others:
    """Seconds of processor time of what is not measured, and of waiting for a core (all threads together)."""

    members: float
    """This process, which plays the members."""
    servers: float
    """PostgreSQL and NATS."""
    queued: float
    """The mediators waited for a core, in all."""

    @classmethod
    def now(cls, mediators: list[Mediator], measured: list[Mediator] | None = None) -> Others:
        """So far. `measured`: the mediators whose waiting counts; None: all."""
        ours = {one.process.pid for one in mediators if one.process is not None}
        parents, spent = dict[int, int](), dict[int, float]()
        for found in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = found.read_text().rsplit(")", 1)[1].split()
                number = int(found.parent.name)
                parents[number] = int(fields[1])
                spent[number] = (int(fields[11]) + int(fields[12])) / TICKS
        counted = mediators if measured is None else measured
        waiting = [one.process.pid for one in counted if one.process is not None]
        own = os.getpid()
        servers = 0.0
        for number in spent:
            above = number
            while above not in (own, 0) and above not in ours:
                above = parents.get(above, 0)
            servers += spent[number] if above == own and number != own else 0.0
        return cls(spent[own], servers, sum(map(_queued_s, waiting)))

    def since(self, before: Others) -> Others:
        """The difference."""
        return Others(
            self.members - before.members, self.servers - before.servers, self.queued - before.queued
        )

    def __str__(self) -> str:
        return (
            f"the members took {self.members:.1f} s of processor time, PostgreSQL and NATS {self.servers:.1f} s; the "
            f"mediators waited {self.queued:.1f} s for a core"
        )


def _queued_s(process: int) -> float:
    """Seconds in which threads of a process could run and had no core (proc(5): schedstat)."""
    threads = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[1]) for one in threads) / 1e9


async def logged_in(mediators: list[Mediator], parts: list[list[Member]]) -> Cost:
    """Log in each part at its mediator."""
    await asyncio.sleep(SETTLE_S)
    memory, cpu, began = _resident_kb(mediators), _cpu_s(mediators), time.monotonic()
    before = Others.now(mediators)
    await asyncio.gather(
        *(log_in(part, _pin(one), one.host) for part, one in zip(parts, mediators, strict=True))
    )
    wall = time.monotonic() - began
    count, spent = sum(map(len, parts)), _cpu_s(mediators) - cpu
    others = Others.now(mediators).since(before)
    await asyncio.sleep(SETTLE_S)
    return Cost(count / spent, (_resident_kb(mediators) - memory) / count, wall, others)


def _pin(mediator: Mediator) -> IdentityKey:
    return IdentityKey.parse(mediator.pin)


def _cpu_s(mediators: list[Mediator]) -> float:
    return sum(one.cpu_s() for one in mediators)


def _resident_kb(mediators: list[Mediator]) -> int:
    return sum(one.resident_kb() for one in mediators)


async def alone(directory: Path, members: list[Member]) -> Cost:
    """One mediator with SQLite."""
    mediator = Mediator(directory / "alone")
    mediator.write(members, NETWORK)
    mediator.start()
    try:
        return await logged_in([mediator], [members])
    finally:
        close(members)
        mediator.stop()


async def apart(directory: Path, members: list[Member]) -> Cost:
    """Two mediators with SQLite that know nothing of each other, half of the members at each.

    What two cost more than one without any work for each other: both share the cores with the members, and each makes
    the view of each network. They tell half as many members of each login.
    """
    two = [Mediator(directory / f"apart{n}", host) for n, host in enumerate(HOSTS)]
    for mediator in two:
        mediator.write(members, NETWORK)
        mediator.start()
    try:
        return await logged_in(two, [members[n::2] for n in range(2)])
    finally:
        close(members)
        for mediator in two:
            mediator.stop()


def start_two(directory: Path, server: Postgres, bus: str, members: list[Member]) -> list[Mediator]:
    """Two mediators with an identity each."""
    two = [Mediator(directory / f"two{n}", host) for n, host in enumerate(HOSTS)]
    two[0].write(members, NETWORK)
    text = json.loads((two[0].directory / "networks.yaml").read_text())
    (entry,) = text["mediators"]
    text["mediators"].append(
        {**entry, "url": entry["url"].replace(HOSTS[0], HOSTS[1]), "identity": [two[1].pin]}
    )
    dsn = server.database()
    for mediator in two:
        (mediator.directory / "networks.yaml").write_text(json.dumps(text))
        mediator.start("--cluster", "--store", dsn, *(("--bus", bus) if bus else ()))
    return two


def forget_views(members: list[Member]) -> None:
    """The next mediator has to send each of them its view."""
    for member in members:
        member.view = ""


def peers_of(members: list[Member]) -> dict[int, list[Member]]:
    """The others of each member's network, by its number."""
    return {
        one.number: [other for other in members[start : start + NETWORK] if other is not one]
        for start in range(0, len(members), NETWORK)
        for one in members[start : start + NETWORK]
    }


async def presence(first: Mediator, here: list[Member], watchers: dict[int, list[Member]]) -> list[float]:
    """Some members of the first mediator log out and in. How long until each watcher elsewhere knows, in seconds."""
    delays = list[float]()
    for member in here[:: max(1, len(here) // CHANGES)][:CHANGES]:
        name, told = str(member.key), watchers[member.number]
        for online in (False, True):
            for other in told:
                other.heard.pop(name, None)
            at = time.monotonic()
            if online:
                await log_in([member], _pin(first), first.host)
            else:
                close([member])
            while not all(name in other.heard for other in told):
                await asyncio.sleep(0.005)
                if time.monotonic() - at > WHOLE_S:
                    raise RuntimeError("a change does not reach everybody")
            assert all(other.heard[name][0] is online for other in told)
            delays += [other.heard[name][1] - at for other in told]
    return delays


async def failover(
    dead: Mediator, other: Mediator, moving: list[Member], watchers: dict[int, list[Member]]
) -> tuple[list[float], float]:
    """Kill a mediator. When each of its members was logged in again (sorted), and when all watchers knew, in seconds.

    Members come when an agent comes: after a random part of a second, and more slowly after each failure.
    """
    tls, pin, back = context(), _pin(other), list[float]()
    assert dead.process is not None
    began = time.monotonic()
    dead.process.kill()
    dead.process.wait()

    async def try_once(member: Member) -> None:
        _, protocol = await asyncio.get_running_loop().create_connection(
            lambda: Client(member, pin), other.host, PORT, ssl=tls, local_addr=(source_of(member.number), 0)
        )
        try:
            await protocol.ready
        except BaseException:
            protocol.transport.close()
            raise
        member.protocol = protocol

    async def move(member: Member) -> None:
        backoff = Backoff()
        while True:
            await asyncio.sleep(backoff.next_delay(random.random(), elsewhere=True))
            try:
                async with asyncio.timeout(LOGIN_S):
                    await try_once(member)
            except (OSError, RuntimeError):
                continue
            back.append(time.monotonic() - began)
            return

    def unaware(watcher: Member, name: str) -> bool:
        online, at = watcher.heard.get(name, (False, 0.0))
        return not online or at < began

    async with asyncio.timeout(WHOLE_S):
        await asyncio.gather(*map(move, moving))
        told = [(watcher, str(member.key)) for member in moving for watcher in watchers[member.number]]
        missing = told
        while missing := [(watcher, name) for watcher, name in missing if unaware(watcher, name)]:
            await asyncio.sleep(0.05)
    return sorted(back), max(watcher.heard[name][1] for watcher, name in told) - began


async def mediators(
    directory: Path, server: Postgres, bus: str, count: int, parts: list[str], *, control: bool
) -> None:
    """Measure and print what needs processes and members."""
    members = make_members(count)
    one = await alone(directory, members) if "logins" in parts else None
    forget_views(members)
    if one is not None and control:
        strangers = await apart(directory, members)
        forget_views(members)
        print(
            f"two that know nothing of each other {strangers.per_s:.0f} ({strangers.wall_s:.1f} s in all), ratio "
            f"{strangers.per_s / one.per_s:.2f}; meanwhile {strangers.others}",
            flush=True,
        )
    two = start_two(directory, server, bus, members)
    halves = [members[n::2] for n in range(2)]
    elsewhere = {
        number: [one for one in others if one.number % 2] for number, others in peers_of(members).items()
    }
    try:
        both = await logged_in(two, halves)
        if one is not None:
            print(
                f"{count} logins a second of processor time: one with SQLite {one.per_s:.0f} ({one.wall_s:.1f} s in "
                f"all), two on PostgreSQL {both.per_s:.0f} ({both.wall_s:.1f} s in all), ratio "
                f"{both.per_s / one.per_s:.2f}\n"
                f"meanwhile, with one: {one.others}\nwith two: {both.others}\n"
                f"memory a member: one {one.memory_kb:.1f} KB, two {both.memory_kb:.1f} KB, ratio "
                f"{both.memory_kb / one.memory_kb:.2f}",
                flush=True,
            )
        if "presence" in parts:
            delays = await presence(two[0], halves[0], elsewhere)
            cuts = statistics.quantiles(delays, n=100)
            print(
                f"presence across mediators with {count} members: 50 % of {len(delays)} notices within "
                f"{cuts[49] * 1e3:.0f} ms, 99 % within {cuts[98] * 1e3:.0f} ms, the last {max(delays) * 1e3:.0f} ms",
                flush=True,
            )
        if "failover" in parts:
            moving = halves[0][:MOVING]
            close(halves[0][MOVING:])
            await asyncio.sleep(SETTLE_S)
            before, others = two[1].cpu_s(), Others.now(two, two[1:])
            back, knew = await failover(two[0], two[1], moving, elsewhere)
            print(
                f"{len(moving)} members of a killed mediator: half logged in at the other after "
                f"{back[len(back) // 2]:.1f} s, all after {back[-1]:.1f} s, and everybody knows after {knew:.1f} s; "
                f"{two[1].cpu_s() - before:.1f} s of its processor time. {Others.now(two, two[1:]).since(others)}",
                flush=True,
            )
    finally:
        close(members)
        for mediator in two:
            mediator.stop()


def relays(rounds: int) -> None:
    """Measure and print the choice of relays."""
    chance, found = random.Random(1), list[tuple[bool, bool]]()
    for seed in range(rounds):
        found.append(choice_in_a_random_placement(seed, chance))
    right, best = (sum(column) / rounds for column in zip(*found, strict=True))
    print(
        f"relays: of {rounds} simulated pairs {right * 100:.1f} % on the best of four relays or one that is hardly "
        f"farther, {best * 100:.1f} % on the very best"
    )


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Postgres]:
    server = Postgres(directory, durable=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def bus_of(directory: Path, server: Postgres) -> Iterator[str]:
    """The address of a bus: NATS, or PostgreSQL where there is no NATS."""
    if shutil.which("nats-server") is None:
        print("no nats-server here: the bus is PostgreSQL's")
        yield server.database()
        return
    with nats(directory / "nats.log") as made:
        yield f"nats://127.0.0.1:{made.port}"


def main() -> int:
    """Measure and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--members", type=int, default=5000, help="members that log in (default 5000)")
    parser.add_argument("--placements", type=int, default=1000, help="simulated pairs (default 1000)")
    parser.add_argument(
        "--apart", action="store_true", help="log in at two mediators that know nothing of each other too"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    arguments = parser.parse_args()
    parts: list[str] = arguments.only
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    if (reason := why_not()) is not None:
        print(f"nothing measured with PostgreSQL: {reason}")
        parts = [part for part in parts if part == "relays"]
    if set(parts) - {"relays"}:
        with tempfile.TemporaryDirectory(prefix="netctl-bench-", dir="/var/tmp") as name:
            directory = Path(name)
            directory.chmod(0o755)
            with postgres(directory / "pg") as server, bus_of(directory, server) as bus:
                if "stores" in parts:
                    stores(directory, server)
                if set(parts) & {"logins", "presence", "failover"}:
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                        runner.run(
                            mediators(
                                directory, server, bus, arguments.members, parts, control=arguments.apart
                            )
                        )
    if "relays" in parts:
        relays(arguments.placements)
    return 0


if __name__ == "__main__":
    sys.exit(main())
