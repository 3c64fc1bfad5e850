"""The narrow seam between what a host should have and what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from netctl.model.addresses import SocketAddress
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.plan import Change


class Engine(Protocol):
    """Reads and changes one host. Every method may raise EngineError."""

    kind: str
    """``kernel``, ``netctl-wg``, ``wireguard-go`` or ``fake``."""

    def read(self) -> HostState:
        """Everything of ours on the host, and nothing else."""

    def foreign(self) -> Foreign:
        """What is on the host and not ours, as far as it could be in the way."""

    def apply(self, change: Change) -> None:
        """Do one step. Doing it again does no harm."""

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Do several steps in order. With an error some of them may be done; which is for `read` to tell."""

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """What each tunnel is doing now."""

    def steer(self, key: WireGuardKey, endpoint: SocketAddress) -> None:
        """Send a peer's packets to this endpoint from now on. No error when the peer is gone."""

    def listen_port(self) -> int:
        """The UDP port in use; 0 while there is no link."""

    def data_path(self) -> str:
        """What moves the packets, for people, where an engine has more than one way; else empty."""

    def close(self) -> None:
        """Let go of handles; the host keeps what it has."""
