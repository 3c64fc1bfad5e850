"""Joining by invite with real programs: a mediator, a host with the document, hosts with nothing but a string."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

BIN = Path(sys.executable).parent
NETCTL, MEDIATOR = str(BIN / "netctl"), str(BIN / "netctl-mediator")
MEDIATOR_ADDRESS = "192.0.2.1"
DOCUMENT = """# who and where
apiVersion: netctl/v1
mediators:
  - url: netctl://192.0.2.1:8443
    identity: ["{pin}"]
members:
{home}  # the one with the document
networks:
  lan:
    mode: lan
    ipv4: 10.50.0.0/24
    members: [home]
    join: {{invites: true}}
  strict:
    mode: routed
    ipv4: 10.51.0.0/29
    members: [home]
    join: {{invites: true, approve: manual}}
"""


class World:
    """One mediator in the middle, and hosts around it that reach each other through it."""

    def __init__(self) -> None:
        self.mediator = Host("mediator")
        self.hosts: dict[str, Host] = {}
        self.mediator.run("ip", "addr", "add", f"{MEDIATOR_ADDRESS}/32", "dev", "lo")
        self.mediator.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        said = self.mediator.run(MEDIATOR, "init", "--host", MEDIATOR_ADDRESS)
        self.pin = said.split('["')[1].split('"]')[0]
        home = self.add("home")
        line = home.run(NETCTL, "keys", "init", "--name", "home").splitlines()
        self.text = DOCUMENT.format(pin=self.pin, home=next(text for text in line if "wireguard" in text))
        for host in (self.mediator, home):
            host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=self.text)
        self.serve()

    def serve(self) -> None:
        self.process = self.mediator.start(MEDIATOR, "serve")
        wait_for("it serves", lambda: "error" not in self.mediator.run(NETCTL, "members", check=False))

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()  # its relay lives on and has the other end

    def add(self, name: str) -> Host:
        host = Host(name)
        number = len(self.hosts) + 1
        join(self.mediator, host, f"198.51.{number}.1/24", f"198.51.{number}.2/24", link=f"w{number}")
        host.run("ip", "route", "add", "default", "via", f"198.51.{number}.1")
        self.hosts[name] = host
        return host

    def invite(self, *argv: str) -> str:
        done = json.loads(self.mediator.run(NETCTL, "invite", *argv, "-o", "json"))
        return str(done["invite"])

    def members(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self.mediator.run(NETCTL, "members", "-o", "json"))}

    def status(self, name: str) -> dict[str, Any]:
        answer = json.loads(self.hosts[name].run(NETCTL, "status", "-o", "json"))
        assert isinstance(answer, dict)
        return answer

    def peer(self, name: str, other: str) -> dict[str, Any] | None:
        return next((peer for peer in self.status(name)["peers"] if peer["name"] == other), None)

    def pings(self, name: str, target: str) -> bool:
        said = self.hosts[name].run("ping", "-n", "-c", "1", "-W", "1", target, check=False)
        return "1 received" in said

    def configured(self, name: str) -> str:
        return self.hosts[name].run("wg", "show", "nctl0", "peers", check=False)

    def close(self) -> None:
        self.kill()
        for host in [*self.hosts.values(), self.mediator]:
            host.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.hosts["home"].run(NETCTL, "up")
        yield world
    finally:
        world.close()


def test_with_one_string_a_machine_is_on_the_lan(world: World) -> None:
    string = world.invite("lan")
    newbie = world.add("newbie")
    said = newbie.run(NETCTL, "join", string, "--name", "newbie")
    assert "newbie is on lan: 10.50.0." in said
    wait_for("home answers by name", lambda: world.pings("newbie", "home.lan.netctl"))
    wait_for("and the other way round", lambda: world.pings("home", "newbie.lan.netctl"))
    row = world.members()["newbie"]
    assert (row["from"], row["state"]) == ("invite", "online")
    wait_for("home has nothing to say", lambda: world.status("home")["conditions"] == [])
    again = newbie.run(NETCTL, "join", string, "--name", "newbie")
    assert "newbie is on lan" in again
    (invite,) = json.loads(world.mediator.run(NETCTL, "invite", "list", "-o", "json"))
    assert (invite["used"], invite["state"]) == (1, "used up")


def test_another_machine_cannot_use_it_again(world: World) -> None:
    late = world.add("late")
    string = world.invite("lan", "--expires", "1h")
    world.mediator.run(
        NETCTL,
        "invite",
        "revoke",
        json.loads(world.mediator.run(NETCTL, "invite", "list", "-o", "json"))[-1]["id"],
    )
    said = late.run(NETCTL, "join", string, check=False)
    assert "revoked" in said
    assert "ask for another" in said
    assert "Traceback" not in said


FORTY = """
import asyncio, sys
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from netctl.agent.mediators.enrolclient import enrol
from netctl.agent.storage.keyfiles import Keys
from netctl.model.errors import RemoteError
from netctl.wire.invite import parse_invite

invite = parse_invite(sys.argv[1])

