"""IPv4 addresses embedded in IPv6 addresses for NAT64 (RFC 6052), and the discovery of a NAT64's prefix (RFC 7050)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from netctl.model.addresses import SocketAddress

LENGTHS = (96, 64, 56, 48, 40, 32)
"""Lengths of NAT64 prefixes in bits (RFC 6052 §2.2), the commonest first."""
WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")
"""RFC 6052 §2.1."""
WELL_KNOWN_NAME = "ipv4only.arpa"
WELL_KNOWN_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
"""The IPv4 addresses of `WELL_KNOWN_NAME`, which no other host has (RFC 7050 §2.2)."""
MAX_PREFIXES = 4
"""Prefixes of one network; more are a resolver's mistake."""
_SKIPPED = 8
"""The index of the octet of bits 64 to 71, which is zero in every such address (RFC 6052 §2.2)."""
_NOT_GLOBAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
    )
)
"""Networks that must not be embedded behind the well-known prefix (RFC 6052 §3.1). Documentation prefixes are left
out: labs use them as the Internet."""


def _places(length: int) -> list[int]:
    """The indices of the four octets of an IPv6 address that hold the IPv4 address, for a prefix of `length` bits."""
    return [octet for octet in range(length // 8, 16) if octet != _SKIPPED][:4]


def embedded(prefix: IPv6Network, address: IPv4Address) -> IPv6Address | None:
    """The IPv6 address that embeds `address` behind this prefix; None: not allowed with the well-known prefix."""
    if prefix == WELL_KNOWN_PREFIX and any(address in one for one in _NOT_GLOBAL):
        return None
    return _written(prefix, address)


def _written(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    octets = bytearray(prefix.network_address.packed)
    for place, octet in zip(_places(prefix.prefixlen), address.packed, strict=True):
        octets[place] = octet
    return IPv6Address(bytes(octets))


def extracted(prefix: IPv6Network, address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address embedded in `address`; None: `address` is not behind this prefix."""
    if address not in prefix or (prefix.prefixlen < 96 and address.packed[_SKIPPED]):
        return None
    return IPv4Address(bytes(address.packed[place] for place in _places(prefix.prefixlen)))


def prefixes_of(answers: Iterable[IPv6Address]) -> tuple[IPv6Network, ...]:
    """The prefixes that the IPv6 addresses of `WELL_KNOWN_NAME` reveal (RFC 7050 §3), in their order.

    Some answers embed a well-known IPv4 address behind several prefixes. Such an answer reveals the prefix behind
    which another answer embeds the other well-known address. It reveals nothing without exactly one such prefix.
    """
    read: list[dict[IPv6Network, IPv4Address]] = []
    for answer in dict.fromkeys(answers):
        found = {}
        for length in LENGTHS:
            prefix = IPv6Network((answer, length), strict=False)
            inside = extracted(prefix, answer)
            # RFC 6052: the skipped octet is zero, and only the IPv4 address follows the prefix.
            if inside in WELL_KNOWN_ADDRESSES and _written(prefix, inside) == answer:
                found[prefix] = inside
        read.append(found)
    told: dict[IPv6Network, None] = {}
    for found in read:
        clear = list(found) if len(found) == 1 else [p for p, seen in found.items() if _both(p, seen, read)]
        told.update(dict.fromkeys(clear[:1] if len(clear) == 1 else []))
    return tuple(told)[:MAX_PREFIXES]


def _both(prefix: IPv6Network, seen: IPv4Address, read: list[dict[IPv6Network, IPv4Address]]) -> bool:
    return any(prefix in other and other[prefix] != seen for other in read)


@dataclass(frozen=True, slots=True)
class Translation:
    """How this host translates IPv4 addresses to IPv6 in a network without IPv4."""

    prefixes: tuple[IPv6Network, ...] = ()
    """Addresses behind any of these prefixes are IPv4; packets use the first prefix that can embed the address."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.prefixes))

    def outward(self, address: SocketAddress) -> SocketAddress:
        """The destination of a packet to this address: IPv6, and IPv4 that no prefix can embed, stay unchanged."""
        ip = address.address
        if isinstance(ip, IPv4Address):
            for prefix in self.prefixes:
                if (found := embedded(prefix, ip)) is not None:
                    return replace(address, host=str(found))
        return address

    def inward(self, address: SocketAddress) -> SocketAddress:
        """The sender of a packet from this address: the embedded IPv4 address where it is behind a prefix."""
        if self.prefixes and address.is_ipv6 and "%" not in address.host:
            ip = IPv6Address(address.host)
            for prefix in self.prefixes:
                if (found := extracted(prefix, ip)) is not None:
                    return replace(address, host=str(found))
        return address
