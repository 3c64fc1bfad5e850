"""The validated document: the content of networks.yaml as frozen values.

`netctl.config` makes the values from text; all other code only reads them. Mappings are keyed by name and keep the
document's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from netctl.model import derive
from netctl.model.addresses import Address, Endpoint, Prefix
from netctl.model.keys import IdentityKey, WireGuardKey


class Mode(StrEnum):
    """How a network behaves."""

    LAN = "lan"  # one Ethernet segment: broadcast, multicast, any ethertype
    ROUTED = "routed"  # IP only


class Lazy(StrEnum):
    """When the tunnels of a network are opened."""

    AUTO = "auto"  # with the first packet where the network has more than `LAZY_ABOVE` members
    ALWAYS = "always"  # with the first packet
    NEVER = "never"  # at once, and kept open


LAZY_ABOVE = 128
"""Members of a network up to which `lazy: auto` keeps all tunnels open: so many paths cost a host less than 1 % of a
core, and a `lan` of this size has its broadcast everywhere.
"""


class MemberState(StrEnum):
    """Whether a member is to be present in its networks."""

    PRESENT = "present"
    ABSENT = "absent"


class Firewall(StrEnum):
    """What netctl does about the host's own firewall."""

    REPORT = "report"  # only report what it drops
    MANAGE = "manage"


class Drift(StrEnum):
    """What the agent does when the host differs from the document."""

    CORRECT = "correct"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Mediator:
    """A server to log in to. Only a server with one of the `identity` keys is accepted."""

    host: str
    port: int
    identity: tuple[IdentityKey, ...]
    stun: tuple[int, ...] = (3478, 3479)
    """UDP ports that answer STUN binding requests."""
    relay_ports: tuple[int, int] = (40000, 40999)
    """First and last UDP port of the relay, inclusive."""
    tls: tuple[int, ...] = ()
    """More TCP ports with the same TLS server (empty: only `port`)."""
    relay_only: bool = False
    """`role: relay`: this server relays, and has no membership."""
    member: str = ""
    """The member that is this relay; it carries pairs of its own networks alone. Empty: a server of its own."""

    @property
    def tcp_ports(self) -> tuple[int, ...]:
        """All TCP ports of the server, `port` first, each once."""
        return tuple(dict.fromkeys((self.port, *self.tls)))

    @property
    def relay_name(self) -> str:
        """What messages call the relay of this entry: the identity of a relay apart, else a name by the URL."""
        return str(self.identity[0]) if self.relay_only else derive.relay_beside(self.host, self.port)


DEFAULT_LISTEN_PORT = 51820
MAX_RELAYS = 15
"""Relays apart of a document, members among them: each host measures all, and tells its peers how far they are. An
offer has room for these and for the one beside the mediator.
"""


@dataclass(frozen=True, slots=True)
class OwnRelay:
    """`relay` of a member: its agent relays packets of the member's own networks."""

    stun: tuple[int, ...] = (3478, 3479)
    relay_ports: tuple[int, int] = (40000, 40999)


@dataclass(frozen=True, slots=True)
class Member:
    """A host with a WireGuard key."""

    name: str
    wireguard: WireGuardKey | None
    """None only for a member whose state is absent."""
    identity: IdentityKey | None = None
    """None: the member never logs in (a phone with the stock app)."""
    groups: frozenset[str] = frozenset()
    endpoints: tuple[Endpoint, ...] = ()
    routes: tuple[Prefix, ...] = ()
    """Real LANs behind this member, offered to routed networks."""
    state: MemberState = MemberState.PRESENT
    host: str | None = None
    """The SSH name under which a fleet roll-out reaches the member."""
    listen_port: int | None = None
    """None: `DEFAULT_LISTEN_PORT`."""
    port_mapping: bool = True
    """Whether the member may ask its router to open the port (PCP, NAT-PMP, UPnP)."""
    port_guessing: bool = True
    """Whether the member takes part in the birthday method, for pairs that no other method makes direct."""
    firewall: Firewall = Firewall.REPORT
    interfaces: tuple[str, ...] = ()
    """Patterns of interfaces whose addresses the member offers, or with ``!`` in front does not offer. Empty: all
    suitable interfaces.
    """
    mtu: int | None = None
    relay: OwnRelay | None = None
    """Set: the member relays, at the host of its first endpoint."""
    at_relay: str = ""
    """Of a stock app: the host of the relay at which it meets its peers. Empty: as it is best for each."""
    previous_keys: tuple[WireGuardKey, ...] = ()
    guest: bool = False
    """Joined by invite: the member comes from the mediator and not from the text. It has an agent, whatever its
    identity.
    """

    @property
    def stock(self) -> bool:
        """Whether the member runs WireGuard without an agent: beside a mediator it is reached only over the relay."""
        return self.identity is None and not self.guest


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports first to last, inclusive."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One ACL line: the sources `src` may reach the destinations `dst` over the given protocol and ports.

    A selector is ``*`` (the members of this network), ``group:NAME``, a member's name, or a prefix.
    """

    name: str
    src: tuple[str, ...]
    dst: tuple[str, ...]
    proto: str | None = None
    """``tcp``, ``udp``, ``icmp`` (both families), ``ethernet``, or None: any IP protocol."""
    ports: tuple[PortRange, ...] = ()
    """Empty: all ports. Only with tcp and udp."""
    ethertypes: tuple[int, ...] = ()
    """Only with ``ethernet``."""


@dataclass(frozen=True, slots=True)
class AclTest:
    """An expectation checked offline: `accept` and `deny` are ``member:proto/port`` or ``member:icmp``."""

    src: str
    accept: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Join:
    """Whether the mediator may add members by invite (DESIGN §4)."""

    invites: bool = False
    approve: str = "auto"  # or "manual"


@dataclass(frozen=True, slots=True)
class Network:
    """A named LAN."""

    name: str
    id: str
    """16 hex digits, derived (`netctl.model.derive.network_id`)."""
    mode: Mode
    ipv4: IPv4Network | None
    ipv6: IPv6Network | None
    """`ipv6: auto` is resolved to its ULA /64 here."""
    members: tuple[str, ...]
    """Selectors: ``*``, ``group:NAME``, names."""
    member_names: tuple[str, ...] = ()
    """The selectors resolved: present members of this network, in the document's order."""
    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    """Fixed addresses by member name."""
    hub: str | None = None
    """`topology: {hub: NAME}`; None is a mesh."""
    join: Join = Join()
    acls: tuple[Rule, ...] | None = None
    """None: all members reach all members. A tuple, even an empty one: default deny."""
    tests: tuple[AclTest, ...] = ()
    mtu: int | None = None
    masquerade: bool = False
    lazy: Lazy = Lazy.AUTO
    own_id: str = ""
    """The `id` that the document gives the network; empty: the network's name is used."""

    @property
    def opens_with_first_packet(self) -> bool:
        """Whether two of its members have a tunnel only while they talk."""
        crowd = self.lazy is Lazy.AUTO and len(self.member_names) > LAZY_ABOVE
        return crowd or self.lazy is Lazy.ALWAYS


