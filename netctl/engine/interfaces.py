"""This host's own addresses, as far as another host could use them (netlink).

No loopback, no link-local, no overlays, no links of ours; bridges only when the default route goes through
them (a homelab server whose network card sits in one), not those of containers.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from pyroute2 import IPRoute

from netctl.model.addresses import Address
from netctl.model.hoststate import LINK_ALIAS

OVERLAY_KINDS = frozenset(
    {"wireguard", "vxlan", "geneve", "tun", "gre", "gretap", "ip6gre", "ipip", "sit", "ip6tnl", "vti", "xfrm"}
)
"""Link kinds whose addresses are only reachable through some tunnel."""
SKIPPED_KINDS = frozenset({"dummy", "ifb", "nlmon", "vcan"})
MAX_ADDRESSES = 12
"""More would only be cut off by the other side's limit on candidates."""
_IFF_UP = 1
_IFF_LOOPBACK = 8
_UNUSABLE = 0x20 | 0x40 | 0x08  # IFA_F_DEPRECATED, IFA_F_TENTATIVE, IFA_F_DADFAILED


def local_addresses() -> list[Address]:
    """Own addresses worth offering, in the kernel's order, at most `MAX_ADDRESSES`."""
    with IPRoute() as netlink:
        links: list[Any] = list(netlink.get_links())
        addresses: list[Any] = list(netlink.get_addr())
        routed = {
            route.get_attr("RTA_OIF")
            for family in (2, 10)
            for route in netlink.get_default_routes(family=family)
        }
    usable = {link["index"] for link in links if _usable_link(link, link["index"] in routed)}
    found: list[Address] = []
    for entry in addresses:
        flags = entry.get_attr("IFA_FLAGS") or entry["flags"]
        text = entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
        if entry["index"] not in usable or flags & _UNUSABLE or text is None:
            continue
        address = ipaddress.ip_address(text)
        if (
            not (address.is_loopback or address.is_link_local or address.is_multicast)
            and address not in found
        ):
            found.append(address)
    return found[:MAX_ADDRESSES]


def _usable_link(link: Any, has_default_route: bool) -> bool:
    info = link.get_attr("IFLA_LINKINFO")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
    if not link["flags"] & _IFF_UP or link["flags"] & _IFF_LOOPBACK:
        return False
    if link.get_attr("IFLA_IFALIAS") == LINK_ALIAS or kind in OVERLAY_KINDS or kind in SKIPPED_KINDS:
        return False
    return kind != "bridge" or has_default_route
