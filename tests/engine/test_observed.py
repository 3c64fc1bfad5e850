"""A look at the engine costs what has changed since the last one."""

from __future__ import annotations

from netctl.engine.wireguard.observed import Observed
from netctl.engine.wireguard.uapiclient import DeviceState, PeerState
from netctl.model.hoststate import PeerStatus, changed_peers
from netctl.model.keys import WireGuardKey

KEYS = [WireGuardKey(bytes([number]) * 32) for number in range(1, 9)]


def test_statuses_stay_the_same_objects_unless_a_peer_changes() -> None:
    observed = Observed()
    peers = {key: PeerState() for key in KEYS}
    first = observed.statuses(DeviceState(peers=peers), {})
    assert observed.statuses(DeviceState(peers=peers), {}) is first
    assert changed_peers({}, first) is None
    assert changed_peers(first, first) == []

    peers = {**peers, KEYS[2]: PeerState(rx_bytes=7)}
    second = observed.statuses(DeviceState(peers=peers), {})
    assert changed_peers(first, second) == [KEYS[2]]
    assert second[KEYS[2]] == PeerStatus(None, 0.0, 7, 0)

    third = observed.statuses(DeviceState(peers=peers), {KEYS[5]: 9.0})
    assert changed_peers(second, third) == [KEYS[5]], "the wall clock's step moves a handshake"
    assert third[KEYS[5]].last_handshake_s == 9.0

    peers = {key: peers[key] for key in KEYS[1:]}
    fourth = observed.statuses(DeviceState(peers=peers), {})
    assert list(fourth) == KEYS[1:]
    assert changed_peers(third, fourth) is None


def test_peers_in_another_order_are_looked_at_anew() -> None:
    observed = Observed()
    states = [PeerState(rx_bytes=number) for number in range(len(KEYS))]
    observed.statuses(DeviceState(peers=dict(zip(KEYS, states, strict=True))), {})
    turned = observed.statuses(DeviceState(peers=dict(zip(KEYS[::-1], states, strict=True))), {})
    assert [turned[key].rx_bytes for key in KEYS[::-1]] == list(range(len(KEYS)))
