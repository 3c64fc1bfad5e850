"""The fields of a WireGuard message that need no secret key to read or check: type, indices, counter and mac1.

The layouts are those of the WireGuard paper, §5.4. mac1 proves only that the sender knows the receiver's public key.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT = 1, 2, 3, 4
INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN = 148, 92, 64
TRANSPORT_MIN_LEN = 32
"""Bytes of a keepalive: header and tag."""
MAC_LEN = 16
MACS_LEN = 2 * MAC_LEN
LABEL_MAC1 = b"mac1----"
_LENGTHS = {INITIATION: INITIATION_LEN, RESPONSE: RESPONSE_LEN, COOKIE_REPLY: COOKIE_REPLY_LEN}
_TYPE = struct.Struct("<I")
_INDEX = struct.Struct("<I")
_TRANSPORT = struct.Struct("<IIQ")


def message_type(datagram: bytes | memoryview) -> int | None:
    """The type, 1 to 4, of a datagram with the type and length of a WireGuard message, else None."""
    if len(datagram) < _TYPE.size:
        return None
    kind: int = _TYPE.unpack_from(datagram)[0]
    if kind == TRANSPORT:
        return kind if len(datagram) >= TRANSPORT_MIN_LEN else None
    return kind if _LENGTHS.get(kind) == len(datagram) else None


def sender_index(datagram: bytes | memoryview) -> int:
    """The index that the sender of an initiation or response has chosen for itself."""
    index: int = _INDEX.unpack_from(datagram, 4)[0]
    return index


def receiver_index(datagram: bytes | memoryview) -> int:
    """The index that the receiver of a response, cookie reply or transport message has chosen for itself."""
    kind: int = _TYPE.unpack_from(datagram)[0]
    index: int = _INDEX.unpack_from(datagram, 8 if kind == RESPONSE else 4)[0]
    return index


def counter(datagram: bytes | memoryview) -> int:
    """The counter of a transport message."""
    value: int = _TRANSPORT.unpack_from(datagram)[2]
    return value


def mac1_key(public_key: bytes) -> bytes:
    """The key of mac1 in all messages to the holder of this public key."""
    return hashlib.blake2s(LABEL_MAC1 + public_key).digest()


def has_mac1(key: bytes, datagram: bytes) -> bool:
    """Whether the mac1 of an initiation or response was made with this `mac1_key`."""
    wanted = hashlib.blake2s(datagram[:-MACS_LEN], key=key, digest_size=MAC_LEN).digest()
    return hmac.compare_digest(wanted, datagram[-MACS_LEN:-MAC_LEN])
