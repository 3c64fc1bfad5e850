"""Members with IPv4, IPv6, both, and IPv6 that leads nowhere, in one lab: whoever shares a family is direct."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest

from netctl.lab.families import Family, meetings, standing
from netctl.lab.internet import LOG_PATH, status_of
from netctl.lab.namespaces import Node, check_machine
from netctl.lab.translator import PREFIX
from netctl.model.errors import LocalError
from tests.support.patience import wait_for

FOUND_DEAD_S = 15.0
pytestmark = [pytest.mark.netns, pytest.mark.lab]


def _why(node: Node, one: str, other: str) -> str:
    return node.attempt(["netctl", "why", one, other]).stdout


def _a_vpn_that_takes_every_way_out(node: Node) -> None:
    """As wg-quick with 0.0.0.0/0 sets it, to a server that is dead: the control connection finds out in seconds."""
    up = "ip tuntap add vpn mode tun; ip link set vpn up"
    both = "; ".join(
        f"ip -{family} route add default dev vpn table 51820; ip -{family} rule add not fwmark 51820 table 51820"
        for family in (4, 6)
    )
    node.run(["sh", "-ec", f"{up}; {both}"])
    began = time.monotonic()
    wait_for("the control connection is found dead", lambda: _mediator(node) == "unreachable")
    took = time.monotonic() - began - float(status_of(node)["mediator"]["since_s"])
    print(f"found dead after {took:.1f} s")
    assert took < FOUND_DEAD_S, "it was 50 s"
    node.run(["sh", "-ec", "for f in 4 6; do ip -$f rule del table 51820; done; ip link del vpn"])
    took = wait_for("the control connection is back", lambda: _mediator(node) == "connected")
    print(f"back after {took:.1f} s")


def _mediator(node: Node) -> str:
    return str(status_of(node)["mediator"]["state"])


def test_every_pair_with_a_family_in_common_is_direct(tmp_path: Path) -> None:
    """Also an IPv4 host and a dual-stack one that logged in by IPv6: each asks its outside in both families."""
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))
    families = list(Family)
    with standing(tmp_path, families, Family.BOTH, twice=False) as (lab, began):
        found = meetings(lab, began, families, Family.BOTH, twice=False)
        for meeting in found:
            print(meeting)
        assert len(found) == 10
        assert not [meeting for meeting in found if meeting.seconds is None]

        # The control connection took IPv6 where there is any that works, and the dead one cost 300 ms at most.
        tcp = lab.node("both-a").run(["cat", "/proc/net/tcp6"])
        assert re.search(r":20FB 01 ", tcp), "the dual-stack member is logged in by IPv6"
        broken = lab.node("ipv6-broken-a")
        assert status_of(broken)["mediator"]["state"] == "connected"
        assert "no mediator" not in broken.run(["cat", LOG_PATH])

        _a_vpn_that_takes_every_way_out(lab.node("both-a"))

        # One that has no family in common is said to be so, and nothing is said of UDP that would be blocked.
        why = partial(_why, lab.node("ipv4-a"), "ipv4-a", "ipv6-a")
        wait_for("the relay carries it", lambda: "relay-udp" in why())
        text = why()
        assert "UDP" not in text.replace("relay-udp", "")


def _says(node: Node, line: str) -> bool:
    return line in node.attempt(["netctl", "doctor"]).stdout


def test_behind_a_nat64_ipv4_servers_and_peers_are_reached(tmp_path: Path) -> None:
    """One member has the mediator's IPv4 address alone, the other what a DNS64 makes of it."""
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))
    families = [Family.IPV4, Family.NAT64]
    with standing(tmp_path, families, Family.IPV4) as (lab, began):
        found = meetings(lab, began, families, Family.IPV4)
        for meeting in found:
            print(meeting)
        assert len(found) == 3
        assert not [meeting for meeting in found if meeting.seconds is None]
        for name in ("nat64-a", "nat64-b"):
            for line in (
                f"no IPv4 in this network: it is reached by NAT64 behind {PREFIX}",
                "IPv4: UDP works, seen from outside as 203.0.113.",
                "address and port-dependent: answers",  # asked from a socket beside the port
            ):
                wait_for(line, partial(_says, lab.node(name), line))
            log = lab.node(name).run(["cat", LOG_PATH])
            assert "ipv4-a: relay-udp at 203.0.113.10:" in log or "ipv4-b: relay-udp at 203.0.113.10:" in log
        ours = lab.node("nat64-a").run(["wg", "show", "nctl0", "endpoints"])
        assert str(PREFIX.network_address) in ours, "the engine sends to what is behind the prefix"
        assert "203.0.113." not in ours
