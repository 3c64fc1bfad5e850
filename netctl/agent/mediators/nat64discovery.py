"""NAT64 discovery on a real host: whether it has IPv4 itself, and the prefix from the resolver (RFC 7050)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Network

from netctl.agent.log import say
from netctl.engine.links.routelookup import SourceLookup
from netctl.model.addresses import SocketAddress
from netctl.system.guard import Guard
from netctl.system.lookup import look_up
from netctl.system.tasks import Tasks
from netctl.wire.nat64 import WELL_KNOWN_ADDRESSES, WELL_KNOWN_NAME, Translation, prefixes_of

RETRY_FIRST_S = 2.0
RETRY_MAX_S = 60.0
"""Longest interval of retries without IPv4 and prefix: short enough for a resolver that starts late, long enough not to
load a resolver that knows no NAT64.
"""
KEPT_S = 600.0
"""Interval of requests once a prefix is known: a network's prefix hardly ever changes."""
_PORT = 9
"""A port for the resolver's API; nothing is sent there."""
_GLOBAL_V6 = IPv6Address("2001:db8::1")
"""An address on no link, so the default route leads to it."""


async def prefixes() -> tuple[IPv6Network, ...]:
    """The NAT64 prefixes that the resolver knows; empty without an answer or a NAT64."""
    try:
        found = await look_up(WELL_KNOWN_NAME, _PORT, socket.SOCK_DGRAM, socket.AF_INET6)
    except OSError:
        return ()
    return prefixes_of(IPv6Address(one.host) for one in found if one.is_ipv6 and "%" not in one.host)


async def beyond(addresses: Sequence[SocketAddress]) -> Mapping[SocketAddress, SocketAddress]:
    """Addresses to connect to, in order, each with the address that it stands for.

    Both are equal, except for IPv4 addresses without a route: those are reached in the NAT64's prefix, by our or a
    DNS64's translation.
    """
    now, sources = time.monotonic(), SourceLookup()
    missing = [one for one in addresses if not one.is_ipv6 and sources.find(one.address, now) is None]
    if not missing or sources.find(_GLOBAL_V6, now) is None:
        return {one: one for one in addresses}
    found = Translation(await prefixes())
    return {found.outward(one) if one in missing else one: found.inward(one) for one in addresses}


class Nat64:
    """Finds out how this host reaches IPv4. For the agent's event loop; no caller waits for the resolver."""

    def __init__(self, guard: Guard, on_change: Callable[[Translation], None]) -> None:
        self._tasks = Tasks(guard)
        self._on_change = on_change
        self._known = Translation()
        self._due = float("-inf")
        self._rest_s = RETRY_FIRST_S
        self._sources = SourceLookup()

    def close(self) -> None:
        """Cancel requests to the resolver."""
        self._tasks.cancel()

    def look(self, *, moved: bool = False) -> None:
        """Ask again if that is due. `moved`: links, addresses or routes have changed."""
        now = time.monotonic()
        if moved:
            self._due, self._rest_s = float("-inf"), RETRY_FIRST_S
        if not self._without_ipv4(now):
            self._take(Translation())
        elif not len(self._tasks) and now >= self._due:
            self._tasks.start("looking for a NAT64", self._ask())

    def _without_ipv4(self, now: float) -> bool:
        """Whether this host has a default route for IPv6 and none for IPv4."""
        four = self._sources.find(WELL_KNOWN_ADDRESSES[0], now)
        return four is None and self._sources.find(_GLOBAL_V6, now) is not None

    async def _ask(self) -> None:
        found = Translation(await prefixes())
        self._due = time.monotonic() + (KEPT_S if found.prefixes else self._rest_s)
        self._rest_s = min(2 * self._rest_s, RETRY_MAX_S)
        if self._without_ipv4(time.monotonic()):
            self._take(found)

    def _take(self, found: Translation) -> None:
        if found == self._known:
            return
        self._known = found
        if found.prefixes:
            say(f"this network has no IPv4: it is reached by NAT64 behind {found}")
        self._on_change(found)
