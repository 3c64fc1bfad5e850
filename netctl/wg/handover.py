"""The Unix datagram socket through which the path manager shares the WireGuard port.

Messages to us: ``0`` subscribes the sender; ``1 address payload`` sends the payload from the WireGuard port; ``2
address ttl payload`` sends it with that TTL; ``3 address payload`` sends it unfragmented or not at all. From us to the
last subscriber: ``address payload`` of every received datagram that is no WireGuard message. An address is 19 bytes:
family 4 or 6, 16 address bytes (IPv4: 4, then zeros), port.
Neither side blocks: a message for which the subscriber has no room is dropped, as with UDP.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from netctl.model.addresses import SocketAddress
from netctl.wg.uapi_server import SOCKET_DIR, bind_unix

SUBSCRIBE, SEND, SEND_TTL, SEND_WHOLE = 0, 1, 2, 3
ADDRESS_LEN = 19
MAX_DATAGRAM = 1 + ADDRESS_LEN + 1 + 65_507
"""Bytes: the largest UDP payload with the longest header."""
MAX_PER_TURN = 64
"""Datagrams taken from the path manager in one turn: packets wait meanwhile."""
_AWAY = frozenset(
    {errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.EPERM, errno.EACCES, errno.EPROTOTYPE}
)
"""Errors which mean that the subscriber is gone."""


class Port(Protocol):
    """The methods of the shell that hand-over needs."""

    on_foreign: Callable[[bytes, SocketAddress], None] | None

    def register(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back while `fd` is readable."""

    def unregister(self, fd: int) -> None:
        """Stop calling back for `fd`."""

    def send_raw(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> None:
        """Send one datagram from the WireGuard port; `whole`: neither this host nor a router may fragment it."""


def handover_path(interface: str) -> Path:
    """The path of an interface's hand-over socket."""
    return SOCKET_DIR / f"{interface}.handover"


def pack_source(source: SocketAddress) -> bytes:
    """An address as 19 bytes."""
    packed = ip_address(source.host.partition("%")[0]).packed
    family = 4 if len(packed) == 4 else 6
    return bytes([family]) + packed.ljust(16, b"\0") + source.port.to_bytes(2, "big")


def unpack_destination(data: bytes) -> SocketAddress | None:
    """The address of 19 bytes; None: malformed, or no address to send to."""
    port = int.from_bytes(data[17:19], "big")
    if len(data) != ADDRESS_LEN or port == 0:
        return None
    if data[0] == 4 and not any(data[5:17]):
        return SocketAddress.of(ip_address(data[1:5]), port)
    if data[0] == 6:
        return SocketAddress.of(ip_address(data[1:17]), port)
    return None


class HandoverServer:
    """The server's side of the hand-over socket."""

    def __init__(self, shell: Port, path: Path) -> None:
        self._shell = shell
        self._path = path
        self._socket: socket.socket | None = None
        self._subscriber: str | bytes | None = None
        self.dropped = 0
        """Count of datagrams for which the subscriber had no room."""

    @property
    def has_subscriber(self) -> bool:
        """Whether there is a subscriber, as far as known."""
        return self._subscriber is not None

    def start(self) -> None:
        """Bind and serve. Raises LocalError when another process serves the socket, OSError otherwise."""
        self._socket = bind_unix(self._path, socket.SOCK_DGRAM)
        self._shell.register(self._socket.fileno(), self._turn)
        self._shell.on_foreign = self.deliver

    def close(self) -> None:
        """Remove the socket file and close; idempotent. The order is explained at `UapiServer.close`."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._shell.on_foreign = None
        self._shell.unregister(self._socket.fileno())
        self._socket.close()
        self._socket = self._subscriber = None

    def deliver(self, datagram: bytes, source: SocketAddress) -> None:
        """Send one datagram to the subscriber, or drop it."""
        if self._socket is None or self._subscriber is None:
            return
        try:
            self._socket.sendto(pack_source(source) + datagram, self._subscriber)
        except OSError as error:
            if error.errno in _AWAY:
                self._subscriber = None
            else:
                self.dropped += 1

    def _turn(self) -> None:
        assert self._socket is not None
        for _ in range(MAX_PER_TURN):
            try:
                message, sender = self._socket.recvfrom(MAX_DATAGRAM)
            except OSError:
                return
            self._take(message, sender)

    def _take(self, message: bytes, sender: str | bytes | None) -> None:
        if message == bytes([SUBSCRIBE]):
            self._subscriber = sender or self._subscriber  # an unbound socket cannot receive
            return
        kind = message[0] if message else SUBSCRIBE
        start = 1 + ADDRESS_LEN
        destination = unpack_destination(message[1:start])
        if destination is None:
            return
        if kind == SEND:
            self._shell.send_raw(destination, message[start:])
        elif kind == SEND_WHOLE:
            self._shell.send_raw(destination, message[start:], whole=True)
        elif kind == SEND_TTL and len(message) > start and message[start] > 0:
            self._shell.send_raw(destination, message[start + 1 :], message[start])
