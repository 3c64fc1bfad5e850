"""Whether the client of a connection that waits has hung up."""

from __future__ import annotations

import socket


def has_ended(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection of which nothing was read yet. Reads nothing and never waits."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
