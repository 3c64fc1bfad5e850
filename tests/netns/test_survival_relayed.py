"""Where both sides' NATs give every destination another port, only the relay works, and it survives too."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from netctl.lab.internet import DOCUMENT_PATH, STATE_PATH, Lab, program
from netctl.lab.probes import ping_all
from tests.support.lablife import (
    EXAMPLE,
    addresses,
    connected_lab,
    everybody_connected,
    mediator_states,
    pairs_by,
    steady_pings,
)
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

RELAY = [program("netctl-mediator"), "relay"]
RELAY_LOG = "/run/relay.log"
HARD = """
nats:
  home: {kind: symmetric-random, members: [laptop, console]}
  work: {kind: symmetric-random, members: [desktop]}
  vps: {kind: open, members: [nas]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with connected_lab(EXAMPLE, HARD) as lab:
        yield lab


def test_every_pair_has_the_best_path_that_its_nats_allow(lab: Lab) -> None:
    hard = {("laptop", "desktop"), ("console", "desktop"), ("desktop", "laptop"), ("desktop", "console")}
    wait_for("nothing better comes", lambda: set(pairs_by(lab, "relay-udp")) == hard)
    easy = {("laptop", "console"), ("console", "laptop")}
    wait_for("who is in one LAN meets there", lambda: set(pairs_by(lab, "lan")) == easy)
    # Who has just changed its path may lose what was on the way by the former one.
    wait_for("every pair pings", lambda: None not in ping_all(lab).values())


def test_relayed_pairs_survive_an_orderly_restart_beside_a_relay_of_its_own(lab: Lab) -> None:
    lab.stop("mediator")
    relay = lab.node("mediator").spawn(
        [*RELAY, "--document", DOCUMENT_PATH, "--state", STATE_PATH], RELAY_LOG
    )
    lab.start_mediator(relay=False)
    wait_for("everybody has returned", lambda: everybody_connected(lab))
    wait_for("every pair is back on the new relay", lambda: None not in ping_all(lab).values())
    with steady_pings(lab, pairs_by(lab, "relay-udp")):
        lab.stop("mediator", signal.SIGTERM)
        wait_for("everybody notices", lambda: "connected" not in mediator_states(lab).values())
        lab.start_mediator(relay=False)
        wait_for("everybody returns by itself", lambda: everybody_connected(lab))
    assert lab.node("mediator").running(relay)
    lab.stop("mediator")
    lab.node("mediator").kill(relay, signal.SIGTERM)
    lab.start_mediator()
    wait_for("every pair is back on the mediator's own relay", lambda: None not in ping_all(lab).values())


def test_the_relay_outlives_a_killed_mediator(lab: Lab) -> None:
    before = addresses(lab)
    with steady_pings(lab, pairs_by(lab, "relay-udp")):
        lab.stop("mediator", signal.SIGKILL)
        wait_for(
            "everybody notices that the mediator is gone",
            lambda: all(state != "connected" for state in mediator_states(lab).values()),
        )
        lab.start_mediator()
        wait_for("everybody returns by itself", lambda: everybody_connected(lab))
    assert addresses(lab) == before
