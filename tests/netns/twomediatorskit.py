"""A lab with two mediators that work on one store, and what their machines say."""

from __future__ import annotations

import json

from netctl.lab.internet import STATE_PATH, Lab, program
from tests.support.lablife import PARTY

MACHINES = ("mediator", "mediator2")
SECOND = """
  - url: "netctl://m2.example.net:8443"
    identity: ["ed25519:Bu5gPDs1yKp6lD1KQgqmSDWzxs+GRUC3BSGtxDjj5SE="]
members:
"""
DOCUMENT = PARTY.replace("\nmembers:\n", SECOND, 1)


def environs(database: str) -> dict[str, str]:
    """Of both mediators: store and bus are this database."""
    return {
        "NETCTL_MEDIATOR_STORE": database,
        "NETCTL_MEDIATOR_BUS": database,
        "NETCTL_MEDIATOR_CLUSTER": "1",
    }


def address_of(lab: Lab, machine: str) -> str:
    return next(str(node.address) for _, node in lab.topology.mediators if node.name == machine)


def start_away_from(lab: Lab, name: str, machine: str) -> None:
    """Start a member's agent anew, without a way to this mediator's machine."""
    lab.stop(name)
    lab.node(name).run(["ip", "route", "add", "blackhole", address_of(lab, machine)])
    lab.start_agent(name)


def way_to(lab: Lab, name: str, machine: str) -> None:
    """Give a member its way to this machine back."""
    lab.node(name).run(["ip", "route", "del", "blackhole", address_of(lab, machine)])


def one_at_each(lab: Lab) -> bool:
    """Whether each of the mediators has one member logged in."""
    return [online_at(lab, machine) for machine in MACHINES] == [1, 1]


def online_at(lab: Lab, machine: str) -> int:
    """How many members are logged in at this mediator."""
    said = lab.node(machine).run([program("netctl-mediator"), "status", "--state", STATE_PATH, "-o", "json"])
    found: int = json.loads(said)["online"]
    return found
