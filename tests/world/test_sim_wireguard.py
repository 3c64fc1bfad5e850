"""The sessions of the simulated WireGuard, as Linux has them: a peer whose answers are lost does not end a session."""

from __future__ import annotations

from netctl.engine import FakeEngine
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import HostState, Peer, WireGuardLink
from netctl.model.keys import WireGuardKey
from tests.world.world_wireguard import DATA, INITIATION, RESPONSE, SimWireGuard

HERE, THERE = SocketAddress("203.0.113.1", 51820), SocketAddress("203.0.113.2", 51820)


class Wire:
    """One host with one peer, and what it has sent to the peer."""

    def __init__(self, key: WireGuardKey, peer: WireGuardKey, at: SocketAddress) -> None:
        link = WireGuardLink(key, 51820, 1420, frozenset(), {peer: Peer(peer, frozenset())})
        engine = FakeEngine(HostState(wireguard=link))
        engine.endpoints[peer] = at
        self.sent: list[bytes] = []
        self.wireguard = SimWireGuard(key, engine, lambda _, data: self.sent.append(data))

    def take(self) -> bytes:
        """The only message since the last call."""
        (message,) = self.sent
        self.sent.clear()
        return message


def test_answers_that_are_lost_leave_the_session_that_is_in_use() -> None:
    mine, theirs = (WireGuardKey(bytes([number]) * 32) for number in (1, 2))
    one, other = Wire(mine, theirs, THERE), Wire(theirs, mine, HERE)
    one.wireguard.tick(0.0, 0.0)
    other.wireguard.receive(one.take(), HERE, 0.0)
    one.wireguard.receive(other.take(), THERE, 0.0)
    data = one.take()
    assert data[0] == DATA
    other.wireguard.receive(data, HERE, 0.0)
    for number in range(1, 5):
        began = bytes([INITIATION, 0, 0, 0]) + mine.raw + (1000 + number).to_bytes(8, "big")
        other.wireguard.receive(began, HERE, float(number))
        assert other.take()[0] == RESPONSE, "and nobody gets it"
    other.wireguard.receive(data, HERE, 10.0)
    assert other.wireguard.heard(mine) == 10.0
    other.wireguard.send_data(mine)
    one.wireguard.receive(other.take(), THERE, 11.0)
    assert one.wireguard.heard(theirs) == 11.0, "it sends by the session that both have"
