"""NAT64 on a real host: whether IPv4 is reached without it, and the prefix that the resolver tells (RFC 7050)."""

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
"""Where there is no IPv4 and no prefix: a resolver that comes late is noticed soon, and one that knows of no NAT64 is
not asked all the time."""
KEPT_S = 600.0
"""A prefix is asked for again after so long: those of one network hardly ever change."""
_PORT = 9
"""Nothing is sent there: the resolver wants one."""
_GLOBAL_V6 = IPv6Address("2001:db8::1")
"""Any address that no link has: it is reached by the default route."""


async def prefixes() -> tuple[IPv6Network, ...]:
    """What the resolver knows of; none where it does not answer, or nothing here translates."""
    try:
        found = await look_up(WELL_KNOWN_NAME, _PORT, socket.SOCK_DGRAM, socket.AF_INET6)
    except OSError:
        return ()
    return prefixes_of(IPv6Address(one.host) for one in found if one.is_ipv6 and "%" not in one.host)


async def beyond(addresses: Sequence[SocketAddress]) -> Mapping[SocketAddress, SocketAddress]:
    """Where to connect to, in order, and the address that each stands for.

    They are the same but for IPv4 ones that this host has no way to: those are behind the NAT64's prefix, as written
    here or by a DNS64.
    """
    now, sources = time.monotonic(), SourceLookup()
    missing = [one for one in addresses if not one.is_ipv6 and sources.find(one.address, now) is None]
    if not missing or sources.find(_GLOBAL_V6, now) is None:
        return {one: one for one in addresses}
    found = Translation(await prefixes())
    return {found.outward(one) if one in missing else one: found.inward(one) for one in addresses}


class Nat64:
    """Keeps it known how IPv4 is reached. For the agent's event loop; nobody waits for the resolver."""

    def __init__(self, guard: Guard, on_change: Callable[[Translation], None]) -> None:
        self._tasks = Tasks(guard)
        self._on_change = on_change
        self._known = Translation()
        self._due = float("-inf")
        self._rest_s = RETRY_FIRST_S
        self._sources = SourceLookup()

    def close(self) -> None:
        """Ask nobody any more."""
        self._tasks.cancel()

    def look(self, *, moved: bool = False) -> None:
        """Find out again if that is due. `moved`: links, addresses or routes have changed."""
        now = time.monotonic()
        if moved:
            self._due, self._rest_s = float("-inf"), RETRY_FIRST_S
        if not self._without_ipv4(now):
            self._take(Translation())
        elif not len(self._tasks) and now >= self._due:
            self._tasks.start("looking for a NAT64", self._ask())

    def _without_ipv4(self, now: float) -> bool:
        """IPv6 leads somewhere, and IPv4 nowhere."""
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
