"""Which peers of a device have changed since somebody looked last: most of thousands are idle.

A look is known by a cursor, text that only this process understands. `get=changed` of `netctl.wg.uapi_server` sends the
peers that have changed since a cursor and the next cursor. A cursor of another process, or of before peers were removed
or allowed IPs changed, brings all peers.
"""

from __future__ import annotations

from collections.abc import Callable

from netctl.model.addresses import SocketAddress
from netctl.tunnel import Device, Peer

NAME_LEN = 8
"""Random bytes that tell this process from another one that was asked with the same cursor."""
_State = tuple[SocketAddress | None, float, int, int, int, int]
"""A peer's endpoint, last handshake, sent and received bytes, keepalive, and the look that saw them first."""
_ABSENT: tuple[SocketAddress | None, float, int, int, int] = (None, -1.0, -1, -1, -1)
"""The state of no peer, without the look."""


class Changes:
    """The changes of one device. A look goes through all peers: 2 ms for 5,000."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._name = rng(NAME_LEN).hex()
        self._look = 0
        self._whole_at = 0
        """The last look at which peers were gone, or allowed IPs different."""
        self._seen: dict[bytes, _State] = {}
        self._revision = -1

    def since(self, device: Device, cursor: str) -> tuple[str, list[Peer] | None]:
        """The next cursor, and the peers that have changed since this one; None: tell all peers.

        A preshared key is no part of what is watched.
        """
        before = self._looked(cursor)
        self._look += 1
        self._notice(device)
        after = f"{self._name}.{self._look}"
        if before is None or before < self._whole_at:
            return after, None
        peers = device.peers
        return after, [peers[key] for key, state in self._seen.items() if state[5] > before]

    def told(self, key: bytes, peer: Peer | None) -> None:
        """What an answer, which a slow reader takes piece by piece, says of a peer of a look; None: nothing, as there
        is no such peer now. Where that is not what the look has seen, the next look tells the peer again: it may be by
        then as the look has seen it.
        """
        known = self._seen.get(key)
        if known is None:
            return  # another look has found it gone, so the next one tells all peers
        state = _ABSENT
        if peer is not None:
            state = (peer.endpoint, peer.last_handshake, peer.tx_bytes, peer.rx_bytes, peer.keepalive_s)
        if known[:5] != state:
            self._seen[key] = (*state, self._look + 1)

    def _looked(self, cursor: str) -> int | None:
        name, _, number = cursor.partition(".")
        if name != self._name or not (number.isascii() and number.isdecimal() and len(number) <= 20):
            return None
        return int(number) if 0 < int(number) <= self._look else None

    def _notice(self, device: Device) -> None:
        seen, look = self._seen, self._look
        for key, peer in device.peers.items():
            known = seen.get(key)
            if (
                known is None
                or known[2] != peer.tx_bytes
                or known[3] != peer.rx_bytes
                or known[1] != peer.last_handshake
                or known[0] != peer.endpoint
                or known[4] != peer.keepalive_s
            ):
                seen[key] = (
                    peer.endpoint,
                    peer.last_handshake,
                    peer.tx_bytes,
                    peer.rx_bytes,
                    peer.keepalive_s,
                    look,
                )
        if len(seen) != len(device.peers):
            self._seen = {key: state for key, state in seen.items() if key in device.peers}
            self._whole_at = look
        if device.allowed_ips.revision != self._revision:
            self._revision = device.allowed_ips.revision
            self._whole_at = look
