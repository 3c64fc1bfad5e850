"""A NAT that accepts at its own outside, and a member whose packets come later than the peer's.

An early packet from outside leaves an entry in such a NAT's table for the very flow that the member is about to open.
The NAT then gives the flow another port, and the peer's filter knows nothing of that one. A packet with few hops goes
ahead: it opens the member's own NAT and is gone before the peer's.
"""

from __future__ import annotations

import pytest

from netctl.lab.topology import FIRST_NAT, PUBLIC
from netctl.lab.wiring import Network
from tests.netns.hardnats import direct_within, kinds, lost, pair_behind, peer_of
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

WORK = PUBLIC[FIRST_NAT + 1]
FAR = 8
"""The internet between the two is longer than this; every other packet starts with 64."""
TRIES = 3
"""The member may stand still for as long as it takes the peer's packet to come first."""
CLASHED_S = 12.0
"""Several rounds: as long as the entry is refreshed by what arrives the pair stays relayed."""
HOPS = f"""
table ip lab_hops {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "wan" meta l4proto 17 ip ttl < {FAR} counter drop
  }}
}}
"""
LATE = f"""
table ip lab_late {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "lan" ip daddr {WORK} meta l4proto 17 ip ttl >= {FAR} quota until 350 bytes drop
  }}
}}
"""
"""The first three probes get lost at home; the peer's are sooner then."""
NO_KNOCK = f"""
table ip lab_knock {{
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname "lan" ip daddr {WORK} meta l4proto 17 ip ttl < {FAR} drop
  }}
}}
"""
NEW_PORT = f"""
table ip lab_seen {{
  chain postrouting {{
    type filter hook postrouting priority srcnat + 50; policy accept;
    oifname "wan" ip daddr {WORK} meta l4proto 17 udp sport != 51820 counter
  }}
}}
"""


def clashing(network: Network, extra: str) -> None:
    """The home box accepts from outside, and its member is late."""
    network.boxes["home"].run(["nft", "flush", "chain", "ip", "lab_nat", "input"])
    network.boxes["home"].run(["nft", "-f", "-"], HOPS + LATE + NEW_PORT + extra)
    network.boxes["work"].run(["nft", "-f", "-"], HOPS)


@pytest.mark.parametrize("engine", ["netctl-wg", "wireguard-go"])
def test_a_packet_with_few_hops_goes_ahead(engine: str) -> None:
    def wired(network: Network) -> None:
        clashing(network, "")

    for _ in range(TRIES):
        with pair_behind("port-restricted", "port-restricted", engine=engine, wired=wired) as lab:
            took = direct_within(lab, BUSY_S)
            hops = lab.node("work").run(["nft", "list", "table", "ip", "lab_hops"])
            assert took is not None, (peer_of(lab, "laptop"), hops)
            print(f"{engine}: direct after {took:.1f} s")
            assert "packets 0 " not in hops, "it was sent, and died on its way"
            seen = lab.node("home").run(["nft", "list", "table", "ip", "lab_seen"])
            if "packets 0 " in seen:
                assert lost(lab, "laptop", "desktop") == 0
                return
    raise AssertionError(f"the NAT has taken another port each time: {seen}")


def test_without_it_the_nat_takes_another_port() -> None:
    """What the packet is for: were it not sent, this pair would stay on its relay, and work."""

    def wired(network: Network) -> None:
        clashing(network, NO_KNOCK)

    with pair_behind("port-restricted", "port-restricted", wired=wired) as lab:
        assert direct_within(lab, CLASHED_S) is None
        wait_for("both are relayed", lambda: set(kinds(lab).values()) == {"relay-udp"})
        assert "packets 0 " not in lab.node("home").run(["nft", "list", "table", "ip", "lab_seen"])
        assert lost(lab, "laptop", "desktop") == 0
