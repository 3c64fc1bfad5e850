"""The WireGuard UDP port, shared with whichever engine runs (DESIGN §7.4).

`open_shared_port` is what the agent uses; the two ways are `netctl.engine.port.rawport` (any engine) and
`netctl.engine.port.handoverport` (netctl-wg).
"""

from __future__ import annotations

from typing import Protocol

from netctl.engine.port.handoverport import HandoverPort, handover_path
from netctl.engine.port.rawport import RawPort
from netctl.model.addresses import SocketAddress

MAX_DRAIN = 256
"""Datagrams taken in one `receive`: a flood must not keep the agent's loop from everything else."""


class SharedPort(Protocol):
    """Sends from the WireGuard port, and receives what arrives there and is no WireGuard message."""

    def fileno(self) -> int:
        """One descriptor that is readable while anything waits to be received."""

    def receive(self) -> list[tuple[bytes, SocketAddress]]:
        """What has arrived, without blocking; about `MAX_DRAIN` at most, the descriptor stays readable then."""

    def send(
        self, destination: SocketAddress, data: bytes, ttl: int | None = None, *, whole: bool = False
    ) -> bool:
        """Send one datagram; False when the system refused (no route, no buffer): never raises for that.

        `whole`: in one piece or not at all, whatever the kernel knows of the way (ip(7), IP_PMTUDISC_PROBE).
        """

    def close(self) -> None:
        """Close; idempotent."""


def open_shared_port(kind: str, interface: str, listen_port: int) -> SharedPort:
    """`kind` is the engine's: ``netctl-wg`` hands over, all others get raw sockets.

    Raises EngineError when the system refuses the sockets, or netctl-wg is not there.
    """
    if kind == "netctl-wg":
        return HandoverPort(handover_path(interface), MAX_DRAIN)
    return RawPort(listen_port, MAX_DRAIN)
