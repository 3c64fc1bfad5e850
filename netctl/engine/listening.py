"""A netlink socket for the kernel's multicast messages, which detects lost messages (netlink(7))."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from types import TracebackType

from netctl.engine.nlsocket import split

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
Messages = list[tuple[int, bytes]]
"""Type and payload of each message of a datagram."""
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_RECEIVE = 1 << 16
"""Bytes of one receive: the kernel puts at most 32 KiB into one datagram."""
_BUFFER = 1 << 20
"""Bytes of the receive buffer: thousands of new links need about 1 KiB each; after a loss everything is read anew."""


class Listener:
    """A member of multicast groups of one netlink protocol. Raises OSError where the kernel refuses."""

    def __init__(self, protocol: int, *groups: int, deep: bool = True) -> None:
        """`deep`: use a large buffer, so that few messages are lost; False if only the fact of a change matters."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            # Without root the buffer stays small: more messages are lost, which is detected.
            with contextlib.suppress(OSError):
                if deep:
                    self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def queued(self) -> Iterator[Messages | None]:
        """The received datagrams, without waiting; None: as for `receive`. Raises OSError."""
        while True:
            try:
                yield list(split(self._socket.recv(_RECEIVE)))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None

    async def receive(self) -> Messages | None:
        """The next datagram; None: some were lost, so the caller must read everything anew. Raises OSError."""
        try:
            return list(split(await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE)))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return None
