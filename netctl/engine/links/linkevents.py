"""Listens for the kernel's announcements that links, addresses or routes of this host have changed (rtnetlink(7)).

Lost messages (after a thousand links at once) count as a change, too: the listener reads everything anew.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

from netctl.engine.links.links import IFF_UP
from netctl.engine.listening import NETLINK_ROUTE, Listener, Messages
from netctl.engine.nlsocket import attributes, words
from netctl.model.errors import EngineError
from netctl.model.hoststate import ROUTE_PROTOCOL, SIZE_PROTOCOL

_LINKS, _ADDRESSES4, _ROUTES4, _RULES4, _ADDRESSES6, _ROUTES6, _RULES6 = 1, 5, 7, 8, 9, 11, 19
"""Multicast groups (RTNLGRP_…)."""
_NEW_LINK, _DELETE_LINK, _DELETE_ADDRESS, _NEW_ROUTE, _DELETE_ROUTE = 16, 17, 21, 24, 25
_DEFAULT_BITS = 1
"""Longest prefix of a default route in bits: whole, or in two halves as VPN clients set them. An Internet router learns
other routes by the thousand, and none of them changes this host's default route."""
_LINK = struct.Struct("=BxHiII")
_NAME = 3
_OUR_ROUTES = (ROUTE_PROTOCOL, SIZE_PROTOCOL)
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE_HEADER, _ROUTE_BITS, _ROUTE_PROTOCOL = 12, 1, 5
SETTLE_S = 0.2
"""Seconds of silence that end a burst: a new address causes several messages, a link that goes up a dozen."""
BURST_S = 2.0
"""Seconds after which a burst without end is reported all the same."""


async def moves() -> AsyncIterator[None]:
    """One item at the end of each burst of changes of links, addresses, rules or default routes.

    Raises EngineError when the kernel's messages cannot be received.
    """
    loop = asyncio.get_running_loop()
    groups = (_LINKS, _ADDRESSES4, _ADDRESSES6, _ROUTES4, _ROUTES6, _RULES4, _RULES6)
    try:
        with Listener(NETLINK_ROUTE, *groups) as listener:
            while True:
                if not _moves(await listener.receive()):
                    continue
                until = loop.time() + BURST_S
                try:
                    while (left := until - loop.time()) > 0:
                        await asyncio.wait_for(listener.receive(), min(SETTLE_S, left))
                except TimeoutError:
                    pass
                yield None
    except OSError as error:
        raise EngineError(f"rtnetlink does not answer: {error.strerror or error}") from error


async def vanished(name: str) -> AsyncIterator[None]:
    """One item at once each time that a link of this name disappears, and a first one when listening begins.

    Raises EngineError when the kernel's messages cannot be received.
    """
    try:
        with Listener(NETLINK_ROUTE, _LINKS) as listener:
            yield None
            while True:
                messages = await listener.receive()
                if messages is None or any(_goes(kind, body, name) for kind, body in messages):
                    yield None
    except OSError as error:
        raise EngineError(f"rtnetlink does not answer: {error.strerror or error}") from error


async def taken_away(links: tuple[str, ...]) -> AsyncIterator[None]:
    """One item at once when a route of ours disappears, or of a link whose name begins with one of these an address.

    A link that is set down loses all of them, most without a message; so each message that says it is down is an item.
    A first item comes when listening begins; our own changes count, too. Raises EngineError when the kernel's messages
    cannot be received.
    """
    try:
        with Listener(NETLINK_ROUTE, _LINKS, _ADDRESSES4, _ADDRESSES6, _ROUTES4, _ROUTES6) as listener:
            yield None
            while True:
                messages = await listener.receive()
                if messages is None or _ours(messages, links):
                    yield None
    except OSError as error:
        raise EngineError(f"rtnetlink does not answer: {error.strerror or error}") from error


def _moves(messages: Messages | None) -> bool:
    """Whether anything has changed other than routes that are no default routes, or are ours."""
    return messages is None or any(
        kind not in (_NEW_ROUTE, _DELETE_ROUTE)
        or (
            len(body) >= _ROUTE_HEADER
            and body[_ROUTE_BITS] <= _DEFAULT_BITS
            and body[_ROUTE_PROTOCOL] != ROUTE_PROTOCOL
        )
        for kind, body in messages
    )


def _goes(kind: int, body: bytes, name: str) -> bool:
    """Whether this message says that the link is gone. A bridge uses the same type for a port that left it."""
    if kind != _DELETE_LINK or len(body) < _LINK.size or body[0] != socket.AF_UNSPEC:
        return False
    return words(attributes(body[_LINK.size :]).get(_NAME)) == name


def _down(kind: int, body: bytes, links: tuple[str, ...]) -> bool:
    """Whether this message says that one of these links is administratively down."""
    if kind != _NEW_LINK or len(body) < _LINK.size:
        return False
    family, _, _, flags, _ = _LINK.unpack_from(body)
    if family != socket.AF_UNSPEC or flags & IFF_UP:
        return False
    return (words(attributes(body[_LINK.size :]).get(_NAME)) or "").startswith(links)


def _ours(messages: Messages, links: tuple[str, ...]) -> bool:
    for kind, body in messages:
        if kind == _DELETE_ROUTE and len(body) >= _ROUTE_HEADER and body[_ROUTE_PROTOCOL] in _OUR_ROUTES:
            return True
        if _down(kind, body, links):
            return True
        if kind == _DELETE_ADDRESS and len(body) >= _ADDRESS.size:
            *_, index = _ADDRESS.unpack_from(body)
            try:
                name = socket.if_indextoname(index)
            except OSError:
                continue  # the link itself is gone, which `vanished` reports
            if name.startswith(links):
                return True
    return False
