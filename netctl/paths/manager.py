"""The path manager: finds and keeps the best working path to every peer, without I/O (DESIGN §7).

It has one `Pair` state machine for each peer and one `Discovery` for the host. The shell passes it datagrams from the
shared port, messages from the mediator, the engine's observations, and time. It returns effects, which the shell
performs in order. Call `set_local` and `set_stun` before `control_up`: then the first offer has every candidate.
All pairs' deadlines are in one heap, so a thousand idle peers cost nothing between their timers.

Rounds: `Candidates.round` grows whenever a side starts anew. A side that receives a higher round adopts it and offers
its own candidates in it; a side that receives a lower round offers again in its own. So both meet in the highest.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from msgspec import structs

from netctl.model.addresses import Prefix, SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.errors import RemoteError
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.behaviour import Behaviour
from netctl.paths.birthday import Birthdays
from netctl.paths.budget import Bucket
from netctl.paths.candidates import parse_candidates
from netctl.paths.effects import (
    AnotherPort,
    Effect,
    Fold,
    PathChanged,
    PathKind,
    PathStatus,
    Rewrite,
    SendControl,
    WantTunnel,
)
from netctl.paths.filtering import Filtering4787
from netctl.paths.folding import Folded
from netctl.paths.freshness import Numbers
from netctl.paths.liveness import Watch
from netctl.paths.outside import Outside
from netctl.paths.pair import Pair
from netctl.paths.pairstates import PairState
from netctl.paths.pendingintroductions import EarlyIntroductions
from netctl.paths.portjudge import PortJudge, Verdict
from netctl.paths.porttrial import PortTrial
from netctl.paths.predict import Allocation
from netctl.paths.relaychoice import BESIDE
from netctl.paths.relaymeter import RelayMeter
from netctl.paths.routes import Self
from netctl.wire import probe
from netctl.wire.control import Candidate, Candidates, Introduction, Nat, Punch, RelayGrant
from netctl.wire.datagram import DatagramKind, classify

MAX_PUNCH_DELAY_MS = 10_000
"""Longest delay of a punch that is accepted from the mediator."""


class PathManager:
    """Keeps one `Pair` for each peer. `now`: monotonic seconds; methods return effects, in order."""

    def __init__(
        self,
        own_key: WireGuardKey,
        private_key: bytes,
        rng: Callable[[int], bytes],
        *,
        epoch_s: float,
        idle_s: float = c.LAZY_IDLE,
        seen_as: Callable[[PeerStatus], PeerStatus] = lambda status: status,
    ) -> None:
        """`private_key`: the X25519 key of `own_key`; `rng(n)`: n random bytes.

        `epoch_s`: the Unix time at which `now` was 0, by this host's clock at the start: pings are numbered by
        it. `idle_s`: seconds without data after which a lazy pair is folded up (`netctl.paths.folding`).
        `seen_as`: changes an engine's status to one with the peer's own address as endpoint, or none. Called
        for open pairs only.
        """
        self._private = private_key
        self._rng = rng
        self._me = Self(own_key)
        self._local: list[Candidate] = []
        self._mapped: Candidate | None = None
        self._pairs: dict[WireGuardKey, Pair] = {}
        self.open_change = 0
        """Changes whenever `open_peers` does."""
        self.presence_asked = 0
        """Count of pairs that have opened and wait for the word of the mediator, which is to be asked at once."""
        self._by_tag: dict[bytes, Pair] = {}
        self._batches = 0
        self._outside = Outside(rng, self._new_batch)
        self._discovery = self._outside.discovery
        self._meter = RelayMeter(rng)
        self._relays: tuple[str, ...] = ()
        """The document's relays with names."""
        self._home = BESIDE
        """The name of the relay beside this host's mediator."""
        self._circles: Mapping[str, frozenset[WireGuardKey]] = {}
        """Of a relay that is a member: the peers whose packets it carries to and from this host."""
        self._births = Birthdays(rng)
        self._numbers = Numbers(epoch_s)
        self._judge = PortJudge()
        self._trial = PortTrial()
        self._watch = Watch()
        self._unproven = Bucket(c.UNPROVEN_BURST_ALL, c.UNPROVEN_RATE_ALL)
        self._inside: tuple[Prefix, ...] = ()
        self._orphans: dict[SocketAddress, int] = {}
        """Rewrites of an earlier agent, until a path claims them."""
        self._orphans_until: float | None = None
        self._connected = False
        """Whether the mediator is connected."""
        self._control = False
        """Whether pairs may use it: it is connected, and the port is known to be fit."""
        self._timers: list[tuple[float, WireGuardKey]] = []
        self._scheduled: dict[WireGuardKey, float] = {}
        self._early = EarlyIntroductions()
        self._offers_wait = False
        """Whether a pair's offer waits for the gathering to end."""
        self._tunnel: str | None = None
        """The relay to which the TLS connection leads; None: it is down."""
        self._needing: set[WireGuardKey] = set()
        """Pairs that need the TLS connection."""
        self._idle_s = idle_s
        self._seen_as = seen_as
        self._lazy: frozenset[WireGuardKey] = frozenset()
        self._folded: dict[WireGuardKey, Folded] = {}
        self._unobserved: set[WireGuardKey] = set()
        """Peers that were folded up without the engine's counters."""

    def set_peers(
        self,
        keys: Iterable[WireGuardKey],
        now: float,
        *,
        stock: frozenset[WireGuardKey] = frozenset(),
        lazy: frozenset[WireGuardKey] = frozenset(),
        live: frozenset[WireGuardKey] = frozenset(),
    ) -> list[Effect]:
        """Set the peers to have paths to: new ones start (relay first), missing ones are forgotten.

        `stock`: the peers without an agent. They answer no probes and do not log in: the relay is their only path.
        `lazy`: the peers whose pairs open with the first packet. New ones with a session (`live`) are open at once.
        """
        effects: list[Effect] = []
        wanted = set(keys) - {self._me.key}
        for key in [k for k, pair in self._pairs.items() if k not in wanted or pair.stock != (k in stock)]:
            gone = self._pairs.pop(key)
            self.open_change += 1
            del self._by_tag[gone.routes.keys.open_tag]
            self._scheduled.pop(key, None)
            effects += self._forget(gone)
        self._lazy = lazy - stock if stock else lazy
        for key, pair in self._pairs.items():
            if pair.activity.lazy != (key in self._lazy):
                pair.activity.lazy = key in self._lazy
                pair.activity.seen(now)
        foldable = wanted & self._lazy
        kept = {key: folded for key, folded in self._folded.items() if key in foldable}
        opened, self._folded = self._folded, kept
        idle = PathStatus("idle", since_s=now)
        for key in sorted(wanted - self._pairs.keys() - kept.keys()):
            if key in self._lazy and key not in live:
                effects += self._fold_up(key, Folded(idle))
                effects += self._take_early(key, now)
            elif (new := self._add(key, now, stock=key in stock)) is not None:
                new.online = key not in opened or opened[key].online is not False
                if self._control:
                    new.begin_round(now, self._offer_time(now))
                effects += self._take_early(key, now) + self._settle(new, now)
        return effects

    def _take_early(self, key: WireGuardKey, now: float) -> list[Effect]:
        """Take an offer that came before this host had the peer."""
        early = self._early.take(key, now) if self._control else None
        return self.handle_message(early, now) if early is not None else []

    def _add(self, key: WireGuardKey, now: float, *, stock: bool = False) -> Pair | None:
        """Make the pair of this peer; None for a key that is no valid X25519 key: WireGuard refuses it, too."""
        try:
            keys = probe.derive_keys(self._private, self._me.key, key)
        except ValueError:
            return None
        pair = Pair(
            key,
            keys,
            self._me,
            self._rng,
            self._births,
            self._new_batch,
            self._unproven,
            self._numbers,
            self._watch,
            stock=stock,
            idle_s=self._idle_s,
            distances=self._meter.rtt_ms,
            loads=self._meter.load,
        )
        pair.relay.know(self._relays_of(key, stock=stock), now, self._home)
        pair.activity.lazy = key in self._lazy
        pair.activity.seen(now)
        pair.set_mtu(self._me.mtu, now)
        self._pairs[key] = pair
        self.open_change += 1
        self._by_tag[keys.open_tag] = pair
        if self._tunnel is not None:
            pair.tunnel(self._tunnel, now)
        return pair

    # --- lazy peers ---

    @property
    def open_peers(self) -> frozenset[WireGuardKey]:
        """The peers with an agent whose pairs are open: whether they are online matters to this host."""
        return frozenset(key for key, pair in self._pairs.items() if not pair.stock)

    def open_or_new(self) -> Collection[WireGuardKey]:
        """The peers of whom `observe` must be told at each look, also if the engine's status of them is as before.

        Those are the open ones, and once each that was folded up without counters: the first look is what later ones
        are compared with.
        """
        found = [*self._pairs, *self._unobserved]
        self._unobserved.clear()
        return found

    def steady(self) -> Mapping[WireGuardKey, PathKind]:
        """The kinds of the present paths of the open pairs that are never folded up."""
        return {key: pair.kind for key, pair in self._pairs.items() if key not in self._lazy}

    @property
    def resting(self) -> bool:
        """Whether all peers are folded up, so that nothing depends on quick looks at the engine."""
        return bool(self._folded) and not self._pairs

    def is_folded(self, key: WireGuardKey) -> bool:
        """Whether the peer's pair is folded up, so that its doorbell is the engine's endpoint."""
        return key in self._folded

    def ring(self, key: WireGuardKey, datagram: bytes, now: float) -> list[Effect]:
        """The engine sent this datagram to the peer's doorbell: the pair opens, and the datagram goes on."""
        pair = self._pairs.get(key) or self._open(key, now, begin=True, rung=True)
        if pair is None:
            return []
        pair.carry(datagram, now)
        return self._settle(pair, now)

    def _open(self, key: WireGuardKey, now: float, *, begin: bool, rung: bool = False) -> Pair | None:
        """Open a folded pair; None: there is none. `begin`: with a round of our own.

        `rung`: the engine has sent something, which goes on: the tunnel need not be opened by us.
        """
        folded = self._folded.pop(key, None)
        pair = self._add(key, now) if folded is not None else None
        if folded is None or pair is None:
            return None
        pair.online = folded.online is not False
        if folded.online is None and rung and self._control:
            pair.asks_presence(now)
            self.presence_asked += 1
        pair.opened(folded.counters, now)
        if folded.woken and not rung:
            pair.reopen(now, peer_first=True)  # it rang, perhaps with an initiation
        if begin and self._control:
            pair.rang(now, self._offer_time(now))
        return pair

    def _fold(self, pair: Pair, now: float) -> list[Effect]:
        """Fold a pair up: nobody talks."""
        del self._pairs[pair.key]
        self.open_change += 1
        del self._by_tag[pair.routes.keys.open_tag]
        self._scheduled.pop(pair.key, None)
        folded, ended = pair.folded(now)
        changed = PathChanged(pair.key, folded.status)
        return [*self._forget(pair), *ended, *self._fold_up(pair.key, folded), changed]

    def _fold_up(self, key: WireGuardKey, folded: Folded) -> list[Effect]:
        self._folded[key] = folded
        if folded.counters is None:
            self._unobserved.add(key)
        return [Fold(key)]

    def _begin_round(self, pair: Pair, now: float) -> None:
        """Begin a round of our own if there was data lately; else a lazy pair without a path is folded up."""
        if pair.activity.quiet(now):
            pair.rest()
        else:
            pair.begin_round(now, self._offer_time(now))

    def set_inside(self, prefixes: Iterable[Prefix], now: float) -> list[Effect]:
        """Set the prefixes inside the tunnels (pools, ULA, underlay): no path may lead there, even if it is offered."""
        inside = tuple(
            sorted(set(prefixes), key=lambda prefix: (prefix.version, int(prefix.network_address)))
        )
        if inside == self._inside:
            return []
        self._inside = inside
        self._renew_self()
        effects: list[Effect] = []
        for pair in self._pairs.values():
            effects += pair.review(self._me, now) + self._settle(pair, now)
        return effects

    def set_mtu(self, mtu: int, now: float) -> list[Effect]:
        """Set the MTU of this host's tunnels in bytes; each direct path is probed for the size that passes."""
        if mtu == self._me.mtu:
            return []
        self._me = replace(self._me, mtu=mtu)
        effects: list[Effect] = []
        for pair in self._pairs.values():
            pair.routes.me = self._me
            pair.set_mtu(mtu, now)
            effects += self._settle(pair, now)
        return effects

    def set_local(self, candidates: list[Candidate], now: float) -> list[Effect]:
        """Set this host's own addresses (kinds host and explicit); a change starts new rounds."""
        if not self._trial.looked() and candidates == self._local:
            return []
        self._local = list(candidates)
        self._renew_self()
        return self.ways_changed(now)

    def ways_changed(self, now: float) -> list[Effect]:
        """The routes to servers and peers have changed: ask all servers and start new rounds."""
        self._discovery.gather(now)
        self._meter.measure(now)
        return self._moved(now) + self._discover(now)

    def check_relays(self, now: float) -> list[Effect]:
        """The ways out of this host have changed: whoever the relay carries asks whether it still knows us.

        Direct paths find out by their own pings: at once while packets flow.
        """
        effects: list[Effect] = []
        for pair in self._pairs.values():
            if pair.selected is None and pair.relay.usable:
                pair.relay.refresh(now)
                effects += self._settle(pair, now)
        return effects

    def woke(self, now: float, suspended_s: float) -> list[Effect]:
        """This host stood still: NATs have forgotten its flows, and peers use other paths. Start new rounds.

        WireGuard may have lost its sessions, which only this side knows: each pair's tunnel is opened anew.
        `suspended_s`: for how long `now` stood still, because the host was suspended.
        """
        for pair in self._pairs.values():
            pair.woke(now, suspended_s)
        for folded in self._folded.values():
            folded.woken = True
        self._discovery.gather(now)
        self._meter.measure(now)
        return self._moved(now) + self._discover(now)

    def set_mapped(self, candidate: Candidate | None, now: float) -> list[Effect]:
        """Set the port that the router has opened for us. Pairs without a direct path offer it in a new round."""
        if candidate == self._mapped:
            return []
        self._mapped = candidate
        self._renew_self()
        effects: list[Effect] = []
        if candidate is None or not self._control:
            return effects
        for pair in self._pairs.values():
            if pair.state is not PairState.DIRECT and pair.offered:
                self._begin_round(pair, now)
                effects += self._settle(pair, now)
        return effects

    def set_stun(self, servers: list[SocketAddress], now: float) -> list[Effect]:
        """Set the mediator's STUN addresses (`Welcome.stun`)."""
        self._discovery.set_servers(servers, now)
        self._meter.use_beside(servers, now)
        return self._discover(now)

    def set_relays(
        self,
        relays: Mapping[str, Sequence[SocketAddress]],
        now: float,
        circles: Mapping[str, frozenset[WireGuardKey]] | None = None,
    ) -> list[Effect]:
        """Set the document's relays that have names, in its order: name to the addresses of its first STUN port.

        `circles`: for a relay that is a member, the peers whose packets it carries to and from this host; a relay that
        is not in it carries everybody's. None: as before.
        """
        self._relays = tuple(relays)
        if circles is not None:
            self._circles = circles
        self._meter.use(relays, now)
        effects = self._measure(now)
        return effects + self._tell_pairs(now)

    def set_home(self, name: str, now: float) -> list[Effect]:
        """Set the name of the relay beside the mediator that this host is logged in to; empty: it has none.

        In messages of that mediator the empty name means this relay.
        """
        if name == self._home:
            return []
        self._home = name
        self._meter.set_home(name, now)
        return self._tell_pairs(now)

    def _tell_pairs(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for key, pair in self._pairs.items():
            pair.relay.know(self._relays_of(key, stock=pair.stock), now, self._home)
            effects += self._settle(pair, now)
        return effects

    def _relays_of(self, key: WireGuardKey, *, stock: bool) -> tuple[str, ...]:
        """The relays that carry packets to this peer. One that is a member is told of no stock app."""
        circles = self._circles
        return tuple(
            name for name in self._relays if name not in circles or (not stock and key in circles[name])
        )

    def control_up(self, now: float) -> list[Effect]:
        """The mediator has accepted the login: pairs that are not settled begin a round, the others keep their path.

        A port that no peer knows yet is compared with fresh sockets before (`netctl.paths.porttrial`).
        """
        self._connected = True
        self._discovery.gather(now)
        effects = self._discover(now)
        return effects if self._trial.pending else effects + self._use_control(now)

    def _use_control(self, now: float) -> list[Effect]:
        """The mediator is connected and the port is known: pairs begin, and take the offers that came meanwhile."""
        self._control = True
        effects: list[Effect] = []
        for pair in self._pairs.values():
            pair.relay.control_up(now)
            if pair.state is PairState.DIRECT:
                pair.check(now)
            if not pair.settled:
                self._begin_round(pair, now)
            effects += self._settle(pair, now)
        for key in self._early.peers():
            if key in self._pairs or key in self._folded:
                effects += self._take_early(key, now)
        return effects

    def control_down(self, now: float) -> list[Effect]:
        """The mediator is gone: paths stay, and each is checked now."""
        self._connected = self._control = False
        self._trial.disconnected()
        self._early.clear()
        effects: list[Effect] = []
        for pair in self._pairs.values():
            pair.offer_due = None
            pair.check(now)
            effects += self._settle(pair, now)
        return effects

    def handle_datagram(self, data: bytes, source: SocketAddress, now: float) -> list[Effect]:
        """Take a datagram of the shared port that is no WireGuard message. Unknown senders get no answer."""
        kind = classify(data)
        if kind is DatagramKind.STUN:
            if self._meter.handle_answer(data, source, now):
                return []
            was_blocked = self._discovery.blocked
            changed = self._discovery.handle_answer(data, source, now)
            asked = self._outside.handle_timer(now) if self._discovery.ready(now) else []
            if not changed:
                return asked + self._conclude(now) + self._flush_offers(now)
            self._renew_self()
            asked += self._unblocked(now) if was_blocked else self._reoffer(now)
            return asked + self._conclude(now)
        if kind is DatagramKind.RELAY:
            for pair in self._pairs.values():
                if pair.relay.is_at(source):
                    return pair.handle_relay(data, source, now) + self._settle(pair, now)
        if kind is DatagramKind.PROBE:
            sender = self._by_tag.get(probe.sender_tag(data))
            if sender is None:
                return []
            try:
                message = probe.open_probe(sender.routes.keys, data)
            except RemoteError:
                return []
            return sender.handle_probe(message, source, now) + self._settle(sender, now)
        if kind is DatagramKind.RELAYED_PROBE:
            sender = self._by_tag.get(probe.sender_tag(data))
            if sender is not None and sender.relay.is_at(source):
                return self._relayed(sender, data, source, now)
        return []

    def _relayed(self, pair: Pair, data: bytes, source: SocketAddress, now: float) -> list[Effect]:
        try:
            message = probe.open_probe(pair.routes.keys, data, relayed=True)
        except RemoteError:
            return []
        return pair.handle_relayed(message, source, now) + self._settle(pair, now)

    def handle_frame(self, port: int, data: bytes, now: float) -> list[Effect]:
        """Take a relay message that came over the TLS connection from this relay port."""
        for pair in self._pairs.values():
            there = pair.relay.tunnel_server
            if there is not None and there.port == port:
                if classify(data) is DatagramKind.RELAYED_PROBE:
                    return self._relayed(pair, data, there, now)
                return pair.handle_frame(data, now) + self._settle(pair, now)
        return []

    def tunnel(self, up: bool, now: float, relay: str = BESIDE) -> list[Effect]:
        """The TLS connection (`WantTunnel`) to this relay is up or down."""
        self._tunnel = (relay or self._home) if up else None
        effects: list[Effect] = []
        for pair in self._pairs.values():
            effects += pair.tunnel(self._tunnel, now) + self._settle(pair, now)
        return effects

    def handle_message(
        self,
        message: Introduction | Punch | RelayGrant,
        now: float,
        servers: tuple[SocketAddress, ...] = (),
    ) -> list[Effect]:
        """Take a message from the control connection. Introductions of unknown peers are kept for a while.

        `servers`: for a grant, the relay's addresses in all families. Other messages about unknown peers are ignored.
        """
        try:
            key = WireGuardKey.parse(message.peer)
        except ValueError:
            return []
        if self._trial.pending and isinstance(message, Introduction):
            self._early.put(key, message, now)
            return []
        pair = self._pairs.get(key)
        if pair is None and isinstance(message, Introduction):
            pair = self._open(key, now, begin=False)
        if pair is None and isinstance(message, Introduction):
            self._early.put(key, message, now)
        if pair is None or (pair.stock and not isinstance(message, RelayGrant)):
            return []
        if isinstance(message, Introduction):
            if not pair.offers.take(now):
                return []  # too many offers: later ones are accepted again
            pair.told_presence(online=True)
            pair.activity.seen(now)
            remote = parse_candidates(message.candidates)
            pair.guesser.heard(message.nat)
            # Without a name it is the relay beside the peer's mediator, which is this host's too.
            loads = {one.relay or self._home: one.load for one in message.relays if one.load}
            pair.relay.told({one.relay or self._home: one.rtt_ms for one in message.relays}, now, loads)
            pair.introduced(message.round, remote, now, self._offer_time(now))
            return self._settle(pair, now)
        if isinstance(message, Punch):
            pair.punch(now + min(max(message.after_ms, 0), MAX_PUNCH_DELAY_MS) / 1000)
        else:
            named = message if message.relay else structs.replace(message, relay=self._home)
            pair.relay.handle_grant(named, now, servers)
        return self._settle(pair, now)

    def peer_online(self, key: WireGuardKey, online: bool, now: float) -> list[Effect]:
        """The mediator reports that a peer logged in or out; a logout only causes a check of the path."""
        pair = self._pairs.get(key)
        if (folded := self._folded.get(key)) is not None:
            folded.online = online
        if pair is None or pair.stock:
            return []  # a stock app does not log in
        came = online and (not pair.online or not pair.routes.introduced)
        pair.told_presence(online=online)
        pair.check(now)
        if came and not pair.settled and self._control:
            self._begin_round(pair, now)
        return self._settle(pair, now)

    def peers_online(self, online: Mapping[WireGuardKey, bool | None], now: float) -> list[Effect]:
        """The mediator reports of several peers. None: it does not say any more, and is asked when a folded peer's
        doorbell rings.
        """
        effects: list[Effect] = []
        for key, there in online.items():
            if there is not None:
                effects += self.peer_online(key, there, now)
            elif (folded := self._folded.get(key)) is not None:
                folded.online = None
        return effects

    def presence_in_view(self, online: Mapping[WireGuardKey, bool | None], now: float) -> list[Effect]:
        """Take the presence of all peers in the host's present view. What a pair knows already is no news of its peer,
        and no reason to check its path.
        """
        news: dict[WireGuardKey, bool | None] = {}
        for key, there in online.items():
            pair, folded = self._pairs.get(key), self._folded.get(key)
            if pair is not None:
                is_news = pair.online is not (there is not False)
            else:
                is_news = folded is not None and folded.online is not there
            if is_news:
                news[key] = there
        return self.peers_online(news, now)

    def observe(self, key: WireGuardKey, status: PeerStatus, now: float) -> list[Effect]:
        """Take the engine's status of a peer; to be called for every peer about once a second."""
        pair = self._pairs.get(key)
        if pair is None:
            folded = self._folded.get(key)
            if folded is None or not folded.hears(status):
                return []
            pair = self._open(key, now, begin=True)
            if pair is None:
                return []
        effects = pair.observe(self._seen_as(status), now) + self._settle(pair, now)
        if self._control and pair.activity.over(now, stranded=pair.stranded, offline=not pair.online):
            effects += self._fold(pair, now)  # not without a mediator: it alone can wake the other side
        return effects

    def watch(self, until: float, now: float) -> list[Effect]:
        """Somebody watches this host until `until`: meanwhile peers are asked whether they answer."""
        began = not self._watch.active(now)
        self._watch.until = max(self._watch.until, until)
        effects: list[Effect] = []
        for pair in self._pairs.values() if began else ():
            effects += self._settle(pair, now)
        return effects

    def echo_answered(self, key: WireGuardKey, transaction: bytes, now: float) -> list[Effect]:
        """Take the reply to a `SendEcho`."""
        pair = self._pairs.get(key)
        answered = pair.live_answer(transaction, now) if pair is not None else None
        return [] if pair is None or answered is None else answered + self._settle(pair, now)

    def handle_timer(self, now: float) -> list[Effect]:
        """Perform what is due. Call when `next_timer()` is due; earlier or later does no harm."""
        effects = self._discover(now) + self._measure(now)
        while self._timers and self._timers[0][0] <= now:
            due, key = heapq.heappop(self._timers)
            pair = self._pairs.get(key)
            if pair is None or self._scheduled.get(key) != due:
                continue
            del self._scheduled[key]
            effects += self._settle(pair, now)
        return effects

    def next_timer(self) -> float | None:
        """When `handle_timer` is due; None: never."""
        while self._timers and self._scheduled.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return earliest(
            self._timers[0][0] if self._timers else None,
            self._outside.next_timer(),
            self._meter.next_timer(),
            self._judge.next_timer(),
            self._trial.next_timer(),
            self._orphans_until,
        )

    def status(self) -> Mapping[WireGuardKey, PathStatus]:
        """Every peer's present path."""
        idle = {key: folded.status for key, folded in self._folded.items()}
        return {**idle, **{key: pair.status for key, pair in self._pairs.items()}}

    @property
    def udp_blocked(self) -> bool:
        """Whether the mediator's STUN ports answer neither the shared port nor fresh sockets."""
        return self._discovery.blocked and self.port_verdict != "dead"

    @property
    def port_verdict(self) -> Verdict:
        """Whether the shared port works as well as fresh ports of this host."""
        return self._outside.port_verdict()

    def port_rests(self, destination: SocketAddress, now: float) -> bool:
        """Whether the shared port must not send to this address now."""
        return self._judge.rests(destination, now)

    def port_rests_s(self, now: float) -> float:
        """Seconds for which the shared port still rests; 0: it does not rest."""
        return self._judge.resting_s(now)

    def fix_port(self, fixed: bool) -> None:
        """Set whether the document names the port or an endpoint of this host: then the port stays."""
        self._judge.fixed = fixed

    def port_changed(self) -> None:
        """The shared port has changed."""
        self._judge.renewed()

    def port_opened(self) -> None:
        """The shared port is open. Where no pair has begun, no peer is told of it before it is known to be fit."""
        begun = self._control and any(pair.state is not PairState.IDLE for pair in self._pairs.values())
        if not begun:
            self._control = False
            self._trial.opened()

    def nat(self, now: float) -> tuple[Behaviour, Behaviour, bool | None]:
        """The behaviour of the NAT in front of this host: (for IPv4, for IPv6, whether it hairpins)."""
        four, six = (self._outside.behaviour(ipv6=ipv6) for ipv6 in (False, True))
        return four, six, self._discovery.hairpin(now)

    @property
    def filtering(self) -> Filtering4787:
        """Which senders the IPv4 NAT or firewall in front of this host admits."""
        return self._outside.filtering

    @property
    def allocation(self) -> Allocation | None:
        """How the IPv4 NAT in front of this host allocates ports; None: not known."""
        return self._outside.allocation

    # --- sockets beside the WireGuard port ---

    def allow_guessing(self, allowed: bool) -> None:
        """Switch the birthday method on or off; a running attempt ends by itself."""
        self._births.allowed = allowed

    def batch_opened(self, batch: int, ports: tuple[int, ...], now: float) -> list[Effect]:
        """Take the local ports of an `OpenBatch`, perhaps fewer than requested."""
        effects = self._outside.batch_opened(batch, ports, now)
        for pair in self._pairs.values():
            if pair.guesser.batch == batch:
                effects += pair.guesser.opened(ports, now) + self._settle(pair, now)
        return effects

    def handle_batch(
        self, batch: int, index: int, data: bytes, source: SocketAddress, now: float
    ) -> list[Effect]:
        """Take a datagram received by one socket of a batch."""
        effects = self._outside.handle_batch(batch, index, data, source) + self._conclude(now)
        effects += self._flush_offers(now)
        for pair in self._pairs.values():
            if pair.guesser.batch == batch:
                effects += pair.guesser.handle_batch(index, data, source, now) + self._settle(pair, now)
        return effects

    def adopt(self, rewrites: Mapping[SocketAddress, int], now: float) -> None:
        """Take over an earlier agent's rewrites (remote to local port): a path found at a remote keeps its rewrite."""
        self._orphans = dict(rewrites)
        self._orphans_until = now + c.REWRITE_ORPHAN if rewrites else None

    def _drop_orphans(self, now: float) -> list[Effect]:
        if self._orphans_until is None or now < self._orphans_until:
            return []
        self._orphans_until = None
        orphans, self._orphans = self._orphans, {}
        return [Rewrite(remote, port, wanted=False) for remote, port in orphans.items()]

    def _new_batch(self) -> int:
        self._batches += 1
        return self._batches

    # -------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        own = [self._mapped, *self._local] if self._mapped is not None else self._local
        local = {candidate.address for candidate in own}
        reflexive = [str(mapped) for mapped in self._discovery.mapped()]
        found = [Candidate(kind="srflx", address=mapped) for mapped in reflexive if mapped not in local]
        # An address that a server saw unchanged stays a host candidate; reflexive ones always have their places.
        return own[: c.MAX_CANDIDATES - len(found)] + found

    def _renew_self(self) -> None:
        addresses = parse_candidates(self._candidates())
        hosts = tuple(address for address, kind in addresses.items() if kind == "host")
        self._me = Self(self._me.key, tuple(addresses), hosts, self._me.mtu, self._inside)
        self._discovery.own = frozenset(hosts)
        for pair in self._pairs.values():
            pair.routes.me = self._me

    def _offer(self, pair: Pair, nat: Nat | None) -> SendControl:
        """The offer of our candidates in the pair's round. `nat`: what to predict our ports by."""
        distances = self._meter.told()
        return SendControl(Candidates(str(pair.key), pair.round, self._candidates(), nat, distances))

    def _offer_time(self, now: float) -> float:
        """When to offer: now, or at the latest when the gathering and sampling must have ended."""
        self._outside.ask(now)
        if self._outside.ready(now):
            return now
        self._offers_wait = True
        return now + c.STUN_GATHER + c.SAMPLE_WAIT

    def _discover(self, now: float) -> list[Effect]:
        if self._judge.rested(now):
            self._discovery.gather(now)
        effects = self._outside.handle_timer(now) + self._drop_orphans(now)
        if self._connected:
            self._trial.asked(now)
        return effects + self._conclude(now) + self._flush_offers(now)

    def _measure(self, now: float) -> list[Effect]:
        """Measure the round trips to relays, and offer changed ones to relayed peers."""
        effects: list[Effect] = list(self._meter.handle_timer(now))
        if self._control and self._relays and self._meter.changed:
            self._meter.told()
            for pair in self._pairs.values():
                if pair.offered and pair.state is not PairState.DIRECT:
                    pair.offer_due = now
                    effects += self._settle(pair, now)
        return effects

    def _judge_port(self, now: float) -> list[Effect]:
        """Ask for another port where this one is unfit, if there are peers or the port is tried for them."""
        needed = bool(self._pairs) or self._trial.pending
        verdict = self.port_verdict if needed else "fit"
        if verdict == "shared" and self._mapped is not None:
            return []
        if not self._judge.wants_another(verdict, now):
            return []
        self._trial.leaves(now)
        return [AnotherPort(verdict)]

    def _conclude(self, now: float) -> list[Effect]:
        """Judge the port; a trial of it ends with the last answer."""
        effects = self._judge_port(now)
        if self._trial.pending:
            answered = self._judge.fixed or self._outside.ready(now)
            if self._trial.ends(answered, now) and self._connected:
                effects += self._use_control(now)
        return effects

    def _flush_offers(self, now: float) -> list[Effect]:
        """Send the offers that waited for the gathering, once it has ended."""
        effects: list[Effect] = []
        if self._offers_wait and self._outside.ready(now):
            self._offers_wait = False
            for pair in self._pairs.values():
                if pair.offer_due is not None and pair.offer_due > now and not pair.offered:
                    pair.offer_due = now
                    effects += self._settle(pair, now)
        return effects

    def _reoffer(self, now: float) -> list[Effect]:
        """Our reflexive addresses have changed: offer the new ones to peers without a direct path."""
        effects = self._flush_offers(now)
        for pair in self._pairs.values():
            if pair.offered and pair.state is not PairState.DIRECT:
                pair.offer_due = self._offer_time(now)
                effects += self._settle(pair, now)
        return effects

    def _unblocked(self, now: float) -> list[Effect]:
        """UDP passes again: relay links and pairs without a direct path try it now."""
        effects = self._flush_offers(now)
        for pair in self._pairs.values():
            pair.relay.try_udp(now)
            if self._control and pair.state is not PairState.DIRECT and pair.offered:
                self._begin_round(pair, now)
            effects += self._settle(pair, now)
        return effects

    def _forget(self, pair: Pair) -> list[Effect]:
        """Effects that remove a forgotten pair's sockets, rewrites and stand-in."""
        pair.relay.release()
        pair.liveness.rest()
        return pair.guesser.end("") + pair.stand_in() + self._tell_tunnel(pair)

    def _tell_tunnel(self, pair: Pair) -> list[Effect]:
        """`WantTunnel` when the need for the TLS connection has changed."""
        needs, before = pair.relay.needs_tunnel, bool(self._needing)
        if needs == (before and pair.key in self._needing):
            return []
        if needs:
            self._needing.add(pair.key)
        else:
            self._needing.discard(pair.key)
        return [] if before == bool(self._needing) else [WantTunnel(not before)]

    def _moved(self, now: float) -> list[Effect]:
        """This host's routes have changed: check all paths, and start new rounds."""
        effects: list[Effect] = []
        for pair in self._pairs.values():
            pair.check(now)
            if self._control:
                self._begin_round(pair, now)
            else:
                pair.retry_now(now)
            effects += self._settle(pair, now)
        return effects

    def _settle(self, pair: Pair, now: float) -> list[Effect]:
        """Perform what is due in a pair, and put the pair's next deadline into the heap."""
        effects = pair.handle_timer(now, self._control)
        if pair.relay.silent:
            self._meter.doubt(pair.relay.silent, now)
            pair.relay.silent.clear()
            effects += self._meter.handle_timer(now)
        if self._orphans and pair.selected is not None and pair.selected.address in self._orphans:
            pair.guesser.inherit(pair.selected.address, self._orphans.pop(pair.selected.address))
        if pair.round_due(now):
            if self._control and pair.activity.quiet(now):
                pair.rest()
            elif self._control:
                self._discovery.gather(now, rest_s=c.STUN_REST)
                effects += self._outside.handle_timer(now)
                pair.begin_round(now, self._offer_time(now))
            else:
                pair.punch_alone(now)
        if self._offers_wait:
            effects += self._outside.handle_timer(now)  # the samples for which they wait
        if pair.offer_due is not None and now >= pair.offer_due:
            pair.offer_sent(now)
            effects += pair.knocks(now)  # before the offer, so that the peer's packets come later
            if self._control:
                effects.append(self._offer(pair, pair.guesser.offer(self._outside.nat(), now)))
        elif pair.takes_call() and self._control:
            effects.append(self._offer(pair, None))
        effects += pair.stand_in()
        effects += self._tell_tunnel(pair)
        due = pair.next_timer()
        if due is None:
            self._scheduled.pop(pair.key, None)
        elif self._scheduled.get(pair.key) != due:
            self._scheduled[pair.key] = due
            heapq.heappush(self._timers, (due, pair.key))
        return effects
