"""Links, addresses, routes and flood entries through rtnetlink. Ours are marked; nothing else is touched."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netctl.engine import foreign
from netctl.engine.ruleset import VXLAN_PORT
from netctl.model.addresses import Address, Prefix
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignRoute
from netctl.model.hoststate import LINK_ALIAS, ROUTE_PROTOCOL, Route, SegmentLink

ALL_ZERO_MAC = "00:00:00:00:00:00"
IFA_F_NODAD = 0x02
"""Duplicate detection (RFC 4862) would hold an address back for a second; ours are unique by their key."""
RT_SCOPE_NOWHERE = 255
"""In a removal: whatever the scope (rtnetlink(7)); others may have marked a route with theirs."""
WIREGUARD_KINDS = frozenset({"wireguard", "tun"})
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})


def _attrs(message: Any) -> dict[str, Any]:
    return dict(message["attrs"])


class Netlink:
    """One rtnetlink socket. Not for use inside a running event loop: call it from a worker thread."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def close(self) -> None:
        """Close the socket."""
        self._ip.close()

    def _do(self, what: str, call: Callable[[], Any], *ignore: int) -> Any:
        try:
            return call()
        except NetlinkError as error:
            if error.code in ignore:
                return None
            if error.code == errno.EPERM:
                raise EngineError(f"{what}: no permission; run as root (CAP_NET_ADMIN)") from error
            raise EngineError(f"{what}: {error.args[1] if len(error.args) > 1 else error}") from error

    def index(self, name: str) -> int | None:
        """The index of a link, or None."""
        found = self._ip.link_lookup(ifname=name)
        return found[0] if found else None

    def _need(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise EngineError(f"there is no link {name}")
        return index

    def alias(self, name: str) -> str | None:
        """The alias of a link: our ownership mark; None when the link has none or is not there."""
        index = self.index(name)
        if index is None:
            return None
        return next((_attrs(link).get("IFLA_IFALIAS") for link in self._ip.get_links(index)), None)

    def mtu(self, name: str) -> int:
        """Bytes."""
        return int(_attrs(next(iter(self._ip.get_links(self._need(name)))))["IFLA_MTU"])

    def up(self, name: str, mtu: int) -> None:
        """Mark a link as ours, set its MTU and bring it up."""
        index = self._need(name)
        self._do(f"setting up {name}", lambda: self._ip.link("set", index=index, ifalias=LINK_ALIAS, mtu=mtu))
        # Without this, taking the first address of a pool away takes the others of that pool with it.
        with contextlib.suppress(OSError):
            Path(f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries").write_text("1")
        self._do(f"bringing up {name}", lambda: self._ip.link("set", index=index, state="up"))

    def renamed_from(self, name: str) -> str | None:
        """How our WireGuard link is called now, where somebody has renamed it; None where it is not there."""
        for link in self._ip.get_links():
            attrs = _attrs(link)
            if attrs.get("IFLA_IFALIAS") == LINK_ALIAS and "IFLA_LINKINFO" in attrs:
                kind = dict(attrs["IFLA_LINKINFO"]["attrs"]).get("IFLA_INFO_KIND")
                if kind in WIREGUARD_KINDS and attrs["IFLA_IFNAME"] != name:
                    return str(attrs["IFLA_IFNAME"])
        return None

    def rename(self, before: str, after: str) -> None:
        """Give a link another name; addresses and routes stay, or come back where it had to go down for it."""
        index = self._need(before)
        try:
            self._ip.link("set", index=index, ifname=after)
            return
        except NetlinkError as error:
            if error.code != errno.EBUSY:  # kernels before 6.2 rename only what is down
                reason = error.args[1] if len(error.args) > 1 else error
                raise EngineError(f"renaming {before} to {after}: {reason}") from error
        addresses, mtu = self.addresses(before), self.mtu(before)
        routes = [route for route in self.routes() if route.link == before]
        self._do(f"taking {before} down", lambda: self._ip.link("set", index=index, state="down"))
        self._do(f"renaming {before}", lambda: self._ip.link("set", index=index, ifname=after))
        self.up(after, mtu)
        for address, prefix_len in addresses:
            self.add_address(after, address, prefix_len)
        for route in routes:
            self.set_route(replace(route, link=after))

    def foreign(self) -> tuple[dict[str, str], tuple[ForeignRoute, ...], frozenset[Prefix]]:
        """Links that are not ours (name to kind), foreign routes and addresses, and where our routes lead."""
        kinds, names = foreign.links(self._ip)
        return (kinds, *foreign.look(self._ip, kinds, names))

    def set_mtu(self, name: str, mtu: int) -> None:
        """Bytes."""
        index = self._need(name)
        self._do(f"setting the mtu of {name}", lambda: self._ip.link("set", index=index, mtu=mtu))

    def create_wireguard(self, name: str) -> None:
        """A kernel WireGuard link. Raises EngineError where the kernel has none."""
        self._do(f"making {name}", lambda: self._ip.link("add", ifname=name, kind="wireguard"), errno.EEXIST)

    def delete(self, name: str) -> None:
        """Remove a link of ours; no error when it is gone."""
        index = self.index(name)
        if index is not None:
            call = lambda: self._ip.link("del", index=index)  # noqa: E731
            self._keeping_routes(lambda: self._do(f"removing {name}", call, *GONE))

    def addresses(self, name: str) -> frozenset[tuple[Address, int]]:
        """Addresses of a link, less link-local ones, which come by themselves."""
        index = self.index(name)
        if index is None:
            return frozenset()
        found = set()
        for message in self._ip.get_addr(index=index):
            attrs = _attrs(message)
            address = ipaddress.ip_address(attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"])
            if not address.is_link_local:
                found.add((address, message["prefixlen"]))
        return frozenset(found)

    def add_address(self, name: str, address: Address, prefix_len: int) -> None:
        """No error when it is there."""
        index = self._need(name)
        arguments: dict[str, Any] = {"index": index, "address": str(address), "prefixlen": prefix_len}
        if address.version == 6:
            arguments["flags"] = IFA_F_NODAD
        elif prefix_len < 31:
            pool = ipaddress.ip_network((int(address), prefix_len), strict=False)
            arguments["broadcast"] = str(pool.broadcast_address)
        what = f"putting {address} on {name}"
        self._do(what, lambda: self._ip.addr("add", **arguments), errno.EEXIST)

    def remove_address(self, name: str, address: Address, prefix_len: int) -> None:
        """No error when it is gone."""
        index = self.index(name)
        if index is not None:
            what = f"taking {address} off {name}"
            call = lambda: self._ip.addr("del", index=index, address=str(address), prefixlen=prefix_len)  # noqa: E731
            self._keeping_routes(lambda: self._do(what, call, *GONE))

    def _keeping_routes(self, removal: Callable[[], Any]) -> None:
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
        found = (_attrs(message) for message in self._ip.get_addr())
        own = {ipaddress.ip_address(attrs.get("IFA_LOCAL") or attrs["IFA_ADDRESS"]) for attrs in found}
        for route in lost:
            if self.index(route.link) is not None and (route.source is None or route.source in own):
                self.set_route(route)

    def routes(self) -> Iterator[Route]:
        """Our routes: those that carry our protocol number."""
        names: dict[int, str] = {}
        for message in self._ip.route("dump", proto=ROUTE_PROTOCOL):
            attrs = _attrs(message)
            index = attrs.get("RTA_OIF")
            if message["proto"] != ROUTE_PROTOCOL or index is None:
                continue
            if index not in names:
                link = next(iter(self._ip.get_links(index)), None)
                names[index] = _attrs(link)["IFLA_IFNAME"] if link is not None else f"#{index}"
            default = "0.0.0.0" if message["family"] == 2 else "::"  # noqa: S104
            destination = ipaddress.ip_network(f"{attrs.get('RTA_DST', default)}/{message['dst_len']}")
            source = attrs.get("RTA_PREFSRC")
            yield Route(destination, names[index], ipaddress.ip_address(source) if source else None)

    def set_route(self, route: Route) -> None:
        """Add, or replace one of ours. Raises EngineError that names a route in the way which is not."""
        arguments: dict[str, Any] = {
            "dst": str(route.destination),
            "oif": self._need(route.link),
            "proto": ROUTE_PROTOCOL,
            "family": 2 if route.destination.version == 4 else 10,
        }
        if route.source is not None:
            arguments["prefsrc"] = str(route.source)
        what = f"routing {route.destination} over {route.link}"
        try:
            self._ip.route("add", **arguments)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                reason = error.args[1] if len(error.args) > 1 else error
                raise EngineError(f"{what}: {reason}") from error
            self._leave_alone(route)
            self._do(what, lambda: self._ip.route("replace", **arguments))

    def _leave_alone(self, route: Route) -> None:
        """`replace` would take the place of any route to this destination: only ours may go."""
        kinds, names = foreign.links(self._ip)
        for other in foreign.look(self._ip, kinds, names)[0]:
            if other.destination == route.destination and "route" in other.what:
                raise EngineError(
                    f"{other.what} is in the way and not netctl's; remove it, or change the document"
                )

    def remove_route(self, route: Route) -> None:
        """No error when it is gone."""
        index = self.index(route.link)
        if index is None:
            return
        arguments: dict[str, Any] = {
            "dst": str(route.destination),
            "oif": index,
            "proto": ROUTE_PROTOCOL,
            "family": 2 if route.destination.version == 4 else 10,
            "scope": RT_SCOPE_NOWHERE,
        }
        self._do(
            f"removing the route to {route.destination}", lambda: self._ip.route("del", **arguments), *GONE
        )

    def create_segment(self, segment: SegmentLink, under: str) -> None:
        """A VXLAN device over the tunnels: no learning, no multicast; it floods to FDB entries alone."""
        arguments: dict[str, Any] = {
            "ifname": segment.name,
            "kind": "vxlan",
            "vxlan_id": segment.vni,
            "vxlan_port": VXLAN_PORT,
            "vxlan_learning": 0,
            "vxlan_link": self._need(under),
            "address": segment.mac,
            "mtu": segment.mtu,
            "vxlan_local6" if segment.local.version == 6 else "vxlan_local": str(segment.local),
        }
        self._do(f"making {segment.name}", lambda: self._ip.link("add", **arguments))
        self.up(segment.name, segment.mtu)

    def check_segment(self, segment: SegmentLink) -> None:
        """Raises EngineError, naming it, where a link of a segment's name is not ours.

        One without a mark that has the segment's VNI and underlay address is ours: a crash came before the mark.
        """
        link = next(iter(self._ip.get_links(self._need(segment.name))))
        attrs = _attrs(link)
        info = dict(attrs["IFLA_LINKINFO"]["attrs"]) if "IFLA_LINKINFO" in attrs else {}
        data = dict(info["IFLA_INFO_DATA"]["attrs"]) if info.get("IFLA_INFO_KIND") == "vxlan" else {}
        local = data.get("IFLA_VXLAN_LOCAL6") or data.get("IFLA_VXLAN_LOCAL")
        same = data.get("IFLA_VXLAN_ID") == segment.vni and local == str(segment.local)
        if attrs.get("IFLA_IFALIAS") != LINK_ALIAS and not same:
            raise EngineError(
                f"there is a link {segment.name} that netctl did not make; remove it if nothing needs it"
            )

    def segments(self) -> Iterator[SegmentLink]:
        """Our segment devices, whatever they are called. The network's name is not on the host: it stays empty."""
        for link in self._ip.get_links():
            attrs = _attrs(link)
            name = attrs["IFLA_IFNAME"]
            if attrs.get("IFLA_IFALIAS") != LINK_ALIAS or "IFLA_LINKINFO" not in attrs:
                continue
            info = dict(attrs["IFLA_LINKINFO"]["attrs"])
            data = dict(info["IFLA_INFO_DATA"]["attrs"]) if info.get("IFLA_INFO_KIND") == "vxlan" else {}
            local = data.get("IFLA_VXLAN_LOCAL6") or data.get("IFLA_VXLAN_LOCAL")
            if local is None:
                continue
            yield SegmentLink(
                name=name,
                network="",
                vni=data["IFLA_VXLAN_ID"],
                mtu=attrs["IFLA_MTU"],
                mac=attrs["IFLA_ADDRESS"].lower(),
                local=ipaddress.ip_address(local),
                addresses=self.addresses(name),
                flood=frozenset(self._flood(link["index"])),
            )

    def _flood(self, index: int) -> Iterator[Address]:
        for entry in self._ip.fdb("dump", ifindex=index):
            attrs = _attrs(entry)
            if attrs.get("NDA_LLADDR") == ALL_ZERO_MAC and attrs.get("NDA_DST"):
                yield ipaddress.ip_address(attrs["NDA_DST"])

    def add_flood(self, name: str, destination: Address) -> None:
        """No error when it is there."""
        index = self._need(name)
        arguments = {"ifindex": index, "lladdr": ALL_ZERO_MAC, "dst": str(destination)}
        what = f"broadcast on {name} to {destination}"
        if destination not in set(self._flood(index)):
            self._do(what, lambda: self._ip.fdb("append", **arguments), errno.EEXIST)

    def remove_flood(self, name: str, destination: Address) -> None:
        """No error when it is gone."""
        index = self.index(name)
        if index is not None:
            arguments = {"ifindex": index, "lladdr": ALL_ZERO_MAC, "dst": str(destination)}
            what = f"no broadcast on {name} to {destination}"
            self._do(what, lambda: self._ip.fdb("del", **arguments), *GONE)
