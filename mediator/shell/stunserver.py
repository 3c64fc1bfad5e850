"""The STUN server: each answer leaves from the requested address, or from the one that the client asks for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.system import pktinfo
from netctl.system.guard import Guard
from netctl.wire import stun

_LOG = logging.getLogger("mediator.server")

MAX_DATAGRAM = 1500
"""Bytes read. A binding request has 20 bytes and a few attributes; a truncated request is refused."""
DATAGRAMS_PER_TURN = 64
"""Datagrams handled before other work gets its turn."""


def check_own(address: str) -> None:
    """Raise LocalError unless STUN can answer from this address; without the check every filter would look closed."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((str(IPv4Address(address)), 0))
    except (ValueError, OSError) as error:
        advice = "give one that `ip -4 address` shows, or leave the option out"
        raise LocalError(f"--stun-also {address}: this host has no such IPv4 address; {advice}") from error


class StunServer:
    """A STUN server on one UDP port, for one event loop."""

    def __init__(self, address: str, port: int, second: str = "", guard: Guard | None = None) -> None:
        """Bind; `::` serves IPv4 too. Raises OSError.

        `second`: another IPv4 address of this host for answers (RFC 5780), "" for none. `guard` counts input with
        unexpected exceptions.
        """
        self._guard = guard if guard is not None else Guard(_LOG.warning)
        self._second = second
        self._forget: Callable[[int], object] = lambda _: None
        self.load = 0
        """How loaded the relay is whose STUN server this is (`stun.RELAY_LOAD`)."""
        self.spread = False
        """Whether members may spread over the mediators (`stun.SPREAD`)."""
        self.sibling: StunServer | None = None
        """The server of the other port, which sends answers that must come from that port."""
        family = socket.AF_INET6 if ":" in address and socket.has_ipv6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if family == socket.AF_INET6 and address == "::":
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            pktinfo.ask(self._socket)
            self._socket.setblocking(False)
            self._socket.bind((address, port))
        except OSError:
            self._socket.close()
            raise
        self.port = int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Start answering in the running asyncio loop."""
        loop = asyncio.get_running_loop()
        self.start_in(loop.add_reader, loop.remove_reader)

    def start_in(
        self, listen: Callable[[int, Callable[[], None]], None], forget: Callable[[int], object]
    ) -> None:
        """Start answering in another loop: `listen` calls back when a descriptor is readable, `forget` ends that."""
        self._forget = forget
        listen(self._socket.fileno(), self._drain)

    def close(self) -> None:
        """Close the socket."""
        self._forget(self._socket.fileno())
        self._socket.close()

    def _drain(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                data, extra, _, address = self._socket.recvmsg(MAX_DATAGRAM, pktinfo.SPACE)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier answer: no client to tell
            if address[1]:  # no answer is possible to port 0 (RFC 768)
                self._guard.run("a STUN request", self._answer, data, extra, address)

    def _answer(self, data: bytes, extra: list[pktinfo.Control], address: tuple[Any, ...]) -> None:
        asked = pktinfo.asked_at(extra)
        source = SocketAddress.of(address[0].partition("%")[0], address[1])
        second = self._second if not source.is_ipv6 and self._second != asked else ""
        other = None
        if self.sibling is not None and asked and not source.is_ipv6:
            other = SocketAddress.of(second or asked, self.sibling.port)
        answer = stun.answer_from(
            data, source, other, second_address=bool(second), load=self.load, spread=self.spread
        )
        if answer is None:
            return
        sender = self.sibling if answer.other_port and self.sibling is not None else self
        local = pktinfo.leave_from(second if answer.other_address else asked, self._socket.family)
        with contextlib.suppress(OSError):  # a full buffer or no route: STUN clients repeat lost requests
            sender._socket.sendmsg([answer.data], local, 0, address)
