"""examples/relays.yaml with its lab file: each member behind a hard NAT, and every pair on some relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from netctl.lab.internet import STATE_PATH, statuses_of
from netctl.lab.probes import ping_all
from tests.support.lablife import connected_lab
from tests.support.patience import wait_for

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.netns, pytest.mark.lab]


def test_members_reach_each_other_over_the_relays() -> None:
    document, nats = ((EXAMPLES / name).read_text() for name in ("relays.yaml", "relays.lab.yaml"))
    with connected_lab(document, nats) as lab:
        wait_for("every pair answers", lambda: None not in ping_all(lab).values())
        relays = {str(node.address) for _, node in lab.topology.mediators}
        assert len(relays) == 3

        def relayed() -> bool:
            peers = [peer for status in statuses_of(lab.network.members).values() for peer in status["peers"]]
            assert len(peers) == 12
            return all(
                peer["path"] == "relay-udp" and str(peer["endpoint"]).rpartition(":")[0] in relays
                for peer in peers
            )

        wait_for("every pair goes by one of them", relayed)
        for name in ("mediator2", "mediator3"):
            state = set(lab.node(name).run(["ls", STATE_PATH]).split())
            assert {"identity.key", "relay-apart"} <= state
            assert not state & {"relay.secret", "mediator.db"}
