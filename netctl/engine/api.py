"""The interface of engines, which read and change one host."""

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
        """The state of all our objects on the host, without foreign ones."""

    def foreign(self) -> Foreign:
        """The foreign objects on the host that could conflict with ours."""

    def packet_filter(self) -> PacketFilter:
        """The host's own firewall; the same object while nothing has changed."""

    def apply(self, change: Change) -> None:
        """Do one step. Doing it again does no harm."""

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Do several steps in order. After an error some steps may be done: `read` tells which."""

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """The present status of each peer's tunnel."""

    def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Send each peer's packets to its endpoint from now on. No error when a peer is gone.

        `anew`: peers whose sessions and handshakes are forgotten: the next packet begins a handshake at once, also
        within Rekey-Timeout of a lost one. Packets that wait for a session are lost, and counters begin at 0.
        """

    def link_stands(self) -> bool:
        """Whether the WireGuard link exists; the link of a userspace engine disappears when the engine ends."""

    def tables_stand(self) -> bool:
        """Whether our tables are unchanged since they were loaded last."""

    def restore_tables(self) -> Restored:
        """Load our tables again as they were loaded last, unless they are unchanged or none were loaded."""

    def restore_routes(self, desired: HostState) -> int:
        """Set the missing routes and addresses of `desired` again; returns their count."""

    def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Limit packets by destination to so many bytes on our routes over a link; others to the link's MTU."""

    def troubles(self) -> tuple[str, ...]:
        """Failed steps that did not fail the apply, in words for people."""

    def retry(self) -> None:
        """Try the steps of `troubles` again."""

    def listen_port(self) -> int:
        """The UDP port in use; 0 while there is no link."""

    def data_path(self) -> str:
        """The name of the engine's data path, for people; empty for an engine with only one."""

    def faults(self) -> int:
        """Count of inputs that the engine failed to handle and dropped since its start; 0: none, or not reported."""

    def close(self) -> None:
        """Close sockets and handles; the host's state stays."""


@dataclass(frozen=True, slots=True)
class Restored:
    """Our tables that somebody had removed or changed and that were loaded again. False: none."""

    tables: tuple[str, ...] = ()
    ended: int = 0
    """Count of ended flows that no rule allows: they began while the table was missing and everything was open."""

    def __bool__(self) -> bool:
        return bool(self.tables)
