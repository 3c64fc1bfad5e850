"""A relay to which the old grants mean nothing any more: its secret is another, or its clock has stepped."""

from __future__ import annotations

import itertools

import pytest

from mediator.core.relay_table import RelayTable
from tests.support.pathsim import RELAY_PORTS, World


@pytest.mark.parametrize("at", [0.0, 7.0, 13.0])
def test_a_relayed_pair_has_new_grants_within_five_seconds(at: float) -> None:
    world = World()
    a = world.host("a", "192.168.1.10", world.nat("203.0.113.1", symmetric=True))
    b = world.host("b", "10.0.0.10", world.nat("192.0.2.1", symmetric=True))
    world.start()
    world.stream(a, b, every=0.2, until=world.now + 90)
    world.stream(b, a, every=0.2, until=world.now + 90)
    world.run(40 + at)
    assert a.manager.status()[b.key].kind == "relay-udp"
    changed = world.now
    world.secret = bytes(32)
    world.relay = RelayTable(world.secret, b"d" * 32, RELAY_PORTS)
    world.run(12)
    for host in (a, b):
        times = [when for when, _, _ in host.heard if when > changed - 1]
        assert max(later - sooner for sooner, later in itertools.pairwise([*times, world.now])) < 5.0
