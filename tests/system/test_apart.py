"""Tests see nothing of the machine that they run on: not its links, routes, tables, names, nor netctl's state on it."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import apart

pytestmark = pytest.mark.skipif(apart.why_not() is not None, reason=f"not apart: {apart.why_not()}")


def said(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_only_link_is_the_loopback_and_it_is_up() -> None:
    assert [row.split(":")[0].strip() for row in Path("/proc/net/dev").read_text().splitlines()[2:]] == ["lo"]
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == ["lo"]
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        socket.create_connection(server.getsockname()[:2]).close()


def test_there_are_no_routes_no_tables_and_no_rules() -> None:
    assert said("ip", "route", "show") == []
    assert said("nft", "list", "tables") == []


def test_the_name_and_the_hosts_file_are_the_tests_own() -> None:
    assert socket.gethostname() == apart.NAME
    assert Path("/etc/hosts").read_text().split() == [
        "127.0.0.1",
        "localhost",
        "::1",
        "localhost",
        "ip6-localhost",
    ]


@pytest.mark.parametrize("place", ["/etc/netctl", "/var/lib/netctl", "/var/lib/netctl-mediator"])
def test_state_is_empty_and_what_is_written_there_is_not_the_machines(place: str) -> None:
    assert list(Path(place).iterdir()) == []
    (Path(place) / "left").write_text("by a test")
    machines = Path(place).parent / ".machine" / Path(place).name / "left"
    assert not machines.exists()
    (Path(place) / "left").unlink()


def test_the_machines_own_directories_are_read_only() -> None:
    directory = next(
        path for path in sorted(Path("/etc/.machine").iterdir()) if path.is_dir() and not path.is_symlink()
    )
    with pytest.raises(OSError, match="Read-only"):
        (directory / "left").write_text("by a test")
    assert not Path("/run/netctl").exists()


def test_what_is_about_the_machine_goes_there_and_comes_back() -> None:
    here = os.readlink("/proc/self/ns/net"), Path.cwd()
    with apart.on_the_machine():
        assert os.readlink("/proc/self/ns/net") != here[0]
        assert not Path("/etc/.machine").exists()
        assert Path.cwd() == here[1]
    assert (os.readlink("/proc/self/ns/net"), Path.cwd()) == here
