"""NAT-PMP (RFC 6886): PCP's predecessor on the same port, for IPv4 alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from netctl.model.errors import RemoteError

VERSION = 0
UNSUPPORTED_VERSION = 1
RESULTS = {
    1: "it speaks another version",
    2: "not authorised, or switched off",
    3: "it has no address outside",
    4: "no resources left",
    5: "unsupported opcode",
}
"""RFC 6886 §3.5."""
MAX_MESSAGE = 64
"""Bytes of an answer: 8, 12 or 16 by the RFC; some routers pad."""

_ADDRESS, _MAP_UDP, _RESPONSE = 0, 1, 0x80
_HEADER = struct.Struct(">BBHI")
_MAP_REQUEST = struct.Struct(">BBHHHI")
_MAP_BODY = struct.Struct(">HHI")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A result code other than 0, to any request. Not every refusal has an epoch: it takes 8 bytes."""

    result: int


@dataclass(frozen=True, slots=True)
class ExternalAddress:
    """The router's external address (§3.2)."""

    epoch_s: int
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Mapped:
    """A UDP mapping, made, renewed, or (lifetime 0) removed (§3.3, §3.4)."""

    epoch_s: int
    internal_port: int
    external_port: int
    lifetime_s: int


def address_request() -> bytes:
    """The request for the router's external address: two bytes."""
    return bytes((VERSION, _ADDRESS))


def map_request(internal_port: int, suggested_port: int, lifetime_s: int) -> bytes:
    """The request that creates or renews a UDP mapping. `lifetime_s` 0 removes it, with suggested port 0 (§3.4)."""
    port = suggested_port if lifetime_s else 0
    return _MAP_REQUEST.pack(VERSION, _MAP_UDP, 0, internal_port, port, lifetime_s)


def decode(data: bytes) -> Refusal | ExternalAddress | Mapped:
    """An answer of the router. Raises RemoteError for everything else."""
    if not 4 <= len(data) <= MAX_MESSAGE or data[0] != VERSION or not data[1] & _RESPONSE:
        raise RemoteError("not a NAT-PMP answer", "natpmp.header")
    result = int.from_bytes(data[2:4], "big")
    if result:
        return Refusal(result)
    opcode = data[1] & ~_RESPONSE
    if opcode == _ADDRESS and len(data) >= _HEADER.size + 4:
        epoch = _HEADER.unpack_from(data)[3]
        return ExternalAddress(epoch, IPv4Address(data[_HEADER.size : _HEADER.size + 4]))
    if opcode == _MAP_UDP and len(data) >= _HEADER.size + _MAP_BODY.size:
        epoch = _HEADER.unpack_from(data)[3]
        internal, external, lifetime = _MAP_BODY.unpack_from(data, _HEADER.size)
        return Mapped(epoch, internal, external, lifetime)
    raise RemoteError("not the length of a NAT-PMP answer", "natpmp.length")
