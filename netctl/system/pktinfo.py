"""Which of this host's addresses a datagram came to, and answers that leave from there (ip(7), RFC 3542 §6).

A socket on "any address" of a host with several lets the routing table pick the source of what it sends. A NAT or a
firewall in between then sees an answer from somebody who was never asked, and drops it.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

Control = tuple[int, int, bytes]
"""An ancillary message as `sendmsg` takes it and `recvmsg` gives it."""

IP_PKTINFO = 8
SPACE = socket.CMSG_SPACE(20)
"""Bytes of ancillary buffer that it needs."""
_V4, _V6 = struct.Struct("=i4s4s"), struct.Struct("=16si")
_MAPPED = bytes(10) + b"\xff\xff"


def ask(opened: socket.socket) -> None:
    """Let the kernel say it with every datagram from now on."""
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def asked_at(extra: Iterable[Control]) -> str:
    """The own address that a datagram came to, with `%index` where it is link-local; "" when it is not known."""
    for level, kind, data in extra:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) >= _V4.size:
            return socket.inet_ntop(socket.AF_INET, _V4.unpack_from(data)[1])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) and len(data) >= _V6.size:
            raw, index = _V6.unpack_from(data)
            address = ipaddress.IPv6Address(raw)
            if address.is_multicast:
                return ""
            if address.ipv4_mapped is not None:
                return str(address.ipv4_mapped)
            return f"{address}%{index}" if address.is_link_local else str(address)
    return ""


def leave_from(address: str, family: socket.AddressFamily) -> list[Control]:
    """What makes a datagram leave from that address, on a socket of this family; [] for "" leaves it open."""
    if not address:
        return []
    host, _, index = address.partition("%")
    if family != socket.AF_INET6:
        data = _V4.pack(0, socket.inet_pton(socket.AF_INET, host), bytes(4))
        return [(socket.IPPROTO_IP, IP_PKTINFO, data)]
    raw = (
        socket.inet_pton(socket.AF_INET6, host)
        if ":" in host
        else _MAPPED + socket.inet_pton(socket.AF_INET, host)
    )
    return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _V6.pack(raw, int(index or 0)))]
