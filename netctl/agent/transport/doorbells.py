"""Doorbells: loopback addresses that are the engine's endpoints for folded peers (`netctl.paths.folding`).

One UDP socket serves all doorbells: every address of 127.128.0.0/9 is this host's, and the kernel reports to
which address a datagram came. So a folded peer needs no descriptor of its own. The socket is bound to the
loopback interface, and datagrams from other ports than the engine's are dropped.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Mapping

from netctl.agent.log import warn
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.paths.constants import LAZY_IDLE
from netctl.system import pktinfo
from netctl.system.guard import Guard

IDLE_VARIABLE = "NETCTL_LAZY_IDLE_S"
IDLE_MIN_S, IDLE_MAX_S = 2.0, 86_400.0
"""Least and greatest idle time. A pair needs up to two readings of the engine to open, and must not be folded up
before. A pair that may be idle for a day is as good as one with `lazy: never`."""
FIRST = int(ipaddress.IPv4Address("127.128.0.1"))
COUNT = (1 << 23) - 2
"""Addresses in 127.128.0.0/9, less the first and the last: more than any host has peers. The stand-ins of peers
over TLS (`netctl.agent.transport.relaytls`) may have the same addresses, on ports of the relay. So the
doorbells leave a port that a stand-in needs.
"""
DRAIN = 128
"""Most datagrams that are read before the event loop handles other sockets."""
MAX_DATAGRAM = 65_535
BUFFER = 1 << 20
"""Bytes of the socket's receive buffer: a host that begins to talk to all its peers sends a thousand
initiations at once."""


def idle_s(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds without data after which a lazy pair is folded up, from `NETCTL_LAZY_IDLE_S` or the default.

    Raises LocalError for a value that is not within `IDLE_MIN_S` and `IDLE_MAX_S`.
    """
    text = environment.get(IDLE_VARIABLE)
    if not text:
        return LAZY_IDLE
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not IDLE_MIN_S <= found <= IDLE_MAX_S:
        raise LocalError(f"{IDLE_VARIABLE} is seconds, from {IDLE_MIN_S:.0f} to {IDLE_MAX_S:.0f}")
    return found


class Doorbells:
    """The doorbells of one host, for the agent's event loop."""

    def __init__(self, on_ring: Callable[[WireGuardKey, bytes], None], guard: Guard) -> None:
        """`on_ring` receives the peer and the datagram whenever the engine sends to a doorbell."""
        self._on_ring, self._guard = on_ring, guard
        self._socket: socket.socket | None = None
        self._engine_port = 0
        self._addresses: dict[WireGuardKey, SocketAddress] = {}
        self._keys: dict[str, WireGuardKey] = {}
        self._next = 0

    def open(self) -> bool:
        """Open the socket if it is not open. False, with a warning: the system refuses it."""
        if self._socket is None:
            self._socket = self._opened()
        return self._socket is not None

    def _opened(self) -> socket.socket | None:
        # Without SO_REUSEADDR: with it, any user of this host could bind an address of ours and receive in our
        # place.
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            pktinfo.ask(opened)
            opened.bind(("0.0.0.0", 0))  # noqa: S104 (of the loopback interface only)
        except OSError as error:
            opened.close()
            warn(f"tunnels cannot wait for their first packet, so all are kept open: {error.strerror}")
            return None
        asyncio.get_running_loop().add_reader(opened.fileno(), self._readable)
        return opened

    def leave(self, port: int) -> Mapping[WireGuardKey, SocketAddress]:
        """Move all doorbells to another UDP port if they are on this one. The moved ones, at their new port."""
        if self._socket is None or self._socket.getsockname()[1] != port:
            return {}
        other = self._opened()  # before the old one is closed, so that the kernel chooses another port
        if other is None:
            return {}
        self.close()
        self._socket = other
        moved = other.getsockname()[1]
        self._addresses = {key: SocketAddress(bell.host, moved) for key, bell in self._addresses.items()}
        return self._addresses

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def engine(self, port: int) -> None:
        """Set the engine's UDP port, from which datagrams are accepted; 0: none."""
        self._engine_port = port

    def keep(self, keys: Collection[WireGuardKey]) -> None:
        """Forget the doorbells of all other peers."""
        for key in [key for key in self._addresses if key not in keys]:
            del self._keys[self._addresses.pop(key).host]

    def of(self, key: WireGuardKey) -> SocketAddress | None:
        """The doorbell of a peer, the same until `keep` forgets it; None: the socket is not open."""
        if self._socket is None:
            return None
        if key not in self._addresses:
            host = self._free_host()
            self._addresses[key] = SocketAddress(host, self._socket.getsockname()[1])
            self._keys[host] = key
        return self._addresses[key]

    def _free_host(self) -> str:
        while True:
            host = str(ipaddress.IPv4Address(FIRST + self._next))
            self._next = (self._next + 1) % COUNT
            if host not in self._keys:
                return host

    def is_one(self, endpoint: SocketAddress) -> bool:
        """Whether an endpoint is a present doorbell of this agent."""
        key = self._keys.get(endpoint.host)
        return key is not None and self._addresses[key] == endpoint

    def _readable(self) -> None:
        if self._socket is None:
            return
        for _ in range(DRAIN):
            try:
                datagram, extra, _, source = self._socket.recvmsg(MAX_DATAGRAM, pktinfo.SPACE)
            except OSError:
                return
            key = self._keys.get(pktinfo.asked_at(extra))
            if key is not None and source[1] == self._engine_port:
                self._guard.run("a doorbell", self._on_ring, key, datagram)
