"""Stock WireGuard apps at a relay apart: real apps, real agents, and the mediator's or the relay's machine goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from netctl.lab.internet import DOCUMENT_PATH, STATE_PATH, Lab, program, status_of
from netctl.lab.namespaces import Node
from netctl.lab.probes import host_name, ping
from netctl.lab.topology import PUBLIC, ROUTER
from tests.netns.test_relay_apart_real import HARD, RELAY
from tests.netns.test_stock_app import behind_nats
from tests.support.lablife import PARTY, connected_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

R1 = "r1.example.net"
APPS = ("phone", "tablet")


def on_the_internet(lab: Lab, name: str) -> Node:
    """A machine with a public address, and nothing of ours."""
    holder = lab.network.holder
    node = holder.add_node(
        name, "".join(f"{place.address}\t{mediator.host}\n" for mediator, place in lab.topology.mediators)
    )
    holder.run(
        ["ip", "-batch", "-"],
        f"link add q9 type veth peer name eth0 netns {node.pid}\nlink set q9 master pub up\n",
    )
    lines = f"addr add {PUBLIC[245]}/{PUBLIC.prefixlen} dev eth0\nlink set eth0 up\nroute add default via {ROUTER}\n"
    node.run(["ip", "-batch", "-"], lines)
    return node


@dataclass
class World:
    lab: Lab
    apps: dict[str, Node]
    plain: str
    """The document without apps."""
    keys: dict[str, str]

    def give(self, relays: dict[str, str]) -> None:
        """The document with the apps to everybody; `relays`: what it names for each."""
        lines = "members:\n"
        for name in APPS:
            where = f", relay: {relays[name]}" if name in relays else ""
            lines += f'  {name}: {{wireguard: "{self.keys[name]}"{where}}}\n'
        text = self.plain.replace("members:\n", lines, 1)
        hosts = [self.lab.node("mediator"), self.lab.node("mediator2"), *self.lab.network.members.values()]
        for node in hosts:
            node.write(DOCUMENT_PATH, text)
        for name in self.lab.network.members:
            self.lab.apply(name)

    def mediator(self, *words: str) -> Any:
        return json.loads(self.lab.node("mediator").run([*words, "-o", "json"]))

    def status(self) -> Any:
        return self.mediator(program("netctl-mediator"), "status", "--state", STATE_PATH)

    def exported(self, app: str) -> dict[str, str]:
        """The host that its configuration names for each peer."""
        words = [program("netctl"), "export", "--mediator-state", STATE_PATH, "--wg", app]
        return {peer["name"]: peer["endpoint"].rpartition(":")[0] for peer in self.mediator(*words)["peers"]}

    def bring_up(self, app: str) -> None:
        """Import the present configuration into the app."""
        words = [program("netctl"), "export", "--mediator-state", STATE_PATH, "--wg", app]
        config = self.lab.node("mediator").run([*words, "--private-key", f"/run/{app}.key"])
        node, path = self.apps[app], f"/run/{app}.conf"
        node.attempt(["wg-quick", "down", path])
        node.write(path, config)
        node.run(["chmod", "600", path])
        node.run(["wg-quick", "up", path])

    def reaches(self, app: str, member: str) -> bool:
        """Both ways."""
        rows = self.mediator(program("netctl"), "members", "--mediator-state", STATE_PATH)
        (address,) = (row["networks"]["party"][0] for row in rows if row["name"] == member)
        back = ping(self.lab.node(member), host_name(app, "party")) if member not in APPS else 0.0
        return ping(self.apps[app], address) is not None and back is not None

    def path(self, member: str, app: str) -> dict[str, Any]:
        (row,) = (peer for peer in status_of(self.lab.node(member))["peers"] if peer["name"] == app)
        assert isinstance(row, dict)
        return row

    def at(self, machine: str, member: str, app: str) -> bool:
        """Whether the member meets the app at the relay of this machine."""
        address = next(str(node.address) for _, node in self.lab.topology.mediators if node.name == machine)
        row = self.path(member, app)
        return row["path"] == "relay-udp" and str(row["endpoint"]).startswith(f"{address}:")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with connected_lab(PARTY.replace("\nmembers:\n", RELAY, 1), HARD) as lab:
        mediator, keys = lab.node("mediator"), {}
        for name in APPS:
            made = mediator.run([program("netctl"), "export", "--wg", name, "--new-key", f"/run/{name}.key"])
            keys[name] = re.findall(r'"([A-Za-z0-9+/]{43}=)"', made)[0]
        apps = {"phone": behind_nats(lab), "tablet": on_the_internet(lab, "tablet")}
        world = World(lab, apps, mediator.run(["cat", DOCUMENT_PATH]), keys)
        world.give({"phone": R1})
        yield world


def test_the_relay_registers_and_the_export_names_it(world: World) -> None:
    wait_for("the relay has registered", lambda: world.status()["relays"][0]["registered"])
    wait_for("the mediator has the apps", lambda: len(world.exported("phone")) == 3)
    assert set(world.exported("phone").values()) == {R1}
    assert world.exported("tablet") == {
        "laptop": "m1.example.net",
        "desktop": "m1.example.net",
        "phone": R1,
    }, "two apps meet at the relay that the document names for one of them"
    assert world.status()["relays"][0]["relay"] == f"{R1}:8443"


def test_apps_and_members_meet_where_the_export_says(world: World) -> None:
    for app in APPS:
        world.bring_up(app)
    for app, member in (("phone", "laptop"), ("phone", "desktop"), ("tablet", "laptop"), ("phone", "tablet")):
        wait_for(f"{app} and {member} reach each other", partial(world.reaches, app, member))
    assert world.at("mediator2", "laptop", "phone")
    assert world.at("mediator", "laptop", "tablet")


def test_the_phone_does_not_notice_that_the_mediators_machine_is_gone(world: World) -> None:
    laptop, desktop = (world.lab.node(name) for name in ("laptop", "desktop"))
    link = world.lab.node("mediator")
    link.run(["ip", "link", "set", "eth0", "down"])
    try:
        wait_for("the tablet is lost", lambda: world.path("laptop", "tablet")["path"] == "none")
        for node in (laptop, desktop):
            assert ping(node, host_name("phone", "party")) is not None
    finally:
        link.run(["ip", "link", "set", "eth0", "up"])
        link.attempt(["ip", "route", "replace", "default", "via", str(ROUTER)])


def test_when_the_relay_dies_another_configuration_brings_the_phone_back(world: World) -> None:
    wait_for("the tablet is back", lambda: world.reaches("tablet", "laptop"))
    world.lab.stop("mediator2")
    wait_for("the phone is lost", lambda: world.path("laptop", "phone")["path"] == "none")
    world.give({})
    wait_for(
        "the export names another relay", lambda: set(world.exported("phone").values()) == {"m1.example.net"}
    )
    world.bring_up("phone")
    for member in ("laptop", "desktop"):
        wait_for(f"the phone and {member} reach each other", partial(world.reaches, "phone", member))
    assert world.at("mediator", "laptop", "phone")
