"""The effects of a device: frozen values that its shell performs in order."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.model.addresses import SocketAddress
from netctl.tunnel.peer import Peer


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send `data` (a handshake message or cookie reply) from the WireGuard port to `destination`.

    `peer` is None for a cookie reply: its receiver has not been authenticated. Byte counts of the peer are
    already brought up to date.
    """

    peer: Peer | None
    destination: SocketAddress
    data: bytes


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Seal and send one empty packet under `peer.sendable_keypair(now)`; then `data_sent(…, is_keepalive=True)`."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class FlushStaged:
    """A keypair has become usable: seal and send what `peer.take_staged()` gives."""

    peer: Peer


Effect = SendDatagram | SendKeepalive | FlushStaged
