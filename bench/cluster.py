"""Compare the mediator's stores in one run on one disk: SQLite in a thread, and PostgreSQL (Debian's, durable).

Measures leases granted per second, single (one asked after another, and by 40 askers at once) and in the batches of
100 that a new document requests, and admissions by invite per second; the same with two mediators at work on one store
in PostgreSQL; and logins per second of the mediators' processor time, of one with SQLite and of two that share
PostgreSQL. Only the ratios matter, as all wait for the same disk and processors. Run: python bench/cluster.py
[--members N].
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from control import Mediator, close, log_in, make_members

from mediator.core.leasegrants import GrantLease
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from netctl.model.keys import IdentityKey
from tests.mediator.contractkit import applicant
from tests.mediator.postgreskit import Postgres, why_not
from tests.mediator.test_admissions import LAN, NOW, document, key

SINGLE, BATCHES, BATCH, JOINS = 300, 60, 100, 150
ASKERS, EACH = 40, 25
"""Concurrent requests for single leases, and how many each makes."""
DOCUMENT = document("10.64.0.0/12")


def lease(number: int) -> GrantLease:
    return GrantLease("n", key(number), IPv4Address("10.0.0.0") + number)


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


HOSTS = ("127.0.0.1", "127.0.0.2")


async def logins(directory: Path, server: Postgres, count: int) -> tuple[float, float]:
    """Logins per second of processor time: of one mediator with SQLite, and of two with PostgreSQL."""
    members = make_members(count)
    alone = Mediator(directory / "alone")
    alone.write(members, 20)
    alone.start()
    before = alone.cpu_s()
    await log_in(members, IdentityKey.parse(alone.pin))
    one = count / (alone.cpu_s() - before)
    close(members)
    alone.stop()
    two = [Mediator(directory / f"two{n}", host) for n, host in enumerate(HOSTS)]
    two[0].write(members, 20)
    text = json.loads((two[0].directory / "networks.yaml").read_text())
    (entry,) = text["mediators"]
    text["mediators"].append(
        {**entry, "url": entry["url"].replace(HOSTS[0], HOSTS[1]), "identity": [two[1].pin]}
    )
    dsn = server.database()
    for mediator in two:
        (mediator.directory / "networks.yaml").write_text(json.dumps(text))
        mediator.start("--cluster", "--store", dsn)
    before = sum(mediator.cpu_s() for mediator in two)
    halves = [members[n::2] for n in range(2)]
    await asyncio.gather(
        *(log_in(half, IdentityKey.parse(one.pin), one.host) for half, one in zip(halves, two, strict=True))
    )
    both = count / (sum(mediator.cpu_s() for mediator in two) - before)
    close(members)
    for mediator in two:
        mediator.stop()
    return one, both


@contextmanager
def postgres(directory: Path) -> Iterator[Postgres]:
    server = Postgres(directory, durable=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def main() -> int:
    """Measure and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=1000, help="members that log in (default 1000)")
    count: int = parser.parse_args().members
    if (reason := why_not()) is not None:
        print(f"nothing measured: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="netctl-bench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        sqlite = asyncio.run(measure(StoreThread(Store(Path(name, "mediator.db")))))
        with postgres(Path(name, "pg")) as server:
            there = asyncio.run(measure(PostgresStore(server.place())))
            place = server.place()
            two = asyncio.run(measure_two([PostgresStore(place, shared=True) for _ in range(2)]))
            one_s, both_s = asyncio.run(logins(Path(name), server, count))
    for what, per_second in sqlite.items():
        other, shared = there[what], two[what]
        print(
            f"{what:24} SQLite {per_second:8.0f}/s  PostgreSQL {other:8.0f}/s  ratio {other / per_second:.2f}  "
            f"two on PostgreSQL {shared:8.0f}/s  ratio {shared / other:.2f}"
        )
    print(
        f"{count} logins a second of processor time: one with SQLite {one_s:.0f}, two on PostgreSQL {both_s:.0f}, "
        f"ratio {both_s / one_s:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
