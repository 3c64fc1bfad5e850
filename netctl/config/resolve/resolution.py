"""Computes the desired state of one host from the document and the view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_network

from netctl.config.load.acl import Evaluator, Selection, contains
from netctl.config.load.limits import DEFAULT_MTU, IPV6_MIN_MTU, SEGMENT_OVERHEAD
from netctl.config.load.mtu import link_mtu
from netctl.config.resolve.guests import guests_in, with_guests
from netctl.model import derive
from netctl.model.addresses import Address, Prefix, SocketAddress, host_prefix
from netctl.model.document import DEFAULT_LISTEN_PORT, Document, Member, MemberState, Mode, Network
from netctl.model.errors import LocalError
from netctl.model.hoststate import (
    DOMAIN,
    WIREGUARD_LINK,
    FilterRule,
    FilterTable,
    Guards,
    HostState,
    Peer,
    Route,
    SegmentLink,
    SourceBinding,
    WireGuardLink,
)
from netctl.model.keys import WireGuardKey
from netctl.model.view import View

KEEPALIVE_S = 25
"""Below 30 s, after which the common NATs with the shortest timeout forget a UDP flow."""
GROUP_DESTINATIONS = tuple(ip_network(text) for text in ("255.255.255.255/32", "224.0.0.0/4", "ff00::/8"))
LINK_LOCAL = ip_network("fe80::/10")


@dataclass(frozen=True, slots=True)
class Condition:
    """A peer, network or route that is not as it should be, and why. Never an error: the rest works."""

    peer: str
    message: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """The desired state of one host, and the conditions found."""

    state: HostState
    conditions: tuple[Condition, ...] = ()


@dataclass(slots=True)
class _Resolver:
    document: Document
    me: Member
    key: WireGuardKey
    view: View | None
    live: frozenset[WireGuardKey]
    resolved: Mapping[str, SocketAddress]
    conditions: list[Condition] = field(default_factory=list)
    tables: dict[str, dict[str, tuple[Address, ...]]] = field(default_factory=dict)
    allowed: dict[WireGuardKey, set[Prefix]] = field(default_factory=dict)
    link_addresses: set[Address] = field(default_factory=set)
    underlays: set[Address] = field(default_factory=set)
    pools: set[Prefix] = field(default_factory=set)
    segments: dict[str, SegmentLink] = field(default_factory=dict)
    routes: dict[Prefix, Route] = field(default_factory=dict)
    carriers: dict[Prefix, WireGuardKey] = field(default_factory=dict)
    rules: list[FilterRule] = field(default_factory=list)
    bindings: set[SourceBinding] = field(default_factory=set)
    masquerade: set[tuple[Prefix, Prefix]] = field(default_factory=set)
    stock: set[Prefix] = field(default_factory=set)
    sending: list[FilterRule] = field(default_factory=list)
    names: dict[str, tuple[Address, ...]] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    kept_open: set[WireGuardKey] = field(default_factory=set)
    """Peers of a network that keeps its tunnels open."""

    def addresses_of(self, network: Network, name: str) -> tuple[Address, ...]:
        """A member's addresses in a network: fixed, else leased (IPv4) or derived (IPv6)."""
        if network.name not in self.tables:
            self.tables[network.name] = self.table(network)
        return self.tables[network.name].get(name, ())

    def table(self, network: Network) -> dict[str, tuple[Address, ...]]:
        """The addresses of every member of a network.

        A lease that is outside the pool, or that the document or an earlier member holds, is refused: two
        peers with one address would silently take it from each other.
        """
        fixed = {address: name for name, found in network.addresses.items() for address in found}
        taken: dict[Address, str] = dict(fixed)
        table: dict[str, tuple[Address, ...]] = {}
        for name in network.member_names:
            key = self.document.members[name].wireguard
            assert key is not None
            found = {address.version: address for address in network.addresses.get(name, ())}
            leased = None if 4 in found else self.leased(network, key)
            if leased is not None and network.ipv4 is not None:
                owner = taken.setdefault(leased, name)
                if leased not in network.ipv4:
                    message = f"the mediator leased {leased} in '{network.name}', outside its pool; refused"
                    self.conditions.append(Condition(name, message))
                elif owner != name:
                    message = (
                        f"the mediator leased {leased} in '{network.name}', which is '{owner}''s; refused"
                    )
                    self.conditions.append(Condition(name, message))
                else:
                    found[4] = leased
            if network.ipv6 is not None and 6 not in found:
                derived = derive.member_ipv6(network.ipv6, key)
                if fixed.get(derived, name) == name:
                    found[6] = derived
            table[name] = tuple(found[version] for version in sorted(found))
        return table

    def leased(self, network: Network, key: WireGuardKey) -> Address | None:
        lease = self.view.leases.get((network.name, key)) if self.view is not None else None
        addresses = lease.addresses if lease is not None and self.document.mediators else ()
        return next((address for address in addresses if address.version == 4), None)

    def peers_of(self, network: Network) -> Iterator[tuple[str, Member, WireGuardKey]]:
        """The other members of a network that may have a tunnel now."""
        for name in network.member_names:
            member = self.document.members[name]
            if name == self.me.name or member.wireguard is None:
                continue
            if self.document.mediators and (self.view is None or member.wireguard not in self.view.members):
                continue
            yield name, member, member.wireguard

    def own_by_family(self, network: Network) -> dict[int, Address]:
        return {address.version: address for address in self.addresses_of(network, self.me.name)}

    def own_lease(self, network: Network) -> None:
        """Add a condition when the mediator has no address for this host."""
        lacks = network.ipv4 is not None and 4 not in self.own_by_family(network)
        if lacks and self.view is not None and self.document.mediators:
            message = f"the mediator has no free address for it in {network.ipv4} of '{network.name}'"
            self.conditions.append(Condition(self.me.name, message))

    def network(self, network: Network) -> None:
        own = self.own_by_family(network)
        lan = network.mode is Mode.LAN
        self.pools.update(p for p in (network.ipv4, network.ipv6) if p is not None and p.version in own)
        # For lan networks, too: unicast leaves by the tunnels, and masquerading uses an address of the link.
        self.link_addresses.update(own.values())
        if lan:
            self.segment(network, own)
        for name, member, key in self.peers_of(network):
            theirs = self.addresses_of(network, name)
            self.names[f"{name}.{network.name}.{DOMAIN}"] = theirs
            if network.hub not in (None, self.me.name, name):
                continue  # a spoke has a tunnel only with the hub
            if member.stock or not network.opens_with_first_packet:
                self.kept_open.add(key)  # a stock app cannot be woken: nobody there hears of an offer
            prefixes = self.allowed.setdefault(key, set())
            prefixes.update(host_prefix(address) for address in theirs)
            where = f"members.{name}"
            if lan:
                outer = derive.underlay(key)
                prefixes.add(host_prefix(outer))
                self.route(host_prefix(outer), derive.underlay(self.key), where)
                for address in theirs:
                    if address.version in own:
                        self.route(host_prefix(address), own[address.version], where)
                continue
            behind = self.routes_through(network, name, member)
            for prefix in sorted(behind, key=str):
                self.carry(prefix, key, own=prefix in member.routes)
                if prefix.version in own:
                    self.route(prefix, own[prefix.version], f"{where}.routes")
        if not lan:
            for pool in (network.ipv4, network.ipv6):
                if pool is not None and pool.version in own:
                    self.route(pool, own[pool.version], f"networks.{network.name}.ipv{pool.version}")
        self.names[f"{self.me.name}.{network.name}.{DOMAIN}"] = tuple(own.values())
        self.filter(network, own)

    def carry(self, prefix: Prefix, key: WireGuardKey, *, own: bool) -> None:
        """Give a prefix to one peer only, as WireGuard would do anyway: a gateway takes precedence over a hub."""
        other = self.carriers.get(prefix)
        if other is not None and other != key:
            if not own:
                return
            self.allowed[other].discard(prefix)
        self.carriers[prefix] = key
        self.allowed[key].add(prefix)

    def routes_through(self, network: Network, name: str, member: Member) -> set[Prefix]:
        """The prefixes behind a peer in a routed network: its LANs, and for a hub all pools and LANs of the network."""
        if network.hub != name:
            return set(member.routes)
        pools = {pool for pool in (network.ipv4, network.ipv6) if pool is not None}
        others = (n for n in network.member_names if n != self.me.name)
        return pools | {route for other in others for route in self.document.members[other].routes}

    def route(self, destination: Prefix, source: Address, path: str) -> None:
        # Several networks may offer the same LAN; the kernel takes one route to it.
        self.routes.setdefault(destination, Route(destination, WIREGUARD_LINK, source, path))

    def unreachable(self) -> frozenset[Prefix]:
        """Prefixes that must not leave by other links when ours is gone: the pools, and the LANs behind gateways.

        Not a default route: the host had one before us, and an unreachable route would never be used.
        """
        held: set[Prefix] = set()
        lengths: dict[int, set[int]] = {4: set(), 6: set()}
        bits: set[tuple[int, int, int]] = set()
        underlay = (derive.underlay_prefix(),) if self.underlays else ()
        for prefix in sorted({*self.pools, *underlay, *self.routes}, key=lambda prefix: prefix.prefixlen):
            # As numbers: there may be twenty thousand, and objects would cost more than the rest of the method.
            version, length, most = prefix.version, prefix.prefixlen, prefix.max_prefixlen
            number = int(prefix.network_address)
            covered = ((version, wider, number >> (most - wider)) in bits for wider in lengths[version])
            if length and not any(covered):
                held.add(prefix)
                lengths[version].add(length)
                bits.add((version, length, number >> (most - length)))
        return frozenset(held)

    def segment(self, network: Network, own: Mapping[int, Address]) -> None:
        link = derive.segment_name(network.id)
        local = derive.underlay(self.key)
        self.underlays.add(local)
        flood: set[Address] = set()
        evaluator = Evaluator(self.document, network)
        for name, member, key in self.peers_of(network):
            if member.stock and self.document.mediators:
                continue  # a stock app has no segment to flood to
            if key in self.live:
                flood.add(derive.underlay(key))
            mac = derive.mac(network.id, key)
            inner = frozenset((*self.addresses_of(network, name), link_local(mac)))
            kinds = evaluator.ethertypes(name, self.me.name)
            vni = derive.vni(network.id)
            self.bindings.add(SourceBinding(link, derive.underlay(key), mac, inner, vni, kinds))
        pools = {4: network.ipv4, 6: network.ipv6}
        on_link = set()
        for address in own.values():
            pool = pools[address.version]
            on_link.add((address, pool.prefixlen if pool is not None else address.max_prefixlen))
        self.segments[link] = SegmentLink(
            name=link,
            network=network.name,
            vni=derive.vni(network.id),
            mtu=min(network.mtu or DEFAULT_MTU, link_mtu(self.document, self.me) - SEGMENT_OVERHEAD),
            mac=derive.mac(network.id, self.key),
            local=local,
            addresses=frozenset(on_link),
            flood=frozenset(flood),
        )
        # Unicast leaves by the tunnel link, but broadcast comes in by the segment: strict reverse-path
        # filtering (RFC 3704) would drop the broadcast.
        self.sysctls[f"net/ipv4/conf/{link}/rp_filter"] = "2"
        if self.segments[link].mtu >= IPV6_MIN_MTU:  # with less, the link has no IPv6 and no such parameter
            self.sysctls[f"net/ipv6/conf/{link}/addr_gen_mode"] = "0"

    def filter(self, network: Network, own: Mapping[int, Address]) -> None:
        is_hub = network.hub == self.me.name
        routed = network.mode is Mode.ROUTED
        pools = {pool for pool in (network.ipv4, network.ipv6) if pool is not None}
        mine: set[Prefix] = {host_prefix(address) for address in own.values()}
        if not routed:
            mine.update(pool for pool in GROUP_DESTINATIONS if pool.version in own)
            if network.ipv4 is not None:
                mine.add(host_prefix(network.ipv4.broadcast_address))
            mine.add(LINK_LOCAL)
        elif self.me.routes:
            mine.update(self.me.routes)
        if is_hub:
            mine.update(pools)
            for name in network.member_names:
                mine.update(self.document.members[name].routes)
        if routed and (is_hub or self.me.routes):
            passing = {*self.me.routes, *(mine if is_hub else ())}
            # Only where needed: IPv6 forwarding makes a host a router, which ignores router advertisements.
            for key, version in (("net/ipv4/ip_forward", 4), ("net/ipv6/conf/all/forwarding", 6)):
                if any(prefix.version == version for prefix in passing):
                    self.sysctls[key] = "1"
            if network.masquerade:
                self.masquerade.update(
                    (pool, route)
                    for pool in pools
                    for route in self.me.routes
                    if pool.version == route.version
                )
        if network.acls is None:
            sources: set[Prefix] = set(pools)
            if routed:
                for name in network.member_names:
                    sources.update(self.document.members[name].routes)
            else:
                sources.add(LINK_LOCAL)
            rule = FilterRule(f"network {network.name}: all", frozenset(sources), frozenset(mine))
            self.rules.append(rule)
            return
        selection = Selection(self.document, network, lambda name: self.addresses_of(network, name))
        unicast = {host_prefix(address) for address in own.values()}
        sources_of = selection if routed else Selection(self.document, network, partial(self.spoken, network))
        if routed:
            unicast = mine
        for acl in network.acls:
            if acl.proto == "ethernet":
                continue
            src = sources_of.prefixes(acl.src)
            dst = overlap(selection.prefixes(acl.dst), unicast)
            if dst and not routed:
                dst |= mine  # broadcast and multicast have the receiving member as their destination
            if src and dst:
                name = f"{network.name}: {acl.name}"
                self.rules.append(FilterRule(name, src, frozenset(dst), acl.proto, acl.ports))
        self.towards_stock(network, selection, unicast)

    def guards(self, networks: Iterable[Network], listen_port: int) -> Guards:
        """The addresses that belong to our links only, for all networks of this host together."""
        pools: set[Prefix] = set()
        leases: set[Address] = set()
        ends: set[Prefix] = set()
        for network in networks:
            mine = {pool for pool in (network.ipv4, network.ipv6) if pool is not None}
            pools |= mine
            leases.update(self.own_by_family(network).values())
            if network.mode is Mode.LAN:
                ends.update(end for pool in mine for end in ends_of(pool))
        underlay = derive.underlay_prefix()
        sources = {*pools, underlay}
        lans = self.me.routes if any(network.mode is Mode.ROUTED for network in networks) else ()
        behind = {prefix for prefix in self.routes if not any(contains(own, prefix) for own in sources)}
        return Guards(
            sources=frozenset(sources),
            destinations=frozenset({underlay, *ends, *map(host_prefix, leases)}),
            leases=frozenset(leases),
            lans=frozenset(lans),
            remote=frozenset({*pools, *behind}),
            vnis=frozenset(segment.vni for segment in self.segments.values()),
            listen_port=listen_port,
        )

    def spoken(self, network: Network, name: str) -> tuple[Address, ...]:
        """A member's source addresses in a segment: IPv6 multicast comes from the link-local address."""
        key = self.document.members[name].wireguard
        own = self.addresses_of(network, name)
        return (*own, link_local(derive.mac(network.id, key))) if key is not None else own

    def towards_stock(self, network: Network, selection: Selection, mine: set[Prefix]) -> None:
        """Add rules for sending to members without netctl: the senders enforce the ACLs for these members."""
        stock: set[Prefix] = set()
        for name, member, _ in self.peers_of(network):
            if member.stock:
                stock.update(host_prefix(address) for address in self.addresses_of(network, name))
                if network.mode is Mode.ROUTED:
                    stock.update(member.routes)
        if not stock:
            return
        self.stock.update(stock)
        for acl in network.acls or ():
            src = overlap(selection.prefixes(acl.src), mine)
            dst = overlap(selection.prefixes(acl.dst), stock)
            if src and dst and acl.proto != "ethernet":
                rule = FilterRule(
                    f"{network.name}: {acl.name}", frozenset(src), frozenset(dst), acl.proto, acl.ports
                )
                self.sending.append(rule)

    def fixed_endpoint(self, member: Member) -> SocketAddress | None:
        if self.document.mediators or not member.endpoints:
            return None
        for endpoint in member.endpoints:
            known = self.resolved.get(str(endpoint))
            if known is not None:
                return known
            try:
                return SocketAddress.of(endpoint.host, endpoint.port)
            except ValueError:
                continue
        names = ", ".join(str(endpoint) for endpoint in member.endpoints)
        self.conditions.append(Condition(member.name, f"its endpoint does not resolve: {names}"))
        return None

    def peers(self) -> dict[WireGuardKey, Peer]:
        peers = {}
        for name, member in self.document.members.items():
            key = member.wireguard
            if key is None or key not in self.allowed or member.state is MemberState.ABSENT:
                continue
            endpoint = self.fixed_endpoint(member)
            prefixes = frozenset(self.allowed[key])
            lazy = bool(self.document.mediators) and key not in self.kept_open
            keepalive_s = 0 if lazy else KEEPALIVE_S  # a keepalive would open the tunnel
            peers[key] = Peer(key, prefixes, endpoint, keepalive_s, f"members.{name}", lazy=lazy)
        return peers


