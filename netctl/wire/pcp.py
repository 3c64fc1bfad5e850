"""The Port Control Protocol's MAP (RFC 6887): the 60-byte request to a router to open a port, and its answer."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

from netctl.model.addresses import Address, SocketAddress
from netctl.model.errors import RemoteError

PORT = 5351
"""The server's UDP port, for PCP and NAT-PMP (RFC 6887 §19.1)."""
VERSION = 2
UDP = 17
NONCE_LEN = 12
REQUEST_LEN = 60
MAX_MESSAGE = 1100
"""Bytes; longer messages are not PCP (RFC 6887 §7)."""
UNSUPPORTED_VERSION = 1
RESULTS = {
    1: "it speaks another version",
    2: "not authorised",
    3: "malformed request",
    4: "unsupported opcode",
    5: "unsupported option",
    6: "malformed option",
    7: "network failure",
    8: "no resources left",
    9: "unsupported protocol",
    10: "quota exceeded",
    11: "it cannot provide this port",
    12: "another NAT is between us",
    13: "too many remote peers",
}
"""Result codes in words (RFC 6887 §7.4)."""

_ANNOUNCE, _MAP, _RESPONSE = 0, 1, 0x80
_REQUEST_HEADER = struct.Struct(">BBHI16s")
_RESPONSE_HEADER = struct.Struct(">BBBBII12x")
_MAP_BODY = struct.Struct(">12sB3xHH16s")


@dataclass(frozen=True, slots=True)
class MapAnswer:
    """The router's answer to a MAP request. A refusal has a `result` other than 0 and no address."""

    result: int
    epoch_s: int
    """Seconds since the router last lost its mappings (§8.5)."""
    lifetime_s: int
    """Lifetime of the mapping; of a refusal: for how long the refusal holds."""
    nonce: bytes = b""
    internal_port: int = 0
    external: SocketAddress | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """The router announces that it runs, perhaps without its earlier mappings (§14.1)."""

    epoch_s: int


def _pack(address: Address) -> bytes:
    """An address as 16 bytes; IPv4 as IPv4-mapped IPv6 (§5)."""
    return address.packed if isinstance(address, IPv6Address) else bytes(10) + b"\xff\xff" + address.packed


def map_request(
    client: Address, nonce: bytes, internal_port: int, suggested: SocketAddress | None, lifetime_s: int
) -> bytes:
    """The request that creates or renews a UDP mapping; `lifetime_s` 0 removes it (§11.1, §15.1)."""
    any_address = bytes(16) if isinstance(client, IPv6Address) else bytes(10) + b"\xff\xff" + bytes(4)
    port = suggested.port if suggested is not None and lifetime_s else 0
    wanted = _pack(suggested.address) if suggested is not None and lifetime_s else any_address
    return _REQUEST_HEADER.pack(VERSION, _MAP, 0, lifetime_s, _pack(client)) + _MAP_BODY.pack(
        nonce, UDP, internal_port, port, wanted
    )


def decode(data: bytes) -> MapAnswer | Announcement:
    """An answer of the router. Raises RemoteError for everything else, also for a refusal in another version."""
    if not _RESPONSE_HEADER.size <= len(data) <= MAX_MESSAGE or len(data) % 4:
        raise RemoteError("not the length of a PCP answer", "pcp.length")
    version, opcode, _, result, lifetime, epoch = _RESPONSE_HEADER.unpack_from(data)
    if version != VERSION:
        raise RemoteError("not PCP", "pcp.version")
    if opcode == _RESPONSE | _ANNOUNCE and result == 0:
        return Announcement(epoch)
    if opcode != _RESPONSE | _MAP:
        raise RemoteError("not an answer to MAP", "pcp.opcode")
    if len(data) < REQUEST_LEN:
        if result == 0:
            raise RemoteError("a mapping without its body", "pcp.length")
        return MapAnswer(result, epoch, lifetime)
    nonce, protocol, internal, external, address = _MAP_BODY.unpack_from(data, _RESPONSE_HEADER.size)
    if protocol != UDP:
        raise RemoteError("a mapping of another protocol", "pcp.protocol")
    if result:
        return MapAnswer(result, epoch, lifetime, nonce, internal)
    # Some routers grant port 0, which is no port: the caller reports it.
    opened = SocketAddress.of(IPv6Address(address), external) if lifetime and external else None
    return MapAnswer(result, epoch, lifetime, nonce, internal, opened)
