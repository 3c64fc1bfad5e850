"""The store: constraints that the database keeps, transactions that are whole, even when the process is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.core.leasegrants import GrantLease
from mediator.shell.store import Store
from mediator.shell.storethread import StoreThread
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey

A, B = WireGuardKey(b"\1" * 32), WireGuardKey(b"\2" * 32)


def lease(address: str, key: WireGuardKey = A, network: str = "n") -> GrantLease:
    return GrantLease(network, key, IPv4Address(address))


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "mediator.db"
    with closing(Store(path)) as store:
        store.add([lease("10.0.0.1"), lease("10.0.0.1", B, "other")], [(A, 40000)])
    with closing(Store(path)) as store:
        assert store.leases() == {("n", A): IPv4Address("10.0.0.1"), ("other", B): IPv4Address("10.0.0.1")}
        assert store.relay_ports() == {A: 40000}
        assert store.check() == []


def test_an_address_that_is_taken_is_refused_and_with_it_the_whole_transaction(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        store.add([lease("10.0.0.1")], [(A, 40000)])
        with pytest.raises(LocalError):
            store.add([lease("10.0.0.9", B, "other"), lease("10.0.0.1", B)], [(B, 40001)])
        with pytest.raises(LocalError):
            store.add([lease("10.0.0.2", B)], [(B, 40000)])
        assert store.leases() == {("n", A): IPv4Address("10.0.0.1")}
        assert store.relay_ports() == {A: 40000}
        store.add([lease("10.0.0.2", B)], [(B, 40001)])
        assert store.relay_ports() == {A: 40000, B: 40001}


def test_a_lone_lease_takes_no_statement_that_it_does_not_need(tmp_path: Path) -> None:
    """Each costs microseconds of two threads. Those for other tables and for the patience were not needed."""
    statements: list[str] = []

    async def main(store: StoreThread) -> None:
        await store.add([lease("10.0.0.1")], [])
        raw.set_trace_callback(statements.append)
        await store.add([lease("10.0.0.2", B)], [])
        raw.set_trace_callback(None)
        await store.close()

    there = Store(tmp_path / "m.db")
    raw = there._db
    asyncio.run(main(StoreThread(there)))
    assert [" ".join(statement.split()[:3]) for statement in statements] == [
        "BEGIN IMMEDIATE",
        "SELECT state, move,",
        "DELETE FROM lease",
        "INSERT INTO lease",
        "COMMIT",
    ]


def test_the_constraints_are_the_databases_own(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        store.add([lease("10.0.0.1")], [(A, 40000)])
    with closing(sqlite3.connect(tmp_path / "m.db")) as raw:
        for row in (("n", int(IPv4Address("10.0.0.1")), B.raw), ("n", int(IPv4Address("10.0.0.2")), A.raw)):
            with pytest.raises(sqlite3.IntegrityError):
                raw.execute("INSERT INTO lease (network, address, member) VALUES (?,?,?)", row)


def test_a_member_has_one_lease_in_a_network_the_newest(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        store.add([lease("10.0.0.1")], [(A, 40000)])
        store.add([lease("10.1.0.1")], [(A, 41000)])
        assert store.leases() == {("n", A): IPv4Address("10.1.0.1")}
        assert store.relay_ports() == {A: 41000}


def test_a_lease_that_is_given_on_ends_for_its_old_holder_in_the_same_transaction(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "m.db")) as store:
        store.add([lease("10.0.0.1")], [])
        store.add([GrantLease("n", B, IPv4Address("10.0.0.1"), taken_from=A)], [])
        assert store.leases() == {("n", B): IPv4Address("10.0.0.1")}


def test_damaged_and_newer_stores_are_refused_with_a_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database at all, but long enough to look at" * 100)
    with pytest.raises(LocalError, match="backup"):
        Store(broken)
    newer = tmp_path / "newer.db"
    with closing(sqlite3.connect(newer)) as raw:
        raw.execute("PRAGMA user_version=99")
    with pytest.raises(LocalError, match="another version"):
        Store(newer)


WRITER = """
import sys
from ipaddress import IPv4Address
from pathlib import Path
from mediator.core.leasegrants import GrantLease
from mediator.shell.store import Store
from netctl.model.keys import WireGuardKey
store = Store(Path(sys.argv[1]))
for turn in range(10_000):
    low = int(IPv4Address("10.0.0.0")) + 4 * turn
    keys = [WireGuardKey((4 * turn + n).to_bytes(32, "big")) for n in range(4)]
    store.add([GrantLease("n", key, IPv4Address(low + n)) for n, key in enumerate(keys)], [])
    print(turn, flush=True)
"""
"""Says what it was told is on disk."""


def test_killed_in_the_middle_it_has_all_that_it_said_and_nothing_in_half(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    with writer.stdout:
        said = [writer.stdout.readline() for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        said += writer.stdout.readlines()
    writer.wait()
    whole = [int(line) for line in said if line.endswith("\n")]
    with closing(Store(path)) as store:
        assert store.check() == []
        turns = [int.from_bytes(key.raw, "big") // 4 for _, key in store.leases()]
    assert len(whole) >= 20
    assert set(whole) <= set(turns) <= {*whole, len(whole)}
    assert all(turns.count(turn) == 4 for turn in set(turns))
