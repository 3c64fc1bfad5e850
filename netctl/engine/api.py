"""The narrow seam between what a host should have and what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from netctl.model.addresses import Prefix, SocketAddress
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.model.packetfilter import PacketFilter
from netctl.plan import Change


class Engine(Protocol):
    """Reads and changes one host. Every method may raise EngineError."""

    kind: str
    """``kernel``, ``netctl-wg``, ``wireguard-go`` or ``fake``."""

    def read(self) -> HostState:
        """Everything of ours on the host, and nothing else."""

    def foreign(self) -> Foreign:
        """What is on the host and not ours, as far as it could be in the way."""

    def packet_filter(self) -> PacketFilter:
        """The host's own firewall: the same value while it is as it was."""

    def apply(self, change: Change) -> None:
        """Do one step. Doing it again does no harm."""

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Do several steps in order. With an error some of them may be done; which is for `read` to tell."""

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """What each tunnel is doing now."""

    def steer(self, key: WireGuardKey, endpoint: SocketAddress) -> None:
        """Send a peer's packets to this endpoint from now on. No error when the peer is gone."""

    def link_stands(self) -> bool:
        """Whether the WireGuard link is there; it goes when a userspace engine ends."""

    def tables_stand(self) -> bool:
        """Whether our tables are there as they were loaded last."""

    def restore_tables(self) -> Restored:
        """Put our tables back as they were loaded last; nothing where they stand, or none were loaded."""

    def restore_routes(self, desired: HostState) -> int:
        """Set those routes and addresses of `desired` again that are gone; how many."""

    def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Let our routes over a link carry packets of so many bytes; those not named as many as the link."""

    def troubles(self) -> tuple[str, ...]:
        """What could not be done and nothing else waits for, in words for people."""

    def retry(self) -> None:
        """Try once more what `troubles` names."""

    def listen_port(self) -> int:
        """The UDP port in use; 0 while there is no link."""

    def data_path(self) -> str:
        """What moves the packets, for people, where an engine has more than one way; else empty."""

    def faults(self) -> int:
        """What the engine could not handle, and dropped, since it began; 0: none, or it does not say."""

    def close(self) -> None:
        """Let go of handles; the host keeps what it has."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Tables of ours that somebody had removed or changed, and that are as they were loaded again. False: none."""

    tables: tuple[str, ...] = ()
    ended: int = 0
    """Tracked flows that no rule lets through, ended: while a table was away everything was open."""

    def __bool__(self) -> bool:
        return bool(self.tables)
