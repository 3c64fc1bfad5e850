"""Measures the round trips to several mediators: a few STUN requests to each, at the start and every few minutes.

A member goes to a near one of them (`netctl.session.mediatorchoice`). A mediator that is down answers nothing, and is
then not among the near ones. The requests leave from a port of their own, which is open during a series only.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from netctl.agent.mediators.nat64discovery import beyond
from netctl.model.addresses import SocketAddress
from netctl.model.document import Mediator
from netctl.paths.constants import METER_EVERY, METER_QUESTIONS, METER_REST, METER_WAIT
from netctl.paths.relaymeter import RelayMeter
from netctl.session.mediatorchoice import name_of
from netctl.system.guard import Guard
from netctl.system.lookup import look_up
from netctl.system.tasks import Tasks

FIRST_S = 0.4
"""Longest wait of the first connection for round trips: to another continent an answer takes 0.3 s."""
LOOK_UP_S = 2.0
"""Longest wait for one name: a silent resolver must not hold up the measurement of the other mediators."""
MAX_ADDRESSES = 4
"""Most addresses of one mediator that are asked."""
SERIES_S = METER_QUESTIONS[-1] + METER_WAIT + 0.01
"""A little longer than the meter's own series, so that this one sees its end."""


class _Port(asyncio.DatagramProtocol):
    """One UDP socket. What does not arrive is not measured."""

    def __init__(self, answered: Callable[[bytes, SocketAddress], None]) -> None:
        self._answered = answered

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._answered(data, SocketAddress.of(addr[0].partition("%")[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """An ICMP error: nothing is measured there."""


class MediatorMeter:
    """For the agent's event loop."""

    def __init__(self, on_change: Callable[[Mapping[str, int], Collection[str]], None], guard: Guard) -> None:
        """`on_change`: called with the present round trips in milliseconds, by HOST:PORT, and with those mediators that
        say that members may spread.
        """
        self._on_change = on_change
        self._guard = guard
        self._tasks = Tasks(guard)
        self._meter = RelayMeter(secrets.token_bytes)
        self._mediators: tuple[Mediator, ...] = ()
        self._known = asyncio.Event()
        """Set once all mediators have answered, or a series is over."""
        self._again = asyncio.Event()

    def use(self, mediators: Sequence[Mediator]) -> None:
        """Measure these mediators from now on; none: measure nothing."""
        if tuple(mediators) == self._mediators:
            return
        self._mediators = tuple(mediators)
        self.close()
        self._known.clear()
        self._on_change({}, ())
        if mediators:
            self._meter = RelayMeter(secrets.token_bytes)
            self._tasks.keep("measuring mediators", self._run)

    def network_changed(self) -> None:
        """Links, addresses or routes of this host have changed: measure again."""
        self._again.set()

    async def first(self) -> None:
        """Wait until the mediators are measured for the first time, at most `FIRST_S`."""
        if self._mediators:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRST_S):
                    await self._known.wait()

    def close(self) -> None:
        """Measure no more."""
        self._tasks.cancel()

    async def _run(self) -> None:
        while True:
            self._again.clear()
            found = await asyncio.gather(*(self._places(one) for one in self._mediators))
            names = map(name_of, self._mediators)
            await self._series({name: places for name, places in zip(names, found, strict=True) if places})
            self._known.set()
            await asyncio.sleep(METER_REST)  # changes of a network come in bursts
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(METER_EVERY * random.uniform(0.75, 1.25)):
                    await self._again.wait()

    async def _places(self, mediator: Mediator) -> list[SocketAddress]:
        try:
            async with asyncio.timeout(LOOK_UP_S):
                found = await look_up(mediator.host, mediator.stun[0], socket.SOCK_DGRAM)
                return list(await beyond(found[:MAX_ADDRESSES]))
        except OSError:  # TimeoutError is one
            return []

    async def _series(self, places: Mapping[str, Sequence[SocketAddress]]) -> None:
        """Send the requests of one series, and take what comes."""
        loop = asyncio.get_running_loop()
        ports: dict[bool, asyncio.DatagramTransport] = {}
        try:
            for ipv6 in {one.is_ipv6 for found in places.values() for one in found}:
                family = socket.AF_INET6 if ipv6 else socket.AF_INET
                with contextlib.suppress(OSError):  # this host has not got the family
                    opened, _ = await loop.create_datagram_endpoint(
                        lambda: _Port(self._guard.over("an answer of a mediator", self._answered)),
                        family=family,
                        local_addr=("::" if ipv6 else "0.0.0.0", 0),  # noqa: S104 - answers come to any address
                    )
                    ports[ipv6] = opened
            now = time.monotonic()
            self._meter.use(places, now)
            self._meter.measure(now)
            ends = now + SERIES_S
            while (now := time.monotonic()) < ends:
                for sent in self._meter.handle_timer(now):
                    port = ports.get(sent.destination.is_ipv6)
                    if port is not None:
                        port.sendto(sent.data, (sent.destination.host, sent.destination.port))
                due = self._meter.next_timer()
                await asyncio.sleep(max(0.0, min(ends, due if due is not None else ends) - time.monotonic()))
            self._meter.handle_timer(ends)
        finally:
            for opened in ports.values():
                opened.close()
        self._on_change(self._meter.rtt_ms, self._meter.spread)

    def _answered(self, data: bytes, source: SocketAddress) -> None:
        if self._meter.handle_answer(data, source, time.monotonic()):
            self._on_change(self._meter.rtt_ms, self._meter.spread)
            if len(self._meter.rtt_ms) == len(self._mediators):
                self._known.set()
