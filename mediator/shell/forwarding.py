"""What waits at the relay's sockets, many datagrams a system call: in C where that was built, else by way of ctypes.

The part in C sends on what it may by itself: to where the relay has sent the same flow before, and as many bytes as
were set aside for it. All else comes out of `arrivals`, neighbours of one source and size together.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mediator.core.relay_limits import Toll
from netctl.system import mmsg, pktinfo

if TYPE_CHECKING:  # it may not have been built
    from mediator.shell.native._forward import Forwarder

SourceAddress = tuple[str, int, int]
"""Address, port, scope id."""
SET_ASIDE = 4 << 20
"""Bytes that a flow may send before its limits are asked again: some hundred turns of a busy socket a gigabyte."""


RINGS_PER_TURN = 4
"""Of 64 datagrams each, before other sockets get their turn."""


class Arrival(NamedTuple):
    """Datagrams of one size from one source."""

    source: SourceAddress
    parts: list[memoryview]
    """Valid until the next ones are taken."""
    size: int
    """Of each part."""
    segment: int
    """Of the datagrams in a part: smaller than `size` where the kernel has merged them, and then there is one part."""
    extra: Callable[[], list[pktinfo.Control]]
    """What the kernel said about the first."""


class Arrivals(Protocol):
    """Takes what waits."""

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """Of one turn of a socket. Never blocks."""


class Route(NamedTuple):
    """Where a flow goes, as a socket takes it."""

    out: int
    """Descriptor."""
    destination: SourceAddress
    leave_from: list[pktinfo.Control]


class Native:
    """The part in C, and what is set aside for its flows."""

    def __init__(self, forwarder: Forwarder, family: socket.AddressFamily) -> None:
        self._forwarder = forwarder
        self._family = family
        self._granted: dict[tuple[int, SourceAddress], Toll] = {}

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """What may not go on by itself."""
        waiting = self._forwarder.drain(fileno, port)
        for (raw, size, segment), rows in groupby(waiting, lambda row: (row[2], len(row[0]), row[1])):
            source = mmsg.address_of(raw)
            if segment < size:
                for data, _, _, control in rows:
                    yield Arrival(source, [memoryview(data)], size, segment, _reader(control))
                continue
            together = list(rows)
            parts = [memoryview(row[0]) for row in together]
            yield Arrival(source, parts, size, segment, _reader(together[0][3]))

    def allow(
        self, port: int, source: SourceAddress, route: Route, toll: Toll, now: float, *, transport_only: bool
    ) -> None:
        """The flow has just sent something: let it go on by itself, as far as its limits allow."""
        aside = toll.set_aside(SET_ASIDE, now)
        if not aside:
            return
        packed = self._packed(source)
        extra = b"".join(mmsg.control_bytes(one) for one in route.leave_from)
        destination = self._packed(route.destination)
        if not self._forwarder.set_flow(port, packed, route.out, destination, extra, transport_only):
            toll.give_back(aside)
            return
        toll.give_back(self._forwarder.grant(port, packed, aside))
        self._granted[port, source] = toll

    def settle(self) -> None:
        """Take back what was set aside and is left: from now on tolls tell what has really passed."""
        for (port, source), toll in self._granted.items():
            toll.give_back(self._forwarder.grant(port, self._packed(source), 0))
        self._granted.clear()

    def forget(self) -> None:
        """All flows: they may go somewhere else now."""
        self.settle()
        self._forwarder.forget()

    def counts(self) -> tuple[int, int]:
        """(bytes sent on, receipts from port 0) since the last time."""
        return self._forwarder.counts()

    def _packed(self, address: SourceAddress) -> tuple[int, bytes, int, int]:
        host, port, scope = address
        return self._family, socket.inet_pton(self._family, host), port, scope


class Ring:
    """Without the part in C: everything comes out."""

    def __init__(self) -> None:
        self._ring = mmsg.Receiver()

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """Up to `RINGS_PER_TURN` calls."""
        ring = self._ring
        for _ in range(RINGS_PER_TURN):
            got = ring.receive(fileno)
            for first, count, size, segment in ring.runs(got):
                slots = [slot[:size] for slot in ring.views[first : first + count]]
                yield Arrival(ring.source(first), slots, size, segment, partial(ring.extra, first))
            if got < mmsg.COUNT:
                return


def _reader(control: bytes) -> Callable[[], list[pktinfo.Control]]:
    return partial(mmsg.controls_of, control)
