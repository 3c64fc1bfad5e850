"""Lazy pairs with real packets, a netctl-wg and a wireguard-go: nothing at rest, the first packet, folded up, again."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from netctl.lab.internet import Lab, in_parallel, program
from netctl.lab.probes import host_name
from netctl.lab.wiring import Network
from netctl.model.hoststate import WIREGUARD_LINK
from tests.netns.hardnats import kinds
from tests.support.lablife import PARTY, Pinging, mediator_states, raised_lab
from tests.support.lazykit import ping, records, wait_until_folded
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

NATS = """
nats:
  home: {kind: port-restricted, members: [laptop]}
  work: {kind: port-restricted, members: [desktop]}
"""
IDLE_S = 3
ENGINES = {"laptop": "netctl-wg", "desktop": "wireguard-go"}
COUNTER = """
table ip counted {
  chain o {
    type filter hook output priority 0
    oifname != { "lo", "nctl0" } udp sport 51820 udp dport != 3478-3479 counter
  }
}
"""
"""What leaves by the WireGuard port and is no STUN of the host itself."""
REST_S = 4
"""Longer than an agent's look at the engine, a ping of an open path is due each second or ten, a relay's each 20."""
FIRST_MS = 1000.0
"""From the first packet of a folded pair to a path that carries it, as the agent that it rang at says."""
MEMBERS = tuple(ENGINES)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    def engines(network: Network) -> None:
        assert isinstance(network.members, dict)
        for name, engine in ENGINES.items():
            node = network.members[name]
            network.members[name] = replace(node, environment={**node.environment, "NETCTL_ENGINE": engine})

    document = PARTY.replace("mode: routed,", "mode: routed, lazy: always,")
    with raised_lab(document, NATS, {"NETCTL_LAZY_IDLE_S": str(IDLE_S)}, wired=engines) as lab:
        wait_for("both are logged in", lambda: set(mediator_states(lab).values()) == {"connected"})
        yield lab
        for name in MEMBERS:
            print(lab.log(name, 40))


def folded(lab: Lab) -> None:
    wait_until_folded(lab)
    wait_for("and so are their engines", lambda: all(map(is_doorbell, endpoints(lab))))


def endpoints(lab: Lab) -> list[str]:
    return [lab.node(name).run(["wg", "show", WIREGUARD_LINK, "endpoints"]).split()[1] for name in MEMBERS]


def is_doorbell(endpoint: str) -> bool:
    return endpoint.startswith("127.128.0.")


def first_packet(lab: Lab, *pairs: tuple[str, str]) -> list[float]:
    """Ping in folded pairs at once; how soon each side that rang had a path, in milliseconds."""
    before = [len(records(lab, *pair)) for pair in pairs]
    in_parallel(lambda pair: ping(lab, *pair, network="party"), pairs)
    wait_for(
        "each has a record",
        lambda: all(len(records(lab, *pair)) > known for pair, known in zip(pairs, before, strict=True)),
    )
    return [records(lab, *pair)[known].ms for pair, known in zip(pairs, before, strict=True)]


def left(lab: Lab, name: str) -> int:
    found = re.search(r"packets (\d+)", lab.node(name).run(["nft", "list", "table", "ip", "counted"]))
    assert found is not None
    return int(found.group(1))


def said(lab: Lab, *command: str) -> str:
    done = lab.node("laptop").attempt([program("netctl"), *command])
    return done.stdout + done.stderr


def test_a_lazy_pair_costs_nothing_opens_with_the_first_packet_and_is_folded_up(lab: Lab) -> None:
    folded(lab)
    for name in MEMBERS:
        lab.node(name).run(["nft", "-f", "-"], COUNTER)
    threading.Event().wait(REST_S)
    assert [left(lab, name) for name in MEMBERS] == [0, 0]
    assert "opens with the first packet" in said(lab, "status")
    assert "path: idle: opens with the first packet" in said(lab, "why", "laptop", "desktop")
    assert "idle, opens with the first packet: 1 peer" in said(lab, "doctor")

    took = [first_packet(lab, ("laptop", "desktop"))]
    talking = Pinging(lab.node("laptop"), host_name("desktop", "party"))
    wait_for("both are direct", lambda: set(kinds(lab).values()) == {"direct"})
    assert not any(map(is_doorbell, endpoints(lab)))
    assert all(left(lab, name) > 0 for name in MEMBERS)
    talking.tell_to_end()
    assert talking.ended().lost == 0

    folded(lab)
    took.append(first_packet(lab, ("desktop", "laptop")))

    folded(lab)
    took.append(first_packet(lab, ("laptop", "desktop"), ("desktop", "laptop")))
    print("the first packets had a path after", took, "ms")
    assert all(ms < FIRST_MS for one in took for ms in one)
