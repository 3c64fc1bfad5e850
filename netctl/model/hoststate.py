"""The state of one host: one type for the desired and the actual state.

It holds no live endpoint and no secret. `netctl.config.resolve.resolution` makes the desired state, `Engine.read()`
the actual state, and `netctl.plan.diff` compares them. The law for every engine: after `apply`,
``diff(desired, read())`` is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Literal, TypeVar

from netctl.model.addresses import Address, Prefix, SocketAddress
from netctl.model.document import PortRange
from netctl.model.keys import WireGuardKey

V = TypeVar("V")

WIREGUARD_LINK = "nctl0"
SEGMENT_PREFIX = "nseg"
"""Prefix of the names of segment devices."""
LINK_ALIAS = "netctl"
"""The ownership mark on every link of ours (``ip link set … alias netctl``)."""
ROUTE_PROTOCOL = 201
"""The ownership mark on every route and rule of ours."""
SIZE_PROTOCOL = 202
"""The mark on host routes that only limit the packet size to a peer: they change with its path, and are not desired
state.
"""
DOMAIN = "netctl"
"""The domain of our names in the hosts file."""
FILTER_TABLE = "netctl"
"""The name of our nftables table (family inet)."""
REWRITE_TABLE = "netctl_ports"
"""The name of our other nftables table (family inet): ports rewritten for single peers."""
UNREACHABLE_METRIC = 1 << 30
"""The metric of our `unreachable` routes, above any that a router or a person sets: every other route comes first."""
VXLAN_PORT = 4789
"""The UDP port of segments (RFC 7348 §4.1)."""
SESSION_S = 180.0
"""WireGuard's Reject-After-Time: after an older handshake there is no session."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One WireGuard peer."""

    key: WireGuardKey
    allowed_ips: frozenset[Prefix]
    endpoint: SocketAddress | None = None
    """The fixed endpoint of a document without mediators; None: the path manager sets the endpoint, not compared.

    WireGuard sends to this endpoint first, and follows a peer that answers from another one.
    """
    keepalive_s: int = 0
    """Persistent keepalive interval in seconds, 0 is off."""
    path: str = ""
    """The YAML path of the peer in the document (``members.nas``); not compared."""
    insists: bool = field(default=False, compare=False)
    """Desired: the endpoint has changed; set it even if the peer answers from another one."""
    is_live: bool = field(default=False, compare=False)
    """Actual: there is a session, so the endpoint is the one from which the peer answers."""
    lazy: bool = field(default=False, compare=False)
    """Desired: the tunnel is opened with the first packet, and has no keepalive."""


@dataclass(frozen=True, slots=True)
class WireGuardLink:
    """The one WireGuard link of the host."""

    key: WireGuardKey
    """The public half of the private key in use."""
    listen_port: int
    """UDP port; 0: any, and not compared."""
    mtu: int
    addresses: frozenset[Address]
    """Set as /32 and /128, those of segments too: a NAT rule of the host that masquerades into a tunnel needs an
    address here.
    """
    peers: Mapping[WireGuardKey, Peer]
    name: str = WIREGUARD_LINK
    underlay: frozenset[Address] = frozenset()
    """Underlay ULAs of segments, set as /128 on this link too."""


@dataclass(frozen=True, slots=True)
class SegmentLink:
    """One lan network: a VXLAN device over the tunnels (learning off, head-end replication)."""

    name: str
    """``nseg`` and 8 hex digits of the network id."""
    network: str
    vni: int
    mtu: int
    mac: str
    """Lower case, colons."""
    local: Address
    """Underlay address of this host."""
    addresses: frozenset[tuple[Address, int]]
    """This host's leases with the on-link prefix length."""
    flood: frozenset[Address]
    """Underlay addresses of the peers that broadcast is replicated to (FDB entries of the zero MAC)."""


@dataclass(frozen=True, slots=True)
class Route:
    """A host or network route, marked with `ROUTE_PROTOCOL`."""

    destination: Prefix
    link: str
    source: Address | None = None
    path: str = ""
    """The YAML path of the route in the document; not compared."""


