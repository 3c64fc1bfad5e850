"""What an agent looks at time and again is read from the kernel once, and again after each change of it."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

LOOK = """
import json, subprocess, sys, time
from netctl.engine.links.interfaces import LocalAddresses
from netctl.engine.links.netlink import Netlink
from netctl.engine.links.unchanged import ROUTES_SETTLE_S

def ip(lines): subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)

addresses, netlink, found = LocalAddresses(), Netlink(), {}

def look():
    kinds, routes, _ = netlink.foreign()
    return [str(one) for one in addresses.read()], sorted(kinds), sorted(one.what for one in routes)

def after(name, lines):
    ip(lines)
    found[name] = look()

def cost():
    began = time.process_time()
    look()
    return time.process_time() - began

look()
after("address", "link add one type veth peer two\\nlink set one up\\nlink set two up\\naddr add 192.0.2.1/24 dev one")
after("another", "addr add 192.0.2.9/24 dev one")
after("no address", "addr del 192.0.2.9/24 dev one")
after("route", "route add 198.51.100.0/24 via 192.0.2.2")
after("default", "addr add 203.0.113.5/24 dev two\\nroute add default via 203.0.113.1")
after("default of two", "route del default\\nroute add default nexthop via 192.0.2.2 nexthop via 192.0.2.3")
after("down", "link set two down")
time.sleep(ROUTES_SETTLE_S)
after("renamed", "link set two name three")
after("gone", "link del one")

many = int(sys.argv[1])
ip("".join(
    f"link add v{n} type veth peer w{n}\\nlink set v{n} up\\naddr add 10.{n // 250}.{n % 250}.1/24 dev v{n}\\n"
    for n in range(many)
))
first = cost()
time.sleep(ROUTES_SETTLE_S)
look()
ip("".join(f"link set lo alias {n}\\n" for n in range(3000)))  # more than the queue holds
after("lost", "link add late type bridge")
time.sleep(ROUTES_SETTLE_S)
look()
found["costs"] = first, cost()
print(json.dumps(found))
"""
MANY = 150
"""Pairs."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[list[str]]]:
    host = Host("unchanged")
    try:
        said: dict[str, list[list[str]]] = json.loads(host.run(sys.executable, "-P", "-c", LOOK, str(MANY)))
        return said
    finally:
        host.close()


def test_each_change_is_seen_by_the_next_look(found: dict[str, list[list[str]]]) -> None:
    offered = {name: seen[0] for name, seen in found.items()}
    assert offered["address"] == ["192.0.2.1"]
    assert offered["another"] == ["192.0.2.1", "192.0.2.9"]
    assert offered["no address"] == ["192.0.2.1"]
    assert offered["default"] == ["203.0.113.5", "192.0.2.1"], "the way out comes first"
    assert offered["default of two"] == ["192.0.2.1", "203.0.113.5"], "of several next hops"
    assert offered["gone"] == []
    assert found["address"][1] == ["lo", "one", "two"]
    assert found["renamed"][1] == ["lo", "one", "three"]
    assert "late" in found["lost"][1], "what was lost is a change too"
    route = "the route 198.51.100.0/24 over one"
    assert route not in found["no address"][2]
    assert route in found["route"][2]
    assert "the route 203.0.113.0/24 over two" in found["default"][2]
    assert not [one for one in found["renamed"][2] if "203.0.113.0/24" in one], "it went with its link"


def test_a_look_at_what_has_not_changed_costs_next_to_nothing(found: dict[str, list[list[str]]]) -> None:
    first, again = found["costs"]
    print(f"{2 * MANY} links: {float(str(first)) * 1000:.0f} ms, then {float(str(again)) * 1000:.2f} ms")
    assert float(str(again)) < float(str(first)) / 20
