"""The numbers and layouts of rtnetlink, and its lists of links and addresses as values.

Kernel: include/uapi/linux/{rtnetlink,if_link,if_addr,neighbour}.h.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, AF_UNSPEC

from netctl.engine.nlsocket import NetlinkSocket, attributes, number, words
from netctl.model.addresses import Address

NETLINK_ROUTE, AF_BRIDGE = 0, 7
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
LINK, ADDR, ROUTE, NEIGH = (struct.Struct(x) for x in ("=BxHiII", "=BBBBi", "=BBBBBBBBI", "=BxxxiHBB"))
LINK_ADDRESS, LINK_NAME, LINK_MTU, LINK_INFO, LINK_ALIAS_TEXT = 1, 3, 4, 18, 20
INFO_KIND, INFO_DATA = 1, 2
VXLAN_ID, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 3, 4, 7, 15, 17
ADDR_ADDRESS, ADDR_LOCAL, ADDR_BROADCAST, ADDR_FLAGS = 1, 2, 4, 8
ROUTE_DST, ROUTE_OIF, ROUTE_GATEWAY, ROUTE_PREFSRC = 1, 4, 5, 7
NEIGH_DST, NEIGH_LLADDR = 1, 2
TABLE_MAIN, UNICAST = 254, 1


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel has it."""

    index: int
    flags: int
    name: str
    mtu: int
    alias: str | None
    address: bytes
    kind: str | None
    data: dict[int, bytes]


def link(answer: bytes) -> Link:
    """From the payload of a message."""
    _, _, index, flags, _ = LINK.unpack_from(answer)
    attrs = attributes(answer[LINK.size :])
    info = attributes(attrs.get(LINK_INFO, b""))
    return Link(
        index=index,
        flags=flags,
        name=words(attrs.get(LINK_NAME)) or "",
        mtu=number(attrs.get(LINK_MTU)),
        alias=words(attrs.get(LINK_ALIAS_TEXT)),
        address=attrs.get(LINK_ADDRESS, b""),
        kind=words(info.get(INFO_KIND)),
        data=attributes(info.get(INFO_DATA, b"")),
    )


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address on a link."""

    index: int
    address: Address
    prefix_len: int
    flags: int


def links(netlink: NetlinkSocket) -> list[Link]:
    """All links of this network namespace. Raises NetlinkError."""
    return [link(answer) for answer in netlink.dump(GETLINK, LINK.pack(AF_UNSPEC, 0, 0, 0, 0))]


def addresses(netlink: NetlinkSocket, index: int = 0) -> list[LinkAddress]:
    """All addresses, or those of one link. Raises NetlinkError."""
    found = []
    for answer in netlink.dump(GETADDR, ADDR.pack(AF_UNSPEC, 0, 0, 0, index)):
        family, prefix_len, flags, _, owner = ADDR.unpack_from(answer)
        attrs = attributes(answer[ADDR.size :])
        raw = attrs.get(ADDR_LOCAL) or attrs.get(ADDR_ADDRESS)
        if raw is not None and family in (AF_INET, AF_INET6) and index in (0, owner):
            all_flags = number(attrs.get(ADDR_FLAGS), flags)
            found.append(LinkAddress(owner, ipaddress.ip_address(raw), prefix_len, all_flags))
    return found


def default_links(netlink: NetlinkSocket, family: int) -> set[int]:
    """The links that a default route of the main table leads over. Raises NetlinkError."""
    found = set()
    for answer in netlink.dump(GETROUTE, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
        _, prefix_len, _, _, table, _, _, kind, _ = ROUTE.unpack_from(answer)
        attrs = attributes(answer[ROUTE.size :])
        if prefix_len == 0 and table == TABLE_MAIN and kind == UNICAST:
            found.add(number(attrs.get(ROUTE_OIF)))
    return found
