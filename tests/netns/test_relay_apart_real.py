"""A relay on a machine of its own: real agents, real packets, and the mediator's whole machine that goes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from netctl.lab.internet import STATE_PATH, Lab, statuses_of
from netctl.lab.probes import host_name, ping_all
from tests.support.lablife import PARTY, Pinging, connected_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.lab]
"""Both relays are equally near, so the mediator's carries, which is the first: `RELAY_TIE_MS` decide nothing. On a busy
machine one may be measured as farther."""

RELAY = """
  - url: "netctl://r1.example.net:8443"
    identity: ["ed25519:Bu5gPDs1yKp6lD1KQgqmSDWzxs+GRUC3BSGtxDjj5SE="]
    role: relay
    relayPorts: 50000-50015
members:
"""
HARD = """
nats:
  home: {kind: symmetric-random, members: [laptop]}
  work: {kind: symmetric-random, members: [desktop]}
"""
FAILOVER_S = 5.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(PARTY.replace("\nmembers:\n", RELAY, 1), HARD) as lab:
        yield lab


def carried_by(lab: Lab, machine: str) -> bool:
    """Whether both members' packets go to this machine."""
    address = next(str(node.address) for _, node in lab.topology.mediators if node.name == machine)
    peers = [peer for status in statuses_of(lab.network.members).values() for peer in status["peers"]]
    return len(peers) == 2 and all(
        peer["path"] == "relay-udp" and str(peer["endpoint"]).startswith(f"{address}:") for peer in peers
    )


def test_the_relay_has_nothing_of_the_mediator(lab: Lab) -> None:
    relay, mediator = lab.node("mediator2"), lab.node("mediator")
    files = set(relay.run(["ls", STATE_PATH]).split())
    assert "identity.key" in files
    assert files.isdisjoint({"relay.secret", "mediator.db", "pairs.json", "relay.pem"}), files
    digests = {node.run(["sha256sum", f"{STATE_PATH}/identity.key"]).split()[0] for node in (relay, mediator)}
    assert len(digests) == 2


def test_a_relayed_pair_goes_on_by_it_when_the_mediators_machine_is_gone(lab: Lab) -> None:
    wait_for("the pair is on the mediator's relay", lambda: carried_by(lab, "mediator"))
    wait_for("the tunnel carries", lambda: None not in ping_all(lab).values())
    ping = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    wait_for("it is answered", ping.newest)
    lab.node("mediator").run(["ip", "link", "set", "eth0", "down"])
    gone = time.time()
    wait_for("the pair is on the relay apart", lambda: carried_by(lab, "mediator2"))
    time.sleep(1)
    ping.tell_to_end()
    answers = ping.ended().answers
    before, after = [at for at in answers if at < gone], [at for at in answers if at >= gone]
    assert before
    assert after
    longest = max(later - earlier for earlier, later in itertools.pairwise(answers))
    assert longest < FAILOVER_S
