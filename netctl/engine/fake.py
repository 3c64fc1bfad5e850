"""A fake engine for tests: it holds a HostState and applies changes to it.

It removes what a kernel removes by itself: routes with their link or their source address, segments with the link
under them. It refuses a route from an address that the host does not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netctl.engine.api import Restored
from netctl.model.addresses import Address, Prefix, SocketAddress
from netctl.model.errors import EngineError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import FilterTable, HostState, Opening, PeerStatus, Route, WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.model.packetfilter import PacketFilter
from netctl.plan import Change
from netctl.plan import changes as c
from netctl.plan.renames import renamed


class FakeEngine:
    """An engine in memory. `fail_at`: the number of the step (from 1) that raises, for tests of roll-back.

    `fail_with`: the exception to raise instead of an EngineError.
    """

    kind = "fake"

    def __init__(
        self,
        state: HostState | None = None,
        fail_at: int | None = None,
        fail_with: BaseException | None = None,
    ) -> None:
        self.state = state or HostState()
        self.status: dict[WireGuardKey, PeerStatus] = {}
        self.endpoints: dict[WireGuardKey, SocketAddress] = {}
        self.applied: list[Change] = []
        self.fail_at = fail_at
        self.fail_with = fail_with
        self.strangers = Foreign()

    def read(self) -> HostState:
        """The present state."""
        return self.state

    def foreign(self) -> Foreign:
        """The value of `strangers`, which a test sets."""
        return self.strangers

    def packet_filter(self) -> PacketFilter:
        """The packet filter in `strangers`, which a test sets."""
        return self.strangers.packet_filter

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """The value of `status`, which a test sets."""
        return self.status

    def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Remember the endpoints in `endpoints`; the status of peers in `anew` is forgotten."""
        self.endpoints.update(endpoints)
        for key in anew & self.status.keys():
            self.status = {**self.status, key: PeerStatus(self.status[key].endpoint, 0, 0, 0)}

    def link_stands(self) -> bool:
        """Whether the state has a WireGuard link."""
        return self.state.wireguard is not None

    def tables_stand(self) -> bool:
        """Always True: no other program changes the fake's table."""
        return True

    def restore_tables(self) -> Restored:
        """Nothing to restore."""
        return Restored()

    def restore_routes(self, desired: HostState) -> int:
        """Nothing to restore."""
        return 0

    def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Remember the sizes in `sizes`."""
        self.sizes = dict(sizes)

    def troubles(self) -> tuple[str, ...]:
        """None."""
        return ()

    def retry(self) -> None:
        """Nothing to retry."""

    def listen_port(self) -> int:
        """The port of the link; 0 without a link."""
        return self.state.wireguard.listen_port if self.state.wireguard else 0

    def data_path(self) -> str:
        """Empty: the fake moves no packets."""
        return ""

    def faults(self) -> int:
        """Always 0."""
        return 0

    def close(self) -> None:
        """Nothing to close."""

    def _link(self) -> WireGuardLink:
        if self.state.wireguard is None:
            raise EngineError("there is no WireGuard link")
        return self.state.wireguard

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Do several steps in order, or none of them where one would fail, as with one request for all."""
        if self.fail_at is not None and 0 < self.fail_at - len(self.applied) <= len(changes):
            raise self._failure()
        for change in changes:
            self.apply(change)

    def apply(self, change: Change) -> None:
        """Do one step."""
        self.applied.append(change)
        if self.fail_at is not None and len(self.applied) == self.fail_at:
            raise self._failure()
        self.state = settled(self._after(change))

    def _failure(self) -> BaseException:
        return self.fail_with or EngineError(f"failing at step {self.fail_at}, as asked")

    def _after(self, change: Change) -> HostState:
        state = self.state
        match change:
            case c.CreateWireGuard(link):
                bare = replace(link, peers={}, addresses=frozenset(), underlay=frozenset())
                return replace(state, wireguard=bare)
            case c.SetWireGuard(link, _):
                mine = self._link()
                port = link.listen_port or mine.listen_port
                return replace(state, wireguard=replace(mine, key=link.key, listen_port=port, mtu=link.mtu))
            case c.DeleteWireGuard():
                return replace(state, wireguard=None)
            case c.RenameLink(before, after):
                return renamed(state, {before: after})
            case c.SetPeer(_, peer):
                link = self._link()
                taken = peer.allowed_ips
                others = {
                    key: replace(other, allowed_ips=other.allowed_ips - taken)
                    for key, other in link.peers.items()
                    if key != peer.key
                }
                return replace(state, wireguard=replace(link, peers={**others, peer.key: peer}))
            case c.RemovePeer(_, key):
                link = self._link()
                peers = {k: peer for k, peer in link.peers.items() if k != key}
                return replace(state, wireguard=replace(link, peers=peers))
            case c.CreateSegment(segment):
                self._link()
                fresh = settled(_without(state, segment.name))
                return replace(fresh, segments={**fresh.segments, segment.name: segment})
            case c.SetSegmentMtu(name, mtu):
                segment = replace(state.segments[name], mtu=mtu)
                return replace(state, segments={**state.segments, name: segment})
            case c.DeleteSegment(name):
                return _without(state, name)
            case c.AddFlood(name, destination) | c.RemoveFlood(name, destination):
                segment = state.segments[name]
                adds = isinstance(change, c.AddFlood)
                flood = segment.flood | {destination} if adds else segment.flood - {destination}
                return replace(state, segments={**state.segments, name: replace(segment, flood=flood)})
            case c.AddAddress() | c.RemoveAddress():
                return self._address(change)
            case c.SetRoute(route) | c.RemoveRoute(route):
                if isinstance(change, c.SetRoute) and not _possible(state, route):
                    raise EngineError(f"the host has no {route.link} or no address {route.source}")
                same = (route.destination, route.link)
                others_ = frozenset(r for r in state.routes if (r.destination, r.link) != same)
                return replace(state, routes=others_ | {route} if isinstance(change, c.SetRoute) else others_)
            case c.AddUnreachable(prefix):
                return replace(state, unreachable=state.unreachable | {prefix})
            case c.RemoveUnreachable(prefix):
                return replace(state, unreachable=state.unreachable - {prefix})
            case c.SetFilter(table):
                return replace(state, filter=table)
            case c.RemoveFilter():
                return replace(state, filter=None)
            case c.RemoveRewrites():
                return replace(state, rewrites=False)
            case c.SetNames(names):
                return replace(state, names=dict(names))
            case c.OpenFirewall(opening):
                return replace(state, openings=frozenset({*_beside(state, opening), opening}))
            case c.CloseFirewall(opening):
                return replace(state, openings=frozenset(_beside(state, opening)))
            case c.SetSysctl(key, value):
                return replace(state, sysctls={**state.sysctls, key: value})
            case c.RestoreSysctl(key):
                return replace(state, sysctls={k: v for k, v in state.sysctls.items() if k != key})

    def _address(self, change: c.AddAddress | c.RemoveAddress) -> HostState:
        adds = isinstance(change, c.AddAddress)
        if change.link in self.state.segments:
            segment = self.state.segments[change.link]
            item = (change.address, change.prefix_len)
            addresses = segment.addresses | {item} if adds else segment.addresses - {item}
            segments = {**self.state.segments, change.link: replace(segment, addresses=addresses)}
            return replace(self.state, segments=segments)
        link = self._link()
        have = link.addresses | link.underlay
        have = have | {change.address} if adds else have - {change.address}
        return replace(self.state, wireguard=replace(link, addresses=have, underlay=frozenset()))


