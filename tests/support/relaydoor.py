"""A relay's TLS door with a listening socket of its own. In the product the mediator listens, and passes on."""

from __future__ import annotations

import socket

from mediator.shell.relay_tls import TlsListener


class ListeningDoor(TlsListener):
    """Accepts connections in the relay's loop."""

    _opened: socket.socket | None = None

    def listen(self, address: str, port: int) -> int:
        """Listen on a port (0: any); returns the port."""
        self._opened = socket.create_server((address, port), reuse_port=False)
        self._opened.setblocking(False)
        self._relay.listen(self._opened.fileno(), self._accept)
        return int(self._opened.getsockname()[1])

    def _accept(self) -> None:
        assert self._opened is not None
        while True:
            try:
                connection, _ = self._opened.accept()
            except OSError:
                return
            self.adopt(connection)

    def close(self) -> None:
        """Close every connection, and stop listening."""
        super().close()
        if self._opened is not None:
            self._opened.close()
