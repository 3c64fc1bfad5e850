"""Opens the WireGuard UDP port for sharing with the running engine (DESIGN §7.4).

The agent calls `open_shared_port`. The implementations are `netctl.engine.port.rawport` (any engine) and
`netctl.engine.port.handoverport` (netctl-wg).
"""

from __future__ import annotations

from typing import Protocol

from netctl.engine.port.handoverport import HandoverPort, handover_path
from netctl.engine.port.rawport import RawPort
from netctl.model.addresses import SocketAddress

MAX_DRAIN = 256
"""Datagrams in one `receive`: a flood must not block the agent's loop."""


class SharedPort(Protocol):
    """Sends from the WireGuard port, and receives datagrams that are no WireGuard messages."""

    def fileno(self) -> int:
        """One descriptor that is readable while anything waits to be received."""

    def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """The received datagrams, about `MAX_DRAIN` at most; with more the descriptor stays readable. Never blocks."""

    def send(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> bool:
        """Send one datagram; False when the system refused (no route, no buffer): never raises for that.

        `whole`: unfragmented or not at all, regardless of the kernel's path MTU (ip(7), IP_PMTUDISC_PROBE).
        """

    def close(self) -> None:
        """Close; idempotent."""


def open_shared_port(kind: str, interface: str, listen_port: int) -> SharedPort:
    """Open the port of the engine `kind`: a hand-over socket for ``netctl-wg``, raw sockets for all others.

    Raises EngineError when the system refuses the sockets, or netctl-wg does not answer.
    """
    if kind == "netctl-wg":
        return HandoverPort(handover_path(interface), MAX_DRAIN)
    return RawPort(listen_port, MAX_DRAIN)
