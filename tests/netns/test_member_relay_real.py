"""A member that relays for its own networks by one line of the document: real agents, real packets."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from netctl.lab.internet import Lab, status_of, statuses_of
from netctl.lab.probes import host_name, ping
from tests.support.lablife import Pinging, everybody_connected, raised_lab
from tests.support.patience import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.lab]
"""Both relays are equally near, so the mediator's carries, which is the first: `RELAY_TIE_MS` decide nothing. On a busy
machine one may be measured as farther."""

VPS = "198.51.100.10"
DOCUMENT = f"""
apiVersion: netctl/v1
mediators:
  - {{url: "netctl://m1.example.net:8443", identity: ["ed25519:EKiLXYu8TJJvIcGdsUa9noi/8w5txrMbyNJninfBBJo="]}}
members:
  vps:
    wireguard: "M8ow512/ktjltao2Y5PQoGX45QpDRyUgZN4g3GsYSkM="
    identity: "ed25519:rBfNRavrf94yT0BzEkz65XMLgvWua8P9DVoTJ6/bbCo="
    endpoints: ["{VPS}:51820"]
    relay: true
  laptop:
    wireguard: "oN9b+VcZct4Fqc0LWGekk0FboKkwHmJhBGo/bJHOfQo="
    identity: "ed25519:HGSfeLvLC6OYHUtA4alcVWGojgYfHxEXhhlpF8Hjiww="
  desktop:
    wireguard: "DeMKT2R8ZOJrCOp8qkolzZHJGxVkha9f0qGa531v9gM="
    identity: "ed25519:GiLEfBgMuc0R185yzrIsMWFAXUCUbC1qIEy5cx50dwk="
  pi:
    wireguard: "2QXFkC/LG2cnD/JfGNoZzTDQWHo7Klrp1mu3DOgBYHA="
    identity: "ed25519:RLUqQjGk080fM88rZF/mai05tuts09GYn/20yDrmuV0="
networks:
  party: {{mode: routed, ipv4: 10.9.0.0/24, members: [vps, laptop, desktop]}}
  field: {{mode: routed, ipv4: 10.8.0.0/24, members: [laptop, pi]}}
"""
NATS = """
nats:
  rack: {kind: open, members: [vps]}
  home: {kind: symmetric-random, members: [laptop]}
  work: {kind: symmetric-random, members: [desktop]}
  far:  {kind: symmetric-random, members: [pi]}
"""
FAILOVER_S = 5.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with raised_lab(DOCUMENT, NATS) as lab:
        wait_for("everybody is connected", lambda: everybody_connected(lab))
        yield lab


def seen(lab: Lab, name: str, peer: str) -> dict[str, Any]:
    (row,) = (row for row in status_of(lab.node(name))["peers"] if row["name"] == peer)
    assert isinstance(row, dict)
    return row


def by_vps(lab: Lab) -> bool:
    """Whether the packets of laptop and desktop go by the member, both ways."""
    rows = (seen(lab, "laptop", "desktop"), seen(lab, "desktop", "laptop"))
    return all(row["path"] == "relay-udp" and str(row["endpoint"]).startswith(f"{VPS}:") for row in rows)


def relayed(lab: Lab, peer: str) -> bool:
    return bool(seen(lab, "laptop", peer)["path"] == "relay-udp")


def relay_state(lab: Lab) -> str:
    status = statuses_of({"vps": lab.node("vps")})["vps"]  # an agent that has just begun does not answer yet
    return str((status.get("own_relay") or {}).get("state"))


def test_it_carries_pairs_of_its_own_network_when_the_mediators_machine_is_gone(lab: Lab) -> None:
    wait_for("the member relays", lambda: relay_state(lab) == "up")
    assert status_of(lab.node("laptop"))["own_relay"] is None
    for peer in ("desktop", "pi"):
        wait_for(
            f"a relay carries laptop and {peer}",
            partial(relayed, lab, peer),
        )
    wait_for(
        "the tunnel carries", lambda: ping(lab.node("laptop"), host_name("desktop", "party")) is not None
    )
    assert not str(seen(lab, "laptop", "pi")["endpoint"]).startswith(VPS), "the member has no network with pi"
    assert not by_vps(lab), "of two relays at one distance the mediator's comes first"
    running = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    time.sleep(1)
    lab.node("mediator").run(["ip", "link", "set", "eth0", "down"])
    gone = time.time()
    wait_for("the member carries the pair", lambda: by_vps(lab))
    time.sleep(1)
    running.tell_to_end()
    answers = running.ended().answers
    assert [at for at in answers if at < gone]
    assert [at for at in answers if at >= gone]
    assert max(later - earlier for earlier, later in itertools.pairwise(answers)) < FAILOVER_S
    wait_for(
        "nobody carries the pair of another network", lambda: seen(lab, "laptop", "pi")["path"] == "none"
    )
    assert status_of(lab.node("vps"))["own_relay"]["bindings"] == 2


def test_its_relay_ends_with_its_agent_and_comes_back_with_it(lab: Lab) -> None:
    """The mediator is still away: grants, view and document are enough."""
    wait_for("the member carries the pair", lambda: by_vps(lab))
    lab.stop("vps", signal.SIGKILL)
    wait_for("nobody carries it", lambda: seen(lab, "laptop", "desktop")["path"] == "none")
    lab.start_agent("vps")
    try:
        wait_for("the member relays again", lambda: relay_state(lab) == "up")
    finally:
        print(statuses_of({"vps": lab.node("vps")})["vps"], lab.node("vps").attempt(["ss", "-lunp"]).stdout)
    wait_for("the member carries the pair", lambda: by_vps(lab))
    wait_for(
        "the tunnel carries", lambda: ping(lab.node("laptop"), host_name("desktop", "party")) is not None
    )
