"""Compare the mediator's stores in one run on one disk: SQLite in a thread, and PostgreSQL (Debian's, durable).

Measures leases granted per second, single and in the batches of 100 that a new document requests, and admissions by
invite per second. Only the ratios matter, as both wait for the same disk.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from mediator.core.leasegrants import GrantLease
from mediator.shell.memberstore import MemberStore
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from tests.mediator.contractkit import applicant
from tests.mediator.postgreskit import Postgres, why_not
from tests.mediator.test_admissions import LAN, NOW, document, key

SINGLE, BATCHES, BATCH, JOINS = 300, 60, 100, 150
DOCUMENT = document("10.64.0.0/12")


def lease(number: int) -> GrantLease:
    return GrantLease("n", key(number), IPv4Address("10.0.0.0") + number)


async def measure(store: MemberStore) -> dict[str, float]:
    """Operations per second, by name."""
    await store.open()
    found = {}
    began = time.perf_counter()
    for number in range(SINGLE):
        await store.add([lease(number)], [])
    found["leases, one by one"] = SINGLE / (time.perf_counter() - began)
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


@contextmanager
def postgres(directory: Path) -> Iterator[Postgres]:
    server = Postgres(directory, durable=True)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def main() -> int:
    if (reason := why_not()) is not None:
        print(f"nothing measured: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="netctl-bench-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        sqlite = asyncio.run(
            measure(
                StoreThread(
                    Store(
                        Path(name, "mediator.db"),
                    )
                )
            )
        )
        with postgres(Path(name, "pg")) as server:
            there = asyncio.run(measure(PostgresStore(server.place())))
    for what, per_second in sqlite.items():
        other = there[what]
        print(
            f"{what:24} SQLite {per_second:8.0f}/s  PostgreSQL {other:8.0f}/s  ratio {other / per_second:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
