"""The WireGuard UDP port, shared with whichever engine runs (DESIGN §7.4). Signatures first."""

from __future__ import annotations

from typing import Protocol

from netctl.model.addresses import SocketAddress


class SharedPort(Protocol):
    """Sends from the WireGuard port, and receives what arrives there and is no WireGuard message."""

    def filenos(self) -> tuple[int, ...]:
        """File descriptors to wait on for reading (one per family with raw sockets)."""

    def fileno(self) -> int:
        """One descriptor that is readable when anything arrived (an epoll of `filenos`)."""

    def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """Everything that has arrived, without blocking."""

    def send(self, destination: SocketAddress, data: bytes, ttl: int | None = None) -> bool:
        """Send one datagram; False when the system refused (no route, no buffer): never raises for that."""

    def close(self) -> None:
        """Close; idempotent."""


def open_shared_port(kind: str, interface: str, listen_port: int) -> SharedPort:
    """`kind` is the engine's: ``netctl-wg`` hands over, all others get raw sockets. Raises EngineError."""
    raise NotImplementedError