def _without(state: HostState, segment: str) -> HostState:
    segments = {name: device for name, device in state.segments.items() if name != segment}
    sysctls = {key: value for key, value in state.sysctls.items() if f"/{segment}/" not in key}
    return replace(state, segments=segments, sysctls=sysctls)


def _own_addresses(state: HostState) -> set[Address]:
    link = state.wireguard
    own = set(link.addresses | link.underlay) if link is not None else set()
    return own.union(*({address for address, _ in device.addresses} for device in state.segments.values()))


def _possible(state: HostState, route: Route) -> bool:
    there = route.link in state.segments or (
        state.wireguard is not None and route.link == state.wireguard.name
    )
    return there and (route.source is None or route.source in _own_addresses(state))


def settled(state: HostState) -> HostState:
    """The state after the kernel has removed objects that depend on a removed one."""
    if state.wireguard is None:
        for name in state.segments:
            state = _without(state, name)
    return replace(state, routes=frozenset(route for route in state.routes if _possible(state, route)))


def empty_filter() -> FilterTable:
    """An empty table, as which a table reads that was changed by hand."""
    return FilterTable(frozenset(), ())


def _beside(state: HostState, opening: Opening) -> set[Opening]:
    return {one for one in state.openings if replace(one, stands=True) != replace(opening, stands=True)}
