"""Runs the path manager on the host: datagrams on the shared port, timers, and the engine's endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from msgspec import structs

from netctl.agent.log import warn
from netctl.agent.mediators.proxy import proxy_for
from netctl.agent.storage.keyfiles import Keys
from netctl.agent.transport.doorbells import Doorbells
from netctl.agent.transport.mapper import PortMapRunner
from netctl.agent.transport.relayplaces import Places, RelayPlaces
from netctl.agent.transport.relaytls import RelayTls
from netctl.agent.transport.sideports import BatchRunner
from netctl.engine.filter.rewrites import Rewrites
from netctl.engine.links.routelookup import SourceLookup
from netctl.engine.port.sharedport import SharedPort, open_shared_port
from netctl.model.addresses import Address, Prefix, SocketAddress
from netctl.model.document import Mediator
from netctl.model.errors import EngineError, LocalError
from netctl.model.hoststate import WIREGUARD_LINK, PeerStatus, changed_peers
from netctl.model.keys import WireGuardKey
from netctl.node.ownport import PortState
from netctl.node.snapshot import TunnelStatus
from netctl.paths.behaviour import NOT_ASKED, Behaviour
from netctl.paths.constants import LAZY_IDLE
from netctl.paths.effects import (
    AnotherPort,
    CloseBatch,
    Effect,
    Fold,
    LimitSize,
    LivenessChanged,
    LookSoon,
    OpenBatch,
    OpenTunnel,
    PathChanged,
    PathStatus,
    Rewrite,
    SendControl,
    SendDatagram,
    SendEcho,
    SendFrame,
    SendFrom,
    SendThrough,
    SetEndpoint,
    StandIn,
    WantTunnel,
)
from netctl.paths.filtering import Filtering4787
from netctl.paths.manager import PathManager
from netctl.paths.portmap import MapStatus
from netctl.paths.predict import Allocation
from netctl.paths.relaychoice import BESIDE
from netctl.system.guard import Guard
from netctl.system.tasks import RESTART_S, Tasks
from netctl.wire.control import Candidate, Candidates, Introduction, Punch, RelayGrant, RelayRequest
from netctl.wire.nat64 import Translation

Steer = Callable[[Mapping[WireGuardKey, SocketAddress], frozenset[WireGuardKey]], Awaitable[None]]
"""Sets the endpoints of peers in the engine, and has it forget its handshakes with some. Raises EngineError."""
GATHER_S = 0.05
"""Pairs that open or fold up within this are told together: each telling costs as much as there are open pairs."""
AGAIN_S = 1.0
"""Seconds to the next look at an engine that could not be told endpoints: `observe` then tells it again."""


class PathRunner:
    """Runs one PathManager. All methods are for the agent's event loop."""

    def __init__(
        self,
        keys: Keys,
        steer: Steer,
        send_control: Callable[[Candidates | RelayRequest], None],
        on_change: Callable[[WireGuardKey, PathStatus], None],
        rewrites: Rewrites,
        guard: Guard | None = None,
        *,
        through: Callable[[WireGuardKey], None] = lambda _: None,
        echo: Callable[[WireGuardKey, bytes], None] = lambda _, __: None,
        on_liveness: Callable[[], None] = lambda: None,
        look_soon: Callable[[float], None] = lambda _: None,
        limit_size: Callable[[LimitSize], None] = lambda _: None,
        another_port: Callable[[str], None] = lambda _: None,
        on_open: Callable[[frozenset[WireGuardKey]], None] = lambda _: None,
        idle_s: float = LAZY_IDLE,
    ) -> None:
        """`guard` counts input with unexpected exceptions.

        `through` sends a small packet through the tunnel to a peer; `echo` sends an echo request through it, whose
        reply goes to `echoed`; `on_liveness` is called when a peer stops or starts answering; `look_soon` has `observe`
        called in some seconds; `limit_size` limits packets to a peer to so many bytes; `another_port` has the engine
        listen on another port; `on_open` is told the peers with an agent whose pairs are open, when they change.
        """
        self._another_port = another_port
        self._on_open = on_open
        self._open_change = 0
        self._asked = 0
        self._told_open_at = float("-inf")
        self._opening: asyncio.TimerHandle | None = None
        """When `on_open` is told of the pairs that have opened or folded up since."""
        self._limit_size = limit_size
        self._through = through
        self._echo = echo
        self._on_liveness = on_liveness
        self._look_soon = look_soon
        self._guard = guard if guard is not None else Guard(warn)
        self._tasks = Tasks(self._guard)
        private = keys.wireguard_private.private_bytes_raw()
        epoch_s = time.time() - time.monotonic()
        self._manager = PathManager(
            keys.wireguard,
            private,
            secrets.token_bytes,
            epoch_s=epoch_s,
            idle_s=idle_s,
            seen_as=self._seen_as,
        )
        self._steer = steer
        self._send_control = send_control
        self._on_change = on_change
        self._port: SharedPort | None = None
        self._opened: tuple[str, int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._to_steer: dict[WireGuardKey, SocketAddress] = {}
        """Endpoints that the engine is told next, all in one call."""
        self._to_steer_grew = asyncio.Event()
        self._to_open: dict[WireGuardKey, bool] = {}
        """Tunnels to open once the engine has been told these endpoints, and whether with a new handshake."""
        self._observed: Mapping[WireGuardKey, PeerStatus] = {}
        """What `observe` was given last."""
        self._unsure = True
        """Whether the engine may lack an endpoint although no status has changed: one was set, or a call failed."""
        self._steered: dict[WireGuardKey, SocketAddress] = {}
        """The last endpoint wanted for each peer; a restarted engine must be told again."""
        self._mapper = PortMapRunner(private, self._mapped, self._guard)
        self._tls = RelayTls(self._tunnel, self._frame, self._guard)
        self._doorbells = Doorbells(self._ring, self._guard)
        self.lazy: frozenset[WireGuardKey] = frozenset()
        """The peers whose tunnels open with the first packet."""
        self.resting = False
        """Whether all peers are folded up."""
        self._batches = BatchRunner(rewrites, self._batch_opened, self._batch_heard, self._guard)
        self._addresses: Sequence[Address] = ()
        self._guessing = True
        self._inside: frozenset[Prefix] = frozenset()
        self._sources = SourceLookup()
        self._nat64 = Translation()
        self._stun: Sequence[SocketAddress] = ()
        self._grants: dict[tuple[str, str], tuple[RelayGrant, tuple[SocketAddress, ...]]] = {}
        """The last grant for each peer and relay, with the relay's addresses as received."""
        self._places = RelayPlaces(self._relays_found, self._guard)
        self._relays: Places = {}
        self._circles: Mapping[str, frozenset[WireGuardKey]] = {}
        self._apart: tuple[Mediator, ...] = ()
        self._beside: tuple[Mediator, ...] = ()
        """The mediators whose relays have names: none if the document has one mediator."""
        self._names = False
        """Whether a mediator has said that it gives grants at the relays beside others."""
        self._at: Mediator | None = None
        """The mediator of the present or last connection."""
        self._home = BESIDE
        """The name of the relay beside it; `BESIDE` while names are of no use."""
        self._tasks.keep("setting endpoints", self._steer_all)

    async def release(self) -> None:
        """Before `close`: remove a port mapping that never expires at the router."""
        await self._mapper.release()

    def close(self) -> None:
        """Close the port and the timers; the engine's endpoints stay."""
        self._tasks.cancel()
        self._mapper.close()
        self._tls.close()
        self._doorbells.close()
        self._places.close()
        self._batches.close()
        for timer in (self._timer, self._opening):
            if timer is not None:
                timer.cancel()
        self._close_port()

    def _close_port(self) -> None:
        if self._port is not None:
            asyncio.get_running_loop().remove_reader(self._port.fileno())
            self._port.close()
        self._port = None
        self._opened = None

    def use_port(self, kind: str, listen_port: int) -> None:
        """Share the engine's port; 0: there is none. Raises EngineError."""
        wanted = (kind, listen_port) if listen_port else None
        if wanted == self._opened:
            return
        self._close_port()
        self._manager.port_changed()
        self._tls.engine(listen_port)
        self._doorbells.engine(listen_port)
        if earlier := self._batches.use_port(listen_port):
            self._manager.adopt(earlier, time.monotonic())
        if wanted is None:
            self._mapper.look(0, wanted=False)
        else:
            self._port = open_shared_port(kind, WIREGUARD_LINK, listen_port)
            self._opened = wanted
            self._manager.port_opened()
            asyncio.get_running_loop().add_reader(self._port.fileno(), self._readable)

    def engine_gone(self) -> None:
        """The engine has ended: close the port, and tell the next engine all endpoints."""
        self._close_port()
        self._tell_engine(self._steered)

    def _want_endpoint(self, key: WireGuardKey, endpoint: SocketAddress) -> None:
        self._steered[key] = endpoint
        self._tell_engine({key: endpoint})

    def _tell_engine(self, endpoints: Mapping[WireGuardKey, SocketAddress]) -> None:
        self._to_steer.update(endpoints)
        self._to_steer_grew.set()
        self._unsure = True

    async def _steer_all(self) -> None:
        while True:
            await self._to_steer_grew.wait()
            self._to_steer_grew.clear()
            endpoints, self._to_steer = self._to_steer, {}
            to_open, self._to_open = self._to_open, {}
            anew = frozenset(key for key, is_anew in to_open.items() if is_anew)
            try:
                if endpoints or anew:
                    await self._steer(endpoints, anew)
            except EngineError:
                self._unsure = True
                self._look_soon(AGAIN_S)
            except Exception as error:
                self._unsure = True
                self._guard.caught("endpoints", error)
                self._look_soon(AGAIN_S)
            for key in to_open:
                self._guard.run("a tunnel to open", self._through, key)

    def _steer_again(self, statuses: Mapping[WireGuardKey, PeerStatus], keys: Iterable[WireGuardKey]) -> None:
        """Tell the engine again which endpoints it does not have: a call failed, or a peer was removed and added.

        The path manager itself defends the endpoints of open pairs against all but these two: no endpoint, and a
        doorbell.
        """
        for key in keys:
            seen, wanted = statuses[key], self._steered.get(key)
            if wanted is None or seen.endpoint == wanted or key in self._to_steer:
                continue
            lost = seen.endpoint is None or self._doorbells.is_one(seen.endpoint)
            if lost or self._manager.is_folded(key):
                self._tell_engine({key: wanted})

    def _readable(self) -> None:
        if self._port is not None:
            for data, source in self._port.receive():
                self._guard.run("a datagram", self._datagram, data, source)

    def _datagram(self, data: bytes, source: SocketAddress) -> None:
        self._perform(self._manager.handle_datagram(data, self._nat64.inward(source), time.monotonic()))

    def _ring(self, key: WireGuardKey, datagram: bytes) -> None:
        self._perform(self._manager.ring(key, datagram, time.monotonic()))

    def _tunnel(self, up: bool, relay: str) -> None:
        self._perform(self._manager.tunnel(up, time.monotonic(), relay))

    def _frame(self, port: int, data: bytes) -> None:
        self._perform(self._manager.handle_frame(port, data, time.monotonic()))

    def _batch_opened(self, batch: int, ports: tuple[int, ...]) -> None:
        self._perform(self._manager.batch_opened(batch, ports, time.monotonic()))

    def _batch_heard(self, batch: int, index: int, data: bytes, source: SocketAddress) -> None:
        there = self._nat64.inward(source)
        self._perform(self._manager.handle_batch(batch, index, data, there, time.monotonic()))

    def _due(self) -> None:
        self._timer = None
        try:
            self._perform(self._manager.handle_timer(time.monotonic()))
        except Exception as error:
            self._guard.caught("a timer of the paths", error)
            self._schedule(at_least_s=RESTART_S)  # the timer may be due again at once

    def _perform(self, effects: Sequence[Effect]) -> None:
        asked, self._asked = self._asked, self._manager.presence_asked
        if asked != self._asked and time.monotonic() - self._told_open_at >= GATHER_S:
            self._tell_open()  # before the request to the relay, whose answer then comes after this one's
        for effect in effects:
            try:
                self._do(effect)
            except Exception as error:  # the other effects are of other pairs
                self._guard.caught(f"what a path wants ({type(effect).__name__})", error)
        self._schedule()
        if self._open_change != self._manager.open_change and self._opening is None:
            self._opening = asyncio.get_running_loop().call_later(GATHER_S, self._tell_open)
        rested, self.resting = self.resting, self._manager.resting
        if rested and not self.resting:
            self._look_soon(0.0)

    def _tell_open(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        self._opening, self._told_open_at = None, time.monotonic()
        self._open_change = self._manager.open_change
        self._guard.run("the open pairs", self._on_open, self._manager.open_peers)

    def _do(self, effect: Effect) -> None:
        match effect:
            case SendDatagram(destination, data, ttl, whole):
                rests = self._manager.port_rests(destination, time.monotonic())
                if self._port is not None and not rests and not self._over_our_links(destination):
                    self._port.send(self._outward(destination), data, ttl, whole=whole)
            case SendFrame(port, data):
                self._tls.send(port, data)
            case SendFrom(_, _, destination, _) if self._over_our_links(destination):
                pass
            case SendFrom():
                self._batches.perform(replace(effect, destination=self._outward(effect.destination)))
            case OpenBatch() | CloseBatch() | Rewrite():
                self._batches.perform(effect)
            case SendThrough(key, count):
                for _ in range(count):
                    self._through(key)
            case OpenTunnel(key, anew):
                self._to_open[key] = anew or self._to_open.get(key, False)
                self._to_steer_grew.set()
            case SendEcho(key, transaction):
                self._echo(key, transaction)
            case LivenessChanged():
                self._on_liveness()
            case LookSoon(after_s):
                self._look_soon(after_s)
            case AnotherPort(why):
                self._another_port(why)
            case LimitSize():
                self._limit_size(effect)
            case WantTunnel(wanted):
                self._tls.want(wanted)
            case StandIn(address, wanted):
                if wanted:
                    self._move_doorbells(address.port)
                self._tls.stand_in(address, wanted)
            case SendControl(message):
                self._send_control(message)
            case SetEndpoint(_, endpoint) if self._over_our_links(endpoint):
                pass  # the tunnel's packets would go into the tunnel
            case SetEndpoint(key, endpoint):
                self._want_endpoint(key, self._outward(endpoint))
            case Fold(key):
                if (doorbell := self._doorbells.of(key)) is not None:
                    self._want_endpoint(key, doorbell)
            case PathChanged(key, status):
                self._on_change(key, status)
                if status.kind in ("relay-udp", "relay-tls", "none") and self._mapper.mapping is not None:
                    self._mapper.check()  # the router may have restarted and lost the mapping

    def _move_doorbells(self, port: int) -> None:
        """Let the doorbells leave a port that a stand-in needs."""
        for key, doorbell in self._doorbells.leave(port).items():
            before = self._steered.get(key)
            if before is not None and before.host == doorbell.host:
                self._want_endpoint(key, doorbell)

    def _over_our_links(self, destination: SocketAddress) -> bool:
        """Whether the kernel would route this into a tunnel: to an overlay address, or over a route to a gateway."""
        source = self._sources.find(destination.address, time.monotonic()) if self._inside else None
        return source is not None and any(source in prefix for prefix in self._inside)

    def _outward(self, destination: SocketAddress) -> SocketAddress:
        """The address to send to: in the NAT64's prefix for an IPv4 address without a route."""
        if not self._nat64.prefixes or destination.is_ipv6:
            return destination
        routed = self._sources.find(destination.address, time.monotonic()) is not None
        return destination if routed else self._nat64.outward(destination)

    def _schedule(self, at_least_s: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._manager.next_timer()
        if due is not None:
            delay = max(due - time.monotonic(), at_least_s)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    # -- input of the agent ---------------------------------------------------------------------------------

    def peers(
        self,
        keys: frozenset[WireGuardKey],
        stock: frozenset[WireGuardKey] = frozenset(),
        *,
        lazy: frozenset[WireGuardKey] = frozenset(),
        live: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Set the peers to have paths to; `stock`: those without an agent.

        `lazy`: those whose tunnels open with the first packet; `live`: those with a session.
        """
        self.lazy = lazy if lazy and self._doorbells.open() else frozenset()
        self._doorbells.keep(self.lazy)
        self._steered = {key: endpoint for key, endpoint in self._steered.items() if key in keys}
        named = {str(key) for key in keys}
        self._grants = {what: grant for what, grant in self._grants.items() if what[0] in named}
        now = time.monotonic()
        self._perform(self._manager.set_peers(keys, now, stock=stock, lazy=self.lazy, live=live))

    def tunnel_mtu(self, mtu: int) -> None:
        """Set the MTU of this host's tunnels, in bytes."""
        self._perform(self._manager.set_mtu(mtu, time.monotonic()))

    def inside(self, prefixes: Iterable[Prefix]) -> None:
        """Set the prefixes inside the tunnels: the pools of this host's networks, and the underlay of segments."""
        self._inside = frozenset(prefixes)
        self._perform(self._manager.set_inside(self._inside, time.monotonic()))

    def look_around(
        self,
        explicit: Sequence[SocketAddress],
        addresses: Sequence[Address],
        *,
        port_mapping: bool = True,
        port_guessing: bool = True,
        port_fixed: bool = False,
    ) -> None:
        """Set the host's present addresses; `explicit`: endpoints from the document.

        `port_mapping`: whether to ask the router to open the port; `port_guessing`: whether the birthday method is
        allowed; `port_fixed`: whether the document names the port.
        """
        if self._opened is None:
            return
        port = self._opened[1]
        self._guessing = port_guessing
        self._manager.allow_guessing(port_guessing and not self._nat64.prefixes)
        self._manager.fix_port(port_fixed)
        self._mapper.look(port, wanted=port_mapping)
        if addresses != self._addresses:
            self._addresses = addresses
            self._mapper.check()
            self._tls.moved()
        candidates = [Candidate("explicit", str(address)) for address in explicit]
        candidates += [Candidate("host", str(SocketAddress.of(a, port))) for a in addresses]
        self._perform(self._manager.set_local(candidates, time.monotonic()))

    def _mapped(self) -> None:
        mapping = self._mapper.mapping
        found = None if mapping is None else Candidate("mapped", str(mapping.external))
        self._perform(self._manager.set_mapped(found, time.monotonic()))

    def port_mapping(self) -> MapStatus:
        """The port mapping at the router, or why there is none."""
        return self._mapper.status()

    def relay_tls(self) -> TunnelStatus:
        """The state of the TLS connection to the relay, which carries packets if UDP does not."""
        return self._tls.status()

    @property
    def udp_blocked(self) -> bool:
        """Whether the mediator's UDP ports do not answer."""
        return self._port is not None and self._manager.udp_blocked

    def port_state(self) -> PortState:
        """The shared port, and its trouble if there is any."""
        if self._opened is None:
            return PortState()
        rests_s = self._manager.port_rests_s(time.monotonic())
        return PortState(self._opened[1], self._manager.port_verdict, rests_s)

    def logged_in(
        self, stun: Sequence[SocketAddress], mediator: Mediator | None, *, names: bool = False
    ) -> None:
        """The mediator is connected: use its STUN servers and its relay.

        `names`: it gives grants at the relays beside other mediators too.
        """
        now = time.monotonic()
        if names and not self._names:
            self._names = True
            self._use_home(now)  # pairs may be bound at the relay beside the last mediator
        self._at = mediator
        self._use_home(now)
        self._stun = stun
        self._perform(self._manager.set_stun(self._plain(stun), now))
        self._perform(self._manager.control_up(now))

    def _plain(self, addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
        """Servers by their IPv4 addresses, even if a DNS64 or the control connection gave IPv6 ones."""
        return list(dict.fromkeys(self._nat64.inward(address) for address in addresses))

    def use_nat64(self, found: Translation) -> None:
        """Set how this host reaches IPv4 now; servers are asked again at their new addresses."""
        if found == self._nat64:
            return
        self._nat64 = found
        now = time.monotonic()
        self._batches.use_ipv6(bool(found.prefixes))
        # The birthday method needs rewrites of ports, which exist for IPv4 only.
        self._manager.allow_guessing(self._guessing and not found.prefixes)
        self._perform(self._manager.set_stun(self._plain(self._stun), now))
        self._tell_relays(now)
        for grant, servers in self._grants.values():
            self._tell_grant(grant, servers or self._at_relay(grant), now)
        self._perform(self._manager.ways_changed(now))

    def mediator_gone(self) -> None:
        """The mediator is not connected: check every path directly."""
        self._tls.mediator_gone()
        self._perform(self._manager.control_down(time.monotonic()))

    def message(
        self, message: Introduction | Punch | RelayGrant, servers: tuple[SocketAddress, ...] = ()
    ) -> None:
        """Handle a message of the mediator about paths; `servers`: for a grant, the relay's addresses."""
        if isinstance(message, RelayGrant):
            if message.relay:
                self._grants[message.peer, message.relay] = message, ()
                servers = self._at_relay(message)
            else:
                message = structs.replace(message, relay=self._home)
                self._grants[message.peer, self._home] = message, servers
        self._perform(self._manager.handle_message(message, time.monotonic(), tuple(self._plain(servers))))

    def relays(
        self,
        relays: tuple[Mediator, ...],
        circles: Mapping[str, frozenset[WireGuardKey]] | None = None,
        beside: tuple[Mediator, ...] = (),
    ) -> None:
        """Set the relays apart and the mediators whose relays have names: they are looked up.

        `circles`: as in `PathManager.set_relays`.
        """
        circles = circles or {}
        known, self._circles = self._circles, circles
        changed, self._apart, self._beside = beside != self._beside, relays, beside
        self._tls.also(tuple(relay for relay in relays if relay.tls))
        if changed:
            self._use_home(time.monotonic())
        else:
            self._follow_places()
        if circles != known:
            self._tell_relays(time.monotonic())

    def _use_home(self, now: float) -> None:
        """The document, this host's mediator, or what that one grants has changed."""
        named, before = self._names and bool(self._beside), self._home
        self._home = home = self._at.relay_name if named and self._at is not None else BESIDE
        if home != before and BESIDE in (home, before):  # the same relay has another name
            for (peer, name), (grant, servers) in list(self._grants.items()):
                if name == before:
                    self._grants[peer, home] = structs.replace(grant, relay=home), servers
                    del self._grants[peer, name]
        self._perform(self._manager.set_home(home, now))
        if named:  # the same order for all members without UDP, so that two of them come to one relay
            self._tls.use(self._beside, names=True)
        else:
            self._tls.use(() if self._at is None else (self._at,))
        self._follow_places()
        if named or before != BESIDE:
            self._tell_relays(now)

    def _follow_places(self) -> None:
        """Look up the relays that have names."""
        self._places.follow((*(self._beside if self._names else ()), *self._apart))

    def network_changed(self) -> None:
        """Names of relays may mean something else here."""
        self._places.network_changed()

    def _relays_found(self, found: Places) -> None:
        """Where the relays with names are by now."""
        if found == self._relays:
            return
        self._relays = found
        now = time.monotonic()
        self._tell_relays(now)
        for grant, servers in self._grants.values():
            if not servers:
                self._tell_grant(grant, self._at_relay(grant), now)

    def _tell_grant(self, grant: RelayGrant, servers: Iterable[SocketAddress], now: float) -> None:
        self._perform(self._manager.handle_message(grant, now, tuple(self._plain(servers))))

    def _tell_relays(self, now: float) -> None:
        beside = self._beside if self._names else ()
        asked: dict[str, list[SocketAddress]] = {one.relay_name: [] for one in beside}
        for name, hosts in self._relays.items():
            relay = self._places.relay(name)
            if relay is not None:
                asked[name] = self._plain(SocketAddress(host, relay.stun[0]) for host in hosts)
        self._perform(self._manager.set_relays(asked, now, self._circles))

    def _at_relay(self, grant: RelayGrant) -> tuple[SocketAddress, ...]:
        """The relay's port for the peer, at every address that the document's name of it has.

        Where only the proxy can resolve names, at the mediator's, which is the proxy's then: packets go over TLS.
        """
        port = SocketAddress.parse(grant.address).port
        hosts = self._relays.get(grant.relay, ())
        if not self._relays and self._stun and (relay := self._places.relay(grant.relay)) is not None:
            with contextlib.suppress(LocalError):  # a wrong setting of another relay's proxy
                hosts = (self._stun[0].host,) if proxy_for(relay.host) is not None else ()
        return tuple(SocketAddress(host, port) for host in hosts)

    def woke(self, suspended_s: float) -> None:
        """The host stood still, `suspended_s` of that time by suspend: try every path again, and ask for the external
        address and the mapped port again.
        """
        self._perform(self._manager.woke(time.monotonic(), suspended_s))
        self._mapper.check()  # its lease went on

    def routes_changed(self) -> None:
        """Routes have changed, perhaps without a change of addresses: check the relay's paths now."""
        self._tls.prove()
        self._perform(self._manager.check_relays(time.monotonic()))

    def presence(self, online: Mapping[WireGuardKey, bool | None]) -> None:
        """The mediator reports members online, or offline: then their paths are checked. None: not known any more."""
        self._perform(self._manager.peers_online(online, time.monotonic()))

    def presence_in_view(self, online: Mapping[WireGuardKey, bool | None]) -> None:
        """The presence of all peers in the present view: the paths of those are checked whose presence is news."""
        self._perform(self._manager.presence_in_view(online, time.monotonic()))

    def watch(self, for_s: float) -> None:
        """There will be a viewer of this host for `for_s` seconds."""
        now = time.monotonic()
        self._perform(self._manager.watch(now + for_s, now))

    def echoed(self, key: WireGuardKey, transaction: bytes) -> None:
        """A peer has answered an echo request through the tunnel."""
        self._perform(self._manager.echo_answered(key, transaction, time.monotonic()))

    def observe(self, statuses: Mapping[WireGuardKey, PeerStatus]) -> None:
        """Take the engine's status of the peers. A folded peer whose status is the same object costs nothing."""
        now = time.monotonic()
        before, self._observed = self._observed, statuses
        changed = changed_peers(before, statuses)
        effects: list[Effect] = []
        always = self._manager.open_or_new()
        for key in statuses if changed is None else {*changed, *always}:
            if key in statuses:
                effects += self._manager.observe(key, statuses[key], now)
        self._perform(effects)
        unsure, self._unsure = self._unsure, False
        self._steer_again(statuses, statuses if changed is None or unsure else changed)

    def _seen_as(self, seen: PeerStatus) -> PeerStatus:
        """The engine's status of a peer with the peer's own address; a doorbell is none."""
        there = None if seen.endpoint is None else self._nat64.inward(seen.endpoint)
        if there is not None and self._doorbells.is_one(there):
            there = None
        return seen if there == seen.endpoint else replace(seen, endpoint=there)

    def steady(self) -> Mapping[WireGuardKey, str]:
        """The kinds of the present paths of all peers whose tunnels stay open."""
        return self._manager.steady()

    def status(self) -> Mapping[WireGuardKey, PathStatus]:
        """Every peer's present path."""
        return self._manager.status()

    def nat(self) -> tuple[Behaviour, Behaviour, bool | None]:
        """(IPv4, IPv6, hairpin): the known behaviour of the NAT in front of this host; unknown without a port."""
        if self._port is None:
            return NOT_ASKED, NOT_ASKED, None
        return self._manager.nat(time.monotonic())

    @property
    def nat64(self) -> Translation:
        """How this host reaches IPv4 without an IPv4 address."""
        return self._nat64

    def filtering(self) -> Filtering4787:
        """The filtering of the IPv4 NAT or firewall (RFC 4787)."""
        return self._manager.filtering

    def allocation(self) -> Allocation | None:
        """How the IPv4 NAT allocates ports; None: unknown."""
        return self._manager.allocation
