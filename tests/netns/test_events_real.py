"""A host hears at once that it has moved."""

from __future__ import annotations

import select
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, Program, needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

LISTEN = """
import asyncio, sys
from netctl.engine.links.linkevents import moves
async def main():
    print("ready", flush=True)
    async for _ in moves():
        print("moved", flush=True)
asyncio.run(main())
"""


UNTIL = """
import asyncio, subprocess, sys
from netctl.engine.links.linkevents import moves
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


def hears(host: Host, process: Program) -> None:
    """Change something until it is heard: it says that it is ready before it listens."""
    assert process.stdout is not None
    flapping = host.start("sh", "-c", "while :; do ip link set lo down; ip link set lo up; sleep 1; done")
    assert process.stdout.readline() == "moved\n"
    flapping.kill()
    flapping.communicate()
    host.run("ip", "link", "set", "lo", "up")
    host.run("sleep", "2")
    while select.select([process.stdout], [], [], 0)[0]:  # a burst that was under way
        assert process.stdout.readline() == "moved\n"


def test_messages_that_were_lost_deafen_nobody(host: Host) -> None:
    late = "192.0.2.77"
    with host.start(sys.executable, "-c", UNTIL, late) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        hears(host, process)
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
        hears(host, process)
        for change in changes:
            host.run(*change)
            assert process.stdout.readline() == "moved\n", change
        process.kill()
