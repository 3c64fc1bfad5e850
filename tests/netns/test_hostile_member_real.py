"""A member that means harm, over the real mediator against a real agent: packets are counted where they would hurt.

laptop (honest) ── internet ── desktop, whose agent is gone: `hostilemember.py` has its keys and its tunnel
                      └─────── third, that nobody asked to take part: addresses of its own, and the forged ones

One lab for the whole file, and the tests run in order.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netctl.lab.internet import Lab, statuses_of
from netctl.lab.namespaces import Node
from netctl.lab.topology import PUBLIC, ROUTER
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.paths import constants as c
from tests.support.lablife import PARTY, connected_lab, pairs_by
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: open, members: [laptop]}
  work: {kind: open, members: [desktop]}
"""
BOTH = {("laptop", "desktop"), ("desktop", "laptop")}
HOSTILE = str(Path(__file__).with_name("hostilemember.py"))
THIRD = [PUBLIC[230 + number] for number in range(c.MAX_CANDIDATES)]
SPARE_PORT = 7777
"""Beside WireGuard's own: the filter knows that one."""
FORGED = 40000
"""The lowest port of forged sources."""
COUNTERS = """
table inet counted {{
  chain arriving {{
    type filter hook prerouting priority -400
    ip saddr {laptop} udp dport 51820 counter comment "offered"
    ip saddr {laptop} udp dport {forged}-65535 counter comment "forged"
    iifname {link} udp dport {{ 51820, {spare} }} counter comment "through the tunnel"
    iifname {link} udp sport 51820 counter comment "through the tunnel"
  }}
  chain deaf {{
    type filter hook input priority 0
    ip saddr {laptop} meta l4proto 17 {verdict}
  }}
}}
"""


class World:
    """The lab with the third party, and the hostile member once it has taken the place of the desktop's agent."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.laptop, self.desktop = lab.node("laptop"), lab.node("desktop")
        self.place = {box.members[0].name: str(box.members[0].address) for box in lab.topology.boxes}
        before = statuses_of(lab.network.members)
        self.engine = str(before["desktop"]["engine"])
        self.overlay = {
            name: sorted(
                address for network in status["networks"].values() for address in network["addresses"]
            )
            for name, status in before.items()
        }
        self.keys = {name: lab.document.members[name].wireguard for name in self.place}
        self.third = self._third()
        for node, verdict in ((self.third, "drop"), (self.desktop, "accept")):
            rules = COUNTERS.format(
                laptop=self.place["laptop"],
                link=WIREGUARD_LINK,
                spare=SPARE_PORT,
                forged=FORGED,
                verdict=verdict,
            )
            node.run(["nft", "-f", "-"], rules)
        self.hostile: subprocess.Popen[str] | None = None
        self.recorded: tuple[list[str], float] = [], 0.0
        """Pings of the hostile one, and when they were made."""

    def _third(self) -> Node:
        holder = self.lab.network.holder
        third = holder.add_node("third", "127.0.0.1\tlocalhost\n")
        holder.run(
            ["ip", "-batch", "-"],
            f"link add third type veth peer name wan netns {third.pid}\nlink set third master pub up\n",
        )
        lines = "".join(f"addr add {address}/{PUBLIC.prefixlen} dev wan\n" for address in THIRD)
        third.run(["ip", "-batch", "-"], f"{lines}link set wan up\nroute add default via {ROUTER}\n")
        return third

    def arrived(self, node: Node, what: str) -> int:
        """Packets counted there."""
        said = json.loads(node.run(["nft", "-j", "list", "table", "inet", "counted"]))["nftables"]
        rules = [entry["rule"] for entry in said if "rule" in entry]
        return sum(
            int(part["counter"]["packets"])
            for rule in rules
            for part in rule["expr"]
            if rule.get("comment") == what and "counter" in part
        )

    def take_over(self) -> None:
        """The desktop's agent ends, its tunnel and filter stay; then the filter goes too."""
        self.lab.stop("desktop")
        self.desktop.run(["nft", "delete", "table", "inet", "netctl"])
        self.hostile = self.desktop.popen([sys.executable, HOSTILE, str(self.keys["laptop"]), self.engine])
        assert self.hostile.stdout is not None
        assert self.hostile.stdout.readline() == "ready\n"

    def do(self, what: str, **words: Any) -> Any:
        """Have it do this; what it says of it."""
        assert self.hostile is not None
        assert self.hostile.stdin is not None
        assert self.hostile.stdout is not None
        self.hostile.stdin.write(json.dumps({"do": what, **words}) + "\n")
        self.hostile.stdin.flush()
        line = self.hostile.stdout.readline()
        assert line, f"it ended with {self.hostile.wait()}"
        return json.loads(line)

    def tried(self) -> str:
        """What the laptop knows of ways to the desktop."""
        return json.dumps(self._peer())

    def direct_at(self, place: str) -> bool:
        """Whether the laptop's path to the desktop goes there."""
        peer = self._peer()
        return bool(peer["path"] == "direct" and peer["endpoint"] == place)

    def endpoint(self) -> str:
        """Where the laptop's WireGuard sends what is for the desktop."""
        return self.laptop.run(["wg", "show", WIREGUARD_LINK, "endpoints"]).split()[-1]

    def _peer(self) -> Any:
        (peer,) = statuses_of({"laptop": self.laptop})["laptop"]["peers"]
        return peer


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with connected_lab(PARTY, NATS) as lab:
        wait_for("both are direct", lambda: set(pairs_by(lab, "direct")) == BOTH)
        world = World(lab)
        world.take_over()
        world.recorded = world.do("make", count=100), time.monotonic()
        yield world
        print(lab.log("laptop", 40))
        if world.hostile is not None:
            world.hostile.kill()
            world.hostile.communicate()


