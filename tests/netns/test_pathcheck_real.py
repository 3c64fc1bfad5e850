"""Asking a peer now, with real packets: who answers, and how large what passes is, where a hop is narrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from netctl.ui.pathcheck import PINGS
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

CHECK = """
import dataclasses, ipaddress, json, sys
from netctl.ui.pathcheck import check
print(json.dumps(dataclasses.asdict(check(ipaddress.ip_address(sys.argv[1]), "one"))))
"""
LATE = """
import time, types
from netctl.ui import pathcheck
def monotonic(): now = time.monotonic(); time.sleep(0.06); return now
pathcheck.time = types.SimpleNamespace(monotonic=monotonic)
pathcheck.EVERY_S, pathcheck.LAST_S = 0.05, 0.2
"""
"""Whoever checks stands still for longer than it waits for an answer, each time it has looked at the clock."""
ADDRESSES = ("10.2.0.2", "fd02::2")
NARROW = 1330
"""What 1328 is the largest size on the ladder of."""


class World:
    """A host, a router, and a host behind it; the hop between the last two may become narrow."""

    def __init__(self, stack: ExitStack) -> None:
        made = [Host(name) for name in ("near", "router", "far")]
        for host in made:
            stack.callback(host.close)
        self.near, self.router, self.far = made
        join(self.near, self.router, "10.1.0.1/24", "10.1.0.2/24", link="one")
        join(self.router, self.far, "10.2.0.1/24", "10.2.0.2/24", link="two")
        pairs = ((self.near, self.router, "one", "fd01"), (self.router, self.far, "two", "fd02"))
        for first, second, link, prefix in pairs:
            first.run("ip", "addr", "add", f"{prefix}::1/64", "dev", link, "nodad")
            second.run("ip", "addr", "add", f"{prefix}::2/64", "dev", link, "nodad")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        self.router.run("sh", "-c", forward)
        for family, near_by, far_by in (("-4", "10.1.0.2", "10.2.0.1"), ("-6", "fd01::2", "fd02::1")):
            self.near.run("ip", family, "route", "add", "default", "via", near_by)
            self.far.run("ip", family, "route", "add", "default", "via", far_by)
        wait_for("both families lead there", lambda: all(self.pings(address) for address in ADDRESSES))

    def pings(self, address: str) -> bool:
        return "1 received" in self.near.run("ping", "-c1", "-W1", address, check=False)

    def narrow(self, mtu: int) -> None:
        """The hop carries no more, and says nothing about it."""
        for host in (self.router, self.far):
            host.run("ip", "link", "set", "two", "mtu", str(mtu))
        mute = "table ip mute { chain out { type filter hook output priority 0; icmp type 3 drop; }; }"
        self.router.run("nft", mute)

    def check(self, address: str, before: str = "") -> dict[str, Any]:
        found = json.loads(self.near.python(before + CHECK, address))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_peer_that_is_there_answers_at_full_size(world: World, address: str) -> None:
    found = world.check(address)
    assert found["sent"] == PINGS
    assert found["received"] >= PINGS - 1
    assert 0 < found["rtt_ms"] < 1000
    assert found["mtu"] == found["tunnel_mtu"] == 1500


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_came_while_the_check_waited_for_a_core_counts(world: World, address: str) -> None:
    found = world.check(address, LATE)
    assert found["received"] == PINGS
    assert found["mtu"] == found["tunnel_mtu"] == 1500


def test_a_narrow_hop_is_found_and_one_that_is_silent_is_said(world: World) -> None:
    """Last of all: it changes the world."""
    world.narrow(NARROW)
    for address in ADDRESSES:
        found = world.check(address)
        assert (found["mtu"], found["tunnel_mtu"]) == (1328, 1500)
    world.far.run("ip", "link", "set", "two", "down")
    assert world.check("10.2.0.2") == {
        "sent": PINGS, "received": 0, "rtt_ms": None, "tunnel_mtu": 1500, "mtu": None,
    }  # fmt: skip
