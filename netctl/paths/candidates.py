"""Candidates: which addresses are worth a probe, and what kind of path each would be."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

from netctl.model.addresses import Address, SocketAddress
from netctl.paths.constants import MAX_CANDIDATES
from netctl.wire.control import Candidate

LAN_PREFIX_V4 = 24
LAN_PREFIX_V6 = 64
"""Two hosts within one of these share a segment, as far as can be told without asking the other."""


def usable(address: SocketAddress) -> bool:
    """False for addresses that no other host can mean by this."""
    ip = address.address
    return not (ip.is_loopback or ip.is_multicast or ip.is_unspecified or ip.is_link_local)


def parse_candidates(candidates: Iterable[Candidate]) -> dict[SocketAddress, str]:
    """Address to kind, the first kind wins; unusable and unreadable ones are left out, `MAX_CANDIDATES`."""
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
    remote: SocketAddress, kind: str, remote_all: dict[SocketAddress, str], local: Iterable[SocketAddress]
) -> Literal["lan", "direct"]:
    """``lan`` if the peer's own address works from behind its NAT, or is on a network of ours."""
    address = remote.address
    if kind in ("host", "prflx") and any(_near(mine.address, address) for mine in local):
        return "lan"
    reflexive = [other for other, what in remote_all.items() if what == "srflx"]
    behind_nat = any(other.is_ipv6 == remote.is_ipv6 for other in reflexive) and remote not in reflexive
    return "lan" if kind == "host" and behind_nat and not address.is_global else "direct"
