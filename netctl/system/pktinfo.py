"""Finds the local address that a datagram came to, and sends answers from that address (ip(7), RFC 3542 §6).

With a socket bound to any address, the routing table picks the source address of each datagram. On a host with several
addresses it may pick another one than the request came to, and a NAT or firewall on the way drops the answer.
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
"""Bytes of ancillary buffer that the control message needs."""
_V4, _V6 = struct.Struct("=i4s4s"), struct.Struct("=16si")
_MAPPED = bytes(10) + b"\xff\xff"


def ask(opened: socket.socket) -> None:
    """Let the kernel report the local address with every datagram from now on."""
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        opened.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)


def asked_at(extra: Iterable[Control]) -> str:
    """The local address that a datagram came to, with `%index` where it is link-local; "": multicast or unknown."""
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
    """The control message that sends a datagram from `address`, on a socket of this family; [] for ""."""
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
