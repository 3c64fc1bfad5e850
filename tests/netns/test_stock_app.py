"""A machine with Debian's wireguard-go and wg-quick, the exported file and nothing of ours: it reaches everybody."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from netctl.lab.internet import DOCUMENT_PATH, STATE_PATH, Lab, program, status_of
from netctl.lab.namespaces import Node
from netctl.lab.nat import NatKind, ruleset
from netctl.lab.probes import host_name, ping
from netctl.lab.topology import PUBLIC, ROUTER
from tests.netns.roaming import pings
from tests.support.lablife import EXAMPLE, connected_lab, everybody_connected, mediator_states
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: symmetric-random, members: [laptop, console]}
  work: {kind: port-restricted, members: [desktop]}
  vps: {kind: open, members: [nas]}
"""
PHONE = "phone"
CONFIG = "/run/phone.conf"
KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("nothing")
"""


@dataclass(frozen=True)
class World:
    lab: Lab
    phone: Node
    exported: dict[str, Any]

    def export(self, *words: str) -> str:
        mediator = self.lab.node("mediator")
        return mediator.run(
            [program("netctl"), "export", "--mediator-state", STATE_PATH, "--wg", PHONE, *words]
        )

    def reaches(self) -> list[str]:
        """The members' addresses that do not answer the phone."""
        return [where for where in self.addresses() if ping(self.phone, where) is None]

    def addresses(self) -> list[str]:
        allowed = (prefix for peer in self.exported["peers"] for prefix in peer["allowed"])
        return [prefix.partition("/")[0] for prefix in allowed]

    def reached(self) -> list[str]:
        """The members that do not reach the phone by its name."""
        members = self.lab.network.members.items()
        return [name for name, node in members if ping(node, host_name(PHONE, "lan-party")) is None]

    def move(self, old: str, new: str, gateway: str) -> None:
        """To another NAT, as a phone goes from the house to the street."""
        lines = f"link set {old} down\nlink set {new} up\nroute replace default via {gateway}\n"
        self.phone.run(["ip", "-batch", "-"], lines)

    def seen(self, name: str = "nas") -> dict[str, Any]:
        """The phone as a member's status has it."""
        (row,) = (peer for peer in status_of(self.lab.node(name))["peers"] if peer["name"] == PHONE)
        assert isinstance(row, dict)
        return row


def behind_nats(lab: Lab) -> Node:
    """The phone, with two ways into the internet, each through a NAT of its own; the first one is used."""
    holder = lab.network.holder
    hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n" + "".join(
        f"{place.address}\t{mediator.host}\n" for mediator, place in lab.topology.mediators
    )
    phone = holder.add_node(PHONE, hosts)
    for index, name in enumerate(("wifi", "mobile")):
        box, lan, wan = holder.add_node(name, hosts), f"192.168.{201 + index}", PUBLIC[240 + index]
        holder.run(
            ["ip", "-batch", "-"],
            f"link add q{index} type veth peer name wan netns {box.pid}\nlink set q{index} master pub up\n",
        )
        box.run(
            ["ip", "-batch", "-"],
            f"addr add {wan}/{PUBLIC.prefixlen} dev wan\nlink set wan up\nroute add default via {ROUTER}\n"
            f"link add lan type veth peer name eth{index} netns {phone.pid}\n"
            f"addr add {lan}.1/24 dev lan\nlink set lan up\n",
        )
        box.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        box.run(["nft", "-f", "-"], ruleset(NatKind.SYMMETRIC_RANDOM, wan))
        phone.run(["ip", "-batch", "-"], f"addr add {lan}.10/24 dev eth{index}\nlink set eth{index} up\n")
    phone.run(["ip", "route", "add", "default", "via", "192.168.201.1"])
    return phone


