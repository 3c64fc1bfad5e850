"""Rewritten ports belong to the paths while there is a link, and to nobody without one."""

from __future__ import annotations

from dataclasses import replace

from netctl.engine import FakeEngine, apply_plan, apply_prune
from netctl.model.hoststate import HostState, WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.plan import changes as c
from netctl.plan import diff, prune

LINK = WireGuardLink(WireGuardKey(bytes(range(32))), 51820, 1420, frozenset(), {})


def test_they_are_no_drift_beside_a_link() -> None:
    wanted = HostState(wireguard=LINK)
    actual = replace(wanted, rewrites=True)
    assert not diff(wanted, actual)
    assert not prune(wanted, actual)


def test_they_go_with_the_link_and_are_pruned_when_it_is_gone_already() -> None:
    left = HostState(rewrites=True)
    assert [type(change) for change in diff(HostState(), left).changes] == [c.RemoveRewrites]
    engine = FakeEngine(left)
    assert apply_prune(engine, HostState(), 1).error is None
    assert engine.read() == HostState()
    engine = FakeEngine(HostState(wireguard=LINK, rewrites=True))
    assert apply_plan(engine, HostState()).error is None
    assert engine.read() == HostState()
