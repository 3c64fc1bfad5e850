"""Where UDP is blocked and the mediator's machine is gone: a relay apart is reached over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from netctl.lab.internet import Lab, status_of
from netctl.lab.probes import host_name, ping
from tests.netns.test_relay_apart_real import RELAY
from tests.support.lablife import PARTY, connected_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

BLOCKED = """
nats:
  office: {kind: udp-blocked, members: [laptop]}
  work:   {kind: symmetric-random, members: [desktop]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    by_tls = RELAY.replace("    role: relay\n", "    role: relay\n    tls: [443]\n")
    assert by_tls != RELAY
    with connected_lab(PARTY.replace("\nmembers:\n", by_tls, 1), BLOCKED) as lab:
        yield lab


def seen(lab: Lab, name: str) -> dict[str, Any]:
    """The other member, as this one's status has it."""
    (row,) = status_of(lab.node(name))["peers"]
    assert isinstance(row, dict)
    return row


def carried(lab: Lab, machine: str) -> bool:
    """Whether both members' packets go to this machine, the laptop's over TLS."""
    place = next((entry, node) for entry, node in lab.topology.mediators if node.name == machine)
    laptop, desktop = seen(lab, "laptop"), seen(lab, "desktop")
    return (
        (laptop["path"], desktop["path"]) == ("relay-tls", "relay-udp")
        and str(laptop["via"]).startswith(f"{place[0].host}:")
        and str(desktop["endpoint"]).startswith(f"{place[1].address}:")
    )


def answers(lab: Lab) -> bool:
    pairs = (("laptop", "desktop"), ("desktop", "laptop"))
    return all(ping(lab.node(one), host_name(other, "party")) is not None for one, other in pairs)


def test_the_relay_apart_carries_who_has_no_udp(lab: Lab) -> None:
    wait_for("the mediator's relay carries the pair", lambda: carried(lab, "mediator"))
    wait_for("the tunnel carries", lambda: answers(lab))
    lab.node("mediator").run(["ip", "link", "set", "eth0", "down"])
    wait_for("the relay apart carries the pair", lambda: carried(lab, "mediator2"))
    wait_for("the tunnel carries", lambda: answers(lab))
    assert str(seen(lab, "laptop")["via"]).endswith(":443")


def test_a_relay_that_starts_anew_is_found_again(lab: Lab) -> None:
    """The mediator is still away: the grants are enough."""
    wait_for("the relay apart carries the pair", lambda: carried(lab, "mediator2"))
    lab.stop("mediator2")
    wait_for("the laptop notices", lambda: seen(lab, "laptop")["path"] == "none")
    lab.start_mediator("mediator2")
    wait_for("the relay apart carries the pair again", lambda: carried(lab, "mediator2"))
    wait_for("the tunnel carries", lambda: answers(lab))