def overlap(wanted: Iterable[Prefix], mine: set[Prefix]) -> set[Prefix]:
    """The part of `wanted` that lies in `mine`, as prefixes."""
    found: set[Prefix] = set()
    for prefix in wanted:
        if prefix in mine:
            found.add(prefix)
            continue
        for own in mine:
            if contains(own, prefix):
                found.add(prefix)
            elif contains(prefix, own):
                found.add(own)
    return found


def ends_of(pool: Prefix) -> Iterator[Prefix]:
    """Addresses that every host on a link with this pool has: broadcast (RFC 919), anycast (RFC 4291 §2.6.1)."""
    if pool.max_prefixlen - pool.prefixlen < 2:
        return  # a link with two addresses has neither (RFC 3021, RFC 6164)
    yield host_prefix(pool.network_address)
    if pool.version == 4:
        yield host_prefix(pool.broadcast_address)


def link_local(mac: str) -> IPv6Address:
    """The EUI-64 link-local address of a MAC (RFC 4291 appendix A)."""
    raw = bytearray.fromhex(mac.replace(":", ""))
    raw[0] ^= 0x02
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes(raw[:3]) + b"\xff\xfe" + bytes(raw[3:]))


def resolve(
    document: Document,
    name: str,
    view: View | None,
    *,
    live: frozenset[WireGuardKey] = frozenset(),
    resolved: Mapping[str, SocketAddress] | None = None,
) -> Resolution:
    """The desired state of the host of member `name`.

    `view`: the mediator's view, None without one. With mediators, a peer's key must be in the document and in the
    view; a member of only the view, which joined by invite, is added where the document permits invites. `live`:
    peers with a live session, the only ones that broadcast is copied to. `resolved`: addresses of fixed endpoints by
    ``str(Endpoint)``, looked up by the caller. Raises LocalError when the document has no such member.
    """
    document, waiting = with_guests(document, guests_in(document, view))
    me = document.members.get(name)
    if me is None or me.wireguard is None or me.state is MemberState.ABSENT:
        raise LocalError(f"the document has no present member '{name}'")
    resolver = _Resolver(document, me, me.wireguard, view, live, resolved or {})
    resolver.conditions += [Condition(guest, reason) for guest, reason in waiting.items()]
    networks = document.networks_of(name)
    for network in networks:
        resolver.network(network)
        resolver.own_lease(network)
    if not networks:
        return Resolution(HostState(), (Condition(name, "belongs to no network"),))
    link = WireGuardLink(
        key=me.wireguard,
        listen_port=me.listen_port or DEFAULT_LISTEN_PORT,
        mtu=link_mtu(document, me),
        addresses=frozenset(resolver.link_addresses),
        peers=resolver.peers(),
        underlay=frozenset(resolver.underlays),
    )
    table = FilterTable(
        links=frozenset({WIREGUARD_LINK, *resolver.segments}),
        rules=tuple(resolver.rules),
        bindings=frozenset(resolver.bindings),
        masquerade=frozenset(resolver.masquerade),
        stock=frozenset(resolver.stock),
        sending=tuple(resolver.sending),
        guards=resolver.guards(networks, link.listen_port),
    )
    state = HostState(
        wireguard=link,
        segments=resolver.segments,
        routes=frozenset(resolver.routes.values()),
        unreachable=resolver.unreachable(),
        filter=table,
        names={host: addresses for host, addresses in sorted(resolver.names.items()) if addresses},
        sysctls=resolver.sysctls,
    )
    return Resolution(state, tuple(resolver.conditions))
