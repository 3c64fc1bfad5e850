"""Members at two mediators of one store: real agents, real tunnels between them, and a mediator that is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from netctl.lab.internet import Lab, status_of
from netctl.lab.probes import host_name
from tests.mediator.postgreskit import running
from tests.netns.twomediatorskit import DOCUMENT, environs, one_at_each, online_at, start_away_from, way_to
from tests.support.lablife import Pinging, connected_lab, mediator_states
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Store and bus are one PostgreSQL, which the mediators' machines reach by its socket: they share the disk."""
    with running() as server, connected_lab(DOCUMENT, NATS, environs(server.database())) as lab:
        yield lab


def path_of(lab: Lab, name: str) -> str:
    (peer,) = status_of(lab.node(name))["peers"]
    return str(peer["path"])


def test_a_pair_at_two_mediators_is_direct_and_outlives_one_of_them(lab: Lab) -> None:
    for name, machine in {"laptop": "mediator2", "desktop": "mediator"}.items():
        start_away_from(lab, name, machine)
    wait_for("one member is at each", lambda: one_at_each(lab))
    wait_for(
        "the pair is direct", lambda: {path_of(lab, name) for name in ("laptop", "desktop")} == {"direct"}
    )

    way_to(lab, "laptop", "mediator2")
    ping = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    lab.stop("mediator", signal.SIGKILL)
    wait_for("both are at the other one", lambda: online_at(lab, "mediator2") == 2)
    wait_for("both know that", lambda: set(mediator_states(lab).values()) == {"connected"})
    ping.tell_to_end()
    pinged = ping.ended()
    assert pinged.sent > 0
    assert pinged.lost <= 1
    assert path_of(lab, "laptop") == "direct"
