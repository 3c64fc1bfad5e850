"""A host hears at once that it has moved."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

LISTEN = """
import asyncio, sys
from netctl.engine.events import moves
async def main():
    print("ready", flush=True)
    async for _ in moves():
        print("moved", flush=True)
asyncio.run(main())
"""


UNTIL = """
import asyncio, subprocess, sys
from netctl.engine.events import moves
async def main():
    print("ready", flush=True)
    async for _ in moves():
        said = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True).stdout
        print("moved", flush=True)
        if sys.argv[1] in said: sys.exit(7)
asyncio.run(main())
"""
HEARD = 7
MANY = """
for i in $(seq 600); do echo "link add v$i type veth peer w$i"; done | ip -b -
for i in $(seq 600); do echo "link set v$i up"; echo "link set w$i up"; done | ip -b -
"""


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host("events")
    try:
        yield made
    finally:
        made.close()


def test_messages_that_were_lost_deafen_nobody(host: Host) -> None:
    late = "192.0.2.77"
    with host.start(sys.executable, "-c", UNTIL, late) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        host.run("sh", "-c", "for i in 1 2 3 4 5; do ip link set lo down; ip link set lo up; sleep 0.2; done")
        assert process.stdout.readline() == "moved\n"  # by now it is bound
        process.send_signal(signal.SIGSTOP)
        host.run("sh", "-c", MANY)
        sockets = [line.split() for line in host.run("cat", "/proc/net/netlink").splitlines()]
        drops = sockets[0].index("Drops")
        assert any(int(one[drops]) for one in sockets[1:]), "nothing was lost: this proves nothing"
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "moved\n"
        host.run("sleep", "3")
        host.run("ip", "address", "add", f"{late}/24", "dev", "lo")
        assert process.wait(BUSY_S) == HEARD


def test_each_burst_of_changes_is_heard_once(host: Host) -> None:
    changes = (
        ("ip", "link", "add", "one", "type", "veth", "peer", "two"),
        ("ip", "link", "set", "one", "up"),
        ("ip", "address", "add", "192.0.2.1/24", "dev", "one"),
        ("ip", "address", "add", "2001:db8::1/64", "dev", "one", "nodad"),
        ("ip", "address", "del", "192.0.2.1/24", "dev", "one"),
        ("ip", "link", "del", "one"),
    )
    with host.start(sys.executable, "-c", LISTEN) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        host.run(
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9 10; do ip link set lo down; ip link set lo up; sleep 0.2; done",
        )
        assert process.stdout.readline() == "moved\n"  # by now it is bound
        host.run("sleep", "1")
        for change in changes:
            host.run(*change)
            assert process.stdout.readline() == "moved\n", change
        process.kill()
