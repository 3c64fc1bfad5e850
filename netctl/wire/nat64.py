"""IPv4 addresses inside IPv6 ones, as a NAT64 reads them (RFC 6052), and its prefix from a resolver (RFC 7050)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from netctl.model.addresses import SocketAddress

LENGTHS = (96, 64, 56, 48, 40, 32)
"""Of prefixes (RFC 6052 §2.2), the commonest first."""
WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")
"""RFC 6052 §2.1."""
WELL_KNOWN_NAME = "ipv4only.arpa"
WELL_KNOWN_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
"""What that name has over IPv4, and nothing else has (RFC 7050 §2.2)."""
MAX_PREFIXES = 4
"""Of one network; more are a resolver's mistake."""
_SKIPPED = 8
"""The octet of bits 64 to 71 is zero in every such address (RFC 6052 §2.2)."""
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
"""The well-known prefix must not stand before these (RFC 6052 §3.1). Documentation prefixes are not here: they are the
Internet of every lab."""


def _places(length: int) -> list[int]:
    """The octets of an IPv6 address that hold the IPv4 one."""
    return [octet for octet in range(length // 8, 16) if octet != _SKIPPED][:4]


def embedded(prefix: IPv6Network, address: IPv4Address) -> IPv6Address | None:
    """The address behind this prefix; None where the well-known prefix has none for it."""
    if prefix == WELL_KNOWN_PREFIX and any(address in one for one in _NOT_GLOBAL):
        return None
    return _written(prefix, address)


def _written(prefix: IPv6Network, address: IPv4Address) -> IPv6Address:
    octets = bytearray(prefix.network_address.packed)
    for place, octet in zip(_places(prefix.prefixlen), address.packed, strict=True):
        octets[place] = octet
    return IPv6Address(bytes(octets))


def extracted(prefix: IPv6Network, address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address in one behind this prefix; None: it is not behind it."""
    if address not in prefix or (prefix.prefixlen < 96 and address.packed[_SKIPPED]):
        return None
    return IPv4Address(bytes(address.packed[place] for place in _places(prefix.prefixlen)))


def prefixes_of(answers: Iterable[IPv6Address]) -> tuple[IPv6Network, ...]:
    """The prefixes that the addresses of `WELL_KNOWN_NAME` tell (RFC 7050 §3), in their order.

    An address in which the well-known ones can be read at several places tells the one that the other address
    tells, too; where none does, it tells nothing.
    """
    read: list[dict[IPv6Network, IPv4Address]] = []
    for answer in dict.fromkeys(answers):
        found = {}
        for length in LENGTHS:
            prefix = IPv6Network((answer, length), strict=False)
            inside = extracted(prefix, answer)
            # The octet that is skipped is zero by RFC 6052, and nothing but the address follows the prefix.
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
    """How this host writes IPv4 addresses where it has no IPv4."""

    prefixes: tuple[IPv6Network, ...] = ()
    """What is behind any of them is IPv4; packets go by the first that takes the address."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.prefixes))

    def outward(self, address: SocketAddress) -> SocketAddress:
        """Where a packet to this address is sent; an IPv6 one, and one that no prefix takes, as it is."""
        ip = address.address
        if isinstance(ip, IPv4Address):
            for prefix in self.prefixes:
                if (found := embedded(prefix, ip)) is not None:
                    return replace(address, host=str(found))
        return address

    def inward(self, address: SocketAddress) -> SocketAddress:
        """Who a packet from this address comes from: the IPv4 address where it is behind a prefix."""
        if self.prefixes and address.is_ipv6 and "%" not in address.host:
            ip = IPv6Address(address.host)
            for prefix in self.prefixes:
                if (found := extracted(prefix, ip)) is not None:
                    return replace(address, host=str(found))
        return address
