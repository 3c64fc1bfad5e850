"""A netlink socket that hears what the kernel tells everybody, and knows when it has missed something (netlink(7))."""

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
"""The kernel puts at most 32 KiB into one datagram."""
_BUFFER = 1 << 20
"""Thousands of links that come at once are about 1 KiB each; whatever is lost is looked at anew."""


class Listener:
    """Member of multicast groups of one netlink protocol. Raises OSError where the kernel lets nobody listen."""

    def __init__(self, protocol: int, *groups: int, deep: bool = True) -> None:
        """`deep`: as little as can be is lost; not where all that counts is that there was something."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            # Who is not root has a small buffer: more is lost, and noticed.
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
        """Hear no more."""
        self._socket.close()

    def queued(self) -> Iterator[Messages | None]:
        """The datagrams that have come, without waiting; None: see `receive`. Raises OSError."""
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
        """The next datagram; None: some were lost since the last one, so look at everything. Raises OSError."""
        try:
            return list(split(await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE)))
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return None
