"""STUN binding (RFC 8489), as much as address discovery needs: no authentication, no TCP.

Our requests carry SOFTWARE padding, so that no answer is larger than its request: to a shorter request the server stays
silent, so it is no amplifier. Our answers and requests carry FINGERPRINT; a message with a wrong one is refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.wire.datagram import STUN_COOKIE

BINDING_REQUEST = 0x0001
BINDING_SUCCESS = 0x0101
BINDING_ERROR = 0x0111
MAPPED_ADDRESS = 0x0001
CHANGE_REQUEST = 0x0003
"""Asks for an answer from another address or port (RFC 5780 §7.2)."""
CHANGE_ADDRESS, CHANGE_PORT = 4, 2
"""Flags of CHANGE-REQUEST."""
UNKNOWN_ATTRIBUTES = 0x000A
XOR_MAPPED_ADDRESS = 0x0020
SOFTWARE = 0x8022
FINGERPRINT = 0x8028
OTHER_ADDRESS = 0x802C
"""The server's other address (RFC 5780 §7.4). Our servers also send it when only the port differs."""
RELAY_LOAD = 0xF10D
"""How loaded the relay is that answers, 0 to `MAX_LOAD` in the last of four bytes, and flags in the byte before it;
without it: not loaded. A type of our own, of the range that others skip (RFC 8489 §14)."""
SPREAD = 1
"""Flag of RELAY-LOAD: the mediator gives grants at the relays beside all mediators of the document, so members may be
logged in at any of them."""
MAX_LOAD = 3
"""The relay is full."""
FINGERPRINT_XOR = 0x5354554E
"""RFC 8489 §14.7."""
HEADER_LEN = 20
TRANSACTION_LEN = 12
MAX_MESSAGE = 1280
"""Bytes: a STUN message must fit the MTU of every path (RFC 8489 §6.1)."""
MAX_ATTRIBUTES = 32
"""Attributes of one message: no honest binding message has more. Bounds the work that one datagram can cause."""
SOFTWARE_PADDING = b"netctl".ljust(28)
"""Makes a request 60 bytes long, as long as the longest answer (IPv6 with a load: 20 + 24 + 8 + 8)."""

_HEADER = struct.Struct(">HH4s12s")
_ATTRIBUTE = struct.Struct(">HH")


@dataclass(frozen=True, slots=True)
class StunMessage:
    """One decoded message; `attributes` in order, without FINGERPRINT (checked already)."""

    kind: int
    transaction: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()
    fingerprint: bool = False
    """Decoded: the message had a correct FINGERPRINT. To encode: append one."""

    def attribute(self, kind: int) -> bytes | None:
        """The first value of this attribute type, or None."""
        return next((value for number, value in self.attributes if number == kind), None)

    @property
    def other(self) -> SocketAddress | None:
        """The server's other address (OTHER-ADDRESS), or None. Raises RemoteError if broken."""
        value = self.attribute(OTHER_ADDRESS)
        return None if value is None else _unpack_mapped(value, bytes(16))

    @property
    def load(self) -> int:
        """How loaded the relay is (RELAY-LOAD), 0 to `MAX_LOAD`; a broken value counts as none."""
        value = self.attribute(RELAY_LOAD)
        return min(value[3], MAX_LOAD) if value is not None and len(value) == 4 else 0

    @property
    def spread(self) -> bool:
        """Whether the mediator that answers says that members may spread (`SPREAD`)."""
        value = self.attribute(RELAY_LOAD)
        return value is not None and len(value) == 4 and bool(value[2] & SPREAD)

    @property
    def mapped(self) -> SocketAddress | None:
        """Our address as the server saw it: XOR-MAPPED-ADDRESS, else MAPPED-ADDRESS. Raises RemoteError if broken."""
        xored = self.attribute(XOR_MAPPED_ADDRESS)
        if xored is not None:
            return _unpack_mapped(xored, STUN_COOKIE + self.transaction)
        plain = self.attribute(MAPPED_ADDRESS)
        return None if plain is None else _unpack_mapped(plain, bytes(16))


def encode(message: StunMessage) -> bytes:
    """Bytes of a message, FINGERPRINT appended if `message.fingerprint`."""
    body = b"".join(
        _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4)
        for kind, value in message.attributes
    )
    length = len(body) + (8 if message.fingerprint else 0)
    data = _HEADER.pack(message.kind, length, STUN_COOKIE, message.transaction) + body
    if message.fingerprint:
        data += _ATTRIBUTE.pack(FINGERPRINT, 4) + struct.pack(">I", zlib.crc32(data) ^ FINGERPRINT_XOR)
    return data


def decode(data: bytes) -> StunMessage:
    """Decode and check a whole message (RFC 8489 §6.3). Raises RemoteError."""
    if not HEADER_LEN <= len(data) <= MAX_MESSAGE:
        raise RemoteError("not the length of a STUN message", "stun.length")
    kind, length, cookie, transaction = _HEADER.unpack_from(data)
    if kind & 0xC000 or cookie != STUN_COOKIE or length % 4 or HEADER_LEN + length != len(data):
        raise RemoteError("not a STUN header", "stun.header")
    attributes: list[tuple[int, bytes]] = []
    fingerprint = False
    offset = HEADER_LEN
    while offset < len(data):
        if fingerprint or len(attributes) >= MAX_ATTRIBUTES:
            raise RemoteError("STUN attributes after FINGERPRINT, or too many", "stun.attributes")
        if offset + 4 > len(data):
            raise RemoteError("a truncated STUN attribute", "stun.attribute")
        number, size = _ATTRIBUTE.unpack_from(data, offset)
        value = data[offset + 4 : offset + 4 + size]
        if len(value) != size:
            raise RemoteError("a truncated STUN attribute", "stun.attribute")
        if number == FINGERPRINT:
            expected = struct.pack(">I", zlib.crc32(data[:offset]) ^ FINGERPRINT_XOR)
            if value != expected:
                raise RemoteError("a wrong STUN fingerprint", "stun.fingerprint")
            fingerprint = True
        else:
            attributes.append((number, value))
        offset += 4 + size + -size % 4
    return StunMessage(kind, transaction, tuple(attributes), fingerprint)


