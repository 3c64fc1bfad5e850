"""Enrolment and key rotation: one message proves both keys of a host (docs/protocol.md, «Enrolment»).

The identity signs a transcript, as in a login. The WireGuard key cannot sign: it proves itself by a MAC (HMAC-SHA256,
RFC 2104) under a key derived (HKDF-SHA256, RFC 5869) from the X25519 secret that only the holder of its private half
and the mediator's ephemeral private half can know.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey, is_weak_identity, is_weak_wireguard
from netctl.session.login import NONCE_LEN, SIGNATURE_LEN, Signer
from netctl.wire.control import PROTOCOL_VERSION, Enrol, Rotate
from netctl.wire.packed import packed

ENROL_LABEL = b"netctl enrol"
ROTATE_LABEL = b"netctl rotate"
MAC_INFO = b"netctl enrol mac"
MAC_LEN = 32
Agree = Callable[[WireGuardKey], bytes]
"""X25519 with a private key that stays with the shell. Raises ValueError for a public key of small order."""


def enrol_transcript(
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    ephemeral: WireGuardKey,
    identity: IdentityKey,
    key: WireGuardKey,
    token: bytes,
    name: str,
) -> bytes:
    """What an enrolment signs and authenticates."""
    version = PROTOCOL_VERSION.to_bytes(4, "big")
    keys = (pin.raw, mediator_nonce, nonce, ephemeral.raw, identity.raw, key.raw)
    return packed(ENROL_LABEL, version, *keys, token, name.encode())


def rotate_transcript(
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    ephemeral: WireGuardKey,
    identity: IdentityKey,
    key: WireGuardKey,
    previous: WireGuardKey,
) -> bytes:
    """What both identities sign when a member takes new keys, and what its new WireGuard key authenticates."""
    version = PROTOCOL_VERSION.to_bytes(4, "big")
    keys = (pin.raw, mediator_nonce, nonce, ephemeral.raw, identity.raw, key.raw)
    return packed(ROTATE_LABEL, version, *keys, previous.raw)


def _mac(agree: Agree, other: WireGuardKey, transcript: bytes) -> bytes:
    try:
        shared = agree(other)
    except ValueError as error:
        raise RemoteError("a WireGuard key of small order proves nothing", "enrol.weak-key") from error
    key = HKDF(SHA256(), MAC_LEN, None, MAC_INFO).derive(shared)
    return hmac.digest(key, transcript, "sha256")


def make_enrol(
    *,
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    ephemeral: WireGuardKey,
    identity: IdentityKey,
    key: WireGuardKey,
    sign: Signer,
    agree: Agree,
    token: bytes,
    name: str,
    exact: bool = False,
) -> Enrol:
    """The host's half. `nonce` is 32 fresh random bytes. Raises RemoteError for a bad challenge."""
    _check_challenge(mediator_nonce, ephemeral)
    text = enrol_transcript(pin, mediator_nonce, nonce, ephemeral, identity, key, token, name)
    return Enrol(
        PROTOCOL_VERSION,
        str(identity),
        str(key),
        name,
        token.hex(),
        nonce.hex(),
        sign(text).hex(),
        _mac(agree, ephemeral, text).hex(),
        exact,
    )


def make_rotate(
    *,
    pin: IdentityKey,
    mediator_nonce: bytes,
    nonce: bytes,
    ephemeral: WireGuardKey,
    identity: IdentityKey,
    key: WireGuardKey,
    sign: Signer,
    agree: Agree,
    previous: WireGuardKey,
    previous_sign: Signer,
) -> Rotate:
    """The member's half of a rotation. Raises RemoteError for a bad challenge."""
    _check_challenge(mediator_nonce, ephemeral)
    text = rotate_transcript(pin, mediator_nonce, nonce, ephemeral, identity, key, previous)
    return Rotate(
        PROTOCOL_VERSION,
        str(previous),
        str(identity),
        str(key),
        nonce.hex(),
        sign(text).hex(),
        _mac(agree, ephemeral, text).hex(),
        previous_sign(text).hex(),
    )


def _check_challenge(mediator_nonce: bytes, ephemeral: WireGuardKey) -> None:
    if len(mediator_nonce) != NONCE_LEN:
        raise RemoteError("the mediator's nonce is not 32 bytes", "login.bad-nonce")
    if is_weak_wireguard(ephemeral):
        raise RemoteError("the mediator's challenge is no fresh key", "enrol.weak-key")


def check_enrol(
    message: Enrol, *, pin: IdentityKey, mediator_nonce: bytes, ephemeral: WireGuardKey, agree: Agree
) -> None:
    """The mediator's half: both keys are sound and proven in this connection. Raises RemoteError."""
    identity, key, nonce = _proven_keys(message)
    token = bytes.fromhex(message.token)
    text = enrol_transcript(pin, mediator_nonce, nonce, ephemeral, identity, key, token, message.name)
    _check_mac(agree, key, text, message.mac)
    _check_signature(identity, text, message.signature)


def check_rotate(
    message: Rotate,
    *,
    pin: IdentityKey,
    mediator_nonce: bytes,
    ephemeral: WireGuardKey,
    agree: Agree,
    previous_identity: IdentityKey,
) -> None:
    """The mediator's half of a rotation; `previous_identity` is what membership has. Raises RemoteError."""
    identity, key, nonce = _proven_keys(message)
    previous = WireGuardKey.parse(message.previous)
    text = rotate_transcript(pin, mediator_nonce, nonce, ephemeral, identity, key, previous)
    _check_mac(agree, key, text, message.mac)
    _check_signature(identity, text, message.signature)
    _check_signature(previous_identity, text, message.previous_signature)


def _proven_keys(message: Enrol | Rotate) -> tuple[IdentityKey, WireGuardKey, bytes]:
    if message.version != PROTOCOL_VERSION:
        text = f"this mediator speaks version {PROTOCOL_VERSION}, the host {message.version}"
        raise RemoteError(text, "login.version")
    try:
        identity, key = IdentityKey.parse(message.identity), WireGuardKey.parse(message.wireguard)
    except ValueError as error:
        raise RemoteError("not a key", "message.bad") from error
    if is_weak_identity(identity) or is_weak_wireguard(key):
        raise RemoteError("a weak key: make new ones with `netctl keys init`", "enrol.weak-key")
    nonce = bytes.fromhex(message.nonce)
    if len(nonce) != NONCE_LEN:
        raise RemoteError("the nonce is not 32 bytes", "login.malformed")
    return identity, key, nonce


def _check_mac(agree: Agree, key: WireGuardKey, text: bytes, given: str) -> None:
    if not hmac.compare_digest(_mac(agree, key, text), bytes.fromhex(given)):
        raise RemoteError("the host does not prove that it holds the WireGuard key", "enrol.mac")


def _check_signature(identity: IdentityKey, text: bytes, given: str) -> None:
    signature = bytes.fromhex(given)
    if len(signature) != SIGNATURE_LEN:
        raise RemoteError("the signature has a wrong length", "login.malformed")
    try:
        Ed25519PublicKey.from_public_bytes(identity.raw).verify(signature, text)
    except InvalidSignature as error:
        message = "the signature does not prove this identity to this mediator"
        raise RemoteError(message, "login.signature") from error
