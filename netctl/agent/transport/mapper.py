"""Runs the port mapper on the host: sockets, timers and HTTP exchanges with the router."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from netctl.agent.log import say, warn
from netctl.engine.links.gateway import RouterSockets, default_gateway, fetch
from netctl.paths.mapping import Fetch, Gateway, Mapping, MappingChanged, PortEffect, Search, ToRouter
from netctl.paths.portmap import MapStatus, PortMapper
from netctl.system.guard import Guard
from netctl.system.tasks import RESTART_S, Tasks

CLOSE_S = 1.5
"""Longest wait of an ending agent for the router's answers."""


class PortMapRunner:
    """Runs one PortMapper. All methods are for the agent's event loop."""

    def __init__(self, secret: bytes, on_change: Callable[[], None], guard: Guard | None = None) -> None:
        """`on_change` is called after every change of the mapping; `guard` counts input with unexpected exceptions."""
        self._guard = guard if guard is not None else Guard(warn)
        self._mapper = PortMapper(secret, secrets.token_bytes)
        self._on_change = on_change
        self._gateway: Gateway | None = None
        self._sockets: RouterSockets | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fetches = Tasks(self._guard)
        self.mapping: Mapping | None = None

    def look(self, port: int, *, wanted: bool) -> None:
        """Find the router, and have it open `port`; 0 or not `wanted`: none."""
        gateway = default_gateway() if port and wanted else None
        now = time.monotonic()
        if gateway is None:  # remove the mapping while the sockets are still open
            self._perform(self._mapper.aim(None, 0, now))
            self._use(None)
        else:
            self._use(gateway)
            self._perform(self._mapper.aim(gateway if self._sockets is not None else None, port, now))

    def check(self) -> None:
        """Check the mapping after an event that may have ended it."""
        self._perform(self._mapper.check(time.monotonic()))

    def status(self) -> MapStatus:
        """The present state of the mapping."""
        return self._mapper.status(time.monotonic())

    async def release(self) -> None:
        """Before `close`: remove a mapping that never expires; a mapping with a lease stays, as the tunnels do."""
        self._perform(self._mapper.close())
        await self._fetches.wait(CLOSE_S)

    def close(self) -> None:
        """Close sockets and timers; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fetches.cancel()
        self._use(None)

    def _use(self, gateway: Gateway | None) -> None:
        if gateway == self._gateway and (gateway is None) == (self._sockets is None):
            return
        loop = asyncio.get_running_loop()
        if self._sockets is not None:
            for sock in (self._sockets.control, self._sockets.search, self._sockets.announcements):
                if sock is not None:
                    loop.remove_reader(sock)
            self._sockets.close()
        self._sockets, self._gateway = None, gateway
        if gateway is None:
            return
        with contextlib.suppress(OSError):  # our address is just gone: the next `look` finds another
            self._sockets = RouterSockets(gateway)
            for sock in (self._sockets.control, self._sockets.announcements):
                if sock is not None:
                    loop.add_reader(sock, self._readable, sock)

    def _readable(self, sock: socket.socket) -> None:
        if self._sockets is None:
            return
        found, closed = self._sockets.receive(sock)
        is_search = sock is self._sockets.search
        for data in found:
            self._guard.run("a router's datagram", self._datagram, data, is_search)
        if closed and self._sockets is not None and sock is self._sockets.control:
            self._guard.run("a router's refusal", self._closed)

    def _datagram(self, data: bytes, is_search: bool) -> None:
        take = self._mapper.handle_search if is_search else self._mapper.handle_router
        self._perform(take(data, time.monotonic()))

    def _due(self) -> None:
        self._timer = None
        try:
            self._perform(self._mapper.handle_timer(time.monotonic()))
        except Exception as error:
            self._guard.caught("a timer of the port mapping", error)
            self._schedule(at_least_s=RESTART_S)  # the timer may be due again at once

    def _perform(self, effects: Sequence[PortEffect]) -> None:
        for effect in effects:
            match effect:
                case ToRouter(data):
                    if self._sockets is not None and not self._sockets.ask(data):
                        asyncio.get_running_loop().call_soon(
                            self._guard.over("a router's refusal", self._closed)
                        )
                case Search(data):
                    self._search(data)
                case Fetch() if self._gateway is not None:
                    self._spawn(self._fetch(self._gateway, effect))
                case MappingChanged(mapping):
                    self._changed(mapping)
        self._schedule()

    def _schedule(self, at_least_s: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._mapper.next_timer()
        if due is not None:
            delay = max(due - time.monotonic(), at_least_s)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _closed(self) -> None:
        self._perform(self._mapper.handle_unreachable(time.monotonic()))

    def _search(self, data: bytes) -> None:
        if self._sockets is None:
            return
        if self._sockets.search is None:
            with contextlib.suppress(OSError):
                sock = self._sockets.open_search()
                asyncio.get_running_loop().add_reader(sock, self._readable, sock)
        self._sockets.look_for(data)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._fetches.start("an exchange with the router", work)

    async def _fetch(self, gateway: Gateway, wanted: Fetch) -> None:
        answer = await fetch(gateway, wanted.port, wanted.data)
        status, body = (0, b"") if answer is None else (answer.status, answer.body)
        self._perform(self._mapper.handle_fetched(wanted.ticket, status, body, time.monotonic()))

    def _changed(self, mapping: Mapping | None) -> None:
        if mapping is not None:
            say(f"the router has opened {mapping.external} for us ({mapping.protocol})")
        elif self.mapping is not None:
            say(f"the router's {self.mapping.external} is closed")
        self.mapping = mapping
        self._on_change()
