"""The shared port of netctl-wg, which hands over every datagram that is no WireGuard message.

netctl-wg has a Unix datagram socket beside its UAPI socket. We subscribe with one zero byte; netctl-wg then sends us
``family(1) address(16) port(2) payload``. We send ``1`` and the same fields to send a payload from the WireGuard
port, or ``2`` and the same fields with one TTL byte before the payload; ``3`` is like ``1``, but unfragmented.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError, RemoteError
from netctl.wire.datagram import ADDRESS_LEN, pack_address, unpack_address

UAPI_DIR = Path("/var/run/wireguard")
SUBSCRIBE = b"\x00"
SEND = b"\x01"
SEND_TTL = b"\x02"
SEND_WHOLE = b"\x03"
RESUBSCRIBE_S = 15.0
"""Seconds between two subscriptions: a restarted netctl-wg has forgotten the last one."""
MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 1 << 20


def handover_path(interface: str) -> Path:
    """The path of netctl-wg's hand-over socket. Not `….sock`: `wg` takes each such file for an interface."""
    return UAPI_DIR / f"{interface}.handover"


class HandoverPort:
    """A `SharedPort` on netctl-wg's handover socket."""

    def __init__(self, path: Path, max_drain: int) -> None:
        """Subscribe. `max_drain`: datagrams in one `receive`. Raises EngineError when netctl-wg does not answer."""
        self._server = str(path)
        self._own = path.with_name(path.name + ".client")
        self._max_drain = max_drain
        self._subscribed_at = float("-inf")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._own.unlink()  # left by an agent that was killed
            umask = os.umask(0o177)
            try:
                self._socket.bind(str(self._own))
            finally:
                os.umask(umask)
            self._socket.sendto(SUBSCRIBE, self._server)
        except OSError as error:
            self.close()
            raise EngineError(f"netctl-wg does not answer on {path}: {error.strerror}") from error
        self._subscribed_at = time.monotonic()

    def fileno(self) -> int:
        """The descriptor of the Unix socket."""
        return self._socket.fileno()

    def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """The datagrams handed over, at most `max_drain`; never blocks."""
        found: list[tuple[bytes, SocketAddress]] = []
        while len(found) < self._max_drain:
            try:
                data = self._socket.recv(MAX_DATAGRAM)
            except OSError:
                break
            with contextlib.suppress(RemoteError):
                source = unpack_address(data[:ADDRESS_LEN])
                if source is not None:
                    found.append((data[ADDRESS_LEN:], source))
        return found

    def send(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> bool:
        """Send one datagram from the WireGuard port, through netctl-wg. False when it is busy or does not run."""
        head = (SEND_WHOLE if whole else SEND) if ttl is None else SEND_TTL
        message = head + pack_address(destination) + (b"" if ttl is None else bytes([ttl])) + data
        try:
            now = time.monotonic()
            if now - self._subscribed_at >= RESUBSCRIBE_S:
                self._socket.sendto(SUBSCRIBE, self._server)
                self._subscribed_at = now
            self._socket.sendto(message, self._server)
        except OSError:
            self._subscribed_at = float("-inf")  # subscribe again with the next datagram
            return False
        return True

    def close(self) -> None:
        """Close and remove our socket; idempotent."""
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._own.unlink()
