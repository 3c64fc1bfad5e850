"""Reads datagrams from the relay's sockets, many per system call: in C if that was built, else by ctypes.

The part in C forwards known flows itself: to the destination that the relay has used before, and as many bytes as were
set aside for the flow. All other datagrams are returned by `take`, consecutive ones of one source and size together.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from mediator.core.relay_limits import Toll
from netctl.system import mmsg, pktinfo

if TYPE_CHECKING:  # the part in C may not have been built
    from mediator.shell.native._forward import Forwarder

SourceAddress = tuple[str, int, int]
"""Address, port, scope id."""
SET_ASIDE = 4 << 20
"""Bytes that a flow may send before its limits are checked again: some hundred checks per gigabyte."""


RINGS_PER_TURN = 4
"""Reads of 64 datagrams each from one socket before other sockets get their turn."""


class Arrival(NamedTuple):
    """Datagrams of one size from one source."""

    source: SourceAddress
    parts: list[memoryview]
    """The datagrams; valid until the next `take`."""
    size: int
    """Bytes of each part."""
    segment: int
    """Bytes of each datagram in a part: less than `size` if the kernel has merged them; then there is one part."""
    extra: Callable[[], list[pktinfo.Control]]
    """Reads the kernel's ancillary data of the first datagram."""


class Arrivals(Protocol):
    """Reads waiting datagrams."""

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """Read the datagrams of one turn of a socket. Never blocks."""


class Route(NamedTuple):
    """The destination of a flow in the form that sockets need."""

    out: int
    """The descriptor of the socket to send from."""
    destination: SourceAddress
    leave_from: list[pktinfo.Control]


class Native:
    """The part in C, with the bytes set aside for its flows."""

    def __init__(self, forwarder: Forwarder, family: socket.AddressFamily) -> None:
        self._forwarder = forwarder
        self._family = family
        self._granted: dict[tuple[int, SourceAddress], Toll] = {}

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """The datagrams that the part in C did not forward."""
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
        """Let the part in C forward a flow from now on, as far as the flow's limits allow."""
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
        """Return the unused bytes that were set aside, so that tolls show what has really passed."""
        for (port, source), toll in self._granted.items():
            toll.give_back(self._forwarder.grant(port, self._packed(source), 0))
        self._granted.clear()

    def forget(self) -> None:
        """Forget all flows, whose destinations may have changed."""
        self.settle()
        self._forwarder.forget()

    def counts(self) -> tuple[int, int]:
        """(bytes forwarded, datagrams received from port 0) since the last call."""
        return self._forwarder.counts()

    def _packed(self, address: SourceAddress) -> tuple[int, bytes, int, int]:
        host, port, scope = address
        return self._family, socket.inet_pton(self._family, host), port, scope


class Ring:
    """The reader without the part in C: returns every datagram."""

    def __init__(self) -> None:
        self._ring = mmsg.Receiver()

    def take(self, fileno: int, port: int) -> Iterator[Arrival]:
        """Read by up to `RINGS_PER_TURN` system calls."""
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