def binding_request(transaction: bytes, change: int = 0) -> bytes:
    """A binding request. `transaction`: 12 random bytes; `change`: flags of CHANGE-REQUEST. Raises ValueError."""
    if len(transaction) != TRANSACTION_LEN:
        raise ValueError("a STUN transaction is 12 bytes")
    wish = ((CHANGE_REQUEST, struct.pack(">I", change)),) if change else ()
    return encode(StunMessage(BINDING_REQUEST, transaction, (*wish, (SOFTWARE, SOFTWARE_PADDING)), True))


def binding_success(
    transaction: bytes,
    mapped: SocketAddress,
    other: SocketAddress | None = None,
    load: int = 0,
    *,
    spread: bool = False,
) -> bytes:
    """The answer that tells a client its own address. `other`: the server's other address (OTHER-ADDRESS); `load`: how
    loaded its relay is; `spread`: with the flag `SPREAD`.
    """
    found = [(XOR_MAPPED_ADDRESS, _pack_mapped(mapped, STUN_COOKIE + transaction))]
    if other is not None:
        found.append((OTHER_ADDRESS, _pack_mapped(other, bytes(16))))
    if load or spread:
        found.append((RELAY_LOAD, bytes((0, 0, SPREAD if spread else 0, min(load, MAX_LOAD)))))
    return encode(StunMessage(BINDING_SUCCESS, transaction, tuple(found), True))


def respond(data: bytes, source: SocketAddress, load: int = 0, *, spread: bool = False) -> bytes | None:
    """The answer of a STUN server with one address and port to `source`, or None; see `answer_from`."""
    answer = answer_from(data, source, None, load=load, spread=spread)
    return None if answer is None else answer.data


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and whether to send it from the server's other address or its other port."""

    data: bytes
    other_address: bool = False
    other_port: bool = False


def answer_from(
    data: bytes,
    source: SocketAddress,
    other: SocketAddress | None,
    *,
    second_address: bool = False,
    load: int = 0,
    spread: bool = False,
) -> Answer | None:
    """The answer of a STUN server to `source`, or None: no answer.

    `other`: the server's other address; `second_address`: its IP address differs, not only its port; `load`: how loaded
    its relay is; `spread`: as of `binding_success`. What makes the answer larger than the request is left out. No
    answer to anything but a well-formed binding request, and none that would be larger than the request: a bare 20-byte
    request from a spoofed source must not be amplified.
    """
    try:
        request = decode(data)
    except RemoteError:
        return None
    if request.kind != BINDING_REQUEST:
        return None
    wish = request.attribute(CHANGE_REQUEST)
    flags = int.from_bytes(wish, "big") if wish is not None and len(wish) == 4 and other is not None else 0
    allowed = CHANGE_PORT | (CHANGE_ADDRESS if second_address else 0)
    fulfilled = {CHANGE_REQUEST} if flags and not flags & ~allowed else frozenset()
    unknown = [
        number
        for number, _ in request.attributes
        if number < 0x8000 and number not in _IGNORED and number not in fulfilled
    ]
    if unknown:
        value = b"".join(struct.pack(">H", number) for number in unknown)
        error = (0x0009, b"\0\0\x04\x14")  # ERROR-CODE 420, RFC 8489 §14.8
        answer = encode(
            StunMessage(BINDING_ERROR, request.transaction, (error, (UNKNOWN_ATTRIBUTES, value)), True)
        )
    else:
        for more, told, may in ((other, load, spread), (other, 0, False), (None, 0, False)):
            answer = binding_success(request.transaction, source, more, told, spread=may)
            if len(answer) <= len(data):
                break
        if len(answer) <= len(data):
            return Answer(answer, bool(flags & CHANGE_ADDRESS), bool(flags & CHANGE_PORT))
    return Answer(answer) if len(answer) <= len(data) else None


_IGNORED = frozenset({0x0006, 0x0008, 0x001C, 0x0014, 0x0015, 0x0024, 0x0025, 0x0026})
"""Comprehension-required attributes that change nothing for an open binding server: USERNAME,
MESSAGE-INTEGRITY(-SHA256), REALM, NONCE, PRIORITY, USE-CANDIDATE, PADDING (RFC 5780)."""


def _pack_mapped(address: SocketAddress, mask: bytes) -> bytes:
    packed = address.address.packed
    port = address.port ^ int.from_bytes(mask[:2], "big")
    return struct.pack(">BBH", 0, 1 if len(packed) == 4 else 2, port) + _xor(packed, mask)


def _unpack_mapped(value: bytes, mask: bytes) -> SocketAddress:
    if len(value) not in (8, 20) or value[1] != (1 if len(value) == 8 else 2):
        raise RemoteError("a broken STUN mapped address", "stun.mapped")
    port = int.from_bytes(value[2:4], "big") ^ int.from_bytes(mask[:2], "big")
    packed = _xor(value[4:], mask)
    if port == 0:
        raise RemoteError("a STUN mapped address with port 0", "stun.mapped")
    return SocketAddress.of(IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed), port)


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=False))
