"""No files, no disk, no document: the mediator goes on, says so, and is whole again by itself. Real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from mediator.core.leasegrants import GrantLease
from mediator.shell.archive import backup
from mediator.shell.credentials import relay_secret
from mediator.shell.main import main
from mediator.shell.store import STORE_FILE, Store
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.wire import control as w
from tests.mediator.loopbackkit import ANN, BOB, HOST, STRANGER, Member, Site, keys
from tests.support.patience import BUSY_S, wait_for

FILES = 64
PATIENCE_S = BUSY_S


@contextmanager
def serving(site: Site, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`netctl-mediator serve` with few files to its name."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))

    command = [sys.executable, "-P", "-m", "mediator.shell.main", "serve", "--no-relay", "--listen", HOST]
    command += ["--document", str(site.document), "--state", str(site.state)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, preexec_fn=few)
    try:
        wait_for("it listens", lambda: "listening" in log.read_text())
        yield process
    finally:
        process.terminate()
        process.wait(BUSY_S)


def files(process: subprocess.Popen[bytes]) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def test_without_files_members_stay_and_others_come_when_there_are_some(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def main() -> None:
        with contextlib.ExitStack() as held:
            async with Member(ANN, site.entry()) as ann:
                await ann.view()
                for number in range(2 * FILES):
                    one = held.enter_context(socket.socket())
                    one.bind((f"127.0.{1 + number % 9}.1", 0))
                    one.connect((HOST, site.port))
                await asyncio.to_thread(
                    wait_for, "all files are open", lambda: "files are open" in log.read_text()
                )
                assert files(process) == FILES
                before = cpu_s(process)
                site.write({"ann": ANN, "bob": BOB, "stranger": STRANGER})
                await asyncio.to_thread(
                    wait_for, "it says so", lambda: "cannot be read: Too many open files" in log.read_text()
                )
                ann.client.send(w.Refresh())
                await ann.view()
                await asyncio.sleep(1)
                assert cpu_s(process) - before < 0.5  # it waits, it does not spin
                held.close()
                await ann.view(lambda changed: len(changed.view.members) == 3)
                async with Member(STRANGER, site.entry()) as late:
                    await late.view()
        said = log.read_text()
        assert said.count("files are open") == 1
        assert said.count("cannot be read") == 1
        assert "Traceback" not in said

    with serving(site, log) as process:
        free = files(process)
        asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE_S))
        wait_for("the files are closed", lambda: files(process) <= free)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_document_that_is_away_for_a_while_is_read_when_it_is_back(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serving(site, log):
        text = site.document.read_text()
        site.document.unlink()
        wait_for("it says so", lambda: "cannot be read: No such file" in log.read_text())
        assert "the last good one stays" in log.read_text()
        assert main(["status", "--state", str(site.state)]) == 1
        site.document.write_text(text)
        wait_for("all is well", lambda: main(["status", "--state", str(site.state)]) == 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True
    )
    if made.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def addresses(view: View) -> dict[WireGuardKey, IPv4Address]:
    """Who has which; IPv6 needs no store."""
    return {
        lease.key: address
        for lease in view.leases.values()
        for address in lease.addresses
        if isinstance(address, IPv4Address)
    }


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    try:
        yield
    finally:
        ballast.unlink()


def test_with_a_full_disk_members_stay_and_new_ones_get_addresses_later(
    small_disk: Path, tmp_path: Path
) -> None:
    site, log = Site(small_disk), tmp_path / "log"
    site.document = tmp_path / "networks.yaml"
    site.write({"ann": ANN, "bob": BOB})
    many = {f"m{number}": keys(number) for number in range(4, 12)}

    async def main() -> None:
        async with Member(ANN, site.entry()) as ann:
            before = (await ann.view()).view
            with full(small_disk):
                site.write({"ann": ANN, "bob": BOB, **many})
                seen = (await ann.view(lambda changed: len(changed.view.members) == 10)).view
                assert addresses(seen) == addresses(before)
                reason = re.compile("no new leases: the store refused new leases: .*full")
                await asyncio.to_thread(wait_for, "it says why", lambda: reason.search(log.read_text()))
                async with Member(BOB, site.entry()) as bob:
                    await bob.view()
            site.write({"ann": ANN, "bob": BOB, **many, "stranger": STRANGER})  # asked again now, not in 10 s
            whole = (await ann.view(lambda changed: len(addresses(changed.view)) == 11)).view
            assert addresses(before).items() <= addresses(whole).items()

    with serving(site, log):
        asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE_S))
    assert "Traceback" not in log.read_text()
    store = Store(site.state / STORE_FILE)
    assert store.check() == []
    assert len(store.leases()) == 11
    store.close()


def test_a_backup_to_a_full_disk_leaves_nothing_and_says_why(small_disk: Path, tmp_path: Path) -> None:
    site = Site(tmp_path)
    relay_secret(site.state)
    store = Store(site.state / STORE_FILE)
    store.add([GrantLease("0" * 16, ANN.wireguard, IPv4Address("10.0.0.7"))], [])
    store.close()
    target = small_disk / "backup"
    with full(small_disk):
        with pytest.raises(LocalError, match=r"full|No space left|room on"):
            backup(site.state, target)
        assert sorted(path.name for path in small_disk.iterdir()) == ["ballast"]
    assert backup(site.state, target) > 0


def test_a_store_that_cannot_even_begin_says_that_there_is_no_room(small_disk: Path) -> None:
    with full(small_disk), pytest.raises(LocalError, match=r"is there room on its disk|No space left"):
        Store(small_disk / "state" / STORE_FILE)
