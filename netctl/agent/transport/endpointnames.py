"""Endpoints given by name: resolves them on a real host, and reports changed addresses so that tunnels follow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from netctl.agent.log import say
from netctl.model.addresses import Endpoint, SocketAddress
from netctl.model.document import Document
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.lookups import Lookups
from netctl.system.guard import Guard
from netctl.system.lookup import look_up
from netctl.system.tasks import Tasks

FIRST_WAIT_S = 3.0
"""Longest wait for a name without an earlier answer: most answers take milliseconds, and all other work goes on."""
OnMove = Callable[[Mapping[WireGuardKey, SocketAddress]], Awaitable[None]]


def _written(endpoint: Endpoint) -> SocketAddress | None:
    """The endpoint as an address; None: its host is a name."""
    try:
        return SocketAddress.of(endpoint.host, endpoint.port)
    except ValueError:
        return None


def names_of(document: Document) -> frozenset[Endpoint]:
    """The endpoints of a document that are names."""
    every = {endpoint for member in document.members.values() for endpoint in member.endpoints}
    return frozenset(endpoint for endpoint in every if _written(endpoint) is None)


async def look_up_once(endpoints: Iterable[Endpoint]) -> dict[str, SocketAddress]:
    """Without an agent: addresses of the names that resolve within `FIRST_WAIT_S`, by ``str(Endpoint)``."""
    found: dict[str, SocketAddress] = {}

    async def one(endpoint: Endpoint) -> None:
        with contextlib.suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(FIRST_WAIT_S):
                found[str(endpoint)] = (await look_up(endpoint.host, endpoint.port, socket.SOCK_DGRAM))[0]

    await asyncio.gather(*(one(endpoint) for endpoint in endpoints))
    return found


class EndpointNames:
    """The names of endpoints, for the agent's event loop. No method waits for a resolver longer than `FIRST_WAIT_S`."""

    def __init__(self, key: WireGuardKey, guard: Guard, on_move: OnMove) -> None:
        """`on_move`: called when a name's addresses change, with the silent peers and their new addresses."""
        self._key, self._on_move = key, on_move
        self._tasks = Tasks(guard)
        self._lookups = Lookups()
        self._timer: asyncio.TimerHandle | None = None
        self._answered = asyncio.Event()

    def close(self) -> None:
        """Cancel all requests to the resolver."""
        self._tasks.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def of(self, endpoints: frozenset[Endpoint]) -> dict[str, SocketAddress]:
        """The known addresses of these names; waits for new names at most `FIRST_WAIT_S`."""
        self._lookups.want(endpoints)
        self._work()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WAIT_S):
                while self._lookups.pending(endpoints):
                    self._answered.clear()
                    await self._answered.wait()
        wanted = {str(endpoint) for endpoint in endpoints}
        return {name: found for name, found in self._lookups.resolved().items() if name in wanted}

    async def addresses(self, endpoints: Sequence[Endpoint]) -> tuple[SocketAddress, ...]:
        """The known addresses of these endpoints; see `of`."""
        written = {endpoint: _written(endpoint) for endpoint in endpoints}
        found = await self.of(frozenset(endpoint for endpoint, is_one in written.items() if is_one is None))
        every = (is_one or found.get(str(endpoint)) for endpoint, is_one in written.items())
        return tuple(address for address in every if address is not None)

    def follow(self, document: Document | None) -> None:
        """Keep the names of this accepted document resolved from now on."""
        peers: dict[Endpoint, set[WireGuardKey]] = {}
        own: frozenset[Endpoint] = frozenset()
        for member in document.members.values() if document is not None else ():
            named = frozenset(endpoint for endpoint in member.endpoints if _written(endpoint) is None)
            if member.wireguard == self._key:
                own = named
            elif document is not None and not document.mediators and member.wireguard is not None:
                for endpoint in named:
                    peers.setdefault(endpoint, set()).add(member.wireguard)
        mine = own if document is not None and document.mediators else frozenset()
        self._lookups.follow({endpoint: frozenset(keys) for endpoint, keys in peers.items()}, mine)
        self._work()

    def observe(self, statuses: Mapping[WireGuardKey, PeerStatus], live: frozenset[WireGuardKey]) -> None:
        """Take the engine's status of the peers."""
        self._lookups.observe(statuses, live, time.monotonic())
        self._work()

    def network_changed(self) -> None:
        """Links, addresses or routes have changed."""
        self._lookups.network_changed()
        self._work()

    def _work(self) -> None:
        """Start due requests, and set the timer for the next ones."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        for endpoint in self._lookups.begin(now):
            self._tasks.start(f"looking up {endpoint.host}", self._ask(endpoint))
        due = self._lookups.next_timer(now)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.0), self._work)

    async def _ask(self, endpoint: Endpoint) -> None:
        addresses: tuple[SocketAddress, ...] = ()
        with contextlib.suppress(OSError):
            addresses = await look_up(endpoint.host, endpoint.port, socket.SOCK_DGRAM)
        moved = self._lookups.answered(endpoint, addresses, time.monotonic())
        self._answered.set()
        self._work()
        if moved is not None:
            to = self._lookups.resolved()[str(endpoint)]
            say(f"{endpoint} is {to.host}")
            await self._on_move(dict.fromkeys(moved, to))
