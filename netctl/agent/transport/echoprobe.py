"""Asks peers through their tunnels whether they answer (RFC 792, RFC 4443): for paths that carry nothing else.

A relay passes WireGuard's own messages alone, so no probe of ours tells whether somebody is at its other end.
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
from netctl.system import echo
from netctl.system.guard import Guard

MAX_OPEN = 1024
"""Questions whose answers are waited for: the oldest is given up. At 200 a second five seconds of them."""
IDLE_S = 10.0
"""The sockets are closed so long after the last question: each gets a copy of every ICMP message of the host."""
MAX_READ = 2048
MAX_AT_ONCE = 64
"""Datagrams read in one turn of the loop."""
_PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class EchoProbe:
    """Raw sockets of both families while they are needed. For the agent's event loop."""

    def __init__(
        self,
        address_of: Callable[[WireGuardKey], Address | None],
        answered: Callable[[WireGuardKey, bytes], None],
        guard: Guard,
    ) -> None:
        """`address_of` a peer in its tunnel, None where that is not open; `answered` takes peer and transaction."""
        self._address_of, self._answered, self._guard = address_of, answered, guard
        self._id = secrets.randbelow(2**16)
        self._sequence = secrets.randbelow(2**16)
        self._open: dict[int, tuple[WireGuardKey, bytes, Address]] = {}
        """By sequence number: who was asked, with what, and where."""
        self._sockets: dict[int, socket.socket] = {}
        self._idle: asyncio.TimerHandle | None = None

    def send(self, key: WireGuardKey, transaction: bytes) -> None:
        """Ask a peer. What cannot be sent is a question without an answer."""
        address = self._address_of(key)
        opened = self._socket(address.version) if address is not None else None
        if address is None or opened is None:
            return
        self._sequence = (self._sequence + 1) & 0xFFFF
        while len(self._open) >= MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[self._sequence] = key, transaction, address
        try:
            opened.sendto(echo.request(address.version, self._id, self._sequence), (str(address), 0))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENXIO):
                self.close()  # the link is another one by now
            return
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)

    def close(self) -> None:
        """Let go of the sockets; the next question opens them again."""
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
                return None  # without CAP_NET_RAW nobody is asked
            try:
                opened.setblocking(False)
                # Never out of another link: an answer from there would be somebody else's.
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
