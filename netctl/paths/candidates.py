"""Decides which candidate addresses may be probed, and whether a path to an address is LAN or direct."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from netctl.model.addresses import Address, SocketAddress
from netctl.paths.constants import MAX_CANDIDATES
from netctl.wire.control import Candidate

LAN_PREFIX_V4 = 24
LAN_PREFIX_V6 = 64
"""Lengths in bits: two hosts in one such prefix presumably share a LAN."""


_NOBODY = tuple(
    ipaddress.ip_network(prefix)
    for prefix in (
        "0.0.0.0/8",  # "this network" (RFC 1122 §3.2.1.3)
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.88.99.0/24",  # 6to4 anycast, given up (RFC 7526)
        "240.0.0.0/4",  # reserved, and the limited broadcast address (RFC 1112 §4, RFC 919 §7)
        "::/96",  # IPv4-compatible, given up (RFC 4291 §2.5.5.1)
        "64:ff9b:1::/48",  # local translation (RFC 8215): leads to private IPv4 addresses
        "100::/64",  # discard (RFC 6666)
        "2001::/32",  # Teredo and
        "2002::/16",  # 6to4 lead to an IPv4 address of the sender's choice
        "fec0::/10",  # site-local, given up (RFC 3879)
    )
)
"""Prefixes without reachable hosts. Documentation prefixes are left out: labs use them as the Internet."""
_PRIVATE = tuple(
    ipaddress.ip_network(prefix)
    for prefix in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "198.18.0.0/15",
        "fc00::/7",
    )
)
"""Private prefixes (RFC 1918, 6598, 2544, 4193): in each site an address is another host's."""


def usable(address: SocketAddress) -> bool:
    """Whether an address may be another host's: False for loopback, link-local and other unreachable addresses."""
    ip = address.address
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local:
        return False
    return not any(ip in prefix for prefix in _NOBODY)


def is_private(address: SocketAddress) -> bool:
    """Whether an address is valid only inside a site (RFC 1918, 6598, 2544, 4193)."""
    ip = address.address
    return any(ip in prefix for prefix in _PRIVATE)


def in_reach(address: SocketAddress, own: Iterable[SocketAddress], remote: Iterable[SocketAddress]) -> bool:
    """Whether an offered address may be the peer's from here: a private one only if both may be in the same site.

    That is: we have an address in the same private block, or both hosts are seen from outside with the same address.
    """
    ip = address.address
    block = next((prefix for prefix in _PRIVATE if ip in prefix), None)
    if block is None:
        return True
    ours = {mine.address for mine in own}
    return any(mine in block for mine in ours) or any(other.address in ours for other in remote)


def parse_candidates(candidates: Iterable[Candidate]) -> dict[SocketAddress, str]:
    """Kinds of at most `MAX_CANDIDATES` candidates by address, the first kind of each; invalid ones are left out."""
    parsed: dict[SocketAddress, str] = {}
    for candidate in candidates:
        try:
            address = SocketAddress.parse(candidate.address)
        except ValueError:
            continue
        if usable(address) and len(parsed) < MAX_CANDIDATES:
            parsed.setdefault(address, candidate.kind)
    return parsed


def _near(one: Address, other: Address) -> bool:
    if one.version != other.version:
        return False
    prefix = LAN_PREFIX_V4 if one.version == 4 else LAN_PREFIX_V6
    return other in ipaddress.ip_network((one, prefix), strict=False)


def path_kind(
    remote: SocketAddress,
    kind: str,
    remote_all: Mapping[SocketAddress, str],
    local: Iterable[SocketAddress],
    ours: Collection[SocketAddress] = (),
) -> Literal["lan", "direct"]:
    """``lan`` if the peer's own address is near one of `local`, or is private and both have the same outside address.

    A private address that works is not enough: a VPN between two routers carries it, too. `ours`: all our addresses,
    including those that servers see.
    """
    address = remote.address
    if kind in ("host", "prflx") and any(_near(mine.address, address) for mine in local):
        return "lan"
    if kind != "host" or address.is_global:
        return "direct"
    outside = {other.host for other, what in remote_all.items() if what == "srflx"}
    return "lan" if any(mine.host in outside for mine in ours) else "direct"
