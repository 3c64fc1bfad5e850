"""Accepted connections that wait for a place before login. Nothing is read from them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from mediator.core.admissionlimiter import AdmissionLimiter, Admittance
from netctl.model.addresses import SocketAddress


class WaitingSockets:
    """The sockets of the connections that an `AdmissionLimiter` lets wait. `clock`: monotonic seconds."""

    def __init__(self, limiter: AdmissionLimiter, clock: Callable[[], float]) -> None:
        self._limiter = limiter
        self._clock = clock
        self._sockets: dict[int, tuple[socket.socket, SocketAddress]] = {}
        """By the limiter's ticket."""

    def __len__(self) -> int:
        return len(self._sockets)

    def add(self, ticket: int, connection: socket.socket, source: SocketAddress) -> None:
        """Keep a connection that has to wait."""
        self._sockets[ticket] = connection, source

    def take(self) -> Iterator[tuple[socket.socket, SocketAddress, Admittance]]:
        """The connections that need to wait no longer, with what was decided on them.

        Those whose client has gone meanwhile are closed instead, and their places go to others.
        """
        while self._sockets and (turns := self._limiter.turns(self._clock())):
            for admittance in turns:
                connection, source = self._sockets.pop(admittance.ticket)
                if admittance.refused is None and _has_ended(connection):
                    connection.close()
                    self._limiter.leave(admittance.ticket)
                else:
                    yield connection, source, admittance

    def close(self) -> None:
        """Close them all."""
        for ticket, (connection, _) in self._sockets.items():
            connection.close()
            self._limiter.leave(ticket)
        self._sockets.clear()


def _has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection of which nothing was read yet. Reads nothing and never waits."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
