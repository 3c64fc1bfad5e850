"""Finds the addresses of this host that another host could use (netlink).

Without loopback and link-local addresses, overlays and our links. Bridges count only when the default route leads
through them (a server whose network card is in a bridge), so bridges of containers do not.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from fnmatch import fnmatchcase

from netctl.engine.links.linkdump import LinkDump
from netctl.engine.links.links import IFF_UP, Link, LinkAddress
from netctl.engine.links.unchanged import ROUTES_SETTLE_S, Kept
from netctl.model.addresses import Address
from netctl.model.hoststate import LINK_ALIAS

OVERLAY_KINDS = frozenset(
    {
        *("wireguard", "amneziawg", "tun", "ovpn", "ovpn-dco", "xfrm", "vti", "vti6"),
        *("vxlan", "geneve", "gre", "gretap", "ip6gre", "ip6gretap", "erspan", "ip6erspan"),
        *("ipip", "sit", "ip6tnl", "bareudp", "gtp"),
    }
)
"""Link kinds whose addresses are only reachable through some tunnel."""
SKIPPED_KINDS = frozenset({"dummy", "ifb", "nlmon", "vcan"})
MAX_ADDRESSES = 12
"""Addresses at most: the other side's limit on candidates would cut off more."""
_IFF_LOOPBACK = 8
_UNUSABLE = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED


class LocalAddresses:
    """Finds this host's usable addresses, cached while nothing changes. For one thread. Raises OSError."""

    def __init__(self) -> None:
        self._dump = LinkDump()
        self._patterns: Sequence[str] = ()
        self._kept = self._keeping(())

    def close(self) -> None:
        """Close the sockets."""
        self._dump.close()

    def read(self, patterns: Sequence[str] = ()) -> list[Address]:
        """Addresses to offer, at most `MAX_ADDRESSES`, of links that the patterns (see `chosen`) do not deny.

        In the kernel's order, but those of links with a default route come first, so that they are never cut off.
        """
        if patterns != self._patterns:
            self._patterns, self._kept = patterns, self._keeping(patterns)
        return list(self._kept.get())

    def _keeping(self, patterns: Sequence[str]) -> Kept[list[Address]]:
        dump = self._dump
        return Kept(
            dump.changes.ways_out,
            lambda: choose(dump.links(), dump.addresses(), dump.default_links(), patterns),
            ROUTES_SETTLE_S,
        )


def local_addresses(patterns: Sequence[str] = ()) -> list[Address]:
    """The same as `LocalAddresses.read`, once."""
    looking = LocalAddresses()
    try:
        return looking.read(patterns)
    finally:
        looking.close()


def choose(
    links: Iterable[Link], addresses: list[LinkAddress], routed: Container[int], patterns: Sequence[str]
) -> list[Address]:
    """The addresses to offer. `routed`: the indices of links with a default route."""
    usable = {link.index for link in links if _usable_link(link, link.index in routed, patterns)}
    addresses.sort(key=lambda entry: entry.index not in routed)
    found: list[Address] = []
    for entry in addresses:
        address = entry.address
        if entry.index not in usable or entry.flags & _UNUSABLE or address in found:
            continue
        if not (address.is_loopback or address.is_link_local or address.is_multicast):
            found.append(address)
            if len(found) == MAX_ADDRESSES:
                break
    return found


def chosen(name: str, patterns: Sequence[str]) -> bool | None:
    """Whether a member's `interfaces:` allow or deny a link; None: neither, so the link's kind decides.

    Shell patterns. A pattern with ``!`` denies, and takes precedence over patterns that allow. If any pattern allows, a
    link that no pattern allows is denied. ``*`` alone leaves the decision to the link's kind.
    """
    denying = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    allowing = [pattern for pattern in patterns if not pattern.startswith("!")]
    if any(fnmatchcase(name, pattern) for pattern in denying):
        return False
    by_name = any(fnmatchcase(name, pattern) for pattern in allowing if pattern != "*")
    if by_name or not allowing or "*" in allowing:
        return True if by_name else None
    return False


def _usable_link(link: Link, has_default_route: bool, patterns: Sequence[str]) -> bool:
    if not link.flags & IFF_UP or link.flags & _IFF_LOOPBACK or link.alias == LINK_ALIAS:
        return False
    if (said := chosen(link.name, patterns)) is not None:
        return said
    if link.kind in OVERLAY_KINDS or link.kind in SKIPPED_KINDS:
        return False
    return link.kind != "bridge" or has_default_route