@dataclass(frozen=True, slots=True)
class FilterRule:
    """Accept new flows from `sources` to `destinations`; everything else from our links is dropped.

    Both families may be mixed in one rule. `proto` None: any; ``icmp`` covers ICMPv6.
    """

    name: str
    sources: frozenset[Prefix]
    destinations: frozenset[Prefix]
    proto: str | None = None
    ports: tuple[PortRange, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceBinding:
    """Inside a segment, the frames that one underlay address may send: one MAC and these IP sources."""

    segment: str
    underlay: Address
    mac: str
    addresses: frozenset[Address]
    vni: int = 0
    ethertypes: tuple[int, ...] | None = None
    """Ethertypes that the ACLs let the underlay address send beside IPv4, IPv6 and ARP; None: any."""


@dataclass(frozen=True, slots=True)
class Guards:
    """Addresses that belong to our links alone: packets with them on any other interface are dropped."""

    sources: frozenset[Prefix] = frozenset()
    """Source addresses that exist only behind our links: the pools and the underlay."""
    destinations: frozenset[Prefix] = frozenset()
    """Addresses of this host on our links: its leases, the broadcast addresses of its segments, the underlay."""
    leases: frozenset[Address] = frozenset()
    """This host's leases: what the host's own NAT rules masquerade to them counts as the host's own traffic."""
    lans: frozenset[Prefix] = frozenset()
    """The LANs behind this gateway: only they may be forwarded to `remote` unmasqueraded."""
    remote: frozenset[Prefix] = frozenset()
    """Prefixes that our routes lead to; a packet forwarded there must have come from the interface that leads to its
    source.
    """
    vnis: frozenset[int] = frozenset()
    """VNIs of our segments, whose VXLAN may come in by the WireGuard link only."""
    listen_port: int = 0
    """WireGuard's UDP port, which no packet on our links may use; 0: not guarded."""


@dataclass(frozen=True, slots=True)
class FilterTable:
    """The content of our nftables table; an engine decides how to write it."""

    links: frozenset[str]
    """Input from these links is default deny."""
    rules: tuple[FilterRule, ...]
    bindings: frozenset[SourceBinding] = frozenset()
    masquerade: frozenset[tuple[Prefix, Prefix]] = frozenset()
    """Pairs (source pool, LAN prefix behind this gateway) whose packets are masqueraded."""
    stock: frozenset[Prefix] = frozenset()
    """Addresses of members that enforce no ACLs themselves: this host also needs a rule to send to them."""
    sending: tuple[FilterRule, ...] = ()
    """Flows that this host may send to `stock`."""
    guards: Guards = field(default_factory=Guards)


@dataclass(frozen=True, slots=True, order=True)
class Opening:
    """One opening that netctl makes in the host's own firewall, by `firewall: manage`.

    It accepts packets that come in by `iif` (`hook` input), that go from `iif` to `oif` (forward), or UDP to `port`
    (input), or to `port` to `last`.
    """

    manager: Literal["ufw", "firewalld", "iptables", "nft"]
    """The program that manages the host's firewall."""
    hook: Literal["input", "forward"]
    iif: str = ""
    oif: str = ""
    port: int = 0
    place: str = ""
    """For iptables and nft: family, table and chain, ``ip filter DOCKER-USER``."""
    stands: bool = True
    """Actual: False when another program has removed it."""
    last: int = 0
    """The last port of a span that begins with `port`; 0: `port` alone."""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last port."""
        return self.port, self.last or self.port

    def ports(self, between: str) -> str:
        """The ports as a firewall's tool writes them, with this sign between the first and the last."""
        return f"{self.port}{between}{self.last}" if self.last else str(self.port)


@dataclass(frozen=True, slots=True)
class HostState:
    """Everything of ours on one host."""

    wireguard: WireGuardLink | None = None
    segments: Mapping[str, SegmentLink] = field(default_factory=dict)
    """By link name."""
    routes: frozenset[Route] = frozenset()
    filter: FilterTable | None = None
    names: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """The managed block of the hosts file: ``laptop.lan-party.netctl`` to addresses, sorted."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Key with slashes or dots as in /proc/sys (``net.ipv4.conf.nseg….rp_filter``) to value."""
    unreachable: frozenset[Prefix] = frozenset()
    """Prefixes of ours with an `unreachable` route: if the engine dies and takes its link along, the default route
    would otherwise send their packets out in clear.
    """
    rewrites: bool = False
    """Whether ports are rewritten for some peers. The path manager chooses the peers: that is never desired state."""
    openings: frozenset[Opening] = frozenset()
    """Our openings in the host's own firewall."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """The present state of one peer's tunnel: observed, never desired."""

    endpoint: SocketAddress | None
    last_handshake_s: float
    """Unix time of the last handshake, 0: never."""
    rx_bytes: int
    tx_bytes: int


def changed_peers(
    before: Mapping[WireGuardKey, V], now: Mapping[WireGuardKey, V]
) -> list[WireGuardKey] | None:
    """The peers whose state is another object than before; None: the peers themselves are others.

    Nothing is hashed: of thousands of peers most are idle, and looked at each second.
    """
    if now is before:
        return []
    if len(now) != len(before) or not all(map(is_, now, before)):
        return None
    pairs = zip(now, before.values(), now.values(), strict=True)
    return [key for key, old, new in pairs if old is not new]


def is_session(last_handshake_s: float, unix_now: float) -> bool:
    """Whether a handshake at this time still gives a session now."""
    return last_handshake_s > 0 and unix_now - last_handshake_s < SESSION_S


def insisting(state: HostState, keys: Set[WireGuardKey] | None = None) -> HostState:
    """The state in which the endpoints of these peers (None: of all) are set even if the peer answers from another
    one.
    """
    link = state.wireguard
    if link is None:
        return state
    other = {
        key: replace(peer, insists=not peer.insists)
        for key, peer in link.peers.items()
        if peer.insists != (keys is None or key in keys)
    }
    return replace(state, wireguard=replace(link, peers={**link.peers, **other})) if other else state
