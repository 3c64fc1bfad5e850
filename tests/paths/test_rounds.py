"""A peer's round is its own business: whatever number it says, our next offer is one that the mediator takes."""

from __future__ import annotations

from typing import Any

import pytest

from netctl.paths.effects import SendControl
from netctl.wire.control import MAX_COUNT, Candidate, Candidates, Introduction, decode, encode
from tests.support.pathsim import STUN, World


@pytest.mark.parametrize("said", [0, 1, 2**52 - 1, 2**52, MAX_COUNT - 1, MAX_COUNT])
def test_any_round_of_a_peer_leaves_room_for_ours(said: int) -> None:
    world = World()
    host, peer = world.host("a", "192.168.1.10"), world.host("b", "192.168.1.11")
    manager, now = host.manager, 100.0
    manager.set_local([Candidate("host", "192.168.1.10:51820")], now)
    manager.set_stun(STUN, now)
    manager.set_peers([peer.key], now)
    manager.control_up(now)
    candidates = [Candidate("host", "192.0.2.7:7")]
    manager.handle_message(Introduction(str(peer.key), said, candidates), now + 1)
    offers: list[Any] = []
    while (due := manager.next_timer()) is not None and due < 5000.0 and len(offers) < 5:
        now = max(now, due)
        for effect in manager.handle_timer(now):
            if isinstance(effect, SendControl) and isinstance(effect.message, Candidates):
                assert decode(encode(effect.message)) == effect.message
                offers.append(effect.message.round)
    assert len(offers) == 5
    assert offers == sorted(offers), "it goes on above what the peer said"
