"""The relay's own messages: how a member binds its address to the port of a peer.

Every member has one relay port. Member A, with the relay port `own_port`, sends the following from its WireGuard UDP
port to the relay port of member B:

    BIND     allocation, transaction, MAC          ->
                                                   <-  COOKIE   transaction, cookie, MAC
    CONFIRM  allocation, transaction, cookie, MAC  ->
                                                   <-  BOUND    transaction, flags, observed source, MAC

An allocation has no signature. Its key is the BLAKE2s hash of the allocation, keyed with the relay's secret, so the
relay checks it without state and without a look-up. A member receives allocation and key over the control connection.
The cookie proves that the source address is real before the relay stores anything. No answer is larger than its
question. A refresh is another CONFIRM; the relay answers a stale cookie (a rebound NAT) with a new COOKIE.
After both sides are BOUND, WireGuard messages flow unframed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.datagram import ADDRESS_LEN, MAGIC, pack_address, unpack_address

ALLOCATION_VERSION = 1
KEY_LEN = 32
MAC_LEN = 16
COOKIE_LEN = 16
TRANSACTION_LEN = 8
SECRET_LEN = 32
"""Length of the secret that a relay and its mediator share, bytes."""

_ALLOCATION = struct.Struct(">BHHQ")
ALLOCATION_LEN = _ALLOCATION.size
_KEY_LABEL = b"nctlrkey"
_HEADER_LEN = len(MAGIC) + 1


class RelayKind(IntEnum):
    """Byte 4 of the four messages."""

    BIND = 0x10
    COOKIE = 0x11
    CONFIRM = 0x12
    BOUND = 0x13


class BoundFlag(IntFlag):
    """Flags of a BOUND."""

    NONE = 0
    PEER_BOUND = 1
    """The peer is bound too: packets flow."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """The right of the member with `own_port` to talk to the member with `peer_port`."""

    own_port: int
    peer_port: int
    expires_s: int
    """Unix time."""

    def pack(self) -> bytes:
        """13 bytes: version, own port, peer port, expiry."""
        return _ALLOCATION.pack(ALLOCATION_VERSION, self.own_port, self.peer_port, self.expires_s)

    @classmethod
    def unpack(cls, data: bytes) -> Allocation:
        """From 13 bytes. Raises RemoteError."""
        if len(data) != ALLOCATION_LEN:
            raise RemoteError("an allocation is 13 bytes", "relay.allocation")
        version, own_port, peer_port, expires_s = _ALLOCATION.unpack(data)
        if version != ALLOCATION_VERSION or not own_port or not peer_port or own_port == peer_port:
            raise RemoteError("not an allocation of this version", "relay.allocation")
        return cls(own_port, peer_port, expires_s)

    def key(self, secret: bytes) -> bytes:
        """The 32-byte key of the allocation, known only to the relay, the mediator and the member that holds it."""
        return hashlib.blake2s(self.pack(), key=secret, person=_KEY_LABEL).digest()


@dataclass(frozen=True, slots=True)
class Bind:
    """The first question."""

    allocation: Allocation
    transaction: bytes


@dataclass(frozen=True, slots=True)
class Cookie:
    """The first answer: prove that you receive at your source address."""

    transaction: bytes
    cookie: bytes


@dataclass(frozen=True, slots=True)
class Confirm:
    """The second question, and every refresh."""

    allocation: Allocation
    transaction: bytes
    cookie: bytes


@dataclass(frozen=True, slots=True)
class Bound:
    """The second answer; sent once more, with the same transaction, when the peer becomes bound."""

    transaction: bytes
    flags: BoundFlag
    observed: SocketAddress | None


RelayMessage = Bind | Cookie | Confirm | Bound

LENGTHS = {
    RelayKind.BIND: _HEADER_LEN + ALLOCATION_LEN + TRANSACTION_LEN + MAC_LEN + 3,
    RelayKind.COOKIE: _HEADER_LEN + TRANSACTION_LEN + COOKIE_LEN + MAC_LEN,
    RelayKind.CONFIRM: _HEADER_LEN + ALLOCATION_LEN + TRANSACTION_LEN + COOKIE_LEN + MAC_LEN,
    RelayKind.BOUND: _HEADER_LEN + TRANSACTION_LEN + 1 + ADDRESS_LEN + MAC_LEN,
}
"""BIND has three bytes of padding: exactly as long as its COOKIE."""
BIND_PADDING = bytes(3)


def seal(message: RelayMessage, key: bytes) -> bytes:
    """Bytes of a message, ending in its MAC under the allocation's key."""
    match message:
        case Bind(allocation, transaction):
            kind, body = RelayKind.BIND, allocation.pack() + transaction + BIND_PADDING
        case Cookie(transaction, cookie):
            kind, body = RelayKind.COOKIE, transaction + cookie
        case Confirm(allocation, transaction, cookie):
            kind, body = RelayKind.CONFIRM, allocation.pack() + transaction + cookie
        case Bound(transaction, flags, observed):
            kind, body = RelayKind.BOUND, transaction + bytes([flags]) + pack_address(observed)
    data = MAGIC + bytes([kind]) + body
    return data + _mac(key, data)


def peek_allocation(data: bytes) -> Allocation:
    """The allocation that a BIND or CONFIRM names, before its MAC can be checked. Raises RemoteError."""
    if _kind(data) not in (RelayKind.BIND, RelayKind.CONFIRM):
        raise RemoteError("a relay message without an allocation", "relay.kind")
    return Allocation.unpack(data[_HEADER_LEN : _HEADER_LEN + ALLOCATION_LEN])


def open_message(data: bytes, key: bytes) -> RelayMessage:
    """Check the MAC, then decode. Raises RemoteError."""
    kind = _kind(data)
    if not hmac.compare_digest(_mac(key, data[:-MAC_LEN]), data[-MAC_LEN:]):
        raise RemoteError("a relay message with a wrong MAC", "relay.mac")
    body = data[_HEADER_LEN:-MAC_LEN]
    if kind is RelayKind.COOKIE:
        return Cookie(body[:TRANSACTION_LEN], body[TRANSACTION_LEN:])
    if kind is RelayKind.BOUND:
        flags = BoundFlag(body[TRANSACTION_LEN] & 1)
        return Bound(body[:TRANSACTION_LEN], flags, unpack_address(body[TRANSACTION_LEN + 1 :]))
    allocation = Allocation.unpack(body[:ALLOCATION_LEN])
    transaction = body[ALLOCATION_LEN : ALLOCATION_LEN + TRANSACTION_LEN]
    if kind is RelayKind.BIND:
        return Bind(allocation, transaction)
    return Confirm(allocation, transaction, body[ALLOCATION_LEN + TRANSACTION_LEN :])


def _kind(data: bytes) -> RelayKind:
    if len(data) <= _HEADER_LEN or data[: len(MAGIC)] != MAGIC:
        raise RemoteError("not a relay message", "relay.header")
    try:
        kind = RelayKind(data[len(MAGIC)])
    except ValueError:
        raise RemoteError("a relay message of unknown kind", "relay.kind") from None
    if len(data) != LENGTHS[kind]:
        raise RemoteError("a relay message of the wrong length", "relay.length")
    return kind


def _mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=MAC_LEN).digest()
