"""Accepted connections passed from the mediator's process to the relay's, over a Unix socket in the state directory.

Both share the mediator's TCP ports: the mediator accepts, sees in the first record which protocol is asked for, and
passes the connection on before a byte is read. So what is relayed over TLS lives in the relay's process and
outlives a restart of the mediator.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path

from netctl.model.errors import LocalError

SOCKET_NAME = "relay.sock"
PASSES_PER_TURN = 64
"""Before others get their turn."""


def bind_unix(listening: socket.socket, path: Path) -> None:
    """Bind for this user alone, and in a directory that is shared with its group (setgid) for that too. OSError."""
    shared = path.parent.stat().st_mode & stat.S_ISGID
    before = os.umask(0o117 if shared else 0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)


class Passer:
    """The mediator's side."""

    def __init__(self, state: Path) -> None:
        self._path = str(state / SOCKET_NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection on; the caller closes its own end in any case. False: no relay runs here."""
        try:
            self._socket.connect(self._path)  # each time: the relay may be another one now
            socket.send_fds(self._socket, [b"c"], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()


class Taker:
    """The relay's side."""

    def __init__(self, state: Path) -> None:
        """Take the place of an earlier relay. Raises LocalError."""
        self._path = state / SOCKET_NAME
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._path.unlink(missing_ok=True)
            bind_unix(self._socket, self._path)
            self._inode = self._path.stat().st_ino
        except OSError as error:
            self._socket.close()
            raise LocalError(f"the relay cannot listen at {self._path}: {error.strerror or error}") from error

    def fileno(self) -> int:
        """Readable when connections wait."""
        return self._socket.fileno()

    def take(self) -> list[socket.socket]:
        """The connections that wait."""
        found: list[socket.socket] = []
        for _ in range(PASSES_PER_TURN):
            try:
                _, descriptors, _, _ = socket.recv_fds(self._socket, 16, 4)
            except OSError:
                break
            found += [socket.socket(fileno=descriptor) for descriptor in descriptors]
        return found

    def close(self) -> None:
        """Remove the socket, unless another relay has taken its place."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._socket.close()
