"""Both halves of the login (docs/protocol.md, «Login»): an Ed25519 signature over a fresh transcript.

The mediator has proven itself before: its TLS 1.3 certificate carries the pinned identity, which the shell checks
before it sends a byte. The member signs a transcript with both nonces and the pin it used, so a signature is good for
this mediator and this connection only.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey, is_weak_identity
from netctl.wire.control import PROTOCOL_VERSION, Login
from netctl.wire.packed import packed

NONCE_LEN = 32
SIGNATURE_LEN = 64
LABEL = b"netctl login"
Signer = Callable[[bytes], bytes]
"""Signs with an Ed25519 private key that stays with the shell."""


def transcript(
    version: int,
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    identity: IdentityKey,
    key: WireGuardKey,
) -> bytes:
    """What is signed: each part with its length (4 bytes, big-endian) before it."""
    return packed(LABEL, version.to_bytes(4, "big"), pin.raw, mediator_nonce, nonce, identity.raw, key.raw)


def make_login(
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    identity: IdentityKey,
    key: WireGuardKey,
    sign: Signer,
) -> Login:
    """The member's half. `nonce` is 32 fresh random bytes. Raises RemoteError for a short mediator nonce."""
    if len(mediator_nonce) != NONCE_LEN:
        raise RemoteError("the mediator's nonce is not 32 bytes", "login.bad-nonce")
    signed = transcript(PROTOCOL_VERSION, pin, mediator_nonce, nonce, identity, key)
    return Login(PROTOCOL_VERSION, str(identity), str(key), nonce.hex(), sign(signed).hex())


def check_login(login: Login, mediator_nonce: bytes, pin: IdentityKey, expected: IdentityKey) -> None:
    """The mediator's half: `expected` is the identity that membership has for the WireGuard key.

    `pin` is the identity of the mediator's own certificate, no other of the document's list: the holder of another
    pinned identity could relay our nonce to a member and the member's signature to us. Raises RemoteError.
    """
    if login.version != PROTOCOL_VERSION:
        message = f"this mediator speaks version {PROTOCOL_VERSION}, the member {login.version}"
        raise RemoteError(message, "login.version")
    if str(expected) != login.identity:
        raise RemoteError("the identity is not the one that the document has for this key", "login.identity")
    if is_weak_identity(expected):
        raise RemoteError("this identity key is weak: make a new one with `netctl keys`", "login.weak-key")
    nonce, signature = bytes.fromhex(login.nonce), bytes.fromhex(login.signature)
    if len(nonce) != NONCE_LEN or len(signature) != SIGNATURE_LEN:
        raise RemoteError("the login's nonce or signature has a wrong length", "login.malformed")
    key = WireGuardKey.parse(login.wireguard)
    signed = transcript(login.version, pin, mediator_nonce, nonce, expected, key)
    try:
        Ed25519PublicKey.from_public_bytes(expected.raw).verify(signature, signed)
    except InvalidSignature as error:
        message = "the signature does not prove this identity to this mediator"
        raise RemoteError(message, "login.signature") from error
