"""Sends echo requests to peers through their tunnels (RFC 792, RFC 4443), for paths that carry no probes.

A relay passes only WireGuard's own messages, so the agents' path probes cannot check the other end of a relayed path.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable

from netctl.model.addresses import Address
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.model.keys import WireGuardKey
from netctl.paths.constants import ECHO_DATA_LEN
from netctl.system import echo
from netctl.system.guard import Guard

MAX_OPEN = 1024
"""Most open requests; above it the oldest is dropped. At 200 requests a second these are 5 s of requests."""
IDLE_S = 10.0
"""The sockets are closed so long after the last request, as each receives a copy of every ICMP message of the host."""
MAX_READ = 2048
MAX_AT_ONCE = 64
"""Datagrams read in one turn of the loop."""
_PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class EchoProbe:
    """Sends and receives by raw sockets, open only while needed. For the agent's event loop."""

    def __init__(
        self,
        address_of: Callable[[WireGuardKey], Address | None],
        answered: Callable[[WireGuardKey, bytes], None],
        guard: Guard,
    ) -> None:
        """`address_of`: a peer's address in its tunnel, None: no session; `answered` receives peer and transaction."""
        self._address_of, self._answered, self._guard = address_of, answered, guard
        self._id = secrets.randbelow(2**16)
        self._sequence = secrets.randbelow(2**16)
        self._open: dict[int, tuple[WireGuardKey, bytes, Address]] = {}
        """Open requests by sequence number: peer, transaction and address."""
        self._sockets: dict[int, socket.socket] = {}
        self._idle: asyncio.TimerHandle | None = None

    def send(self, key: WireGuardKey, transaction: bytes) -> None:
        """Send a peer an echo request. A request that cannot be sent just gets no answer."""
        address = self._address_of(key)
        opened = self._socket(address.version) if address is not None else None
        if address is None or opened is None:
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        while len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[self._sequence] = key, transaction, address
        request = echo.request(address.version, self._id, self._sequence, ECHO_DATA_LEN)
        try:
            opened.sendto(request, (str(address), 0))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                self.close()  # the link was replaced: the next request binds anew
            return
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def close(self) -> None:
        """Close the sockets; the next request opens them again."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        for opened in self._sockets.values():
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets.clear()
        self._open.clear()

    def _socket(self, version: int) -> socket.socket | None:
        opened = self._sockets.get(version)
        if opened is None:
            try:
                opened = socket.socket(_FAMILIES[version], socket.SOCK_RAW, _PROTOCOLS[version])
            except OSError:
                return None  # without CAP_NET_RAW no requests are sent
            try:
                opened.setblocking(False)
                # Only by our link: an answer on another link would come from another host.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, WIREGUARD_LINK.encode())
            except OSError:
                opened.close()
                return None
            self._sockets[version] = opened
            asyncio.get_running_loop().add_reader(
                opened, self._guard.over("an echo reply", self._readable), version
            )
        return opened

    def _readable(self, version: int) -> None:
        opened = self._sockets.get(version)
        for _ in range(MAX_AT_ONCE if opened is not None else 0):
            assert opened is not None
            try:
                data, source = opened.recvfrom(MAX_READ)
            except OSError:
                return
            found = echo.reply(version, data, self._id)
            asked = self._open.get(found[0]) if found is not None else None
            if found is None or asked is None or source[0].partition("%")[0] != str(asked[2]):
                continue
            del self._open[found[0]]
            self._answered(asked[0], asked[1])
