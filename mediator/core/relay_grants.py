"""Relay grants: made by the mediator, checked offline by the relay that shares its secret."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.wire.relay import SECRET_LEN, Allocation

GRANT_TTL_S = 6 * 3600
"""Long enough that a network survives hours without a mediator, short enough that a revoked member's right ends the
same day.
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a `RelayGrant` message carries to a member."""

    allocation: str
    """Hex of the packed allocation."""
    key: str
    """Hex of the allocation's key, 32 bytes: secret, for the granted member only."""
    expires_s: int
    """Unix time."""


def grant(secret: bytes, own_port: int, peer_port: int, expires_s: int) -> Grant:
    """Let the member with relay port `own_port` send to the one with `peer_port` until `expires_s`.

    Raises ValueError for a secret of the wrong length or equal ports.
    """
    if len(secret) != SECRET_LEN:
        raise ValueError(f"a relay secret is {SECRET_LEN} bytes")
    if own_port == peer_port or not (0 < own_port < 65536 and 0 < peer_port < 65536):
        raise ValueError("a grant is between two different ports")
    allocation = Allocation(own_port, peer_port, expires_s)
    return Grant(allocation.pack().hex(), allocation.key(secret).hex(), expires_s)
