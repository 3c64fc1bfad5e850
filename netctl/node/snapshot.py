"""Everything that `netctl status` and `netctl doctor` tell of a host, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.node.drift import Counters, Departure
from netctl.node.firewall.obstacles import Obstacle
from netctl.node.linkstate import LinkState
from netctl.node.ownport import PortState
from netctl.node.sharing import Sharing
from netctl.node.state import NodeState
from netctl.paths.behaviour import NOT_ASKED, Behaviour
from netctl.paths.effects import PathStatus
from netctl.paths.filtering import Filtering4787
from netctl.paths.portmap import MapState, MapStatus
from netctl.paths.predict import Allocation

TunnelState = Literal["unwanted", "connecting", "waiting", "up"]


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """What `status` and `doctor` say about the connection to the relay that carries what UDP does not."""

    state: TunnelState
    at: str | None = None
    """The relay's host and port."""
    proxy: str | None = None
    since: float = 0.0
    """Monotonic seconds."""
    error: str | None = None
    dropped: int = 0
    """Frames that a slow connection made too late."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One host at one moment."""

    key: WireGuardKey
    now_s: float
    """Monotonic."""
    unix_s: float
    state: NodeState
    link: LinkState
    sharing: Sharing | None = None
    """Of another host with this host's key."""
    view_refused: str | None = None
    """Why the mediator's last word is not believed; None: it is."""
    other_store: str | None = None
    """Which mediator has another store than one before it, and what to do; None: none is known to."""
    paths: Mapping[WireGuardKey, PathStatus] = field(default_factory=dict)
    tunnels: Mapping[WireGuardKey, PeerStatus] = field(default_factory=dict)
    relay_tls: TunnelStatus = TunnelStatus("unwanted")
    udp_blocked: bool = False
    port: PortState = field(default_factory=PortState)
    """The shared port."""
    nat: tuple[Behaviour, Behaviour, bool | None] = (NOT_ASKED, NOT_ASKED, None)
    """(IPv4, IPv6, hairpin)."""
    nat64: tuple[str, ...] = ()
    """Prefixes behind which IPv4 is reached, where this host has none."""
    filtering: Filtering4787 = "unknown"
    allocation: Allocation | None = None
    port_mapping: MapStatus = field(default_factory=lambda: MapStatus(MapState.OFF))
    path_mtus: Mapping[SocketAddress, int | None] = field(default_factory=dict)
    """Bytes that the way to an endpoint carries, as far as this host knows."""
    drift: tuple[Departure, ...] = ()
    drift_counters: Counters = field(default_factory=Counters)
    engine: str = ""
    data_path: str = ""
    engine_restarts: int = 0
    link_lasted_s: float = 0.0
    """How long the WireGuard link was away the last time."""
    link_away_since: float | None = None
    """Monotonic; None: it is there, or nobody wants it."""
    took_along: tuple[str, ...] = ()
    """Links of others that went with the WireGuard link the last time."""
    filter_restored: int = 0
    """How often a table of ours was flushed or changed, and loaded again."""
    routes_restored: int = 0
    """How often routes or addresses of ours were taken away, and set again."""
    taken_away: tuple[str, ...] = ()
    """The same in words, where it has happened."""
    blocked: tuple[Obstacle, ...] = ()
    """What the host's own firewall drops of what the document allows."""
    not_back: str | None = None
    """Why this host has not gone back yet from what nobody confirmed."""
    unmet: str | None = None
    """Why the last try to bring the host to its accepted document failed."""
    undone: tuple[str, ...] = ()
    """What of the last apply could not be done and nothing else waits for, in words."""
    faults: int = 0
    engine_faults: int = 0
    """What the engine could not handle and dropped since it began."""
    armed: Mapping[str, Any] | None = None
    """What waits for its confirmation."""
    refused: tuple[str, ...] = ()
    """Digests of documents that were rolled back."""
    watch: Mapping[str, Any] | None = None
    """The document that is followed."""
    store: tuple[str, ...] = ()
    """What of the state on disk was lost."""
    trouble: str | None = None
    """Why paths do not follow the host's present state."""