def document_with_phone(text: str, public: str) -> str:
    line = f'members:\n  {PHONE}: {{wireguard: "{public}", groups: [gamers]}}\n'
    return text.replace("members:\n", line, 1)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with connected_lab(EXAMPLE, NATS) as lab:
        mediator = lab.node("mediator")
        made = mediator.run([program("netctl"), "export", "--wg", PHONE, "--new-key", "/run/phone.key"])
        public = re.findall(r'"([A-Za-z0-9+/]{43}=)"', made)[0]
        text = document_with_phone(mediator.run(["cat", DOCUMENT_PATH]), public)
        for node in [mediator, *lab.network.members.values()]:
            node.write(DOCUMENT_PATH, text)
        for name in lab.network.members:
            lab.apply(name)
        phone = behind_nats(lab)
        world = World(lab, phone, {})
        wait_for("the mediator has the new document", lambda: PHONE in _members(mediator))
        world = World(lab, phone, json.loads(world.export("-o", "json")))
        phone.write(CONFIG, world.export("--private-key", "/run/phone.key"))
        phone.run(["chmod", "600", CONFIG])
        phone.run(["wg-quick", "up", CONFIG])
        yield world


def _members(mediator: Node) -> str:
    return mediator.run([program("netctl"), "members", "--mediator-state", STATE_PATH])


def test_it_reaches_everybody_and_everybody_reaches_it(world: World) -> None:
    assert {peer["name"] for peer in world.exported["peers"]} == set(world.lab.network.members)
    assert len(world.addresses()) >= 2 * len(world.lab.network.members)
    wait_for("everybody answers the phone", lambda: not world.reaches())
    wait_for("the phone answers everybody", lambda: not world.reached())
    wait_for("it is online", lambda: world.seen()["online"])
    row = world.seen()
    assert row["path"] == "relay-udp"
    endpoints = {peer["name"]: int(peer["endpoint"].rpartition(":")[2]) for peer in world.exported["peers"]}
    assert row["endpoint"].endswith(f":{endpoints['nas']}")


def test_the_mediator_says_what_it_sent(world: World) -> None:
    status = [program("netctl-mediator"), "status", "--state", STATE_PATH]
    told = json.loads(world.lab.node("mediator").run([*status, "-o", "json"]))
    (port,) = (port for port, name in told["relay_ports"].items() if name == PHONE)
    (row,) = (row for row in told["relay"]["accounts"] if row["port"] == int(port))
    assert min(row["sent"], row["received"]) > 1000
    heard = [side["at"] for pair in told["relay"]["pairs"] for side in pair["sides"] if side["stock"]]
    assert len(heard) == len(world.lab.network.members)
    assert None not in heard
    assert "stock apps heard: 4 of 4 pairs" in world.lab.node("mediator").run(status)


def test_the_acls_hold_for_it(world: World) -> None:
    members = json.loads(
        world.lab.node("mediator").run(
            [program("netctl"), "members", "--mediator-state", STATE_PATH, "-o", "json"]
        )
    )
    (nas,) = (row["networks"] for row in members if row["name"] == "nas")
    knock = [sys.executable, "-c", KNOCK]
    assert world.phone.run([*knock, nas["lan-party"][0], "22", "60"]).strip() == "refused"
    assert world.phone.run([*knock, nas["office"][0], "22", "3"]).strip() == "nothing"


def test_it_moves_and_is_reached_again(world: World) -> None:
    world.move("eth0", "eth1", "192.168.202.1")
    with pings(world.lab, "nas", host_name(PHONE, "lan-party")) as heard:
        wait_for("the members reach it where it is now", lambda: not world.reached())
        time.sleep(3)  # and some more pings: few may have gone so far
    assert heard.answers, "its keepalive alone tells where it is"
    assert world.reaches() == []
    world.move("eth1", "eth0", "192.168.201.1")
    assert world.reaches() == [], "what it sends itself is answered where it is, from the first packet on"
    assert world.reached() == []


def test_the_relay_goes_on_without_the_mediator(world: World) -> None:
    lab = world.lab
    with pings(lab, "laptop", host_name(PHONE, "lan-party")) as heard:
        lab.stop("mediator", signal.SIGKILL)
        wait_for(
            "everybody notices that the mediator is gone",
            lambda: all(state != "connected" for state in mediator_states(lab).values()),
        )
        assert not world.reaches()
        lab.start_mediator()
        wait_for("everybody returns", lambda: everybody_connected(lab))
    assert heard.lost <= 1
    assert json.loads(world.export("-o", "json")) == world.exported, "ports and addresses are kept"
