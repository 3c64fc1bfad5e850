"""One frozen value with everything that `netctl status` and `netctl doctor` tell of a host, taken at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from netctl.model.addresses import SocketAddress
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.model.portspans import Span
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
    """The TLS connection to the relay, for packets that cannot go by UDP."""

    state: TunnelState
    at: str | None = None
    """The relay's host and port."""
    proxy: str | None = None
    since: float = 0.0
    """Monotonic seconds."""
    error: str | None = None
    dropped: int = 0
    """Frames dropped because a slow connection would have delivered them too late."""


@dataclass(frozen=True, slots=True)
class OwnRelayStatus:
    """The relay that this member runs for its networks."""

    state: Literal["off", "starting", "up", "waiting"]
    error: str | None = None
    """Why it does not run now."""
    bindings: int = 0
    """Members that are bound there, each to one peer."""
    forwarded_bytes: int = 0
    clock_behind_s: float = 0.0
    """By how much this host's clock is behind a mediator's, at least."""
    since_s: float = 0.0
    """Monotonic seconds."""
    unheld: tuple[Span, ...] = ()
    """Its relay ports that other programs hold."""


NO_RELAY = OwnRelayStatus("off")


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
    """Another host with this host's key."""
    view_refused: str | None = None
    """Why the mediator's last view is refused; None: it is believed."""
    other_store: str | None = None
    """Which mediator has another store than one before it, and what to do; None: none is known to."""
    paths: Mapping[WireGuardKey, PathStatus] = field(default_factory=dict)
    tunnels: Mapping[WireGuardKey, PeerStatus] = field(default_factory=dict)
    relay_tls: TunnelStatus = TunnelStatus("unwanted")
    own_relay: OwnRelayStatus = NO_RELAY
    udp_blocked: bool = False
    port: PortState = field(default_factory=PortState)
    """The shared port."""
    nat: tuple[Behaviour, Behaviour, bool | None] = (NOT_ASKED, NOT_ASKED, None)
    """(IPv4, IPv6, hairpin)."""
    nat64: tuple[str, ...] = ()
    """NAT64 prefixes through which IPv4 is reached, where this host has none."""
    filtering: Filtering4787 = "unknown"
    allocation: Allocation | None = None
    port_mapping: MapStatus = field(default_factory=lambda: MapStatus(MapState.OFF))
    path_mtus: Mapping[SocketAddress, int | None] = field(default_factory=dict)
    """The path MTU to each endpoint in bytes; None: unknown."""
    drift: tuple[Departure, ...] = ()
    drift_counters: Counters = field(default_factory=Counters)
    engine: str = ""
    data_path: str = ""
    engine_restarts: int = 0
    link_lasted_s: float = 0.0
    """Seconds that the WireGuard link was missing the last time."""
    link_away_since: float | None = None
    """Monotonic time since when the link is missing; None: it is there, or not wanted."""
    took_along: tuple[str, ...] = ()
    """Links of other programs that vanished with the WireGuard link the last time."""
    filter_restored: int = 0
    """How often a table of ours was flushed or changed by another program, and loaded again."""
    routes_restored: int = 0
    """How often our routes or addresses were removed by another program, and set again."""
    taken_away: tuple[str, ...] = ()
    """The same in words, if it has happened."""
    blocked: tuple[Obstacle, ...] = ()
    """What the host's own firewall drops of what the document allows."""
    not_back: str | None = None
    """Why the roll-back of an unconfirmed apply has not succeeded yet."""
    unmet: str | None = None
    """Why the last try to bring the host to its accepted document failed."""
    undone: tuple[str, ...] = ()
    """The changes of the last apply that failed and that no other change depends on, in words."""
    faults: int = 0
    engine_faults: int = 0
    """Faulty inputs that the engine has dropped since it began."""
    armed: Mapping[str, Any] | None = None
    """The pending commit."""
    refused: tuple[str, ...] = ()
    """Digests of documents that were rolled back."""
    watch: Mapping[str, Any] | None = None
    """The watched document."""
    store: tuple[str, ...] = ()
    """Which files of the state on disk were lost."""
    trouble: str | None = None
    """Why paths do not follow the host's present state."""
