"""Finds the router of this host's default route, and opens sockets to ask it for port mappings."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from socket import AF_INET

from netctl.engine.links.rtnl import Rtnl
from netctl.model.errors import RemoteError
from netctl.paths.mapping import Gateway
from netctl.wire import http, pcp, upnp

SOMEWHERE = IPv4Address("1.1.1.1")
"""Any address of the Internet: the kernel is asked for the route to it, and nothing is sent."""
ANNOUNCE_PORT = 5350
"""The port to which routers announce their start (RFC 6886 §3.2.1, RFC 6887 §14.1), at 224.0.0.1 (all hosts)."""
FETCH_S = 4.0
"""Seconds for one whole HTTP exchange with a small router."""
MAX_DATAGRAM = 2048
MAX_DRAIN = 32
"""Datagrams received at a time: a flood from the LAN must not block the agent."""
_TTL = 2
"""TTL of searches (UPnP Device Architecture 1.1 §1.3.2)."""


def default_gateway() -> Gateway | None:
    """The router of the default route and our address towards it; None where a port mapping would be useless.

    That is: no IPv4 default route, one without a router (a tunnel), or a global address of this host.
    """
    # In a separate thread: the library runs an event loop in its thread, and callers have one of their own.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_ask_kernel).result()


def _ask_kernel() -> Gateway | None:
    try:
        netlink = Rtnl()
    except OSError:
        return None
    try:
        router, own = netlink.way(SOMEWHERE)
    except OSError:
        return None
    finally:
        netlink.close()
    if router is None or own is None or ":" in router:
        return None
    found = Gateway(IPv4Address(router), IPv4Address(own))
    return None if found.own.is_global else found


def _socket(address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    made = socket.socket(AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


class RouterSockets:
    """Datagram sockets towards one router. Datagrams of other senders are dropped."""

    def __init__(self, gateway: Gateway) -> None:
        """Open the sockets. Raises OSError, for example when our address has just disappeared."""
        self._router = str(gateway.router)
        own = str(gateway.own)
        self.control = _socket((own, 0))
        """For PCP and NAT-PMP; connected, so the kernel drops datagrams of other senders."""
        self.search: socket.socket | None = None
        """For SSDP; open from the first search on."""
        self._own = own
        self.announcements: socket.socket | None = None
        """For announcements; None where another program uses the port exclusively."""
        try:
            self.control.connect((self._router, pcp.PORT))
        except OSError:
            self.control.close()
            raise
        with contextlib.suppress(OSError):
            self.announcements = _socket(("", ANNOUNCE_PORT), shared=True)

    def ask(self, data: bytes) -> bool:
        """Send to the router's PCP port. False: the router reports the port as closed."""
        try:
            self.control.send(data)
        except OSError as error:
            return error.errno != errno.ECONNREFUSED
        return True

    def open_search(self) -> socket.socket:
        """The socket for SSDP's answers. Raises OSError."""
        if self.search is None:
            made = _socket((self._own, 0))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(self._own))
            self.search = made
        return self.search

    def look_for(self, data: bytes) -> None:
        """Send a search to the multicast group and to the router: a firewall may admit only the router's answer."""
        for address in ((upnp.SSDP_GROUP.host, upnp.SSDP_PORT), (self._router, upnp.SSDP_PORT)):
            with contextlib.suppress(OSError):
                self.open_search().sendto(data, address)

    def receive(self, sock: socket.socket) -> tuple[list[bytes], bool]:
        """The router's datagrams waiting at one of our sockets, and whether the router reports its port as closed."""
        found: list[bytes] = []
        for _ in range(MAX_DRAIN):
            try:
                data, source = sock.recvfrom(MAX_DATAGRAM)
            except OSError as error:
                return found, error.errno == errno.ECONNREFUSED
            if source[0] == self._router:
                found.append(data)
        return found, False

    def close(self) -> None:
        """Close all; idempotent."""
        for sock in (self.control, self.search, self.announcements):
            if sock is not None:
                sock.close()


async def fetch(gateway: Gateway, port: int, request: bytes) -> http.Response | None:
    """The answer of one HTTP exchange with the router, bounded in time and size; None: the exchange failed."""
    try:
        async with asyncio.timeout(FETCH_S):
            reader, writer = await asyncio.open_connection(
                str(gateway.router), port, local_addr=(str(gateway.own), 0), limit=http.MAX_RESPONSE
            )
            try:
                writer.write(request)
                data = b""
                while True:
                    part = await reader.read(http.MAX_RESPONSE)
                    data += part
                    answer = http.response(data, ended=not part)
                    if answer is not None:
                        return answer
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError, RemoteError):
        return None
