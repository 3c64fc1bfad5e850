"""The statuses of a device's peers from one look to the next: of a peer that has not changed it is the same object."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_

from netctl.engine.wireguard.uapiclient import DeviceState, PeerState
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey


class Observed:
    """The last statuses, to which the next look is compared."""

    def __init__(self) -> None:
        self._peers: dict[WireGuardKey, PeerState] = {}
        self._statuses: Mapping[WireGuardKey, PeerStatus] = {}

    def statuses(
        self, device: DeviceState, handshakes: Mapping[WireGuardKey, float]
    ) -> Mapping[WireGuardKey, PeerStatus]:
        """The statuses of all peers: the same mapping as before if nothing has changed, and else in the same order.

        `handshakes`: Unix seconds of the last ones; a peer that is not in it had none.
        """
        before, peers = self._peers, device.peers
        self._peers = peers
        if len(peers) == len(before) and all(map(is_, peers, before)):
            if peers is before and not handshakes:
                return self._statuses
            pairs = zip(peers, before.values(), peers.values(), strict=True)
            keys = {*(key for key, old, new in pairs if old is not new), *handshakes}
            changed = {key: _status(peers[key], handshakes.get(key, 0.0)) for key in keys}
            statuses = {**self._statuses, **changed}
        else:
            statuses = {key: _status(peer, handshakes.get(key, 0.0)) for key, peer in peers.items()}
        self._statuses = statuses
        return statuses


def _status(peer: PeerState, handshake_s: float) -> PeerStatus:
    return PeerStatus(peer.endpoint, handshake_s, peer.rx_bytes, peer.tx_bytes)
