"""Two NATs one behind the other, and pairs behind one carrier: direct wherever the carrier lets them."""

from __future__ import annotations

import pytest

from netctl.lab.internet import Lab
from tests.netns.hardnats import direct_within, kinds, lost, pair_behind, pair_in_one_home, peer_of
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

RELAYED_S = 8.0
"""A first round and all its packets."""


BOTH = ("home", "work")


def outside(lab: Lab) -> str:
    """The carrier's public address."""
    return str(next(box.wan for box in lab.topology.boxes if box.name == "carrier"))


@pytest.mark.parametrize(
    ("carrier", "other"),
    [
        ("port-restricted", "port-restricted"),
        ("port-changed", "port-restricted"),
        ("port-changed", "symmetric-sequential"),
    ],
)
def test_two_layers(carrier: str, other: str) -> None:
    with pair_behind("port-restricted", other, carrier=f"kind: {carrier}") as lab:
        took = direct_within(lab, BUSY_S)
        assert took is not None, peer_of(lab, "laptop")
        assert peer_of(lab, "desktop")["endpoint"].startswith(f"{outside(lab)}:")
        print(f"{carrier} over port-restricted x {other}: direct after {took:.1f} s")
        assert lost(lab, "laptop", "desktop") == 0


@pytest.mark.parametrize("kind", ["symmetric-random", "udp-blocked"])
def test_one_home_by_their_own_addresses(kind: str) -> None:
    """Whatever the box does outwards."""
    with pair_in_one_home(kind) as lab:
        wait_for("both meet in their LAN", lambda: set(kinds(lab).values()) == {"lan"})
        assert peer_of(lab, "laptop")["endpoint"].startswith("192.168.1.")
        assert lost(lab, "laptop", "desktop") == 0


def test_two_homes_behind_a_carrier_without_hairpin_have_the_relay() -> None:
    with pair_behind("port-restricted", "port-restricted", carrier="kind: full-cone", carried=BOTH) as lab:
        assert direct_within(lab, RELAYED_S) is None
        wait_for("both are relayed", lambda: set(kinds(lab).values()) == {"relay-udp"})
        assert lost(lab, "laptop", "desktop") == 0
