"""Links, addresses, routes and flood entries through rtnetlink. Ours are marked; nothing else is touched."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import TypeVar

from netctl.engine import foreign, rtnl
from netctl.engine.nlsocket import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    nest,
    number,
    prefix,
    text,
    u32,
)
from netctl.engine.ruleset import VXLAN_PORT
from netctl.model.addresses import Address, Prefix
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignRoute
from netctl.model.hoststate import LINK_ALIAS, ROUTE_PROTOCOL, Route, SegmentLink

ALL_ZERO_MAC = bytes(6)
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})

_IFF_UP = 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_ANY = 0, 253, 255
"""The last one, in a removal: whatever the scope (rtnetlink(7)); others may have marked a route with theirs."""
_NUD_PERMANENT, _NTF_SELF = 0x80, 0x02
_IFA_F_NODAD = 0x02
"""Duplicate detection (RFC 4862) would hold an address back for a second; ours are unique by their key."""

WIREGUARD_KINDS = frozenset({"wireguard", "tun"})

T = TypeVar("T")


def _family(address: Address) -> int:
    return AF_INET if address.version == 4 else AF_INET6


class Netlink:
    """One rtnetlink socket, blocking: an agent calls it from one worker thread."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(rtnl.NETLINK_ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _do(self, what: str, call: Callable[[], T], *ignore: int) -> T | None:
        try:
            return call()
        except NetlinkError as error:
            if error.errno in ignore:
                return None
            if error.errno == errno.EPERM:
                raise EngineError(f"{what}: no permission; run as root (CAP_NET_ADMIN)") from error
            raise EngineError(f"{what}: {error.strerror}") from error
        except OSError as error:
            raise EngineError(f"{what}: {error}") from error

    def _find(self, name: str) -> rtnl.Link | None:
        request = rtnl.LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(rtnl.LINK_NAME, name)
        # ERANGE: longer than a name can be.
        what = f"looking for {name}"
        found = self._do(what, lambda: self._socket.ask(rtnl.GETLINK, request), *GONE, errno.ERANGE)
        link = rtnl.link(found[0]) if found else None
        return link if link is not None and link.name == name else None  # an alternative name is not its name

    def index(self, name: str) -> int | None:
        """The index of a link, or None."""
        link = self._find(name)
        return link.index if link is not None else None

    def _need(self, name: str) -> rtnl.Link:
        link = self._find(name)
        if link is None:
            raise EngineError(f"there is no link {name}")
        return link

    def alias(self, name: str) -> str | None:
        """The alias of a link: our ownership mark; None when the link has none or is not there."""
        link = self._find(name)
        return link.alias if link is not None else None

    def mtu(self, name: str) -> int:
        """Bytes."""
        return self._need(name).mtu

    def _change(self, what: str, index: int, *parts: bytes, up: bool | None = None) -> None:
        flags, mask = _IFF_UP if up else 0, 0 if up is None else _IFF_UP
        request = rtnl.LINK.pack(AF_UNSPEC, 0, index, flags, mask) + b"".join(parts)
        self._do(what, lambda: self._socket.ask(rtnl.NEWLINK, request))

    def up(self, name: str, mtu: int) -> None:
        """Mark a link as ours, set its MTU and bring it up."""
        index = self._need(name).index
        alias = attribute(rtnl.LINK_ALIAS_TEXT, LINK_ALIAS.encode())
        self._change(f"setting up {name}", index, alias, u32(rtnl.LINK_MTU, mtu))
        # Without this, taking the first address of a pool away takes the others of that pool with it.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("1")
        self._change(f"bringing up {name}", index, up=True)

    def _links(self) -> list[rtnl.Link]:
        return self._do("reading links", lambda: rtnl.links(self._socket)) or []

    def renamed_from(self, name: str) -> str | None:
        """How our WireGuard link is called now, where somebody has renamed it; None where it is not there."""
        for link in self._links():
            if link.alias == LINK_ALIAS and link.kind in WIREGUARD_KINDS and link.name != name:
                return link.name
        return None

    def rename(self, before: str, after: str) -> None:
        """Give a link another name; addresses and routes stay, or come back where it had to go down for it."""
        link = self._need(before)
        what, name = f"renaming {before} to {after}", text(rtnl.LINK_NAME, after)
        try:
            self._socket.ask(rtnl.NEWLINK, rtnl.LINK.pack(AF_UNSPEC, 0, link.index, 0, 0) + name)
        except NetlinkError as error:
            if error.errno != errno.EBUSY:  # kernels before 6.2 rename only what is down
                raise EngineError(f"{what}: {error.strerror}") from error
        else:
            return
        addresses = self.addresses(before)
        routes = list(self.routes())
        self._change(f"taking {before} down", link.index, up=False)
        self._change(what, link.index, name)
        self.up(after, link.mtu)
        for address, prefix_len in addresses:
            self.add_address(after, address, prefix_len)
        # Those over it go with it; those over other links lose their source, an IPv6 address that was on it.
        wanted = {replace(route, link=after) if route.link == before else route for route in routes}
        self.set_routes(wanted - set(self.routes()))

    def foreign(self) -> tuple[dict[str, str], tuple[ForeignRoute, ...], frozenset[Prefix]]:
        """Links that are not ours (name to kind), foreign routes and addresses, and where our routes lead."""
        kinds = {link.name: link.kind or "network" for link in self._links() if link.alias != LINK_ALIAS}
        addresses = [
            (address, link)
            for link in kinds
            for address, _ in self._all_addresses(self.index(link) or -1)
            if address.version == 4
        ]
        return (kinds, *foreign.look(kinds, addresses))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Bytes."""
        self._change(f"setting the mtu of {name}", self._need(name).index, u32(rtnl.LINK_MTU, mtu))

    def _create(
        self, name: str, kind: str, *parts: bytes, data: tuple[bytes, ...] = (), ignore: int = 0
    ) -> None:
        info = nest(rtnl.LINK_INFO, text(rtnl.INFO_KIND, kind), nest(rtnl.INFO_DATA, *data))
        request = rtnl.LINK.pack(AF_UNSPEC, 0, 0, 0, 0) + text(rtnl.LINK_NAME, name) + b"".join(parts) + info
        create = NLM_F_CREATE | NLM_F_EXCL
        self._do(f"making {name}", lambda: self._socket.ask(rtnl.NEWLINK, request, create), ignore)

    def create_wireguard(self, name: str) -> None:
        """A kernel WireGuard link. Raises EngineError where the kernel has none."""
        self._create(name, "wireguard", ignore=errno.EEXIST)

    def delete(self, name: str) -> None:
        """Remove a link of ours; no error when it is gone."""
        link = self._find(name)
        if link is not None:
            request = rtnl.LINK.pack(AF_UNSPEC, 0, link.index, 0, 0)
            call = lambda: self._socket.ask(rtnl.DELLINK, request)  # noqa: E731
            self._keeping_routes(lambda: self._do(f"removing {name}", call, *GONE))

    def _all_addresses(self, index: int = 0) -> Iterator[tuple[Address, int]]:
        """Addresses and the lengths of their prefixes: of one link, or of all."""
        for found in self._do("reading addresses", lambda: rtnl.addresses(self._socket, index), *GONE) or ():
            yield found.address, found.prefix_len

    def addresses(self, name: str) -> frozenset[tuple[Address, int]]:
        """Addresses of a link, less link-local ones, which come by themselves."""
        index = self.index(name)
        if index is None:
            return frozenset()
        return frozenset(found for found in self._all_addresses(index) if not found[0].is_link_local)

    def add_address(self, name: str, address: Address, prefix_len: int) -> None:
        """No error when it is there."""
        parts = [attribute(rtnl.ADDR_LOCAL, address.packed), attribute(rtnl.ADDR_ADDRESS, address.packed)]
        if address.version == 6:
            parts.append(u32(rtnl.ADDR_FLAGS, _IFA_F_NODAD))
        elif prefix_len < 31:
            pool = ipaddress.ip_network((int(address), prefix_len), strict=False)
            parts.append(attribute(rtnl.ADDR_BROADCAST, pool.broadcast_address.packed))
        request = rtnl.ADDR.pack(_family(address), prefix_len, 0, 0, self._need(name).index) + b"".join(parts)
        what, create = f"putting {address} on {name}", NLM_F_CREATE | NLM_F_EXCL
        self._do(what, lambda: self._socket.ask(rtnl.NEWADDR, request, create), errno.EEXIST)

    def remove_address(self, name: str, address: Address, prefix_len: int) -> None:
        """No error when it is gone."""
        index = self.index(name)
        if index is not None:
            parts = attribute(rtnl.ADDR_LOCAL, address.packed) + attribute(rtnl.ADDR_ADDRESS, address.packed)
            request = rtnl.ADDR.pack(_family(address), prefix_len, 0, 0, index) + parts
            call = lambda: self._socket.ask(rtnl.DELADDR, request)  # noqa: E731
            self._keeping_routes(lambda: self._do(f"taking {address} off {name}", call, *GONE))

    def _keeping_routes(self, removal: Callable[[], object]) -> None:
        """Remove something, and put back what the kernel took away of our routes without need.

        With the last IPv4 address of a link go all IPv4 routes over it, and with an address the IPv4 routes from
        it, also where another link has the same address. Of IPv6 routes an older kernel takes the source away
        when an address goes, also where another link has it.
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
        """Our routes: those that carry our protocol number."""
        answers = [answer for family in (AF_INET, AF_INET6) for answer in self._dump_routes(family)]
        names = {link.index: link.name for link in self._links()} if answers else {}
        for answer in answers:
            family, prefix_len, _, _, _, protocol, _, _, _ = rtnl.ROUTE.unpack_from(answer)
            attrs = attributes(answer[rtnl.ROUTE.size :])
            index = number(attrs.get(rtnl.ROUTE_OIF))
            if protocol != ROUTE_PROTOCOL or not index:
                continue
            destination = prefix(attrs.get(rtnl.ROUTE_DST, bytes(4 if family == AF_INET else 16)), prefix_len)
            source = attrs.get(rtnl.ROUTE_PREFSRC)
            link = names.get(index, f"#{index}")
            yield Route(destination, link, ipaddress.ip_address(source) if source else None)

    def _dump_routes(self, family: int) -> list[bytes]:
        request = rtnl.ROUTE.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, 0, 0)
        absent = (*GONE, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6
        return self._do("reading routes", lambda: self._socket.dump(rtnl.GETROUTE, request), *absent) or []

    def _route(self, route: Route, index: int, *, scope: int) -> bytes:
        destination = route.destination
        family = AF_INET if destination.version == 4 else AF_INET6
        header = (
            family,
            destination.prefixlen,
            0,
            0,
            rtnl.TABLE_MAIN,
            ROUTE_PROTOCOL,
            scope,
            rtnl.UNICAST,
            0,
        )
        parts = attribute(rtnl.ROUTE_DST, destination.network_address.packed) + u32(rtnl.ROUTE_OIF, index)
        return rtnl.ROUTE.pack(*header) + parts

    def set_routes(self, routes: Iterable[Route]) -> None:
        """Add, or replace those of ours. Raises EngineError that names a route in the way which is not."""
        indexes: dict[str, int] = {}
        requests = []
        for route in routes:
            if route.link not in indexes:
                indexes[route.link] = self._need(route.link).index
            scope = _SCOPE_LINK if route.destination.version == 4 else _SCOPE_UNIVERSE
            request = self._route(route, indexes[route.link], scope=scope)
            if route.source is not None:
                request += attribute(rtnl.ROUTE_PREFSRC, route.source.packed)
            requests.append((route, request))
        try:
            self._socket.ask_all(
                rtnl.NEWROUTE, [request for _, request in requests], NLM_F_CREATE | NLM_F_EXCL
            )
        except NetlinkError:
            for route, request in requests:  # one by one: which of them it is
                self._set_route(route, request)

    def _set_route(self, route: Route, request: bytes) -> None:
        what = f"routing {route.destination} over {route.link}"
        try:
            self._socket.ask(rtnl.NEWROUTE, request, NLM_F_CREATE | NLM_F_EXCL)
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise EngineError(f"{what}: {error.strerror}") from error
        else:
            return
        self._leave_alone(route)
        self._do(what, lambda: self._socket.ask(rtnl.NEWROUTE, request, NLM_F_CREATE | NLM_F_REPLACE))

    def _leave_alone(self, route: Route) -> None:
        """`replace` would take the place of any route to this destination: only ours may go."""
        for other in self.foreign()[1]:
            if other.destination == route.destination and not other.is_address:
                raise EngineError(
                    f"{other.what} is in the way and not netctl's; remove it, or change the document"
                )

    def remove_route(self, route: Route) -> None:
        """No error when it is gone."""
        index = self.index(route.link)
        if index is not None:
            request = self._route(route, index, scope=_SCOPE_ANY)
            what = f"removing the route to {route.destination}"
            self._do(what, lambda: self._socket.ask(rtnl.DELROUTE, request), *GONE)

    def create_segment(self, segment: SegmentLink, under: str) -> None:
        """A VXLAN device over the tunnels: no learning, no multicast; it floods to FDB entries alone."""
        local = rtnl.VXLAN_LOCAL6 if segment.local.version == 6 else rtnl.VXLAN_LOCAL
        data = (
            u32(rtnl.VXLAN_ID, segment.vni),
            u32(rtnl.VXLAN_LINK, self._need(under).index),
            attribute(local, segment.local.packed),
            attribute(rtnl.VXLAN_LEARNING, b"\0"),
            attribute(rtnl.VXLAN_PORT, VXLAN_PORT.to_bytes(2, "big")),
        )
        mac = attribute(rtnl.LINK_ADDRESS, bytes.fromhex(segment.mac.replace(":", "")))
        self._create(segment.name, "vxlan", mac, u32(rtnl.LINK_MTU, segment.mtu), data=data)
        self.up(segment.name, segment.mtu)

    def check_segment(self, segment: SegmentLink) -> None:
        """Raises EngineError, naming it, where a link of a segment's name is not ours.

        One without a mark that has the segment's VNI and underlay address is ours: a crash came before the mark.
        """
        link = self._need(segment.name)
        data = link.data if link.kind == "vxlan" else {}
        local = data.get(rtnl.VXLAN_LOCAL6) or data.get(rtnl.VXLAN_LOCAL)
        same = number(data.get(rtnl.VXLAN_ID)) == segment.vni and local == segment.local.packed
        if link.alias != LINK_ALIAS and not same:
            raise EngineError(
                f"there is a link {segment.name} that netctl did not make; remove it if nothing needs it"
            )

    def segments(self) -> Iterator[SegmentLink]:
        """Our segment devices, whatever they are called. The network's name is not on the host: it stays empty."""
        for link in self._links():
            if link.alias != LINK_ALIAS or link.kind != "vxlan":
                continue
            local = link.data.get(rtnl.VXLAN_LOCAL6) or link.data.get(rtnl.VXLAN_LOCAL)
            if local is None:
                continue
            yield SegmentLink(
                name=link.name,
                network="",
                vni=number(link.data.get(rtnl.VXLAN_ID)),
                mtu=link.mtu,
                mac=link.address.hex(":"),
                local=ipaddress.ip_address(local),
                addresses=self.addresses(link.name),
                flood=frozenset(self._flood(link.index)),
            )

    def _flood(self, index: int) -> Iterator[Address]:
        request = rtnl.NEIGH.pack(rtnl.AF_BRIDGE, index, 0, 0, 0)
        found = self._do(
            "reading broadcast entries", lambda: self._socket.dump(rtnl.GETNEIGH, request), *GONE
        )
        for answer in found or ():
            attrs = attributes(answer[rtnl.NEIGH.size :])
            owner = rtnl.NEIGH.unpack_from(answer)[1]
            if owner == index and attrs.get(rtnl.NEIGH_LLADDR) == ALL_ZERO_MAC and rtnl.NEIGH_DST in attrs:
                yield ipaddress.ip_address(attrs[rtnl.NEIGH_DST])

    def _entry(self, index: int, destination: Address) -> bytes:
        header = rtnl.NEIGH.pack(rtnl.AF_BRIDGE, index, _NUD_PERMANENT, _NTF_SELF, 0)
        return (
            header
            + attribute(rtnl.NEIGH_LLADDR, ALL_ZERO_MAC)
            + attribute(rtnl.NEIGH_DST, destination.packed)
        )

    def add_flood(self, name: str, destination: Address) -> None:
        """No error when it is there."""
        index = self._need(name).index
        what = f"broadcast on {name} to {destination}"
        if destination not in set(self._flood(index)):
            request, flags = self._entry(index, destination), NLM_F_CREATE | NLM_F_APPEND
            self._do(what, lambda: self._socket.ask(rtnl.NEWNEIGH, request, flags), errno.EEXIST)

    def remove_flood(self, name: str, destination: Address) -> None:
        """No error when it is gone."""
        index = self.index(name)
        if index is not None:
            what = f"no broadcast on {name} to {destination}"
            request = self._entry(index, destination)
            self._do(what, lambda: self._socket.ask(rtnl.DELNEIGH, request), *GONE)
