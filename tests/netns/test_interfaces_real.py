"""Which of a host's addresses are offered: older links, patterns, and kinds that lead through tunnels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

LOOK = """
import json, sys
from netctl.engine.links.interfaces import local_addresses
print(json.dumps([str(address) for address in local_addresses(sys.argv[1:])]))
"""
WIRE = """
ip link add trunk type veth peer name far; ip link set trunk up; ip link set far up
for i in $(seq 15); do
  ip link add link trunk name trunk.$i type macvlan mode bridge; ip addr add 10.50.$i.1/24 dev trunk.$i
  ip link set trunk.$i up
done
ip link add eth0 type veth peer name router; ip link set router up
ip addr add 192.168.1.10/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.1.1
ip link add br0 type bridge; ip addr add 192.168.7.1/24 dev br0; ip link set br0 up
ip tuntap add tap9 mode tap; ip addr add 192.168.8.1/24 dev tap9; ip link set tap9 up
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    made = Host("offers")
    try:
        made.run("sh", "-ec", WIRE)
        yield made
    finally:
        made.close()


def _offered(host: Host, *patterns: str) -> list[str]:
    found: list[str] = json.loads(host.run(sys.executable, "-P", "-c", LOOK, *patterns))
    return found


def test_fifteen_vlans_that_are_older_do_not_cut_off_the_way_out(host: Host) -> None:
    found = _offered(host)
    assert found[0] == "192.168.1.10"
    assert len(found) == 12
    assert not {"192.168.7.1", "192.168.8.1"} & set(found), "neither a bridge of containers nor a tunnel"


def test_patterns_of_the_document_deny_and_allow(host: Host) -> None:
    assert _offered(host, "!trunk*") == ["192.168.1.10"]
    assert _offered(host, "eth*", "trunk.3") == ["192.168.1.10", "10.50.3.1"]
    assert _offered(host, "trunk.1?", "!trunk.11") == [f"10.50.{n}.1" for n in (10, 12, 13, 14, 15)]
    assert _offered(host, "*", "!trunk*", "br0", "tap9") == ["192.168.1.10", "192.168.7.1", "192.168.8.1"]
    assert _offered(host, "none*") == []
