"""Reads lists of links, addresses and default routes, with a codec of our own (kernel: include/uapi/linux/if_link.h,
if_addr.h, rtnetlink.h).

A host may have thousands of them, and the agent needs the lists several times a minute: they are read again only after
the kernel has announced a change. Measured with 1,000 links that have an address each: pyroute2 takes 1.1 s of
processor time to find the foreign objects once.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, AF_UNSPEC

from netctl.engine.links.links import Link, LinkAddress
from netctl.engine.links.unchanged import ROUTES_SETTLE_S, Changes, Kept
from netctl.engine.nlsocket import NetlinkSocket, attributes, number, u32, words

_NETLINK_ROUTE = 0
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_OUT_LINK, _MULTIPATH = 4, 9
_NEXT_HOP = struct.Struct("=HBBi")
TABLE_MAIN, UNICAST = 254, 1
"""Routes in people's sense: in the main table, and unicast."""
_MAC, _NAME, _MTU, _LOWER, _INFO, _ALIAS, _EXT_MASK = 1, 3, 4, 5, 18, 20, 29
_KIND, _DATA = 1, 2
_VXLAN_ID, _VXLAN_LOWER, _VXLAN_LOCAL, _VXLAN_PORT, _VXLAN_GROUP6, _VXLAN_LOCAL6 = 1, 3, 4, 15, 16, 17
_VXLAN_METADATA = 25
_VXLAN_OWN_SOCKET = (20, 22, 23, _VXLAN_METADATA, 27)
"""UDP_ZERO_CSUM6_RX, REMCSUM_RX, GBP, COLLECT_METADATA, GPE: a link with one of these attributes does not share its
socket with links without it (the kernel's vxlan_find_sock)."""
_UP = 1
_SKIP_STATISTICS = 8
"""RTEXT_FILTER_SKIP_STATS: leave out statistics, which are most of a message and unused here."""
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8


class LinkDump:
    """Reads the lists. Raises NetlinkError, and OSError where no socket can be opened."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_ROUTE)
        self.changes = Changes()
        """The announced changes: for callers that cache values computed from these lists."""
        self._links = Kept(self.changes.links, self._read_links)
        self._addresses = Kept(self.changes.links, self._read_addresses)
        self._default_links = Kept(self.changes.ways_out, self._read_default_links, ROUTES_SETTLE_S)

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self.changes.close()

    def links(self) -> list[Link]:
        """All links of this network namespace; a new list."""
        return list(self._links.get())

    def addresses(self, index: int = 0) -> list[LinkAddress]:
        """All addresses, or those of one link; a new list."""
        return self._read_addresses(index) if index else list(self._addresses.get())

    def default_links(self) -> frozenset[int]:
        """The indices of links with a default route in the main table, in either family."""
        return self._default_links.get()

    def _read_links(self) -> list[Link]:
        request = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)
        return [_link(body) for body in self._socket.dump(_GET_LINK, request) if len(body) >= _LINK.size]

    def _read_addresses(self, index: int = 0) -> list[LinkAddress]:
        # Older kernels list all addresses even when asked for one link.
        request = _ADDRESS.pack(AF_UNSPEC, 0, 0, 0, index)
        found = []
        for body in self._socket.dump(_GET_ADDRESS, request):
            family, prefix_len, flags, _, where = _ADDRESS.unpack_from(body)
            if family not in (AF_INET, AF_INET6) or (index and where != index):
                continue
            of = attributes(body[_ADDRESS.size :])
            raw = of.get(_IFA_LOCAL) or of.get(_IFA_ADDRESS)
            if raw:
                all_flags = number(of.get(_IFA_FLAGS), flags)
                found.append(LinkAddress(where, ip_address(raw), prefix_len, all_flags))
        return found

    def _read_default_links(self) -> frozenset[int]:
        found: set[int] = set()
        for family in (AF_INET, AF_INET6):
            request = _ROUTE.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, UNICAST, 0)
            for body in self._socket.dump(_GET_ROUTE, request):
                _, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
                if not length and table == TABLE_MAIN and kind == UNICAST:
                    found |= _out(attributes(body[_ROUTE.size :]))
        return frozenset(found)


def _out(route: dict[int, bytes]) -> set[int]:
    """The indices of the links of a route's next hops."""
    if _OUT_LINK in route:
        return {number(route[_OUT_LINK])}
    hops, found = route.get(_MULTIPATH, b""), set()
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        found.add(index)
        hops = hops[max(length + 3 & ~3, _NEXT_HOP.size) :]
    return found


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    of = attributes(body[_LINK.size :])
    info = attributes(of.get(_INFO, b""))
    kind = words(info.get(_KIND))
    data = attributes(info.get(_DATA, b"")) if kind == "vxlan" else {}
    local = data.get(_VXLAN_LOCAL6) or data.get(_VXLAN_LOCAL)
    mac = of.get(_MAC, b"")
    return Link(
        index=index,
        flags=flags,
        name=words(of.get(_NAME)) or "",
        mtu=number(of.get(_MTU)),
        alias=words(of.get(_ALIAS)),
        mac=mac.hex(":") if mac else "",
        kind=kind,
        vni=number(data[_VXLAN_ID]) if _VXLAN_ID in data else None,
        local=ip_address(local) if local else None,
        lower=number(data.get(_VXLAN_LOWER)) or number(of.get(_LOWER)),
        holds_port=_held(data) if flags & _UP else 0,
    )


def _held(vxlan: dict[int, bytes]) -> int:
    apart = any(kind in vxlan and (number(vxlan[kind]) or not vxlan[kind]) for kind in _VXLAN_OWN_SOCKET)
    over_ipv6 = number(vxlan.get(_VXLAN_METADATA)) or _VXLAN_GROUP6 in vxlan or _VXLAN_LOCAL6 in vxlan
    return int.from_bytes(vxlan.get(_VXLAN_PORT, b""), "big") if apart and over_ipv6 else 0
