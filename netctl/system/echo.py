"""Encodes ICMP echo requests and decodes replies of a raw socket of one family (RFC 792, RFC 4443). Without I/O."""

from __future__ import annotations

import struct

REQUEST = {4: 8, 6: 128}
"""Type of a request, by IP version."""
REPLY = {4: 0, 6: 129}
HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""


def request(version: int, identifier: int, sequence: int, data_len: int = 0) -> bytes:
    """An echo request that carries `data_len` bytes of zeros. `identifier`, `sequence`: 16 bits."""
    kind = REQUEST[version]
    header = HEADER.pack(kind, 0, 0, identifier, sequence)
    if version == 4:  # for IPv6 the kernel computes the checksum (RFC 3542 §3.1)
        header = HEADER.pack(kind, 0, _checksum(header), identifier, sequence)
    return header + bytes(data_len)


def reply(version: int, data: bytes, identifier: int) -> tuple[int, int] | None:
    """Sequence number and count of data bytes of an echo reply to `identifier`; None: `data` is no such reply.

    `data`: the bytes that the raw socket received; for IPv4 they begin with the IP header.
    """
    if version == 4:
        data = data[(data[0] & 0xF) * 4 :] if data else b""
    if len(data) < HEADER.size:
        return None
    kind, _, _, whose, sequence = HEADER.unpack_from(data)
    if kind != REPLY[version] or whose != identifier:
        return None
    return sequence, len(data) - HEADER.size


def _checksum(data: bytes) -> int:
    """The checksum of a header with only zeros behind it, which add nothing (RFC 1071)."""
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    total = (total & 0xFFFF) + (total >> 16)
    return (~(total + (total >> 16))) & 0xFFFF
