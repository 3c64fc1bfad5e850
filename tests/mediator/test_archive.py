"""Backup and restore of the mediator's state, and what it tells systemd."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import tarfile
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.core.generations import RESERVE, first_generation
from mediator.core.leasegrants import GrantLease
from mediator.shell.credentials import Identity, relay_secret
from mediator.shell.main import main
from mediator.shell.store import STORE_FILE, Store
from netctl.model.keys import WireGuardKey
from netctl.session.replica import Kept
from netctl.system.sdnotify import notify, watchdog_s
from tests.mediator.loopbackkit import ANN, PATIENCE_S, Member, Site

LEASE = GrantLease("0" * 16, WireGuardKey(bytes([7]) * 32), IPv4Address("10.0.0.7"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state with an identity, a secret and one lease."""
    made = tmp_path / "state"
    Identity.create(made)
    relay_secret(made)
    store = Store(made / STORE_FILE)
    store.add([LEASE], [(LEASE.key, 40000)])
    store.close()
    return made


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


def test_a_backup_restored_elsewhere_is_the_same_server(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(state / STORE_FILE)  # open, as under a running server: what it wrote last is in the WAL
    newest = GrantLease(LEASE.network, WireGuardKey(bytes([8]) * 32), IPv4Address("10.0.0.8"))
    store.add([newest], [])
    file = tmp_path / "backup"
    assert run("backup", file, "--state", state) == 0
    store.close()
    assert file.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    assert run("restore", file, "--state", other) == 0
    assert "keep it as safe as" in capsys.readouterr().out
    assert Identity.load(other).public == Identity.load(state).public
    assert relay_secret(other) != relay_secret(state), "no grant is good that the backup knows nothing of"
    restored = Store(other / STORE_FILE)
    assert set(restored.leases().values()) == {LEASE.address, newest.address}
    assert restored.relay_ports() == {LEASE.key: 40000}
    restored.close()
    assert {path.name for path in other.iterdir()} == {path.name for path in state.iterdir()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in other.iterdir())


def test_nothing_is_replaced_unasked(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "backup"
    assert run("backup", file, "--state", state) == 0
    assert run("backup", file, "--state", state) == 1
    assert "exists already" in capsys.readouterr().err
    assert run("restore", file, "--state", state) == 1
    assert "has a state already: --force replaces it" in capsys.readouterr().err
    assert run("backup", file, "--state", state, "--force") == 0
    assert run("restore", file, "--state", state, "--force") == 0


@pytest.mark.parametrize("kind", ["text", "short", "empty", "link", "missing"])
def test_what_is_no_backup_changes_nothing(
    kind: str, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "backup"
    if kind == "text":
        file.write_text("hello")
    elif kind == "short":
        run("backup", file, "--state", state)
        file.write_bytes(file.read_bytes()[:3000])
    elif kind == "empty":
        tarfile.open(file, "w").close()
    elif kind == "link":
        with tarfile.open(file, "w") as tar:
            entry = tarfile.TarInfo(STORE_FILE)
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(entry)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    capsys.readouterr()
    assert run("restore", file, "--state", state, "--force") == 1
    said = capsys.readouterr().err
    assert said.startswith("netctl-mediator: ")
    assert said.count("\n") == 1
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


def test_a_damaged_store_is_neither_saved_nor_used(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = sqlite3.connect(state / STORE_FILE)
    with db:
        db.executemany("INSERT INTO relay_port VALUES (?, ?)", [(os.urandom(32), n) for n in range(500)])
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    path = state / STORE_FILE
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(data)
    assert run("backup", tmp_path / "backup", "--state", state) == 1
    assert "mediator.db" in capsys.readouterr().err
    assert not (tmp_path / "backup").exists()
    assert not list(tmp_path.glob(".netctl-backup-*"))


def test_no_server_no_bans(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bans", "--state", state) == 1
    assert run("unban", "192.0.2.1", "--state", state) == 1
    assert capsys.readouterr().err.count("no mediator runs here") == 2


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@netctl-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify("READY=1")
        assert ear.recv(100) == b"READY=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify("READY=1")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog_s() == 30.0
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "soon")
    assert watchdog_s() is None


def test_members_take_a_restored_server(tmp_path: Path) -> None:
    """Each start reserves numbers of which a copy of the store from before knows nothing."""
    site = Site(tmp_path)
    file = tmp_path / "backup"
    kept: Kept | None = None

    async def run_once() -> None:
        """A run of the server, and a member that logs in with what it remembers of the one before."""
        nonlocal kept
        async with site.serving() as (_, mediator):
            member = Member(ANN, mediator)
            member.client.kept = kept
            async with member:
                taken = await asyncio.wait_for(member.view(), PATIENCE_S)
                kept = taken.kept

    asyncio.run(run_once())
    assert run("backup", file, "--state", site.state) == 0
    for _ in range(3):
        asyncio.run(run_once())
    assert kept is not None
    for _ in range(2):  # the same backup, put back twice
        # Less than one start a second is what the numbers allow for; the starts of this test take less.
        while first_generation(int(time.time()), 0) <= max(kept.newest.values()):
            time.sleep(0.05)
        assert run("restore", file, "--state", site.state, "--force") == 0
        asyncio.run(run_once())


def test_a_backup_from_the_future_is_refused(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that has lost its battery says 1970, and every member would refuse this server."""
    store = Store(state / STORE_FILE)
    store.reserve_generation(first_generation(int(time.time()) + 30 * 86400, 0))
    store.close()
    file = tmp_path / "backup"
    assert run("backup", file, "--state", state) == 0
    before = (state / STORE_FILE).read_bytes()
    assert run("restore", file, "--state", state, "--force") == 1
    assert "set the clock first" in capsys.readouterr().err
    assert (state / STORE_FILE).read_bytes() == before


def test_numbers_rise_with_clock_or_store() -> None:
    assert first_generation(2, 0) > first_generation(1, 0) + RESERVE - 1
    assert first_generation(1, first_generation(9, 0)) == first_generation(9, 0)
    assert first_generation((1 << 33) - 1, 0) < 1 << 53
