"""The state machine of one peer: chooses the path for its packets, and looks for a better one.

Its states and transitions are the table in `netctl.paths.pairstates`.

The relay is independent of these states (`PairRelays`): it is wanted in all of them except a settled DIRECT. The
member with the lower key chooses among the paths on which both sides have received a pong. Its probe with USING tells
the other member, which follows once its own ping on that path was answered. No side sets an endpoint before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.hoststate import PeerStatus
from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.birthday import Birthdays
from netctl.paths.blocker import blocker, peer_nat
from netctl.paths.budget import Bucket
from netctl.paths.datawatch import PEER_SAYS, DataWatch, is_upkeep
from netctl.paths.effects import (
    Effect,
    LimitSize,
    LivenessChanged,
    LookSoon,
    PathChanged,
    PathKind,
    PathStatus,
    SendDatagram,
    SendEcho,
    SendThrough,
    SetEndpoint,
    StandIn,
)
from netctl.paths.folding import Activity, Folded, Waiting
from netctl.paths.freshness import Numbers
from netctl.paths.guess import Guesser
from netctl.paths.liveness import Liveness, Watch
from netctl.paths.mtuprobe import MtuProbe
from netctl.paths.pairstates import PairEvent, PairState, following
from netctl.paths.relaychoice import NOTHING, PairRelays
from netctl.paths.relayedprobes import RelayedProbes
from netctl.paths.reopening import Reopening
from netctl.paths.route import Route
from netctl.paths.routes import Routes, Self
from netctl.wire.probe import Probe, ProbeFlag, ProbeKeys, ProbeType


class Pair:
    """The state machine of one peer. Times are monotonic seconds; methods return effects in order."""

    def __init__(
        self,
        key: WireGuardKey,
        keys: ProbeKeys,
        me: Self,
        rng: Callable[[int], bytes],
        births: Birthdays,
        new_batch: Callable[[], int],
        unproven: Bucket,
        numbers: Numbers,
        watch: Watch,
        *,
        stock: bool = False,
        idle_s: float = c.LAZY_IDLE,
        distances: Mapping[str, int] = NOTHING,
        loads: Mapping[str, int] = NOTHING,
    ) -> None:
        """`distances`: this host's round trips to relays in milliseconds; `loads`: how loaded they said to be. Both as
        they are at each moment.
        """
        self.key = key
        self.stock = stock
        """Whether the peer has no agent: the pair then stays IDLE, on the relay that the peer has chosen."""
        self._rng = rng
        self.state = PairState.IDLE
        self.online = True
        self._presence_by: float | None = None
        """Until when nothing is bound at the relay, as the mediator may say that the peer is offline."""
        self.round = 0
        self.offer_due: float | None = None
        """When to offer our candidates (again); the manager sends the offer, since it knows them."""
        self.offered = False
        """Whether our candidates were offered in this round."""
        self._call_due = False
        """Whether the peer is to be told of the round before our candidates are complete."""
        self._repeat_at: float | None = None
        self._repeated_round = 0
        """The last round in which an Introduction caused a repeated offer."""
        self.relay = PairRelays(str(key), rng, distances, loads, everywhere=stock)
        self.routes = Routes(keys, me, rng, unproven, numbers)
        self.offers = Bucket(c.OFFERS_BURST, c.OFFERS_RATE)
        """The budget of the peer's offers."""
        self.guesser = Guesser(key, self.routes, births, new_batch)
        self._introduced_round: int | None = None
        """The round of the peer's candidates that we have."""
        self._knocks: list[SocketAddress] = []
        """Addresses to send a packet with a low TTL to now."""
        self.selected: Route | None = None
        self._wanted: SocketAddress | None = None
        """The path that the choosing peer asked us to follow."""
        self._endpoint: SocketAddress | None = None
        self._status = PathStatus()
        self._punches: list[float] = []
        self._give_up_at: float | None = None
        self._retry_s = c.RETRY_FIRST
        self._retry_at: float | None = None
        self._ping_due: float | None = None
        self._reassert: list[float] = []
        self._gentle_until = 0.0
        """The earliest time for the first endpoint."""
        self._selected_at = 0.0
        self._relay_until: float | None = None
        self._active_until = 0.0
        self._counters: tuple[int, int] | None = None
        self._rescued = False
        self._stand_in: SocketAddress | None = None
        self._losses = 0
        """Count of paths in a row that were lost before they were stable."""
        self._data = DataWatch()
        self._mtu = MtuProbe()
        self._echoes = (0, 0)
        """Echo requests that were sent before the last reading of the engine, back to the one before, and
        since."""
        self._relayed = RelayedProbes(self.relay, self.routes)
        self._limited: int | None = None
        """The last limit reported with `LimitSize`."""
        self._data_given_at = float("-inf")
        """When data was last sent through the tunnel upon the peer's request."""
        self.liveness = Liveness(watch, key)
        self._lost: tuple[Route, float] | None = None
        """The path that died last, and when: while somebody looks, the peer is asked there whether it is back."""
        self._followed: tuple[bool, SocketAddress | None] = (False, None)
        """`usable` and `address` of the relay when the path last followed it."""
        self._flowed_at = float("-inf")
        """When packets last flowed."""
        self._heard_at = 0.0
        """When the engine's receive counter last moved, or we last asked the relay about it."""
        self.activity = Activity(idle_s=idle_s)
        self._waiting = Waiting()
        self._steered = False
        """The engine has been given an endpoint."""
        self._rang_in: int | None = None
        """The round that began because the engine rang."""
        self._rang_at: float | None = None
        """When the engine rang; None: it did not, or the pair has been direct since."""
        self._reopening = Reopening(key, chooser=self.chooser)
        self._slept_long = False
        """It was suspended for so long that NATs may have forgotten the path's flow."""
        self._answers_by: float | None = None
        """When a path that has not answered since then is dead: a relay answers, so this host's network is ready."""
        self._woke_peer = False
        """The peer offers in that round: it did not ring by itself, so no handshake of its own is on its way."""

    @property
    def chooser(self) -> bool:
        """Whether this side chooses: its key is the lower one."""
        return self.routes.me.key < self.key

    @property
    def settled(self) -> bool:
        """Whether there is a direct path and the peer's candidates are known.

        After a restart of our agent, the peer's probes may give a direct path before any offer: then it is not settled.
        """
        return self.state is PairState.DIRECT and self.routes.introduced

    @property
    def status(self) -> PathStatus:
        """The present path, with the reasons why no better one is used."""
        tried = [self.routes.describe(route) for route in self.routes.all() if route is not self.selected]
        reason = None if self.selected else self.relay.describe()
        guess = f"guesses: {self.guesser.outcome}" if self.guesser.outcome else None
        lines = (*tried, *(line for line in (guess, reason) if line))
        now = self._status
        rtt = self.selected.rtt_s if self.selected else None
        if self.liveness.answers and self.liveness.rtt_s is not None:
            rtt = self.liveness.rtt_s  # newer, and also measured on a relayed path
        remote, own, peer = self.routes.remote, self.guesser.own, self.guesser.peer
        distrust = self._distrust()
        return PathStatus(
            now.kind,
            now.endpoint,
            None if rtt is None else rtt * 1000,
            now.since_s,
            lines,
            peer_nat(peer, remote),
            distrust
            or (
                blocker(own, peer, remote, self.routes.me.addresses)
                if self.state is PairState.WAITING
                else None
            ),
            self._limited,
            distrust,
            self.liveness.answers,
            now.opened_s,
        )

    @property
    def kind(self) -> PathKind:
        """The kind of the present path."""
        return self._status.kind

    def _distrust(self) -> str | None:
        """The address of a direct path that answers but is refused, and the reason."""
        found = next((route for route in self.routes.all() if route.says_refusal), None)
        return f"{found.address}: {found.refusal}" if found is not None and self.selected is None else None

    # --- what the manager drives ---------------------------------------------------------------------

    def opened(self, counters: tuple[int, int] | None, now: float) -> None:
        """The pair was folded up until now. `counters`: the engine's (received, sent) bytes at the last look."""
        self._counters = counters
        self.activity.seen(now)

    def asks_presence(self, now: float) -> None:
        """The engine rang for a peer whose presence is not known, and the mediator is asked."""
        self._presence_by = now + c.PRESENCE_WAIT

    def told_presence(self, *, online: bool) -> None:
        """The mediator has said whether the peer is online, or passed on a message of it."""
        self.online, self._presence_by = online, None

    def rang(self, now: float, offer_at: float) -> None:
        """Begin the round that follows from the engine's first packet."""
        self.round = int.from_bytes(self._rng(2))  # where both ring at once, their rounds differ
        self.begin_round(now, offer_at)
        self._rang_in = self.round
        self._call_due = offer_at > now

    def takes_call(self) -> bool:
        """Whether to send the peer a first, incomplete offer now, once in a round: it binds at the relay meanwhile."""
        due, self._call_due = self._call_due, False
        return due and not self.offered

    def carry(self, datagram: bytes, now: float) -> None:
        """Take a datagram that the engine sent to the doorbell: it is sent on as soon as there is a path."""
        self.activity.seen(now)
        self._waiting.add(datagram, now)
        if self._endpoint is None and self._rang_at is None:
            self._rang_at = now

    def _carry(self, now: float) -> list[Effect]:
        """Send the waiting datagrams to the engine's present endpoint."""
        endpoint = self._endpoint
        if not self._waiting or not self._steered or endpoint is None:
            return []
        found = self._waiting.take(now)
        if self.relay.by_tls and endpoint == self.relay.address:
            return [effect for datagram in found for effect in self.relay.carry(datagram)]
        return [SendDatagram(endpoint, datagram) for datagram in found]

    def folded(self, now: float) -> tuple[Folded, list[Effect]]:
        """Fold the pair up: the state that is kept, and the effects that end what the pair had set."""
        kept = Folded(PathStatus("idle", since_s=now), self.online, self._counters)
        return kept, [LimitSize(self.key, None, found=False)] if self._limited is not None else []

    def begin_round(self, now: float, offer_at: float) -> None:
        """Begin a new round: offer candidates at `offer_at`, and use the relay until the round succeeds."""
        if self.stock:
            self.relay.want(now)
            return
        self.round += 1
        self._offer(now, offer_at)

    def _offer(self, now: float, offer_at: float) -> None:
        self._enter(PairEvent.OFFER)
        self.offered = False
        self._call_due = False
        self.offer_due = offer_at
        self._retry_at = None
        if self.state is PairState.OFFERED:
            self.relay.want(now)
            self._give_up_at = now + 2 * c.OFFER_REPEAT + c.PUNCH_SETTLE

    def offer_sent(self, now: float) -> None:
        """Our candidates were sent; plan to repeat the offer if it stays unanswered."""
        self.offered = True
        self._plan_knocks()
        self._repeat_at = None
        self.offer_due = now + c.OFFER_REPEAT if self.state is PairState.OFFERED else None

    def _plan_knocks(self) -> None:
        """Once both offers of a round are known, plan to open our NAT before the peer's first packet can arrive.

        A NAT may take a packet that arrives before the mapping exists for a flow of its own, and then gives our flow
        another port than both sides expect.
        """
        if self.state is not PairState.DIRECT and self._introduced_round == self.round:
            self._knocks = self.routes.outside()

    def knocks(self, now: float) -> list[Effect]:
        """The planned packets with a low TTL, without delay: they must precede the peer's first packet."""
        knocks, self._knocks = self._knocks, []
        allowed = [address for address in knocks if self.routes.may_send(self.routes.get(address), now)]
        return [self.routes.knock(address, now, ttl=c.LOW_TTL) for address in allowed]

    def introduced(self, round_: int, remote: dict[SocketAddress, str], now: float, offer_at: float) -> None:
        """Take the peer's candidates of one round; in another round than ours, we offer at `offer_at`."""
        if round_ == self._rang_in:
            self._woke_peer = True
        self._rang_in = None
        if round_ != self.round:
            # The higher round wins on both sides. A peer with a lower round has restarted: it adopts ours.
            self.round = max(self.round, min(round_, c.MAX_ROUND))
            self._offer(now, offer_at)
            if self.state is PairState.DIRECT:
                self._ping_due = now  # the peer may have left this path: check it, and prepare the relay
                self.relay.want(now)
                self._relay_until = now + c.RELAY_KEEP
        elif self.offered and self._repeated_round != self.round and self.state is not PairState.DIRECT:
            # The peer may have logged in after our offer and missed it. Only once in a round, to avoid an echo.
            self._repeated_round = self.round
            self._repeat_at = now + c.OFFER_ANSWERED
            self.offer_due = self._repeat_at
        self.routes.freshness.introduced(now)
        self.routes.adopt(remote, self.selected)
        self._introduced_round = round_
        if self.offered:
            self._plan_knocks()
        if self.state is PairState.DIRECT:
            self._punches = [now]
        elif not self._punches:
            self._punches = [now + c.PUNCH_WITHOUT_WORD + offset for offset in c.PUNCH_OFFSETS]
            self._give_up_at = self._punches[-1] + c.PUNCH_SETTLE

    def punch(self, at: float) -> None:
        """Start a punch at `at`, when the other side starts, too."""
        self._enter(PairEvent.PUNCH)
        if self.offered:  # else the peer has answered our incomplete offer, and the complete one follows
            self.offer_due = self._repeat_at
        offsets = c.PUNCH_OFFSETS[:3] if self.state is PairState.DIRECT else c.PUNCH_OFFSETS
        self._punches = [at + offset for offset in offsets]
        if self.state is not PairState.DIRECT:
            self.guesser.punch(at)
        self._give_up_at = self._punches[-1] + c.PUNCH_SETTLE

    def woke(self, now: float, suspended_s: float) -> None:
        """This host stood still, `suspended_s` of it by suspend: open the tunnel as soon as an answer proves a path.

        Not before: a handshake that is lost on a dead path keeps WireGuard from the next one for five seconds.
        """
        self.reopen(now)
        self._answers_by = None
        self._slept_long = suspended_s >= c.SUSPENDED_LONG
        self.relay.woke(now, suspended_s)
        if self.selected is not None:
            self.selected.forget_pings()
            self.relay.want(now)
            self._relay_until = now + c.RELAY_KEEP

    def reopen(self, now: float, *, peer_first: bool = False) -> None:
        """The engine may have no session: open the tunnel as soon as a path answers."""
        self._reopening.begin(now, peer_first=peer_first)

    def _dead(self, route: Route, now: float) -> bool:
        """Whether the path in use has been silent for too long."""
        silent = route.silent_for(now)
        over = self._answers_by is not None and now >= self._answers_by
        return silent >= (c.WOKEN_DEAD_AFTER if over else c.DEAD_AFTER)

    def _relay_heard(self, now: float) -> None:
        since = self._reopening.since
        if not self._slept_long or since is None or self._answers_by is not None:
            return
        if self.relay.heard_since(since):
            self._answers_by = now + c.WOKEN_DEAD_AFTER
            self._ping_due = None if self._ping_due is None else min(self._ping_due, self._answers_by)

    def _reopen(self, now: float) -> list[Effect]:
        """Open the tunnel, if that is due and a path has answered since."""
        since = self._reopening.since
        if since is None:
            return []
        route = self.selected
        answered_at = self.relay.answered_at if route is None else route.last_pong_at
        if answered_at is None or answered_at < since or (route is None and not self.relay.usable):
            return []
        self._answers_by, self._slept_long = None, False
        return self._reopening.answered(None if route is None else route.rtt_s, now)

    def check(self, now: float) -> None:
        """Ping the path and refresh the relay now, after an event that may have broken the path."""
        if self.selected is not None:
            self._ping_due = now
        self.relay.refresh(now)

    def review(self, me: Self, now: float) -> list[Effect]:
        """Our addresses or inner prefixes have changed: give up routes that may not be used now, the chosen one too."""
        gone = self.routes.review(me)
        return self._lose(now) if any(route is self.selected for route in gone) else []

    def retry_now(self, now: float) -> None:
        """Conditions have changed: restart the back-off, and try at once if no path is direct."""
        self._retry_s = c.RETRY_FIRST
        if self.routes and self.state in (PairState.IDLE, PairState.WAITING):
            self._retry_at = now

    # --- probes --------------------------------------------------------------------------------------

    def handle_probe(self, message: Probe, source: SocketAddress, now: float) -> list[Effect]:
        """Take an authenticated probe of this peer."""
        effects: list[Effect] = []
        route = self.routes.get(source)
        if message.kind is ProbeType.PONG:
            if (told := self.live_answer(message.transaction, now)) is not None:
                return told
            fresh = route is not None and route.fresh(now)
            if route is not None and route is self.selected and self._mtu.answered(message.transaction):
                return self._ask_sizes(now)
            if route is None or not route.answered(message.transaction, now):
                return effects
            if message.transaction in route.asks:
                route.asks.discard(message.transaction)
                if route is self.selected:
                    self._data.answered(message.says(ProbeFlag.DATA), now)
            check = not fresh  # our next ping tells the peer that we have received a pong
        else:
            if not self.routes.is_new(message, source, now) or not self.routes.me.takes(source):
                return effects  # a replay, or from inside a tunnel: ignored, whoever sent it
            using = route is not None and route is self.selected
            through = self._give_data(message, now)
            effects += self.routes.pong(message, source, now, using=using, data=bool(through)) + through
            if route is None:
                route = self.routes.peer_reflexive(source, now)
                if route is None:
                    return effects
            route.heard_at = now
            check = not route.fresh(now) and now - route.last_ping_at >= c.TRIGGERED_REST
            if message.says(ProbeFlag.USING):
                self._wanted = source
        route.peer_confirmed = message.says(ProbeFlag.HAVE_PONG)
        followed, route.peer_using = route.peer_using, message.says(ProbeFlag.USING)
        if message.says(ProbeFlag.PADDED) and not route.takes_padded:
            route.takes_padded = True
            if route is self.selected:
                self._mtu.begin(now)
        effects += self._peer_refuses(route, message.says(ProbeFlag.REFUSED), now)
        if check and route is not self.selected:
            effects += self._ping(route, now)  # RFC 8445 §7.3.1.4, a triggered check
        effects += self._choose(now)
        if route is self.selected:
            if self.chooser and followed and not route.peer_using:
                effects += self._ping(
                    route, now
                )  # the peer sees us elsewhere now: it waits to be told to follow
            self._plan_ping(now)
        return effects

    def _ping(self, route: Route, now: float, *, data: bool = False) -> list[SendDatagram]:
        return self.routes.ping(route, now, using=route is self.selected, data=data)

    # --- whether the peer answers, while somebody watches ------------------------------------------------

    def live_answer(self, transaction: bytes, now: float) -> list[Effect] | None:
        """Take an answer to a liveness request, over any path; None: it answers none."""
        before = self.liveness.answers
        if not self.liveness.answered(transaction, now):
            return None
        if before is False and self.selected is None:
            self.retry_now(now)
        return self._tell_liveness(before)

    def _ask_liveness(self, now: float) -> list[Effect]:
        if not self.liveness.watched(now):
            return []
        route = self.selected
        relayed = route is None and self.relay.usable and not self.activity.ending(now)
        if route is None and self._lost is not None and now - self._lost[1] <= c.LIVENESS_LOST:
            lost = self._lost[0]
            route = lost if self.routes.get(lost.address) is lost else None
        possible = (route is not None or relayed) and not self.stock  # do not wake an app on a phone
        before = self.liveness.answers
        self.liveness.plan(now, possible=possible)
        effects: list[Effect] = []
        if self.liveness.is_due(now, known=self.selected is not None):
            transaction = b""
            if route is not None:
                transaction, ping = self.routes.untracked(route, now, using=route is self.selected)
                effects.append(ping)
            if relayed:
                transaction = transaction or self.routes.transaction()
                effects.append(SendEcho(self.key, transaction))
                self._echoes = self._echoes[0], self._echoes[1] + 1
            self.liveness.sent(transaction, now)
        if self.liveness.answers is False and before is not False:
            self.check(now)
        return effects + self._tell_liveness(before)

    def _tell_liveness(self, before: bool | None) -> list[Effect]:
        return [] if self.liveness.answers is before else [LivenessChanged(self.key)]

    # --- path MTU --------------------------------------------------------------------------------------

    def set_mtu(self, mtu: int, now: float) -> None:
        """Set the MTU of this host's tunnels in bytes."""
        if mtu != self._mtu.full:
            self._mtu.full = mtu
            if self.selected is None:
                self._measure_relay(now)
            elif self.selected.takes_padded:
                self._mtu.begin(now)

    def handle_relayed(self, message: Probe, source: SocketAddress, now: float) -> list[Effect]:
        """An authenticated probe of this peer that came by the relay, from this address of it."""
        if message.kind is ProbeType.PING:
            answer: list[Effect] = [*self._relayed.answer(message, source, now)]
            if not answer or message.says(ProbeFlag.PADDED) or self.selected is not None:
                return answer
            if self._mtu.widened(now):
                self._relayed.rest()  # the peer has told what was to be asked
            return [*answer, *self._ask_sizes(now)]
        if self.selected is not None:
            return []
        if self._relayed.answered(message.transaction):
            self._mtu.begin(now)
        else:
            self._mtu.answered(message.transaction)
        return self._ask_sizes(now)

    def _measure_relay(self, now: float) -> None:
        """The relay carries the pair in another way than before, or no longer."""
        self._mtu.rest()
        if self.selected is None and self.relay.usable and not self.stock:
            self._relayed.begin(now)
        else:
            self._relayed.rest()

    def _ask_sizes(self, now: float) -> list[Effect]:
        """Send the padded pings that are due, and report a changed limit."""
        route = self.selected
        effects: list[Effect] = []
        if route is None and self._relayed.due is not None:
            effects += self._relayed.ask(now)
        for size in self._mtu.sizes(now):
            if route is None:
                transaction, sent = self._relayed.padded(size, now)
                effects += sent
            else:
                transaction, ping = self.routes.padded(route, size, now, using=True)
                effects.append(ping)
            self._mtu.sent(transaction, size)
        found, full = self._mtu.found, self._mtu.full
        limit = found if found is not None and found < full else None
        if limit != self._limited:
            self._limited = limit
            effects.append(LimitSize(self.key, limit))
        return effects

    # --- whether data passes ---------------------------------------------------------------------------

    def _give_data(self, ping: Probe, now: float) -> list[Effect]:
        """The data that a ping asks for, to send through the tunnel."""
        if not ping.says(ProbeFlag.DATA) or now - self._data_given_at < c.DATA_GIVEN_REST:
            return []
        self._data_given_at = now
        return [SendThrough(self.key, c.DATA_GIVEN_AT_ONCE)]

    def _peer_refuses(self, route: Route, refuses: bool, now: float) -> list[Effect]:
        """Take note whether the peer's probe says that WireGuard's packets do not arrive by this path."""
        if route.peer_refuses and not refuses and now >= route.refused_until:
            route.refusal = ""
        route.peer_refuses = refuses
        if not refuses:
            return []
        route.refusal = route.refusal or PEER_SAYS
        return self._lose(now) if route is self.selected else []

    def _judge_data(self, now: float) -> list[Effect]:
        """Ask the peer for data while the path is in doubt, and give the path up when none arrives."""
        route = self.selected
        if route is None:
            return []
        if (why := self._data.verdict(now)) is not None and not route.suspect(now):
            route.refuse(why, now)
            told = self._ping(route, now)  # with REFUSED, so that the peer leaves the path, too
            return [*told, *self._lose(now), *self._ping(route, now)]
        if self._data.doubted:
            self._mtu.doubted(now)
        else:
            if self._data.carried and now - self._selected_at >= c.STABLE_AFTER:
                route.refusals, route.refusal = 0, ""
            return []
        if self._data.shaken(now):
            self._relay_until = now + c.RELAY_KEEP
            self.relay.want(now)
        return [*self._ping(route, now, data=True), LookSoon(c.DATA_LOOK)]

    # --- choosing ------------------------------------------------------------------------------------

    def _choose(self, now: float) -> list[Effect]:
        if not self.chooser:
            wanted = self.routes.get(self._wanted) if self._wanted is not None else None
            if wanted is None or wanted is self.selected or not wanted.fresh(now) or wanted.refused(now):
                return []
            return self._select(wanted, now)
        ready = [route for route in self.routes.all() if route.ready(now)]
        if not ready:
            return []
        best = min(ready, key=lambda route: (-route.rank, route.rtt_s or 0.0))
        nearest = min(ready, key=lambda route: route.rtt_s or 0.0)
        if best.far_behind(nearest):
            best = nearest
        if self.selected is None or self._better(best, self.selected, now):
            return self._select(best, now)
        return []

    def _better(self, new: Route, old: Route, now: float) -> bool:
        if new is old:
            return False
        if old.left:
            return True
        if old.suspect(now):
            return old.silent_for(now) >= c.RESCUE_AFTER
        if new.rank > old.rank:
            return not new.far_behind(old)
        if new.rank < old.rank:
            return old.far_behind(new) and now - self._selected_at >= c.SWITCH_REST
        old_ms, new_ms = (old.rtt_s or 0.0) * 1000, (new.rtt_s or 0.0) * 1000
        gain = new_ms < c.SWITCH_GAIN * old_ms and new_ms < old_ms - c.SWITCH_GAIN_MS
        return gain and now - self._selected_at >= c.SWITCH_REST

    def _select(self, route: Route, now: float) -> list[Effect]:
        self._enter(PairEvent.CHOOSE)
        self.selected, self._lost = route, None
        self._selected_at = now
        self._rescued = False
        self._give_up_at = None
        self._repeat_at = self._retry_at = None
        if self.settled:
            self.offer_due = None
        else:
            self.round += 1 + int.from_bytes(self._rng(2))  # the peer answers only a round that is new to it
        self._relay_until = now + c.RELAY_KEEP
        rtt = max(route.rtt_s or 0.0, c.REASSERT_MIN)
        self._reassert = [now + rtt * times for times in c.REASSERT_AFTER]
        # The first ping after the choice carries USING, for which the other side waits.
        effects: list[Effect] = [*self._steer_gently(route.address, now), *self._ping(route, now)]
        effects += self.guesser.chosen(route.address)
        self._plan_ping(now)
        self._data.begin(doubted=bool(route.refusals))
        self._relayed.rest()
        if route.takes_padded:
            self._mtu.begin(now)
        else:
            self._mtu.rest()
        return effects + self._report(now) + self._judge_data(now)

    def _lose(self, now: float) -> list[Effect]:
        self._enter(PairEvent.LOSE)
        if now - self._selected_at >= c.STABLE_AFTER:
            self._retry_s = c.RETRY_FIRST
            self._losses = 0
        self._losses += 1
        assert self.selected is not None
        self.selected.forget_trust()
        self._lost = self.selected, now
        self.selected = None
        self._wanted = None
        self._ping_due = None
        self._mtu.rest()
        self._reassert = []
        self._relay_until = None
        self._retry_at = now if self._losses == 1 else now + self._retry_s
        self._retry_s = min(2 * self._retry_s, c.RETRY_MAX) if self._losses > 1 else self._retry_s
        self.relay.want(now)
        return self.guesser.end("the path died") + self._follow_relay(now)

    def _follow_relay(self, now: float) -> list[Effect]:
        """Use the relay if it is usable and there is no direct path; report a changed path."""
        effects: list[Effect] = []
        address = self.relay.address
        if self.selected is None and self.relay.usable and address is not None and self._endpoint != address:
            self._reassert = [now + c.REASSERT_MIN * 10]
            effects += self._steer_gently(address, now)
        return effects + self._report(now)

    def _steer_gently(self, endpoint: SocketAddress, now: float) -> list[Effect]:
        """Set an endpoint. The first one starts WireGuard's handshake, so the side that does not choose delays it.

        Two initiations that cross invalidate each other, and WireGuard waits five seconds before it tries again.
        """
        if self._endpoint is None:
            first = self.chooser or self._woke_peer
            self._gentle_until = now if first else now + c.FIRST_STEER_REST
        if now >= self._gentle_until:
            return [self._steer(endpoint)]
        self._endpoint = endpoint
        self._reassert = [self._gentle_until, *(at for at in self._reassert if at > self._gentle_until)]
        return []

    def _steer(self, endpoint: SocketAddress) -> SetEndpoint:
        self._endpoint = endpoint
        self._steered = True
        return SetEndpoint(self.key, endpoint)

    def _report(self, now: float) -> list[Effect]:
        kind: PathKind
        endpoint: SocketAddress | None
        if self.selected is not None:
            kind, endpoint = self.selected.path, self.selected.address
        elif self.relay.usable:
            kind, endpoint = "relay-tls" if self.relay.by_tls else "relay-udp", self.relay.address
        else:
            kind, endpoint = "none", None
        if (kind, endpoint) == (self._status.kind, self._status.endpoint):
            return []
        back = self._status.kind == "none" and (self.chooser or self.stock)  # one side: initiations cross
        if back and self._data.session_over(now):
            self._reopening.back(now)
        opened_s = now - self._rang_at if self._rang_at is not None and kind != "none" else None
        self._status = PathStatus(kind, endpoint, None, now, opened_s=opened_s)
        if self.selected is None:
            self._measure_relay(now)
        else:
            self._rang_at = None
        return [PathChanged(self.key, self.status)]

    # --- relay, engine, timers -----------------------------------------------------------------------

    def handle_relay(self, data: bytes, source: SocketAddress, now: float) -> list[Effect]:
        """Take a relay message from this pair's relay address."""
        changed = self.relay.handle_datagram(data, source, now)
        self._relay_heard(now)
        return self._follow_relay(now) if changed else []

    def handle_frame(self, data: bytes, now: float) -> list[Effect]:
        """Take a relay message for this pair that came over TLS."""
        changed = self.relay.handle_frame(data, now)
        self._relay_heard(now)
        return self._follow_relay(now) if changed else []

    def tunnel(self, relay: str | None, now: float) -> list[Effect]:
        """The TLS connection is up and leads to this relay; None: it is down."""
        self.relay.set_tunnel(relay, now)
        return self._follow_relay(now)

    def stand_in(self) -> list[Effect]:
        """Open or close the loopback address that represents the peer, depending on whether TLS carries its packets."""
        wanted = self.relay.address if self.relay.by_tls else None
        if wanted == self._stand_in:
            return []
        before, self._stand_in = self._stand_in, wanted
        effects: list[Effect] = [] if before is None else [StandIn(before, wanted=False)]
        return effects if wanted is None else [*effects, StandIn(wanted, wanted=True)]

    def observe(self, status: PeerStatus, now: float) -> list[Effect]:
        """Take the engine's counters and endpoint: detect activity, and undo WireGuard's own roaming."""
        counters = (status.rx_bytes, status.tx_bytes)
        if self._counters is None or status.rx_bytes != self._counters[0]:
            self._heard_at = now
            self.relay.heard()
        before = self._counters
        flows = before is not None and not is_upkeep(
            counters[0] - before[0], counters[1] - before[1], sum(self._echoes)
        )
        self._echoes = self._echoes[1], 0
        self._counters = counters
        self._data.observe(*counters, status.last_handshake_s, now)
        effects = self._reopening.observe(status.tx_bytes, now) + self._judge_data(now)
        if flows:
            self.activity.seen(now)
            if now >= self._active_until:
                self.check(now)  # check the path at once upon the first packets after a rest
            self._active_until = now + c.ACTIVE_FOR
            self._mtu.flows(now)
            self._relayed.flows(now)
            if self.selected is None and now - self._heard_at >= c.RELAY_DOUBT:
                self._heard_at = now
                self.relay.doubt(now)  # our NAT may have given us another source address
                self._mtu.doubted(now)
            if self.activity.lazy and self.state is PairState.WAITING:
                self._look_again(now)
            self._flowed_at = now
        elif self.selected is None and self._should_ask_relay(now):
            self.relay.refresh(now)
        if (
            self._endpoint is None
            and self.selected is None
            and status.endpoint is not None
            and not self.stock
        ):
            self._inherit(status.endpoint, now)
        return effects + self._defend(status.endpoint, now)

    def _should_ask_relay(self, now: float) -> bool:
        """Whether the peer had nothing to say since packets flowed a while ago, or the relay is dead by now."""
        heard_at = max(self._heard_at, self.relay.answered_at)
        watched = self.relay.several and now - self._flowed_at < c.RELAY_WATCH
        return watched and now - heard_at >= c.RELAY_DOUBT

    @property
    def stranded(self) -> bool:
        """Whether no path carries this pair."""
        return self.selected is None and not self.relay.usable

    def _look_again(self, now: float) -> None:
        """Plan a round, as data flows again: the peer may have folded the pair up, or a due round was left
        out."""
        if self._retry_at is None:
            self._retry_at = now
        elif self.stranded:
            self._retry_at = min(self._retry_at, now + c.RETRY_FIRST)

    def _defend(self, endpoint: SocketAddress | None, now: float) -> list[Effect]:
        """Undo WireGuard's own roaming, unless its endpoint may be the better one."""
        if endpoint is None or self._endpoint is None or endpoint == self._endpoint:
            return []
        if self.routes.me.is_inside(endpoint):
            return [
                self._steer(self._endpoint)
            ]  # the tunnel would carry itself: any other endpoint is better
        if self.selected is not None:
            # A suspect path is not defended: the endpoint to which WireGuard roamed may be the better one.
            return [] if self.selected.suspect(now) else [self._steer(self.selected.address)]
        return self._engine_roamed(endpoint, now)

    def _engine_roamed(self, endpoint: SocketAddress, now: float) -> list[Effect]:
        """WireGuard roamed to an endpoint that we did not set, and no direct path is chosen."""
        known = self.routes.get(endpoint)
        trusted = known is not None and known.fresh(now) and not known.refused(now)
        if self.relay.follow(endpoint, now, peer_chooses=not self.chooser):
            self._endpoint = endpoint
            return self._report(now)
        if self.relay.usable and self.relay.address is not None and not trusted:
            return [self._steer(self.relay.address)]
        return []

    def _inherit(self, endpoint: SocketAddress, now: float) -> None:
        """Probe the endpoint of an engine that outlived the last agent."""
        if (
            not self.routes.get(endpoint)
            and endpoint != self.relay.address
            and not self.relay.is_at(endpoint)
            and self.routes.peer_reflexive(endpoint, now)
        ):
            self._punches = sorted([*self._punches, now])

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(
            self.relay.next_timer(),
            self.offer_due,
            self._give_up_at,
            self._retry_at if self.online else None,
            self._presence_by,
            self._ping_due,
            self._relay_until,
            self._punches[0] if self._punches else None,
            self._reassert[0] if self._reassert else None,
            self.guesser.next_timer(),
            self._mtu.due,
            self.liveness.due,
            self._relayed.due,
        )

    def handle_timer(self, now: float, control: bool) -> list[Effect]:
        """Perform what is due, except the manager's offers and rounds; `control`: the mediator is connected."""
        effects: list[Effect] = []
        effects += self.relay.handle_timer(now, control)
        carried = self.relay.usable, self.relay.address
        if carried != self._followed:
            self._followed = carried
            effects += self._follow_relay(now)
        if self._reassert and now >= self._reassert[0]:
            self._reassert = [at for at in self._reassert if at > now]
            if self._endpoint is not None:
                effects.append(self._steer(self._endpoint))
        if self._knocks:
            effects += self.knocks(now)
        effects += self._ask_liveness(now)
        effects += self._ask_sizes(now)
        effects += self.guesser.handle_timer(now)
        if self._punches and now >= self._punches[0]:
            self._punches = [at for at in self._punches if at > now]
            if self.state in (PairState.OFFERED, PairState.WAITING, PairState.IDLE):
                self._enter(PairEvent.PUNCH)
            effects += self._ping_others(now)
        if self._relay_until is not None and now >= self._relay_until:
            self._relay_until = None
            self.relay.release()
        if self._ping_due is not None and now >= self._ping_due:
            effects += self._watch(now)
        if self._give_up_at is not None and now >= self._give_up_at:
            self._give_up_at = None
            if self.state in (PairState.OFFERED, PairState.PUNCHING):
                self._enter(PairEvent.GIVE_UP)
                self.offer_due = None
                self._retry_at = now + self._retry_s
                self._retry_s = min(2 * self._retry_s, c.RETRY_MAX)
        if self._presence_by is not None and now >= self._presence_by:
            self._presence_by = None
        waits = not self.online or self._presence_by is not None
        has_relay = self.relay.usable or self.relay.seeks_another(now)
        if waits and self.state is not PairState.DIRECT and not has_relay:
            self.relay.release()  # the peer will not bind
        elif self.online and self.state not in (PairState.DIRECT, PairState.IDLE):
            self.relay.want(now)
        if self._waiting:
            effects += self._carry(now)
        return effects + self._reopen(now)

    def round_due(self, now: float) -> bool:
        """Whether the back-off is over: the manager then begins a round, or without a mediator calls `punch_alone`."""
        return self._retry_at is not None and self.online and now >= self._retry_at

    def rest(self) -> None:
        """Leave out the round that is due, because nobody talks."""
        self._retry_at = None
        self.activity.work_left()

    def punch_alone(self, now: float) -> None:
        """Punch without a mediator that starts both sides, at the known addresses of the peer."""
        self._retry_at = None
        if self.routes:
            self.punch(now)
        else:
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, c.RETRY_MAX)

    def _ping_others(self, now: float) -> list[Effect]:
        others = [r for r in self.routes.all() if r is not self.selected and self.routes.in_reach(r)]
        others.sort(key=lambda route: not route.proven)  # routes that need no budget come first
        return [effect for route in others for effect in self._ping(route, now)]

    def _plan_ping(self, now: float) -> None:
        route = self.selected
        if route is None:
            self._ping_due = None
        elif route.suspect(now):
            self._ping_due = now + c.PING_SUSPECT
        elif not route.peer_using:
            self._ping_due = max(now, route.last_ping_at + c.PING_NOMINATE)
        else:
            self._ping_due = now + (c.PING_ACTIVE if now < self._active_until else c.PING_IDLE)
        if route is not None and self._ping_due is not None and not route.suspect(now):
            self._ping_due = min(self._ping_due, route.suspect_at)
        if self._ping_due is not None and self._answers_by is not None and now < self._answers_by:
            self._ping_due = min(self._ping_due, self._answers_by)

    def _watch(self, now: float) -> list[Effect]:
        """Ping the path in use, and detect that it is suspect or dead."""
        route = self.selected
        if route is None:
            self._ping_due = None
            return []
        effects: list[Effect] = []
        if self._dead(route, now):
            return self._lose(now)
        silent = route.silent_for(now)
        if silent >= c.RESCUE_AFTER and not self._rescued:
            self._rescued = True
            self.relay.want(now)
            self.relay.refresh(now)  # the cause may have broken the relay's path, too
            self._relay_until = None
            effects += self._ping_others(now)
        elif silent == 0.0 and self._rescued:
            self._rescued = False
            self._relay_until = now + c.RELAY_KEEP
        effects += self._ping(route, now)
        self._plan_ping(now)
        return effects

    def _enter(self, event: PairEvent) -> None:
        self.state = following(self.state, event)
