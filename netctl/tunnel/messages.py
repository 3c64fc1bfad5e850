"""The four messages (paper §5.4.2-5.4.7): bytes ↔ values; only type and length are checked here."""

from __future__ import annotations

import struct
from dataclasses import dataclass

INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT = 1, 2, 3, 4
"""The first little-endian 32-bit word: a type byte and three reserved zero bytes."""

INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN, TRANSPORT_HEADER_LEN = 148, 92, 64, 16
TRANSPORT_OVERHEAD = 32
"""Bytes of header and tag around each transport packet; a keepalive consists of just these."""
MACS_LEN = 32
"""mac1 and mac2, 16 bytes each, end messages 1 and 2."""

_TYPE = struct.Struct("<I")
_INITIATION = struct.Struct("<II32s48s28s")
_RESPONSE = struct.Struct("<III32s16s")
_COOKIE_REPLY = struct.Struct("<II24s32s")
_TRANSPORT = struct.Struct("<IIQ")


def message_type(datagram: bytes) -> int | None:
    """The type 1-4 of a datagram with a WireGuard type and a length possible for it; None for all others."""
    size = len(datagram)
    if size < TRANSPORT_OVERHEAD:
        return None
    kind: int = _TYPE.unpack_from(datagram)[0]
    if kind == TRANSPORT or _LENGTHS.get(kind) == size:
        return kind
    return None


_LENGTHS = {INITIATION: INITIATION_LEN, RESPONSE: RESPONSE_LEN, COOKIE_REPLY: COOKIE_REPLY_LEN}


@dataclass(frozen=True, slots=True)
class Initiation:
    """Type 1 without its macs."""

    sender: int
    ephemeral: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes

    def encode(self) -> bytes:
        """The 116 bytes before the macs."""
        return _INITIATION.pack(
            INITIATION, self.sender, self.ephemeral, self.encrypted_static, self.encrypted_timestamp
        )

    @classmethod
    def decode(cls, datagram: bytes) -> Initiation:
        """From a datagram that `message_type` calls INITIATION."""
        return cls(*_INITIATION.unpack_from(datagram)[1:])


@dataclass(frozen=True, slots=True)
class Response:
    """Type 2 without its macs."""

    sender: int
    receiver: int
    ephemeral: bytes
    encrypted_nothing: bytes

    def encode(self) -> bytes:
        """The 60 bytes before the macs."""
        return _RESPONSE.pack(RESPONSE, self.sender, self.receiver, self.ephemeral, self.encrypted_nothing)

    @classmethod
    def decode(cls, datagram: bytes) -> Response:
        """From a datagram that `message_type` calls RESPONSE."""
        return cls(*_RESPONSE.unpack_from(datagram)[1:])


@dataclass(frozen=True, slots=True)
class CookieReply:
    """Type 3, whole."""

    receiver: int
    nonce: bytes
    encrypted_cookie: bytes

    def encode(self) -> bytes:
        """All 64 bytes."""
        return _COOKIE_REPLY.pack(COOKIE_REPLY, self.receiver, self.nonce, self.encrypted_cookie)

    @classmethod
    def decode(cls, datagram: bytes) -> CookieReply:
        """From a datagram that `message_type` calls COOKIE_REPLY."""
        return cls(*_COOKIE_REPLY.unpack_from(datagram)[1:])


def sender_index(datagram: bytes) -> int:
    """The sender's index of an initiation or a response."""
    index: int = _TYPE.unpack_from(datagram, 4)[0]
    return index


def transport_header(receiver: int, counter: int) -> bytes:
    """The 16 bytes before the ciphertext of type 4."""
    return _TRANSPORT.pack(TRANSPORT, receiver, counter)


def transport_fields(datagram: bytes) -> tuple[int, int]:
    """Receiver index and counter of a datagram that `message_type` calls TRANSPORT."""
    _, receiver, counter = _TRANSPORT.unpack_from(datagram)
    return receiver, counter


def transport_nonce(counter: int) -> bytes:
    """The AEAD nonce of a transport packet (§5.4.6): 32 zero bits and the counter."""
    return bytes(4) + counter.to_bytes(8, "little")
