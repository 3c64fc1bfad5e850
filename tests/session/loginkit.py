"""Fixed keys for tests of login and session."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from netctl.model.keys import IdentityKey, WireGuardKey

NONCE = bytes(range(32))
MEDIATOR_NONCE = bytes(range(32, 64))
MEMBER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
MEDIATOR = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"\3" * 32)
KEY = WireGuardKey(b"\x11" * 32)
PEER = WireGuardKey(b"\x22" * 32)


def public(private: Ed25519PrivateKey) -> IdentityKey:
    """The public half."""
    return IdentityKey(private.public_key().public_bytes_raw())