async def one(number):
    try:
        keys = Keys(X25519PrivateKey.generate(), Ed25519PrivateKey.generate())
        answer = await enrol(keys, invite, "many", exact=False)
    except RemoteError as error:
        return error.code
    return answer.name

async def main():
    print(*await asyncio.gather(*(one(number) for number in range(40))))

asyncio.run(main())
"""
"""Forty hosts over forty TLS connections at once."""


def test_of_forty_machines_at_once_as_many_come_in_as_there_are_uses(world: World) -> None:
    crowd = world.add("crowd")  # so many refusals get an address banned: not that of the others
    said = crowd.python(FORTY, world.invite("lan", "--uses", "7")).split()
    names = [word for word in said if word.startswith("many")]
    assert len(names) == len(set(names)) == 7, said
    assert said.count("invite.used-up") == 33
    rows = [world.members()[name] for name in names]
    assert len({row["networks"]["lan"][0] for row in rows}) == 7
    for name in names:
        world.mediator.run(NETCTL, "members", "revoke", name)


def test_who_needs_approval_waits_for_it(world: World) -> None:
    late = world.hosts["late"]
    string = world.invite("strict")
    said = late.run(NETCTL, "join", string, "--name", "late")
    assert "waits until the operator lets it into strict" in said
    wait_for("it is seen waiting", lambda: world.members()["late"]["state"] == "pending")
    assert any("members approve" in text for text in world.status("late")["conditions"])
    assert "late" in world.mediator.run(NETCTL, "members", "pending")
    world.mediator.run(NETCTL, "members", "approve", "late")
    wait_for("it is in", lambda: bool(world.status("late")["networks"].get("strict", {}).get("addresses")))
    wait_for("home answers", lambda: world.pings("late", "home.strict.netctl"))
    assert world.peer("newbie", "late") is None, "each sees its own network alone"


def test_a_killed_mediator_knows_everybody_again(world: World) -> None:
    before = {name: row["networks"] for name, row in world.members().items()}
    world.kill()
    world.serve()
    wait_for(
        "everybody is back",
        lambda: all(row["state"] in ("online", "revoked") for row in world.members().values()),
    )
    assert {name: row["networks"] for name, row in world.members().items()} == before


def test_new_keys_keep_name_and_address(world: World) -> None:
    before = world.members()["newbie"]
    said = world.hosts["newbie"].run(NETCTL, "keys", "rotate")
    assert "this host has new keys" in said
    wait_for("it is back", lambda: world.members()["newbie"]["state"] == "online")
    after = world.members()["newbie"]
    assert after["wireguard"] != before["wireguard"]
    assert after["networks"]["lan"][0] == before["networks"]["lan"][0]
    wait_for("home answers", lambda: world.pings("newbie", "home.lan.netctl"))
    wait_for("home has no tunnel to the old one", lambda: before["wireguard"] not in world.configured("home"))


def test_who_leaves_is_gone_on_both_sides(world: World) -> None:
    late = world.hosts["late"]
    row = world.members()["late"]
    key = row["wireguard"]
    said = late.run(NETCTL, "leave")
    assert "has left" in said
    wait_for("the mediator has forgotten it", lambda: "late" not in world.members())
    wait_for("home has no tunnel to it", lambda: key not in world.configured("home"))
    assert "nctl0" not in late.run("ip", "link")
    late.run(NETCTL, "join", world.invite("strict", "--name", "late"))
    world.mediator.run(NETCTL, "members", "approve", "late")
    wait_for("its address is kept for it", lambda: world.members()["late"]["networks"] == row["networks"])
    again = world.members()["late"]["wireguard"]
    wait_for("home has a tunnel to it", lambda: again in world.configured("home"))


def test_exported_it_is_what_it_was(world: World) -> None:
    before = {name: row["networks"] for name, row in world.members().items()}
    peers = sorted(world.configured("home").split())
    world.mediator.run(NETCTL, "export", "--document", "--write")
    text = world.mediator.run("cat", "/etc/netctl/networks.yaml")
    assert "# the one with the document" in text
    wait_for(
        "the mediator has it from the document",
        lambda: all(
            row["from"] == "document" for row in world.members().values() if row["state"] != "revoked"
        ),
    )
    home = world.hosts["home"]
    home.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=text)
    assert "nothing to change" in home.run(NETCTL, "apply", "--yes")
    assert {name: row["networks"] for name, row in world.members().items()} == before
    assert sorted(world.configured("home").split()) == peers
    wait_for("newbie reaches it", lambda: world.pings("newbie", "home.lan.netctl"))
    assert "nobody" in world.mediator.run(NETCTL, "export", "--document")


def test_a_document_member_takes_new_keys_with_the_document(world: World) -> None:
    home, before = world.hosts["home"], world.members()["home"]
    line = next(
        text
        for text in home.run(NETCTL, "keys", "rotate", "--name", "home").splitlines()
        if "previousKeys" in text
    )
    text = world.mediator.run("cat", "/etc/netctl/networks.yaml").splitlines()
    new = "\n".join(line if row.startswith("  home:") else row for row in text) + "\n"
    world.mediator.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=new)
    wait_for("the mediator has it", lambda: world.members()["home"]["wireguard"] != before["wireguard"])
    home.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=new)
    home.run(NETCTL, "apply", "--yes")
    wait_for("it is back", lambda: world.members()["home"]["state"] == "online")
    assert world.members()["home"]["networks"]["lan"][0] == before["networks"]["lan"][0]
    wait_for("newbie reaches it", lambda: world.pings("newbie", "home.lan.netctl"))


def test_a_mediator_gets_no_traffic_that_is_not_the_networks(world: World) -> None:
    """Its document makes home a gateway to a quarter of the Internet: a host that joined takes none of that unasked."""
    world.mediator.run("cp", "/etc/netctl/networks.yaml", "/run/honest.yaml")
    rows = world.mediator.run("cat", "/etc/netctl/networks.yaml").splitlines()
    asked = 'routes: ["203.0.113.0/24", "64.0.0.0/2", "10.99.0.0/16"]'
    greedy = [row.replace("}", f", {asked}}}") if row.startswith("  home:") else row for row in rows]
    wary = world.add("wary")
    default = wary.run("ip", "route", "get", "203.0.113.5").split(" dev ")[1].split()[0]

    def goes_by(address: str) -> str:
        said = wary.run("ip", "route", "get", address, check=False)
        return said.split(" dev ")[1].split()[0] if " dev " in said else "nowhere"

    try:
        text = "\n".join(greedy) + "\n"
        assert asked in text
        world.mediator.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=text)
        wary.run(
            NETCTL, "join", "-", "--name", "wary", text=world.invite("strict")
        )  # routes are for routed networks
        world.mediator.run(NETCTL, "members", "approve", "wary")
        wait_for("an honest LAN is routed", lambda: goes_by("10.99.0.1") == "nctl0")
        assert goes_by("203.0.113.5") == goes_by("100.64.0.1") == default
        wait_for(
            "it is said",
            lambda: any("203.0.113.0/24 is not routed" in one for one in world.status("wary")["conditions"]),
        )
        wary.run(NETCTL, "join", "--allow-routes")
        wait_for("the person has agreed", lambda: goes_by("203.0.113.5") == "nctl0")
        wary.run(NETCTL, "join", "--no-allow-routes")
        wait_for("and does no more", lambda: goes_by("203.0.113.5") == default)
    finally:
        world.mediator.run("cp", "/run/honest.yaml", "/etc/netctl/networks.yaml")
    wait_for("the honest document is back", lambda: goes_by("10.99.0.1") == default)


def test_absent_in_the_mediators_document_is_gone_within_five_seconds(world: World) -> None:
    key = world.members()["late"]["wireguard"]
    wait_for("late is there", lambda: world.pings("late", "home.strict.netctl"))
    rows = world.mediator.run("cat", "/etc/netctl/networks.yaml").splitlines()
    entry = f'  late: {{state: absent, wireguard: "{key}"}}'
    text = "\n".join(entry if row.startswith("  late:") else row for row in rows) + "\n"
    assert "absent" in text
    world.mediator.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=text)
    took = wait_for("home has no tunnel to it", lambda: key not in world.configured("home"))
    assert took < 5.0, "though its own document still names it"
    said = world.hosts["late"].run(NETCTL, "join", world.invite("strict"), check=False)
    assert "taken out of use" in said


def test_a_revoked_members_tunnels_are_gone_within_five_seconds(world: World) -> None:
    key = world.members()["newbie"]["wireguard"]
    wait_for("newbie is there", lambda: world.pings("home", "newbie.lan.netctl"))
    assert key in world.configured("home")
    world.mediator.run(NETCTL, "members", "revoke", "newbie")
    took = wait_for("home has no tunnel to it", lambda: key not in world.configured("home"))
    assert took < 5.0
    assert not world.pings("newbie", "10.50.0.1")
    assert world.members()["newbie"]["state"] == "revoked"
    string = world.invite("lan")
    said = world.hosts["newbie"].run(NETCTL, "join", string, check=False)
    assert "taken out of use" in said


def test_who_was_shut_out_comes_back_with_new_keys_and_a_new_invite_alone(world: World) -> None:
    newbie, old = world.hosts["newbie"], world.members()["newbie"]["wireguard"]
    newbie.run(NETCTL, "leave", "--forget-keys")
    said = newbie.run(NETCTL, "join", world.invite("lan"), "--name", "fresh")
    assert "fresh is on lan" in said
    assert world.members()["fresh"]["wireguard"] != old
    wait_for("home answers", lambda: world.pings("newbie", "home.lan.netctl"))


def test_only_the_mediators_own_machine_and_user_may_invite(world: World) -> None:
    socket = "/var/lib/netctl-mediator/admin.sock"
    assert world.mediator.run("stat", "-c", "%a %U", socket).strip() == "600 root"
    said = world.hosts["home"].run(NETCTL, "invite", "lan", check=False)
    assert "no mediator runs here" in said
