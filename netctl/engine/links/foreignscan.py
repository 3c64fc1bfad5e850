"""Finds foreign routes and addresses on this host, its resolvers, and programs on a UDP port.

Routes are read from /proc/net (proc(5)): a netlink dump, which includes our thousands of routes, costs far more than
reading the text.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Container, Iterable, Iterator
from pathlib import Path

from netctl.model.addresses import Address, Prefix, host_prefix
from netctl.model.foreign import ForeignRoute
from netctl.model.hoststate import UNREACHABLE_METRIC

PROC_NET = Path("/proc/net")
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second file names the servers of systemd-resolved, where the first names only its stub."""
MAX_RESOLV_CONF = 64 * 1024
"""Bytes read of resolv.conf, which has a few lines."""
RTF_LOCAL = 0x80000000
"""The flag of an IPv6 route to an address of this host."""
RTF_ANYCAST = 0x00100000
RTF_REJECT = 0x0200
_INODE = 9
"""The column of /proc/net/udp6 with the inode."""
NOWHERE = "*"
"""The kernel's name for the link of an unreachable route."""
HOST_MASK, HOST_LENGTH = "FFFFFFFF", "80"
"""Mask and prefix length of a route to one address, in the two files."""
IGNORED = tuple(ipaddress.ip_network(text) for text in ("127.0.0.0/8", "fe80::/10", "ff00::/8", "::1/128"))


def routes4(text: str, links: Container[str]) -> Iterator[tuple[Prefix, str]]:
    """(destination, link) of each line of /proc/net/route, whose numbers are in the byte order of the machine.

    `links`: the foreign links. Host routes of other links, which are ours, are skipped: there is one for each peer.
    """
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[7] == HOST_MASK and fields[0] not in links:
            continue
        if fields[0] == NOWHERE and fields[6] == str(UNREACHABLE_METRIC):
            continue  # our unreachable route
        destination, mask = (int.from_bytes(bytes.fromhex(fields[i])[::-1], "big") for i in (1, 7))
        yield ipaddress.IPv4Network((destination, mask.bit_count())), fields[0]


def routes6(text: str, links: Container[str]) -> Iterator[tuple[Prefix, str, bool]]:
    """(destination, link, whether it is an address) of each line of /proc/net/ipv6_route; `links` as above."""
    for line in text.splitlines():
        fields = line.split()
        flags, link = int(fields[8], 16), fields[9]
        if flags & RTF_ANYCAST or (flags & RTF_LOCAL and link == "lo"):
            continue  # kernels before 4.18 name `lo` for every address, also for ours
        if flags & RTF_REJECT and int(fields[5], 16) == UNREACHABLE_METRIC:
            continue
        if fields[1] == HOST_LENGTH and link not in links:
            continue
        prefix = ipaddress.IPv6Network((int(fields[0], 16), int(fields[1], 16)))
        yield prefix, link, bool(flags & RTF_LOCAL)


def resolvers(paths: Iterable[Path] = RESOLV_CONF) -> tuple[Address, ...]:
    """The name servers in all these files (resolv.conf(5)), without this host itself."""
    found: dict[Address, None] = {}
    for path in paths:
        try:
            text = path.read_bytes()[:MAX_RESOLV_CONF].decode(errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    address = ipaddress.ip_address(words[1].partition("%")[0])
                    if not address.is_loopback:
                        found[address] = None
    return tuple(found)


def _read(name: str) -> str:
    try:
        return (PROC_NET / name).read_text()
    except OSError:
        return ""  # a kernel without IPv6


def is_udp6_taken(port: int, text: str | None = None) -> bool:
    """Whether a program listens on this UDP port over IPv6 (/proc/net/udp6; the kernel's own sockets have no inode)."""
    for line in (_read("udp6") if text is None else text).splitlines()[1:]:
        fields = line.split()
        if len(fields) > _INODE and fields[1].endswith(f":{port:04X}") and fields[_INODE] != "0":
            return True
    return False


def look(
    foreign_links: Collection[str], addresses: Iterable[tuple[Address, str]]
) -> tuple[tuple[ForeignRoute, ...], frozenset[Prefix]]:
    """Foreign routes and addresses, and the destinations of our own routes.

    `addresses`: IPv4 addresses of foreign links, with their link; the IPv6 addresses are in /proc/net.
    """
    found: dict[tuple[Prefix, str], ForeignRoute] = {}
    own: set[Prefix] = set()
    others = {*foreign_links, NOWHERE}

    def add(prefix: Prefix, link: str, is_address: bool) -> None:
        if any(prefix.version == ignored.version and prefix.subnet_of(ignored) for ignored in IGNORED):  # type: ignore[arg-type]
            return
        if link not in others:
            own.add(prefix)
            return
        address = f"the address {prefix.network_address} on {link}"
        what = address if is_address else f"the route {prefix} over {link}"
        found.setdefault((prefix, link), ForeignRoute(prefix, what, is_address, link))

    for prefix, link in routes4(_read("route"), others):
        add(prefix, link, False)
    for prefix6, link, is_address in routes6(_read("ipv6_route"), others):
        add(prefix6, link, is_address)
    for address, link in addresses:
        add(host_prefix(address), link, True)
    return tuple(found.values()), frozenset(own)
