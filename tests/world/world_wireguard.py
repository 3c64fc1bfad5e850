"""WireGuard as far as paths and plans can see it: handshakes, roaming, counters. No cryptography.

Like the real one it lives in the kernel: it outlives the agent and dies with the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netctl.engine import FakeEngine
from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import KEY_LEN, WireGuardKey

INITIATION, RESPONSE, DATA = 1, 2, 4
REKEY_AFTER_S = 120.0
RETRY_S = 5.0
KEEPALIVE_S = 10.0
HEADER = 4


@dataclass
class _Peer:
    """What WireGuard keeps of a peer: three sessions at most, each by its number (Linux, `noise.c`: keypairs)."""

    previous: int = 0
    current: int = 0
    next: int = 0
    """We answered, and the peer has not sent by it: a newer one takes its place, and `current` stays."""
    since: float = -1e9
    stamp: float = 0.0
    """The wall clock at the last handshake."""
    asked: float = -1e9
    mine: int = 0
    sent: float = -1e9
    heard: float = -1e9
    rx: int = 0
    tx: int = 0

    def answered(self, number: int) -> None:
        """We have answered an initiation."""
        self.previous, self.next = 0, number

    def began(self, number: int) -> None:
        """Our initiation was answered."""
        self.previous, self.current, self.next = self.next or self.current, number, 0

    def opens(self, number: int) -> bool:
        """Whether data of this session can be decrypted."""
        return number != 0 and number in (self.previous, self.current, self.next)

    def confirmed(self, number: int) -> bool:
        """Data of this session came. True: it is the current one from now on."""
        if number != self.next:
            return False
        self.previous, self.current, self.next = self.current, number, 0
        return True


class SimWireGuard:
    """The tunnels of one host."""

    def __init__(
        self, key: WireGuardKey, engine: FakeEngine, send: Callable[[SocketAddress, bytes], None]
    ) -> None:
        self._key, self._engine, self._send = key, engine, send
        self._peers: dict[WireGuardKey, _Peer] = {}
        self._count = int.from_bytes(key.raw[:4], "big") << 16  # no two hosts use one number
        self._now = self._unix = 0.0

    def _configured(self) -> set[WireGuardKey]:
        link = self._engine.state.wireguard
        return set(link.peers) if link is not None else set()

    def heard(self, key: WireGuardKey) -> float:
        """When data last came through the tunnel of this peer."""
        return self._peers[key].heard if key in self._peers else -1e9

    def tick(self, now: float, unix: float) -> None:
        """Once a second: what goes with the time, and the engine's counters."""
        self._now, self._unix = now, unix
        present = self._configured()
        for key in [key for key in self._peers if key not in present]:
            del self._peers[key]
            self._engine.endpoints.pop(key, None)
        for key in sorted(present):
            peer = self._peers.setdefault(key, _Peer())
            if now - peer.since >= REKEY_AFTER_S:
                if now - peer.asked >= RETRY_S:
                    self._count += 1
                    peer.asked, peer.mine = now, self._count
                    self._emit(key, INITIATION, self._count)
            elif now - peer.sent >= KEEPALIVE_S:
                self._emit(key, DATA, peer.current)
        self._engine.status = {
            key: PeerStatus(
                self._engine.endpoints.get(key),
                peer.stamp,
                peer.rx,
                peer.tx,
            )
            for key, peer in self._peers.items()
        }

    def begin_anew(self, key: WireGuardKey) -> None:
        """Forget session and handshake with a peer, and begin another one."""
        if key in self._peers:
            self._count += 1
            self._peers[key] = _Peer(asked=self._now, mine=self._count)
            self._emit(key, INITIATION, self._count)

    def send_data(self, key: WireGuardKey) -> None:
        """A packet that wants to go through the tunnel."""
        if key in self._peers:
            self._emit(key, DATA, self._peers[key].current)

    def receive(self, data: bytes, source: SocketAddress, now: float) -> None:
        """A WireGuard message came."""
        self._now = now
        key = WireGuardKey(data[HEADER : HEADER + KEY_LEN])
        number = int.from_bytes(data[HEADER + KEY_LEN :], "big")
        if key not in self._configured():
            return
        peer = self._peers.setdefault(key, _Peer())
        if data[0] == INITIATION:
            self._from(key, peer, source, len(data))
            peer.answered(number)
            self._emit(key, RESPONSE, number)
        elif data[0] == RESPONSE and number == peer.mine:
            self._from(key, peer, source, len(data))
            peer.began(number)
            peer.since, peer.stamp = now, self._unix
            self._emit(key, DATA, number)
        elif data[0] == DATA and peer.opens(number):
            self._from(key, peer, source, len(data))
            peer.heard = now
            if peer.confirmed(number):
                peer.since, peer.stamp = now, self._unix

    def _from(self, key: WireGuardKey, peer: _Peer, source: SocketAddress, size: int) -> None:
        peer.rx += size
        self._engine.endpoints[key] = source  # authenticated: WireGuard roams

    def _emit(self, key: WireGuardKey, kind: int, number: int) -> None:
        endpoint = self._engine.endpoints.get(key)
        if endpoint is None:
            return
        peer = self._peers[key]
        data = bytes([kind, 0, 0, 0]) + self._key.raw + number.to_bytes(8, "big")
        peer.tx += len(data)
        if kind == DATA:
            peer.sent = self._now
        self._send(endpoint, data)
