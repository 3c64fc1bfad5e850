"""Finds the interface over which the kernel sends to an endpoint: packets routed into our own TUN would loop.

`RouteWatch` reports when routes may have changed.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from netctl.model.addresses import Address

_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTA_DST, _RTA_OIF, _RTA_MARK = 1, 4, 16
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_ANSWER = 8192
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
"""RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE and IPV6_RULE: the kernel does not report
every route that goes with an address or a link."""
LOOK_REST_S = 0.05
"""Seconds between two looks at least: the loop carries 100,000 packets a second, an apply makes thousands of routes."""
LOOK_SHARE = 20
"""The rest after a look, as a multiple of the look's duration: on a router with a full table, routes change at any
time."""


def interface_to(address: Address, mark: int = 0) -> int | None:
    """The index of the interface that packets with this mark to `address` leave by (rtnetlink(7)); None: no route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, len(address.packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_RTA_DST, address.packed)
    if mark:
        body += _attribute(_RTA_MARK, _NUMBER.pack(mark))
    question = _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0) + body
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink,
    ):
        netlink.bind((0, 0))
        netlink.sendall(question)
        return _oif(netlink.recv(_ANSWER))
    return None


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _oif(answer: bytes) -> int | None:
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _RTM_NEWROUTE:
        return None
    at = _HEADER.size + _ROUTE.size
    while at + _ATTRIBUTE.size <= len(answer):
        size, kind = _ATTRIBUTE.unpack_from(answer, at)
        if size < _ATTRIBUTE.size:
            return None
        if kind == _RTA_OIF and size == _ATTRIBUTE.size + _NUMBER.size:
            return int(_NUMBER.unpack_from(answer, at + _ATTRIBUTE.size)[0])
        at += (size + 3) & ~3
    return None


class RouteWatch:
    """Calls `look` soon after routes, rules, addresses or links have changed, at a bounded rate."""

    def __init__(self, look: Callable[[], None], clock: Callable[[], float]) -> None:
        """`look` is called after changes; `clock`: monotonic seconds. Raises OSError."""
        self._look = look
        self._clock = clock
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _GROUPS))
        self._rest_until = float("-inf")
        self.due: float | None = None
        """When `handle_timer` is to be called; None: no look is due."""

    def fileno(self) -> int:
        """The netlink socket's descriptor, readable after a change."""
        return self._socket.fileno()

    def readable(self) -> None:
        """Discard the waiting messages and make a look due: the look finds out what changed."""
        with contextlib.suppress(OSError):  # EAGAIN: no more messages; ENOBUFS: the kernel dropped some
            while self._socket.recv(_ANSWER):
                pass
        if self.due is None:
            self.due = max(self._clock(), self._rest_until)

    def handle_timer(self) -> None:
        """Call `look`, if it is due."""
        began = self._clock()
        if self.due is None or began < self.due:
            return
        self.due = None
        try:
            self._look()
        finally:
            ended = self._clock()
            self._rest_until = ended + max(LOOK_REST_S, LOOK_SHARE * (ended - began))

    def close(self) -> None:
        """Close the netlink socket."""
        self._socket.close()
