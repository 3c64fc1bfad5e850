"""Reads and sets our routes in bulk, with a codec of our own (kernel: include/uapi/linux/rtnetlink.h).

Measured with 2,000 routes: to read them, pyroute2 takes 107 ms of processor time and this module 10 ms. To find none of
ours among 2,000 foreign routes, pyroute2 reads and decodes them all (71 ms). It sets one route a call, in 306 µs each,
where this module takes 24 µs. An apply reads the routes up to four times.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from socket import AF_INET, AF_INET6

from netctl.engine.links.linkdump import TABLE_MAIN, UNICAST
from netctl.engine.nlsocket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkSocket,
    attribute,
    attributes,
    nest,
    number,
    u32,
)
from netctl.model.addresses import Address, Prefix, prefix_of
from netctl.model.hoststate import ROUTE_PROTOCOL, SIZE_PROTOCOL, UNREACHABLE_METRIC, Route

_NETLINK_ROUTE = 0
_NEW, _DELETE, _GET = 24, 25, 26
_ROUTE = struct.Struct("=BBBBBBBBI")
_DST, _OIF, _PRIORITY, _PREFSRC, _METRICS = 1, 4, 6, 7, 8
_METRIC_MTU = 2
"""The metric RTAX_MTU."""
_UNREACHABLE = 7
"""The type of a route whose packets are answered with "host unreachable" (RTN_UNREACHABLE)."""
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_ANY = 0, 253, 255
"""The last one, in a removal, matches any scope (rtnetlink(7)): other programs may have marked a route with theirs."""


def _request(destination: Prefix, index: int, scope: int, protocol: int = ROUTE_PROTOCOL) -> bytes:
    family = AF_INET if destination.version == 4 else AF_INET6
    header = _ROUTE.pack(family, destination.prefixlen, 0, 0, TABLE_MAIN, protocol, scope, UNICAST, 0)
    return header + attribute(_DST, destination.network_address.packed) + u32(_OIF, index)


def _addition(route: Route, index: int, size: int = 0, protocol: int = ROUTE_PROTOCOL) -> bytes:
    scope = _SCOPE_LINK if route.destination.version == 4 else _SCOPE_UNIVERSE
    source = attribute(_PREFSRC, route.source.packed) if route.source is not None else b""
    metrics = nest(_METRICS, u32(_METRIC_MTU, size)) if size else b""
    return _request(route.destination, index, scope, protocol) + source + metrics


def _nowhere(destination: Prefix) -> bytes:
    """The request of an unreachable route, which belongs to no link and so outlives our link."""
    family = AF_INET if destination.version == 4 else AF_INET6
    where = (
        family,
        destination.prefixlen,
        0,
        0,
        TABLE_MAIN,
        ROUTE_PROTOCOL,
        _SCOPE_UNIVERSE,
        _UNREACHABLE,
        0,
    )
    return (
        _ROUTE.pack(*where)
        + attribute(_DST, destination.network_address.packed)
        + u32(_PRIORITY, UNREACHABLE_METRIC)
    )


class Routes:
    """The routes of the main table that carry our protocol number. Raises NetlinkError."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_ROUTE)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self, family: int) -> list[tuple[Prefix, int, Address | None]]:
        """Destination, index of the link and source of each of our routes."""
        return [(destination, index, source) for destination, index, source, _ in self.read_sizes(family)]

    def read_sizes(
        self, family: int, wanted: int = ROUTE_PROTOCOL
    ) -> list[tuple[Prefix, int, Address | None, int]]:
        """The same for routes of one protocol number, with the route's MTU in bytes; 0: that of its link."""
        request = _ROUTE.pack(family, 0, 0, 0, 0, wanted, 0, 0, 0)
        found = []
        for answer in self._socket.dump(_GET, request):
            version, prefix_len, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(answer)
            attrs = attributes(answer[_ROUTE.size :])
            index = number(attrs.get(_OIF))
            if protocol != wanted or not index or kind == _UNREACHABLE:
                continue
            destination = prefix_of(attrs.get(_DST, bytes(4 if version == AF_INET else 16)), prefix_len)
            source, metrics = attrs.get(_PREFSRC), attrs.get(_METRICS)
            size = number(attributes(metrics).get(_METRIC_MTU)) if metrics else 0
            found.append((destination, index, ipaddress.ip_address(source) if source else None, size))
        return found

    def read_unreachable(self, family: int) -> list[Prefix]:
        """Destinations of our unreachable routes."""
        request = _ROUTE.pack(family, 0, 0, 0, 0, ROUTE_PROTOCOL, 0, _UNREACHABLE, 0)
        found = []
        for answer in self._socket.dump(_GET, request):
            version, prefix_len, _, _, _, protocol, _, kind, _ = _ROUTE.unpack_from(answer)
            attrs = attributes(answer[_ROUTE.size :])
            ours = protocol == ROUTE_PROTOCOL and kind == _UNREACHABLE
            if ours and number(attrs.get(_PRIORITY)) == UNREACHABLE_METRIC:
                found.append(prefix_of(attrs.get(_DST, bytes(4 if version == AF_INET else 16)), prefix_len))
        return found

    def add_unreachable(self, destination: Prefix) -> None:
        """Add an unreachable route, which applies while there is no better route to the destination."""
        self._socket.ask(_NEW, _nowhere(destination), NLM_F_CREATE | NLM_F_EXCL)

    def remove_unreachable(self, destination: Prefix) -> None:
        """Remove an unreachable route."""
        self._socket.ask(_DELETE, _nowhere(destination))

    def add(self, routes: Sequence[tuple[Route, int]]) -> None:
        """Add routes, each with the index of its link. Raises the first refusal of a batch at the batch's end."""
        self._socket.ask_all(_NEW, [_addition(*each) for each in routes], NLM_F_CREATE | NLM_F_EXCL)

    def replace(self, route: Route, index: int, size: int = 0) -> None:
        """Set a route in place of any other to its destination; `size`: its MTU in bytes, 0 is that of the link."""
        self._socket.ask(_NEW, _addition(route, index, size), NLM_F_CREATE | NLM_F_REPLACE)

    def set_size(self, route: Route, index: int, size: int) -> None:
        """Add or replace a route that only limits the size of packets to its destination, in bytes."""
        self._socket.ask(_NEW, _addition(route, index, size, SIZE_PROTOCOL), NLM_F_CREATE | NLM_F_REPLACE)

    def remove_size(self, destination: Prefix, index: int) -> None:
        """Remove a route that only limits the size."""
        self._socket.ask(_DELETE, _request(destination, index, _SCOPE_ANY, SIZE_PROTOCOL))

    def remove(self, route: Route, index: int) -> None:
        """Remove a route."""
        self._socket.ask(_DELETE, _request(route.destination, index, _SCOPE_ANY))
