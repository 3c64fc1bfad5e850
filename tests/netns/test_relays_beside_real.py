"""Members at two mediators of one store, whom only a relay joins, and a document without a relay apart."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from netctl.lab.internet import STATE_PATH, Lab, statuses_of
from netctl.lab.probes import host_name
from tests.mediator.postgreskit import running
from tests.netns.twomediatorskit import DOCUMENT, address_of, environs, one_at_each, start_away_from, way_to
from tests.support.lablife import Pinging, raised_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

HARD = """
nats:
  home: {kind: symmetric-random, members: [laptop]}
  work: {kind: symmetric-random, members: [desktop]}
"""
SECRET = f"{STATE_PATH}/relay.secret"
OTHER = {"mediator": "mediator2", "mediator2": "mediator"}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Store and bus are one PostgreSQL. The second mediator has the relay secret of the first, as one sets it up."""
    with running() as server, raised_lab(DOCUMENT, HARD, environs(server.database())) as lab:
        lab.stop("mediator2")
        secret = lab.node("mediator").run(["od", "-An", "-v", "-tx1", SECRET]).split()
        text = "".join(f"\\x{byte}" for byte in secret)
        lab.node("mediator2").run(["bash", "-c", f"printf '{text}' > {SECRET}"])
        lab.start_mediator("mediator2")
        yield lab


def carrier(lab: Lab) -> str | None:
    """The machine whose relay carries both directions; None: there is none yet."""
    peers = [peer for status in statuses_of(lab.network.members).values() for peer in status["peers"]]
    for machine in OTHER:
        there = f"{address_of(lab, machine)}:"
        if len(peers) == 2 and all(
            peer["path"] == "relay-udp" and str(peer["endpoint"]).startswith(there) for peer in peers
        ):
            return machine
    return None


def test_a_pair_at_two_mediators_is_relayed_beside_one_and_moves_to_the_other_when_that_is_gone(
    lab: Lab,
) -> None:
    away = {"laptop": "mediator2", "desktop": "mediator"}
    for name, machine in away.items():
        start_away_from(lab, name, machine)
    wait_for("one member is at each", lambda: one_at_each(lab))
    for name, machine in away.items():
        way_to(lab, name, machine)
    wait_for("a mediator's relay carries both", lambda: carrier(lab) is not None)
    assert one_at_each(lab), "nobody has changed its mediator for a relay"

    ping = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    wait_for("it is answered", ping.newest)
    dead = carrier(lab)
    assert dead is not None
    lab.node(dead).run(["ip", "link", "set", "eth0", "down"])
    gone = time.time()
    wait_for("the other mediator's relay carries both", lambda: carrier(lab) == OTHER[dead])
    wait_for("it is answered there", lambda: ping.newest() > gone)
    ping.tell_to_end()
    assert ping.ended().answers[-1] > gone