def test_overlay_addresses_are_no_way_whoever_offers_them_and_answers_there(world: World) -> None:
    """It listens there, pings from there through the tunnel, and offers it: nothing of the laptop's goes in."""
    own, theirs = world.overlay["desktop"], world.overlay["laptop"]
    before = world.arrived(world.desktop, "through the tunnel")
    for host, other in zip(own, theirs, strict=True):
        world.do("serve", host=host, port=SPARE_PORT, to=_at(other, 51820))
    true = _at(world.place["desktop"], 51820)
    offered = [_at(host, port) for host in own for port in (51820, SPARE_PORT)]
    world.do("offer", candidates=[*offered, true, _at(str(THIRD[0]), 51820)], times=3, every_s=0.2)
    wait_for("the other candidate of the offer is asked", lambda: world.arrived(world.third, "offered") >= 4)
    # While nobody answered for the desktop, the path may have been the relay, whose other end is gone.
    wait_for("the path is the true one", lambda: world.direct_at(true))
    wait_for(
        "the tunnel carries", lambda: world.laptop.attempt(["ping", "-c1", "-W2", own[0]]).returncode == 0
    )
    assert world.arrived(world.desktop, "through the tunnel") == before
    assert not [host for host in own if _at(host, 51820)[:-5] in world.tried()]
    wait_for("WireGuard sends to the true place", lambda: world.endpoint() == true)


def test_a_hundred_offers_are_no_flood_for_whom_they_name(world: World) -> None:
    began, before = time.monotonic(), world.arrived(world.third, "offered")
    hosts = [_at(str(host), 51820) for host in THIRD]
    world.do("offer", candidates=hosts, times=100, every_s=0.02)
    wait_for("they were asked", lambda: world.arrived(world.third, "offered") - before >= len(hosts))
    time.sleep(c.PUNCH_OFFSETS[-1])
    got = world.arrived(world.third, "offered") - before
    allowed = c.UNPROVEN_BURST + c.UNPROVEN_RATE * (time.monotonic() - began)
    print(f"100 offers of {len(hosts)} addresses: {got} datagrams, of {allowed:.0f} allowed")
    assert len(hosts) <= got <= allowed


def test_a_recorded_probe_from_a_forged_source_makes_no_packet(world: World) -> None:
    """Recorded, then a later one is heard; the record comes from addresses that somebody is to be flooded at."""
    recorded, since = world.recorded
    time.sleep(max(0.0, since + c.PING_LATE_US / 1e6 - time.monotonic()))
    target = _at(world.place["laptop"], 51820)
    world.do(
        "forge", datagrams=world.do("make", count=1), sources=[_at(world.place["desktop"], 999)], to=target
    )
    wait_for("the one of now is taken", lambda: ":999" in world.tried())
    quiet = settled(world)
    forged = [_at(str(host), FORGED + number) for number in range(8) for host in THIRD]
    world.do("forge", datagrams=recorded, sources=forged, to=target)
    assert settled(world) == quiet
    assert f":{FORGED}" not in world.tried()
    # Whoever has the key makes new ones: then it is a budget that bounds them.
    began = time.monotonic()
    world.do("forge", datagrams=world.do("make", count=300), sources=forged, to=target)
    wait_for("some are answered", lambda: world.arrived(world.third, "forged") > quiet)
    got = settled(world) - quiet
    allowed = c.HEARD_BURST + c.HEARD_RATE * (time.monotonic() - began)
    print(f"300 new pings from {len(forged)} forged sources: {got} datagrams, of {allowed:.0f} allowed")
    assert 0 < got <= allowed


def settled(world: World) -> int:
    """What came to forged sources, once nothing more does for two seconds."""
    got = -1
    while got != (got := world.arrived(world.third, "forged")):
        time.sleep(2.0)
    return got


def test_the_honest_member_is_reached_directly_afterwards(world: World) -> None:
    assert world.hostile is not None
    world.hostile.communicate()  # it ends with its input; while it is logged in, the desktop's own agent waits
    world.lab.start_agent("desktop")
    wait_for("both are direct", lambda: set(pairs_by(world.lab, "direct")) == BOTH)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
