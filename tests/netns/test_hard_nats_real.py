"""Pairs through hard NATs, with real agents and packets: predicted windows, birthdays, early packets that clash."""

from __future__ import annotations

import pytest

from netctl.lab.internet import program
from netctl.lab.nat import BLOCK_PORTS
from netctl.lab.topology import FIRST_NAT, PUBLIC
from netctl.lab.wiring import Network
from tests.netns.hardnats import direct_within, kinds, lost, pair_behind, peer_of, ports_table
from tests.support.patience import wait_for

pytestmark = [pytest.mark.alone, pytest.mark.netns, pytest.mark.lab]

HOME = PUBLIC[FIRST_NAT]
ATTEMPT_S = 25.0
"""A birthday attempt from its promise to its end, in a first round that the start of ten programs delays."""
RUNS = 20
ENGINES = ("netctl-wg", "wireguard-go")
PREDICTED_S = 40.0
"""A first round that the start of ten programs delays, and one more."""


@pytest.mark.parametrize(
    ("laptop", "desktop"),
    [
        ("symmetric-sequential", "port-restricted"),
        ("port-restricted", "symmetric-sequential"),
        ("port-block", "port-restricted"),
        ("port-restricted", "port-block"),
    ],
)
def test_predicted_ports(laptop: str, desktop: str) -> None:
    with pair_behind(laptop, desktop) as lab:
        took = direct_within(lab, PREDICTED_S)
        assert took is not None, peer_of(lab, "laptop")
        print(f"{laptop} x {desktop}: direct after {took:.1f} s")
        assert lost(lab, "laptop", "desktop") == 0
        assert not ports_table(lab, "laptop") + ports_table(lab, "desktop")


def test_a_block_that_shows_two_servers_one_port() -> None:
    """What chance does once in 128: it looks like an easy NAT, and a fresh socket knows better."""
    first, last = BLOCK_PORTS

    def wired(network: Network) -> None:
        stun = f"udp sport 51820 udp dport {{ 3478, 3479 }} snat ip to {HOME}:{(first + last) // 2}"
        network.boxes["home"].run(
            ["nft", "insert", "rule", "ip", "lab_nat", "postrouting", "oifname", "wan", stun]
        )

    with pair_behind("port-block", "port-restricted", wired=wired) as lab:
        took = direct_within(lab, PREDICTED_S)
        assert took is not None, peer_of(lab, "laptop")
        print(f"direct after {took:.1f} s")
        assert lost(lab, "laptop", "desktop") == 0
        said = lab.node("laptop").run([program("netctl"), "doctor", "-o", "json"])
        assert '"address and port-dependent"' in said


@pytest.mark.birthday
def test_twenty_birthdays() -> None:
    """98 of 100 by arithmetic; 18 of 20 are asked for. The kinds of engine and the sides take turns."""
    took: list[float | None] = []
    for run in range(RUNS):
        boxes = ["symmetric-random", "port-restricted"]
        if run % 2:
            boxes.reverse()
        with pair_behind(boxes[0], boxes[1], engine=ENGINES[run // 2 % 2]) as lab:
            took.append(direct_within(lab, ATTEMPT_S))
            if took[-1] is not None:
                assert lost(lab, "laptop", "desktop") == 0
        print(f"{boxes[0]} x {boxes[1]}, {ENGINES[run // 2 % 2]}: direct after {took[-1]}", flush=True)
    direct = sorted(one for one in took if one is not None)
    print(
        f"{len(direct)} of {RUNS} direct, median {direct[len(direct) // 2]:.1f} s, slowest {direct[-1]:.1f} s"
    )
    assert len(direct) >= 0.9 * RUNS


def test_a_birthday() -> None:
    """Up to two attempts: 98 of 100 succeed, and an agent that starts anew waits for nobody's hour."""
    with pair_behind("symmetric-random", "port-restricted") as lab:
        took = direct_within(lab, ATTEMPT_S)
        if took is None:
            for name in lab.network.members:
                lab.stop(name)
                lab.start_agent(name)
            took = direct_within(lab, ATTEMPT_S)
        assert took is not None, (peer_of(lab, "laptop"), peer_of(lab, "desktop"))
        print(f"symmetric-random x port-restricted: direct after {took:.1f} s")
        assert lost(lab, "laptop", "desktop") == 0
        assert lost(lab, "desktop", "laptop") == 0
        assert "dport set" in ports_table(lab, "laptop")
        assert not ports_table(lab, "desktop")
        # Kept over a restart of the agent, with its path; gone with the link.
        before = ports_table(lab, "laptop")
        lab.stop("laptop")
        assert lost(lab, "desktop", "laptop") == 0
        lab.start_agent("laptop")
        wait_for("both are direct again", lambda: set(kinds(lab).values()) == {"direct"})
        assert ports_table(lab, "laptop") == before
        assert lost(lab, "laptop", "desktop") == 0
        lab.node("laptop").run([program("netctl"), "down"])
        wait_for("the table is gone", lambda: not ports_table(lab, "laptop"))
