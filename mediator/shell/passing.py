"""Passes accepted connections from the mediator's process to the relay's, over a Unix socket in the state directory.

Both share the mediator's TCP ports: the mediator accepts, sees the requested protocol in the first record, and passes
the connection on before a byte is read. So relayed TLS connections belong to the relay's process and outlive a restart
of the mediator.
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
"""Passed connections taken before other work gets its turn."""


def bind_unix(listening: socket.socket, path: Path) -> None:
    """Bind a socket for this user only, and also for the group if the directory is shared (setgid). Raises OSError."""
    shared = path.parent.stat().st_mode & stat.S_ISGID
    before = os.umask(0o117 if shared else 0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(before)


class Passer:
    """The mediator's side: sends connections."""

    def __init__(self, state: Path) -> None:
        self._path = str(state / SOCKET_NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection on; the caller closes its own end in any case. False: no relay runs here."""
        try:
            self._socket.connect(self._path)  # each time: the relay may have been restarted
            socket.send_fds(self._socket, [b"c"], [connection.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()


class Taker:
    """The relay's side: receives connections."""

    def __init__(self, state: Path) -> None:
        """Listen, in place of an earlier relay. Raises LocalError."""
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
        """The descriptor, which is readable when connections wait."""
        return self._socket.fileno()

    def take(self) -> list[socket.socket]:
        """The waiting connections."""
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
