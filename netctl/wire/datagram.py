"""Tell the kinds of datagrams apart that arrive on the WireGuard UDP port, and pack socket addresses for ours.

Every datagram of ours starts with `MAGIC`, whose first byte is outside 0-4 (WireGuard's types and STUN's
first bytes), so the engine's own socket ignores it and a classic BPF filter finds it with one 32-bit load.
"""

from __future__ import annotations

import struct
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError

MAGIC = b"\xf5nc1"
"""First four bytes of every probe and relay message; the last one is the version of the format."""
STUN_COOKIE = b"\x21\x12\xa4\x42"
"""Bytes 4-7 of every STUN message (RFC 8489 §5)."""
WIREGUARD_TYPES = (1, 2, 3, 4)
"""First little-endian 32-bit word of a WireGuard message."""
ADDRESS_LEN = 19
"""A packed socket address: family 4 or 6, 16 address bytes (IPv4: 4, then zeros), port."""

_ADDRESS = struct.Struct(">B16sH")


class DatagramKind(Enum):
    """The decoder that a datagram belongs to."""

    WIREGUARD = "wireguard"
    STUN = "stun"
    PROBE = "probe"
    RELAYED_PROBE = "relayed-probe"
    RELAY = "relay"
    OTHER = "other"


KIND_PROBE = 0x01
"""Byte 4 of a probe."""
KIND_RELAYED_PROBE = 0x02
"""Byte 4 of a probe that goes by the relay: no path is ever chosen by it. Older members and relays drop it."""
KINDS_RELAY = range(0x10, 0x14)
"""Byte 4 of the relay's messages (`netctl.wire.relay`)."""


def classify(data: bytes) -> DatagramKind:
    """The kind of a datagram, from its first 8 bytes; decodes nothing, never raises."""
    if data[:4] == MAGIC and len(data) > 4:
        if data[4] == KIND_PROBE:
            return DatagramKind.PROBE
        if data[4] == KIND_RELAYED_PROBE:
            return DatagramKind.RELAYED_PROBE
        return DatagramKind.RELAY if data[4] in KINDS_RELAY else DatagramKind.OTHER
    if data[4:8] == STUN_COOKIE and data[0] < 4:
        return DatagramKind.STUN
    if data[1:4] == b"\0\0\0" and data[0] in WIREGUARD_TYPES:
        return DatagramKind.WIREGUARD
    return DatagramKind.OTHER


def pack_address(address: SocketAddress | None) -> bytes:
    """A socket address as 19 bytes; None is all zeros."""
    if address is None:
        return bytes(ADDRESS_LEN)
    packed = address.address.packed
    return _ADDRESS.pack(4 if len(packed) == 4 else 6, packed.ljust(16, b"\0"), address.port)


def unpack_address(data: bytes) -> SocketAddress | None:
    """The address of 19 bytes; all zeros is None. Raises RemoteError for anything that `pack_address` cannot make."""
    if len(data) != ADDRESS_LEN:
        raise RemoteError("a packed address is 19 bytes", "datagram.address")
    family, packed, port = _ADDRESS.unpack(data)
    if family == 0 and not any(packed) and port == 0:
        return None
    if port == 0:
        raise RemoteError("an address with port 0", "datagram.address")
    if family == 4 and not any(packed[4:]):
        return SocketAddress.of(IPv4Address(packed[:4]), port)
    if family == 6:
        return SocketAddress.of(IPv6Address(packed), port)
    raise RemoteError("an address of no known family", "datagram.address")
