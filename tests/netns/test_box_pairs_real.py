"""Pairs behind boxes in one another, behind one box, and where only one side lets anybody in: real agents."""

from __future__ import annotations

import time

import pytest

from tests.netns.hardnats import kinds, lost, peer_of, stay
from tests.support.lablife import PARTY, raised_lab
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, pytest.mark.lab]

HOME = "{kind: port-restricted, members: [laptop, desktop]"
BEHIND = "one: {members: [laptop], behind: %s}\n  other: {members: [desktop], behind: %s}\n  "


@pytest.mark.parametrize(
    ("boxes", "path"),
    [
        pytest.param(f"home: {HOME}}}", "lan", id="one-box"),
        pytest.param(f"home: {HOME}, isolated: true, hairpin: true}}", "direct", id="hairpin"),
        pytest.param(f"home: {HOME}, isolated: true}}", "relay-udp", id="no-hairpin"),
        pytest.param(
            BEHIND % ("carrier", "carrier") + "carrier: {kind: port-changed, hairpin: true}",
            "direct",
            id="one-carrier",
        ),
        pytest.param(
            BEHIND % ("first", "second") + "first: {kind: port-changed}\n  second: {kind: port-changed}",
            "direct",
            id="two-carriers",
        ),
        pytest.param(
            "one: {kind: symmetric-full-cone, members: [laptop]}\n  other: {members: [desktop]}",
            "direct",
            id="symmetric-full-cone",
        ),
    ],
)
def test_pairs(boxes: str, path: str) -> None:
    with raised_lab(PARTY, f"nats:\n  {boxes}\n") as lab:
        began = time.monotonic()
        while set(kinds(lab).values()) != {path} and time.monotonic() - began < BUSY_S:
            time.sleep(0.2)
        assert set(kinds(lab).values()) == {path}, (peer_of(lab, "laptop"), peer_of(lab, "desktop"))
        print(f"{path} after {time.monotonic() - began:.1f} s")
        stay(lab)  # behind one address a member may take another port now: packets to the old one are lost
        assert lost(lab, "laptop", "desktop", 20) == 0
        if path == "relay-udp":  # and it stays so
            time.sleep(5)
            assert set(kinds(lab).values()) == {path}
