"""No datagram of a stranger ends a process or stops a loop: the same table for every UDP socket of ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, join, needs_namespaces
from wgside import LINK, OURS, PORT, Side

pytestmark = [pytest.mark.netns, needs_namespaces]

TABLE = str(Path(__file__).with_name("hostiledatagrams.py"))
FAMILIES = ["192.0.2.1", "2001:db8::1"]


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    one, other = Host("hostile-1"), Host("hostile-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        for host, address in ((one, "2001:db8::1/64"), (other, "2001:db8::2/64")):
            host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
        yield one, other
    finally:
        one.close()
        other.close()


def storm(host: Host, target: str, port: int, source_port: int = 0) -> None:
    """Everything in the table, from this host."""
    assert int(host.run(sys.executable, TABLE, target, str(port), str(source_port), timeout=300)) > 4000


@pytest.mark.usefixtures("data_path")
@pytest.mark.parametrize("target", FAMILIES)
def test_netctl_wg(pair: tuple[Host, Host], target: str) -> None:
    """From outside and from its own host; a tunnel that is up meanwhile stays up, and a new one can be made."""
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    one.peer(other, None)
    other.peer(one, "192.0.2.1")
    assert other.ping(one).count(" 0% packet loss") == 2
    storm(other.host, target, PORT)
    storm(one.host, target, PORT)
    assert LINK in one.host.run("ip", "-br", "link")
    assert one.ping(other).count(" 0% packet loss") == 2
    one.host.run("wg", "set", LINK, "peer", other.key, "remove")
    one.peer(other, "192.0.2.2")
    assert one.ping(other).count(" 0% packet loss") == 2
