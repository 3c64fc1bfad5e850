"""Reads and changes links, addresses, routes and flood entries through rtnetlink. It changes only our marked ones."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from netctl.engine.links import foreignscan, ipv6switch
from netctl.engine.links.bulkroutes import Routes
from netctl.engine.links.links import IFF_UP, Link
from netctl.engine.links.rtnl import Rtnl
from netctl.engine.links.unchanged import ROUTES_SETTLE_S, Kept
from netctl.engine.nlsocket import NetlinkError
from netctl.model.addresses import Address, Prefix
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignRoute
from netctl.model.hoststate import LINK_ALIAS, SIZE_PROTOCOL, VXLAN_PORT, Route, SegmentLink
from netctl.system.files import write_kernel

ALL_ZERO_MAC = "00:00:00:00:00:00"
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})

_IFA_F_NODAD = 0x02
"""Switches duplicate detection (RFC 4862) off, which would delay an address by a second; keys make ours unique."""

WIREGUARD_KINDS = frozenset({"wireguard", "tun"})

T = TypeVar("T")


class Netlink:
    """The links and routes of this host. Blocking: an agent calls it from one worker thread."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()
        self._routes = Routes()
        self._foreign = Kept(self._rtnl.lists.changes.routes, self._read_foreign, ROUTES_SETTLE_S)

    def close(self) -> None:
        """Close the sockets."""
        self._rtnl.close()
        self._routes.close()

    def _do(self, what: str, call: Callable[[], T], *ignore: int) -> T | None:
        try:
            return call()
        except NetlinkError as error:
            if error.errno in ignore:
                return None
            if error.errno == errno.EACCES:  # the kernel's error where IPv6 is switched off
                raise EngineError(f"{what}: refused; is IPv6 switched off there (disable_ipv6)?") from error
            if error.errno == errno.EPERM:
                raise EngineError(f"{what}: no permission; run as root (CAP_NET_ADMIN)") from error
            raise EngineError(f"{what}: {error.strerror}") from error
        except OSError as error:
            raise EngineError(f"{what}: {error}") from error

    def _ask(self, what: str, call: Callable[[Any], T], *ignore: int) -> T | None:
        """Make one call of pyroute2."""
        return self._do(what, lambda: self._rtnl.ask(call), *ignore)

    def find(self, name: str) -> Link | None:
        """The link of this name, or None."""
        # ERANGE: the name is too long.
        link = self._do(f"looking for {name}", lambda: self._rtnl.link(name), *GONE, errno.ERANGE)
        return link if link is not None and link.name == name else None  # an alternative name does not count

    def index(self, name: str) -> int | None:
        """The index of a link, or None."""
        link = self.find(name)
        return link.index if link is not None else None

    def _need(self, name: str) -> Link:
        link = self.find(name)
        if link is None:
            raise EngineError(f"there is no link {name}")
        return link

    def mtu(self, name: str) -> int:
        """The MTU of a link in bytes."""
        return self._need(name).mtu

    def _change(self, what: str, index: int, **fields: object) -> None:
        self._ask(what, lambda library: library.link("set", index=index, **fields))

    def up(self, name: str, mtu: int) -> None:
        """Mark a link as ours, set its MTU and bring it up."""
        index = self._need(name).index
        self._change(f"setting up {name}", index, ifalias=LINK_ALIAS, mtu=mtu)
        # Without this, removing the first address of a pool removes the other addresses of the pool, too.
        with contextlib.suppress(OSError):
            write_kernel(Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries"), "1")
        with contextlib.suppress(EngineError):  # missing IPv6 has been reported, and IPv4 still works
            ipv6switch.allow(name)
        self._change(f"bringing up {name}", index, state="up")

    def bring_up(self, name: str) -> bool:
        """Bring up a link that somebody has set down; returns whether it was down. No link is no error."""
        link = self.find(name)
        return link is not None and self._bring_up(link)

    def _bring_up(self, link: Link) -> bool:
        if link.flags & IFF_UP:
            return False
        self._change(f"bringing up {link.name}", link.index, state="up")
        return True

    def _standing(self, name: str) -> int:
        """The index of a link, which is up afterwards: a route over a link that is down is refused."""
        link = self._need(name)
        self._bring_up(link)
        return link.index

    def _links(self) -> list[Link]:
        return self._do("reading links", self._rtnl.lists.links) or []

    def renamed_from(self, name: str) -> str | None:
        """The present name of our WireGuard link, if somebody has renamed it from `name`; else None."""
        for link in self._links():
            if link.alias == LINK_ALIAS and link.kind in WIREGUARD_KINDS and link.name != name:
                return link.name
        return None

    def rename(self, before: str, after: str) -> None:
        """Rename a link; addresses and routes stay, or are set again where the link had to go down."""
        link = self._need(before)
        what = f"renaming {before} to {after}"
        try:
            self._rtnl.ask(lambda library: library.link("set", index=link.index, ifname=after))
        except NetlinkError as error:
            if error.errno != errno.EBUSY:  # kernels before 6.2 rename only links that are down
                raise EngineError(f"{what}: {error.strerror}") from error
        else:
            return
        addresses = self.addresses(before)
        routes = list(self.routes())
        self._change(f"taking {before} down", link.index, state="down")
        self._change(what, link.index, ifname=after)
        self.up(after, link.mtu)
        for address, prefix_len in addresses:
            self.add_address(after, address, prefix_len)
        # The link's routes are gone, and routes over other links have lost a source that was an IPv6 address on it.
        wanted = {replace(route, link=after) if route.link == before else route for route in routes}
        self.set_routes(wanted - set(self.routes()))

    def foreign(self) -> tuple[dict[str, str], tuple[ForeignRoute, ...], frozenset[Prefix]]:
        """Foreign links (name to kind), foreign routes and addresses, and the destinations of our routes."""
        return self._foreign.get()

    def _read_foreign(self) -> tuple[dict[str, str], tuple[ForeignRoute, ...], frozenset[Prefix]]:
        links = [link for link in self._links() if link.alias != LINK_ALIAS]
        kinds = {link.name: link.kind or "network" for link in links}
        names = {link.index: link.name for link in links}
        # One dump: there may be thousands of links, and for each query the kernel walks all of them.
        every = self._do("reading addresses", self._rtnl.lists.addresses, *GONE) or ()
        addresses = [
            (found.address, names[found.index])
            for found in every
            if found.address.version == 4 and found.index in names
        ]
        return (kinds, *foreignscan.look(kinds, addresses))

    def stacked(self) -> tuple[str, ...]:
        """Foreign links that are made on links of ours: the kernel removes them with ours."""
        links = self._links()
        ours = {link.index for link in links if link.alias == LINK_ALIAS}
        return tuple(sorted(link.name for link in links if link.alias != LINK_ALIAS and link.lower in ours))

    def segment_port_holder(self) -> str:
        """The foreign holder of the UDP port that segments need, for people; empty: none."""
        links = self._links()
        if any(link.alias == LINK_ALIAS and link.vni is not None for link in links):
            return ""  # we hold it
        for link in links:
            if link.holds_port == VXLAN_PORT:
                return f"the VXLAN link {link.name}"
        return "a program" if foreignscan.is_udp6_taken(VXLAN_PORT) else ""

    def set_mtu(self, name: str, mtu: int) -> None:
        """Set the MTU of a link in bytes."""
        self._change(f"setting the mtu of {name}", self._need(name).index, mtu=mtu)

    def _create(self, name: str, kind: str, *ignore: int, **fields: object) -> None:
        self._ask(
            f"making {name}", lambda library: library.link("add", ifname=name, kind=kind, **fields), *ignore
        )

    def create_wireguard(self, name: str) -> None:
        """Create a WireGuard link of the kernel. Raises EngineError where the kernel has no WireGuard."""
        self._create(name, "wireguard", errno.EEXIST)

    def delete(self, name: str) -> None:
        """Remove a link of ours; a missing link is no error."""
        link = self.find(name)
        if link is not None:
            index = link.index
            self._keeping_routes(
                lambda: self._ask(f"removing {name}", lambda library: library.link("del", index=index), *GONE)
            )

    def _all_addresses(self, index: int = 0) -> Iterator[tuple[Address, int]]:
        """Addresses and their prefix lengths, of one link or of all links."""
        for found in self._do("reading addresses", lambda: self._rtnl.lists.addresses(index), *GONE) or ():
            yield found.address, found.prefix_len

    def addresses(self, name: str) -> frozenset[tuple[Address, int]]:
        """Addresses of a link, without link-local ones, which the kernel sets by itself."""
        index = self.index(name)
        if index is None:
            return frozenset()
        return frozenset(found for found in self._all_addresses(index) if not found[0].is_link_local)

    def add_address(self, name: str, address: Address, prefix_len: int) -> None:
        """Add an address to a link; an existing address is no error."""
        more: dict[str, object] = {}
        if address.version == 6:
            ipv6switch.allow(name)
            more["flags"] = _IFA_F_NODAD
        elif prefix_len < 31:
            pool = ipaddress.ip_network((int(address), prefix_len), strict=False)
            more["broadcast"] = str(pool.broadcast_address)
        where = {"index": self._standing(name), "address": str(address), "prefixlen": prefix_len}
        self._ask(
            f"putting {address} on {name}",
            lambda library: library.addr("add", **where, **more),
            errno.EEXIST,
        )

    def remove_address(self, name: str, address: Address, prefix_len: int) -> None:
        """Remove an address from a link; a missing address is no error."""
        index = self.index(name)
        if index is not None:
            where = {"index": index, "address": str(address), "prefixlen": prefix_len}
            self._keeping_routes(
                lambda: self._ask(
                    f"taking {address} off {name}", lambda library: library.addr("del", **where), *GONE
                )
            )

    def _keeping_routes(self, removal: Callable[[], object]) -> None:
        """Call `removal`, and set those of our routes again that the kernel removed needlessly.

        With the last IPv4 address of a link the kernel removes all IPv4 routes over the link, and with any IPv4 address
        the routes from it, even if another link has the same address. An older kernel also removes the source of IPv6
        routes with an address, even if another link has it.
        """
        before = set(self.routes())
        removal()
        lost = before - set(self.routes())
        if not lost:
            return
        own = {address for address, _ in self._all_addresses()}
        kept = [route for route in lost if route.source is None or route.source in own]
        self.set_routes([route for route in kept if self.index(route.link) is not None])

    def routes(self) -> Iterator[Route]:
        """Our routes: those with our protocol number."""
        absent = (*GONE, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6
        found: list[tuple[Prefix, int, Address | None]] = []
        for family in (AF_INET, AF_INET6):
            read = partial(self._routes.read, family)
            found += self._do("reading routes", read, *absent) or ()
        names = {link.index: link.name for link in self._links()} if found else {}
        for destination, index, source in found:
            yield Route(destination, names.get(index, f"#{index}"), source)

    def unreachable(self) -> frozenset[Prefix]:
        """Destinations of our unreachable routes, which apply while there is no better route."""
        absent = (*GONE, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6
        found: list[Prefix] = []
        for family in (AF_INET, AF_INET6):
            found += self._do("reading routes", partial(self._routes.read_unreachable, family), *absent) or ()
        return frozenset(found)

    def add_unreachable(self, destination: Prefix) -> None:
        """Add an unreachable route; an existing one is no error."""
        what = f"making {destination} unreachable while no link leads there"
        self._do(what, lambda: self._routes.add_unreachable(destination), errno.EEXIST)

    def remove_unreachable(self, destination: Prefix) -> None:
        """Remove an unreachable route; a missing one is no error."""
        what = f"removing the unreachable route to {destination}"
        self._do(what, lambda: self._routes.remove_unreachable(destination), *GONE)

    def set_routes(self, routes: Iterable[Route]) -> None:
        """Add routes, or replace ours. Raises EngineError, which names a conflicting foreign route."""
        indexes: dict[str, int] = {}
        switched: set[str] = set()
        additions = []
        for route in routes:
            if route.link not in indexes:
                indexes[route.link] = self._standing(route.link)
            if route.destination.version == 6 and route.link not in switched:
                switched.add(route.link)
                ipv6switch.allow(route.link)
            additions.append((route, indexes[route.link]))
        try:
            self._routes.add(additions)
        except NetlinkError:
            for route, index in additions:  # one by one, to find the failing one
                self._set_route(route, index)

    def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Limit packets to these destinations over a link to `sizes` in bytes, all others to the link's MTU.

        If the destination has a route of ours, that route gets the size; inside a wider route it gets its own route.
        """
        index = self._need(link).index
        absent = (*GONE, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6
        for family, version in ((AF_INET, 4), (AF_INET6, 6)):
            ours = self._do("reading routes", partial(self._routes.read_sizes, family), *absent) or ()
            read = partial(self._routes.read_sizes, family, SIZE_PROTOCOL)
            extra = self._do("reading routes", read, *absent) or ()
            left = {to: size for to, size in sizes.items() if to.version == version}
            wide = sorted(
                (entry for entry in ours if entry[1] == index), key=lambda entry: -entry[0].prefixlen
            )
            for destination, _, source, size in wide:
                if size != (wanted := left.pop(destination, 0)):
                    route, what = Route(destination, link, source), f"the size of packets to {destination}"
                    self._do(what, partial(self._routes.replace, route, index, wanted), *GONE)
            for destination, at, _, size in extra:
                if at == index and left.get(destination) == size:
                    del left[destination]
                elif at == index and destination not in left:
                    what = f"the size of packets to {destination}"
                    self._do(what, partial(self._routes.remove_size, destination, index), *GONE)
            for destination, size in left.items():
                covering = (one for one in wide if destination.subnet_of(one[0]))  # type: ignore[arg-type]
                if (around := next(covering, None)) is not None:
                    route, what = Route(destination, link, around[2]), f"the size of packets to {destination}"
                    self._do(what, partial(self._routes.set_size, route, index, size), *GONE)

    def _set_route(self, route: Route, index: int) -> None:
        what = f"routing {route.destination} over {route.link}"
        try:
            self._routes.add([(route, index)])
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise EngineError(f"{what}: {error.strerror}") from error
        else:
            return
        self._leave_alone(route)
        self._do(what, lambda: self._routes.replace(route, index))

    def _leave_alone(self, route: Route) -> None:
        """Raise EngineError for a foreign route to the same destination, which `replace` would replace, too."""
        for other in self.foreign()[1]:
            if other.destination == route.destination and not other.is_address:
                raise EngineError(
                    f"{other.what} is in the way and not netctl's; remove it, or change the document"
                )

    def remove_route(self, route: Route) -> None:
        """Remove a route of ours; a missing route is no error."""
        index = self.index(route.link)
        if index is not None:
            what = f"removing the route to {route.destination}"
            self._do(what, lambda: self._routes.remove(route, index), *GONE)

    def create_segment(self, segment: SegmentLink, under: str) -> None:
        """Create a VXLAN device over the tunnels: no learning, no multicast; it floods only to FDB entries."""
        local = "vxlan_local6" if segment.local.version == 6 else "vxlan_local"
        self._create(
            segment.name,
            "vxlan",
            address=segment.mac,
            mtu=segment.mtu,
            vxlan_id=segment.vni,
            vxlan_link=self._need(under).index,
            vxlan_learning=False,
            vxlan_port=VXLAN_PORT,
            **{local: str(segment.local)},
        )
        self.up(segment.name, segment.mtu)

    def check_segment(self, segment: SegmentLink) -> None:
        """Raise EngineError where the link with the segment's name is foreign.

        A link without our mark but with the segment's VNI and underlay address is ours: a crash prevented the mark.
        """
        link = self._need(segment.name)
        same = link.vni == segment.vni and link.local == segment.local
        if link.alias != LINK_ALIAS and not same:
            raise EngineError(
                f"there is a link {segment.name} that netctl did not make; remove it if nothing needs it"
            )

    def segments(self) -> Iterator[SegmentLink]:
        """Our segment devices, by any name. `network` stays empty: the host does not know the network's name."""
        for link in self._links():
            if link.alias != LINK_ALIAS or link.vni is None or link.local is None:
                continue
            yield SegmentLink(
                name=link.name,
                network="",
                vni=link.vni,
                mtu=link.mtu,
                mac=link.mac,
                local=link.local,
                addresses=self.addresses(link.name),
                flood=frozenset(self._flood(link.index)),
            )

    def _flood(self, index: int) -> Iterator[Address]:
        which = {"ifindex": index, "lladdr": ALL_ZERO_MAC}
        found = self._do(
            "reading broadcast entries",
            lambda: self._rtnl.dump(lambda library: library.fdb("dump", match=which)),
            *GONE,
        )
        for entry in found or ():
            if entry.get("dst"):
                yield ipaddress.ip_address(entry.get("dst"))

    def _entry(self, what: str, command: str, index: int, destination: Address, *ignore: int) -> None:
        entry = {"ifindex": index, "lladdr": ALL_ZERO_MAC, "dst": str(destination)}
        self._ask(what, lambda library: library.fdb(command, **entry), *ignore)

    def add_flood(self, name: str, destination: Address) -> None:
        """Add a flood entry to a segment; an existing one is no error."""
        index = self._need(name).index
        if destination not in set(self._flood(index)):
            self._entry(f"broadcast on {name} to {destination}", "append", index, destination, errno.EEXIST)

    def remove_flood(self, name: str, destination: Address) -> None:
        """Remove a flood entry from a segment; a missing one is no error."""
        index = self.index(name)
        if index is not None:
            self._entry(f"no broadcast on {name} to {destination}", "del", index, destination, *GONE)
