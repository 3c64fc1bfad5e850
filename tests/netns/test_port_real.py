"""A port that is not as good as others: two members share it behind one router, or a NAT holds on to a dead flow."""

from __future__ import annotations

import re
import time

import pytest

from netctl.lab.internet import Lab, in_parallel, status_of
from netctl.lab.pinging import pinged
from netctl.lab.probes import host_name
from netctl.lab.rebind import forget_flows, move_wan
from tests.netns.roaming import pings
from tests.support.lablife import LATE_S, PARTY, PING_EVERY_S, connected_lab, pairs_by, raised_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]
BOTH = {("laptop", "desktop"), ("desktop", "laptop")}
NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""
THREE = PARTY.replace(
    "networks:",
    """  phone:
    wireguard: "G0yXK6WGaSiM3MwG7SMtTG3V4qBczyJGKvGtxRBZBlA="
    identity: "ed25519:0EqyMv+VwXqfoQeP3VNu+dxQTiYXX7qxhOBWgYfMM44="
networks:""",
)
ONE_ROUTER = """
nats:
  home: {kind: port-restricted, members: [laptop, phone]}
  work: {kind: port-restricted, members: [desktop]}
"""
BACK_S = 60.0
"""A path is dead after 3 s, STUN after 6 more; then a round on the new port: 17 s on a busy machine."""


SLOW = """
table ip slow {{
  chain f {{
    type filter hook forward priority -200
    iifname "lan" ip saddr {laptop} ip daddr {desktop} meta l4proto 17 drop
  }}
}}
"""
USUAL_PORT = 51820
PINGS = 80
"""Four seconds of them: each member has its port by then."""
SLOW_S = 15.0
"""A ping of an idle path, and some."""


def _port(lab: Lab, name: str) -> int:
    return int(lab.node(name).run(["wg", "show", "nctl0", "listen-port"]))


def _doctor(lab: Lab, name: str) -> str:
    return lab.node(name).attempt(["netctl", "doctor"]).stdout


def test_a_nat_that_holds_on_to_a_dead_flow_gets_another_port() -> None:
    with connected_lab(PARTY, NATS) as lab:
        wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
        before = _port(lab, "laptop")
        box = next(box for box in lab.topology.boxes if box.name == "home")
        with pings(lab, "laptop", host_name("desktop", "party")) as heard:
            time.sleep(2)
            move_wan(lab.node("home"), box, box.wan + 50, forget=False)
            began = time.monotonic()
            wait_for("another port", lambda: _port(lab, "laptop") != before)
            other = time.monotonic() - began
            wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
            took = time.monotonic() - began
            time.sleep(1)
        print(
            f"dead flow: silent {heard.longest_s:.1f} s, another port after {other:.1f} s, direct after {took:.1f} s"
        )
        assert took <= BACK_S
        assert "UDP is blocked" not in "\n".join(status_of(lab.node("laptop"))["conditions"])
        assert f"this host uses UDP port {_port(lab, 'laptop')}" in _doctor(lab, "laptop")

        # An agent that begins anew keeps it.
        port = _port(lab, "laptop")
        lab.stop("laptop")
        lab.start_agent("laptop")
        wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
        assert _port(lab, "laptop") == port
        lab.apply("laptop")
        assert _port(lab, "laptop") == port


def test_two_members_on_one_port_behind_one_router() -> None:
    with connected_lab(THREE, ONE_ROUTER) as lab:
        ends = [("desktop", "laptop"), ("laptop", "desktop"), ("desktop", "phone"), ("phone", "desktop")]

        def direct() -> bool:
            return set(ends) <= set(pairs_by(lab, "direct"))

        wait_for("all are direct", direct)
        home = lab.node("home")
        places = {box.members[0].name: box for box in lab.topology.boxes}
        for turn in range(2):
            # The router forgets, and the phone is the first to call the desktop: it gets the laptop's port there.
            rule = SLOW.format(laptop=places["laptop"].members[0].address, desktop=places["desktop"].wan)
            home.run(["nft", "-f", "-"], rule)
            forget_flows(home)
            time.sleep(SLOW_S)
            home.run(["nft", "delete", "table", "ip", "slow"])
            took = wait_for("all are direct", direct)
            ports = {name: _port(lab, name) for name in ("laptop", "phone")}
            print(f"turn {turn}: all direct after {took:.1f} s, ports {ports}")
            assert took <= BACK_S
        doctors = [_doctor(lab, name) for name in ("laptop", "phone")]
        ours = [text for text in doctors if "this host uses UDP port" in text]
        assert len(ours) == len({51820, *ports.values()}) - 1


def _lost_since_the_first_answer(said: str) -> int:
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", said)}
    return max(answered) - min(answered) + 1 - len(answered) if answered else PINGS


def test_two_members_behind_one_router_lose_nothing_in_their_first_seconds() -> None:
    """One of them leaves the port that both have before any peer knows it; every tunnel holds from its first packet."""
    with raised_lab(THREE, ONE_ROUTER) as lab:
        names = list(lab.topology.members)
        pairs = [(one, other) for one in names for other in names if one != other]

        def lost(pair: tuple[str, str]) -> int:
            node, target = lab.node(pair[0]), host_name(pair[1], "party")
            found = pinged(
                lambda argv: node.attempt(argv).stdout, target, PINGS, interval_s=PING_EVERY_S, wait_s=LATE_S
            )
            return _lost_since_the_first_answer(found.said)

        found = dict(zip(pairs, in_parallel(lost, pairs, at_once=len(pairs)), strict=True))
        ports = {name: _port(lab, name) for name in ("laptop", "phone")}
        assert len(set(ports.values())) == len(ports), ports
        for name in [name for name, port in ports.items() if port != USUAL_PORT]:
            said = lab.log(name, 60)
            left = said.index(f"another UDP port in the place of {USUAL_PORT}: another host")
            assert left < said.index(" at "), f"{name} had a path by the port that it left: {said}"
        assert not any(found.values()), found
