"""The statuses of a device's peers from one look to the next: of a peer that has not changed it is the same object."""

from __future__ import annotations

from collections.abc import Mapping

from netctl.engine.wireguard.uapiclient import DeviceState, PeerState
from netctl.model.hoststate import PeerStatus, changed_peers
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
        peers = device.peers
        changed = changed_peers(self._peers, peers)
        self._peers = peers
        keys = peers.keys() if changed is None else {*changed, *handshakes}
        if changed is None or keys:
            statuses = {key: _status(peers[key], handshakes.get(key, 0.0)) for key in keys}
            self._statuses = statuses if changed is None else {**self._statuses, **statuses}
        return self._statuses


def _status(peer: PeerState, handshake_s: float) -> PeerStatus:
    return PeerStatus(peer.endpoint, handshake_s, peer.rx_bytes, peer.tx_bytes)