@dataclass(frozen=True, slots=True)
class Ui:
    """The members that may open a host's page over the overlay: selectors, as in a network's members."""

    viewers: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """networks.yaml, loaded and valid."""

    members: Mapping[str, Member]
    networks: Mapping[str, Network]
    mediators: tuple[Mediator, ...] = ()
    id: str = ""
    confirm_s: float = 90.0
    """`apply.confirm`: seconds for which an armed apply waits for `netctl confirm`."""
    drift: Drift = Drift.CORRECT
    ui: Ui = Ui()
    digest: str = ""
    """SHA-256 of the text, hex."""

    def member_by_key(self, key: WireGuardKey) -> Member | None:
        """The present member with this WireGuard key, or None."""
        raw = key.raw  # compared by C: an agent of thousands asks every few seconds
        for member in self.members.values():
            own = member.wireguard
            if own is not None and own.raw == raw and member.state is MemberState.PRESENT:
                return member
        return None

    def stock_keys(self) -> frozenset[WireGuardKey]:
        """The keys of the present members without an agent."""
        members = (member for member in self.members.values() if member.stock)
        return frozenset(
            member.wireguard
            for member in members
            if member.wireguard is not None and member.state is MemberState.PRESENT
        )

    def full_mediators(self) -> tuple[Mediator, ...]:
        """The entries to log in to: those without `role: relay`."""
        return tuple(mediator for mediator in self.mediators if not mediator.relay_only)

    def relays(self) -> tuple[Mediator, ...]:
        """The relays apart: entries with `role: relay`, then members that relay. At most `MAX_RELAYS`."""
        apart = [mediator for mediator in self.mediators if mediator.relay_only]
        if self.mediators:
            apart += filter(None, map(relay_of, self.members.values()))
        return tuple(apart[:MAX_RELAYS])

    def relays_beside(self) -> tuple[Mediator, ...]:
        """The mediators whose relays members know by name: of several, as many as offers have room for."""
        full = self.full_mediators()
        return full[: MAX_RELAYS - len(self.relays())] if len(full) > 1 else ()

    def circles(self, relay: Mediator) -> tuple[frozenset[str], ...] | None:
        """Whose pairs a relay carries: both members are in one of these sets. None: everybody's."""
        if not relay.member:
            return None
        return tuple(
            frozenset(network.member_names) - {relay.member} for network in self.networks_of(relay.member)
        )

    def networks_of(self, name: str) -> tuple[Network, ...]:
        """The networks that this member belongs to, in the document's order."""
        return tuple(network for network in self.networks.values() if name in network.member_names)


def relay_of(member: Member) -> Mediator | None:
    """The relay that a member is; None: it is none."""
    relay = member.relay
    if relay is None or member.identity is None or not member.endpoints or member.state is MemberState.ABSENT:
        return None
    return Mediator(
        host=member.endpoints[0].host,
        port=relay.stun[0],  # no TCP port is open there; this tells two relays at one host apart
        identity=(member.identity,),
        stun=relay.stun,
        relay_ports=relay.relay_ports,
        relay_only=True,
        member=member.name,
    )
