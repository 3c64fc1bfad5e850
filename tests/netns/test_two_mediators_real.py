"""Members at two mediators of one store: real agents, real tunnels between them, and a mediator that is killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from netctl.lab.internet import STATE_PATH, Lab, program, status_of
from netctl.lab.probes import host_name
from tests.mediator.postgreskit import running
from tests.support.lablife import PARTY, Pinging, connected_lab, mediator_states
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

SECOND = """
  - url: "netctl://m2.example.net:8443"
    identity: ["ed25519:Bu5gPDs1yKp6lD1KQgqmSDWzxs+GRUC3BSGtxDjj5SE="]
members:
"""
NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Store and bus are one PostgreSQL, which the mediators' machines reach by its socket: they share the disk."""
    with running() as server:
        database = server.database()
        environs = {
            "NETCTL_MEDIATOR_STORE": database,
            "NETCTL_MEDIATOR_BUS": database,
            "NETCTL_MEDIATOR_CLUSTER": "1",
        }
        with connected_lab(PARTY.replace("\nmembers:\n", SECOND, 1), NATS, environs) as lab:
            yield lab


def online_at(lab: Lab, machine: str) -> int:
    said = lab.node(machine).run([program("netctl-mediator"), "status", "--state", STATE_PATH, "-o", "json"])
    found: int = json.loads(said)["online"]
    return found


def path_of(lab: Lab, name: str) -> str:
    (peer,) = status_of(lab.node(name))["peers"]
    return str(peer["path"])


def test_a_pair_at_two_mediators_is_direct_and_outlives_one_of_them(lab: Lab) -> None:
    first, second = (str(node.address) for _, node in lab.topology.mediators)
    for name, address in {"laptop": second, "desktop": first}.items():
        lab.stop(name)
        lab.node(name).run(["ip", "route", "add", "blackhole", address])
        lab.start_agent(name)
    wait_for(
        "one member is at each",
        lambda: [online_at(lab, name) for name in ("mediator", "mediator2")] == [1, 1],
    )
    wait_for(
        "the pair is direct", lambda: {path_of(lab, name) for name in ("laptop", "desktop")} == {"direct"}
    )

    lab.node("laptop").run(["ip", "route", "del", "blackhole", second])
    ping = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    lab.stop("mediator", signal.SIGKILL)
    wait_for("both are at the other one", lambda: online_at(lab, "mediator2") == 2)
    wait_for("both know that", lambda: set(mediator_states(lab).values()) == {"connected"})
    ping.tell_to_end()
    pinged = ping.ended()
    assert pinged.sent > 0
    assert pinged.lost <= 1
    assert path_of(lab, "laptop") == "direct"
