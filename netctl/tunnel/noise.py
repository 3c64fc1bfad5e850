"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (paper §5.4.2-5.4.5): pure functions over messages.

Every function returns new values or None (not authentic) and changes nothing of its arguments, so a caller
commits only what was verified whole. Names follow the paper: C is the chaining key, H the hash.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.tunnel.messages import Initiation, Response
from netctl.tunnel.primitives import dh, hash_, kdf, open_, seal

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_INITIAL_CHAIN = hash_(CONSTRUCTION)
_INITIAL_HASH = hash_(_INITIAL_CHAIN, IDENTIFIER)


class StaticKeys:
    """Our long-term key pair."""

    __slots__ = ("private", "public")

    def __init__(self, private_key: bytes) -> None:
        self.private = X25519PrivateKey.from_private_bytes(private_key)
        self.public = self.private.public_key().public_bytes_raw()


@dataclass(slots=True)
class Handshake:
    """The state of an initiation, sent or received, until the response: the chain, the hash, the keys."""

    chain: bytearray = field(repr=False)
    hash: bytes
    local_index: int
    """Sent: our index. Received: 0 until the response gives it one."""
    remote_index: int
    """Received: the sender's index. Sent: 0."""
    remote_ephemeral: bytes
    """Received only."""
    ephemeral: X25519PrivateKey | None = field(repr=False)
    """Sent only; OpenSSL clears it when it is freed."""

    def wipe(self) -> None:
        """Zero the chaining key and drop the ephemeral key."""
        self.chain[:] = bytes(len(self.chain))
        self.ephemeral = None


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Transport keys: ours to send with, ours to receive with."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


def create_initiation(
    own: StaticKeys,
    remote_static: bytes,
    static_static: bytes,
    ephemeral: X25519PrivateKey,
    timestamp: bytes,
    index: int,
) -> tuple[Initiation, Handshake] | None:
    """§5.4.2. None: the remote key is of small order. `static_static` is DH of both static keys."""
    public = ephemeral.public_key().public_bytes_raw()
    es = dh(ephemeral, remote_static)
    if es is None:
        return None
    (chain,) = kdf(1, _INITIAL_CHAIN, public)
    transcript = hash_(hash_(_INITIAL_HASH, remote_static), public)
    chain, key = kdf(2, chain, es)
    encrypted_static = seal(key, own.public, transcript)
    transcript = hash_(transcript, encrypted_static)
    chain, key = kdf(2, chain, static_static)
    encrypted_timestamp = seal(key, timestamp, transcript)
    transcript = hash_(transcript, encrypted_timestamp)
    message = Initiation(index, public, encrypted_static, encrypted_timestamp)
    return message, Handshake(bytearray(chain), transcript, index, 0, b"", ephemeral)


@dataclass(frozen=True, slots=True)
class OpenedInitiation:
    """An opened initiation, which names its sender; that sender is not yet proven."""

    message: Initiation
    remote_static: bytes
    chain: bytes = field(repr=False)
    hash: bytes


def open_initiation(own: StaticKeys, message: Initiation) -> OpenedInitiation | None:
    """§5.4.2, first half: decrypt the sender's static key. None: not authentic."""
    (chain,) = kdf(1, _INITIAL_CHAIN, message.ephemeral)
    transcript = hash_(hash_(_INITIAL_HASH, own.public), message.ephemeral)
    es = dh(own.private, message.ephemeral)
    if es is None:
        return None
    chain, key = kdf(2, chain, es)
    remote_static = open_(key, message.encrypted_static, transcript)
    if remote_static is None:
        return None
    return OpenedInitiation(message, remote_static, chain, hash_(transcript, message.encrypted_static))


def prove_initiation(opened: OpenedInitiation, static_static: bytes) -> tuple[bytes, Handshake] | None:
    """§5.4.2, second half: prove the sender. Returns the 12-byte timestamp and what the response needs."""
    chain, key = kdf(2, opened.chain, static_static)
    timestamp = open_(key, opened.message.encrypted_timestamp, opened.hash)
    if timestamp is None:
        return None
    transcript = hash_(opened.hash, opened.message.encrypted_timestamp)
    message = opened.message
    return timestamp, Handshake(bytearray(chain), transcript, 0, message.sender, message.ephemeral, None)


def create_response(
    handshake: Handshake,
    remote_static: bytes,
    preshared_key: bytes | bytearray,
    ephemeral: X25519PrivateKey,
    index: int,
) -> tuple[Response, SessionKeys] | None:
    """§5.4.3 and §5.4.5, the responder's side. None: a key of small order."""
    public = ephemeral.public_key().public_bytes_raw()
    ee, se = dh(ephemeral, handshake.remote_ephemeral), dh(ephemeral, remote_static)
    if ee is None or se is None:
        return None
    (chain,) = kdf(1, handshake.chain, public)
    (chain,) = kdf(1, chain, ee)
    (chain,) = kdf(1, chain, se)
    chain, tau, key = kdf(3, chain, preshared_key)
    transcript = hash_(hash_(handshake.hash, public), tau)
    message = Response(index, handshake.remote_index, public, seal(key, b"", transcript))
    receive, send = kdf(2, chain, b"")
    return message, SessionKeys(send=send, receive=receive)


def consume_response(
    own: StaticKeys, handshake: Handshake, preshared_key: bytes | bytearray, message: Response
) -> SessionKeys | None:
    """§5.4.3 and §5.4.5, the initiator's side."""
    if handshake.ephemeral is None:
        return None
    ee, se = dh(handshake.ephemeral, message.ephemeral), dh(own.private, message.ephemeral)
    if ee is None or se is None:
        return None
    (chain,) = kdf(1, handshake.chain, message.ephemeral)
    (chain,) = kdf(1, chain, ee)
    (chain,) = kdf(1, chain, se)
    chain, tau, key = kdf(3, chain, preshared_key)
    transcript = hash_(hash_(handshake.hash, message.ephemeral), tau)
    if open_(key, message.encrypted_nothing, transcript) is None:
        return None
    send, receive = kdf(2, chain, b"")
    return SessionKeys(send=send, receive=receive)
