"""What one host has, or should have: one type for desired and actual.

It holds no live endpoint and no secret. `netctl.config.resolve.resolution` makes the desired one, `Engine.read()` the
actual one, `netctl.plan.diff` compares them. The law for every engine: after `apply`,
``diff(desired, read())`` is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from netctl.model.addresses import Address, Prefix, SocketAddress
from netctl.model.document import PortRange
from netctl.model.keys import WireGuardKey

WIREGUARD_LINK = "nctl0"
SEGMENT_PREFIX = "nseg"
"""What the names of segment devices begin with."""
LINK_ALIAS = "netctl"
"""The ownership mark on every link of ours (``ip link set … alias netctl``)."""
ROUTE_PROTOCOL = 201
"""The ownership mark on every route and rule of ours."""
SIZE_PROTOCOL = 202
"""The mark on host routes that only say how large packets to a peer may be: they go with its path, and are no desired
state."""
DOMAIN = "netctl"
"""What our names in the hosts file end in."""
FILTER_TABLE = "netctl"
"""The name of our nftables table (family inet)."""
REWRITE_TABLE = "netctl_ports"
"""The name of our other nftables table (family inet): ports rewritten for single peers."""
UNREACHABLE_METRIC = 1 << 30
"""Of the routes that hold what is ours back while no other leads there: above any that a router or person sets."""
VXLAN_PORT = 4789
"""The UDP port of segments (RFC 7348 §4.1)."""
SESSION_S = 180.0
"""WireGuard's Reject-After-Time: an older handshake is no session."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One WireGuard peer."""

    key: WireGuardKey
    allowed_ips: frozenset[Prefix]
    endpoint: SocketAddress | None = None
    """Only a fixed one, of a document without mediators; None: the path manager's business, not compared.

    It says where a peer is called first: WireGuard follows a peer that answers from elsewhere.
    """
    keepalive_s: int = 0
    """Persistent keepalive interval in seconds, 0 is off."""
    path: str = ""
    """The YAML path this comes from (``members.nas``); not compared."""
    insists: bool = field(default=False, compare=False)
    """Desired: the endpoint is a new one, and is set even where the peer answers at another."""
    is_live: bool = field(default=False, compare=False)
    """Actual: there is a session, so the endpoint is where the peer answers."""


@dataclass(frozen=True, slots=True)
class WireGuardLink:
    """The one WireGuard link of the host."""

    key: WireGuardKey
    """The public half of the private key in use."""
    listen_port: int
    """UDP port; 0: any, and not compared."""
    mtu: int
    addresses: frozenset[Address]
    """Set as /32 and /128. Those of segments too: what a NAT rule of the host masquerades into a tunnel needs one."""
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
    """The YAML path this comes from; not compared."""


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
    """Those it may send beside IPv4, IPv6 and ARP, by the ACLs; None: any."""


@dataclass(frozen=True, slots=True)
class Guards:
    """What belongs to our links alone: the same packets on any other way in or out are dropped."""

    sources: frozenset[Prefix] = frozenset()
    """Nobody has such an address but behind our links: pools and the underlay."""
    destinations: frozenset[Prefix] = frozenset()
    """What this host is on our links: its addresses, the broadcast addresses of its segments, the underlay."""
    leases: frozenset[Address] = frozenset()
    """This host's addresses in networks: what its own NAT rules hide behind them is its own traffic."""
    lans: frozenset[Prefix] = frozenset()
    """The LANs that this host is the gateway of: they alone may be forwarded to `remote` as they are."""
    remote: frozenset[Prefix] = frozenset()
    """What our routes lead to; what is forwarded there came by the way that leads to its sender."""
    vnis: frozenset[int] = frozenset()
    """VXLAN of our segments comes in by the WireGuard link alone."""
    listen_port: int = 0
    """WireGuard's UDP port, which no packet on our links has to do with; 0: not guarded."""


@dataclass(frozen=True, slots=True)
class FilterTable:
    """Our nftables table, by meaning: how it is written is the engine's business."""

    links: frozenset[str]
    """Input from these links is default deny."""
    rules: tuple[FilterRule, ...]
    bindings: frozenset[SourceBinding] = frozenset()
    masquerade: frozenset[tuple[Prefix, Prefix]] = frozenset()
    """(source pool, LAN prefix behind this gateway) to be masqueraded."""
    stock: frozenset[Prefix] = frozenset()
    """Addresses of members that enforce nothing themselves: what this host sends them needs a rule too."""
    sending: tuple[FilterRule, ...] = ()
    """What may be sent to `stock`."""
    guards: Guards = field(default_factory=Guards)


@dataclass(frozen=True, slots=True, order=True)
class Opening:
    """One thing that the host's own firewall lets through because of us, by `firewall: manage`.

    What comes in by `iif` (`hook` input), what goes from `iif` to `oif` (forward), or UDP to `port` (input).
    """

    manager: Literal["ufw", "firewalld", "iptables", "nft"]
    """By whose means."""
    hook: Literal["input", "forward"]
    iif: str = ""
    oif: str = ""
    port: int = 0
    place: str = ""
    """Of iptables and nft: ``ip filter DOCKER-USER``, family, table and chain."""
    stands: bool = True
    """Actual: False when somebody has taken it away."""


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
    """Prefixes of ours that go nowhere while no route over our links leads there: the link may be gone because its
    engine died, and the default route would take their packets out in clear."""
    rewrites: bool = False
    """Ports are rewritten for some peers. Which ones belongs to the paths, as live endpoints do: never desired."""
    openings: frozenset[Opening] = frozenset()
    """In the host's own firewall."""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What a tunnel is doing now: observed, never desired."""

    endpoint: SocketAddress | None
    last_handshake_s: float
    """Unix time of the last handshake, 0: never."""
    rx_bytes: int
    tx_bytes: int


def is_session(last_handshake_s: float, unix_now: float) -> bool:
    """Whether a handshake of then is a session now."""
    return last_handshake_s > 0 and unix_now - last_handshake_s < SESSION_S


def insisting(state: HostState, keys: Set[WireGuardKey] | None = None) -> HostState:
    """The state with the endpoints of just these peers (None: of all) set wherever a peer answers from."""
    link = state.wireguard
    if link is None:
        return state
    other = {
        key: replace(peer, insists=not peer.insists)
        for key, peer in link.peers.items()
        if peer.insists != (keys is None or key in keys)
    }
    return replace(state, wireguard=replace(link, peers={**link.peers, **other})) if other else state
