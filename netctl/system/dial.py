"""TCP connections to a host name: the address that answers first wins (Happy Eyeballs, RFC 8305).

The standard library runs the race (`asyncio.staggered`). `loop.create_connection(happy_eyeballs_delay=…)` does the
same, but it does not give out the socket, which TLS over a proxy and the relay's frames need, and in Python 3.11 it
hides why each address failed.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from asyncio.staggered import staggered_race
from collections.abc import Iterable, Sequence
from functools import partial

from netctl.model.addresses import Address, SocketAddress
from netctl.system.lookup import look_up

ATTEMPT_DELAY_S = 0.25
"""Seconds between the starts of two attempts (RFC 8305 §5, Connection Attempt Delay): the cost of a dead family."""
MAX_ATTEMPTS = 8
"""Addresses of one name that are tried; a name with more of them stands for a cluster."""


async def resolve(host: str, port: int) -> tuple[SocketAddress, ...]:
    """The addresses of a host in the system's order (RFC 6724), families alternating. Raises OSError (gaierror)."""
    return by_turns(await look_up(host, port, socket.SOCK_STREAM))


def by_turns(addresses: Iterable[SocketAddress]) -> tuple[SocketAddress, ...]:
    """Alternate the families, that of the first address first (RFC 8305 §4); at most `MAX_ATTEMPTS` addresses."""
    every = list(addresses)
    first = [one for one in every if one.is_ipv6 == every[0].is_ipv6]
    other = [one for one in every if one.is_ipv6 != every[0].is_ipv6]
    pairs = itertools.zip_longest(first, other)
    return tuple(one for pair in pairs for one in pair if one is not None)[:MAX_ATTEMPTS]


async def race(addresses: Sequence[SocketAddress], segment_size: int | None = None) -> socket.socket:
    """A connection to the first of these addresses that answers. Raises the OSError of the last address.

    `segment_size`: the largest TCP segment in both directions, in bytes (TCP_MAXSEG, tcp(7)).
    """
    opened: list[socket.socket] = []

    async def attempt(address: SocketAddress) -> socket.socket:
        family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
        one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opened.append(one)
        if segment_size is not None:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_size)
        await asyncio.get_running_loop().sock_connect(one, (address.host, address.port))
        return one

    won: socket.socket | None = None
    try:
        attempts = [partial(attempt, address) for address in addresses]
        won, _, failures = await staggered_race(attempts, ATTEMPT_DELAY_S)
        if won is None:
            raise next((e for e in reversed(failures) if isinstance(e, OSError)), OSError("no address"))
        return won
    finally:
        for one in opened:
            if one is not won:
                one.close()


def away_from(bad: Address | None, addresses: Sequence[SocketAddress]) -> tuple[SocketAddress, ...]:
    """Put the other family first, since `bad` accepted a connection that then failed. `bad` None: change nothing."""
    if bad is None:
        return tuple(addresses)
    return tuple(sorted(addresses, key=lambda one: one.is_ipv6 == (bad.version == 6)))  # the sort is stable
