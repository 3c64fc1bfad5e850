"""Chooses the relay of a pair, sans-IO. The pair has one `RelayLink` for each relay, and one of them is in use.

Both members rank the relays by the same numbers: the sum of their round trips to each, which they tell each other with
their offers. So both come to one relay without a message about it, also while the mediator is away.

state   event                                           next
NONE    both members are bound at the best relay        USED: that relay
NONE    it owes answers, or the peer is not bound       NONE: the next best is asked too, three at most
USED    a much better relay is known                    USED: it is asked too, and taken once the peer is bound
USED    the relay in use owes answers                   USED: the same with the next best, then with others too
USED    WireGuard hears the peer over another relay     USED: that relay, if the peer chooses
USED    the binding at the relay in use ends            NONE, or USED: another relay at which both are bound

A relay is much better only by present measurements of both members to both relays. A relay that answered none of the
last series of questions is not measured: that is no reason to leave it, and none to take it. Only if it owed answers to
a pair as well it counts as out of reach (`OUT_OF_REACH_MS`), which the peer is told.

Relays tell how loaded they are, in four steps. A loaded relay ranks as if it were farther away, and a full one after
all others (`weighted`). So a pair that looks for a relay takes the less loaded one of two that are hardly farther than
each other. The load of the relay in use moves no pair: that would empty a relay at once, and fill the next one. Of
relays at nearly one distance (`RELAY_TIE_MS`) the first counts: the one beside the mediator, then in the document's
order. With several mediators the relays beside them have names and count in the document's order, before those apart.

A relay that is left is told nothing: it keeps its binding for 65 s, and packets on their way arrive.

A stock app has one relay in its configuration, which nobody tells this host. So the host binds at every relay, uses the
one at which the app is heard, and goes where WireGuard hears the app next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.paths.constants import (
    RELAY_ALONE,
    RELAY_DOUBTS,
    RELAY_GAIN,
    RELAY_GAIN_MS,
    RELAY_MOVE_REST,
    RELAY_SECOND,
    RELAY_TIE_MS,
    RELAY_TRIAL,
    RELAY_TRIAL_REST,
    RELAY_WATCH,
    RELAYS_ASKED,
)
from netctl.paths.effects import SendDatagram, SendFrame
from netctl.paths.relaylink import LinkEffect, RelayLink
from netctl.wire.control import RelayGrant
from netctl.wire.stun import MAX_LOAD

BESIDE = ""
"""The relay beside the mediator that a message goes to or comes from, by its name on the wire."""
OUT_OF_REACH_MS = 60_000
"""The round trip to a relay that does not answer: the longest that the wire carries. No host is that far."""
NOTHING: Mapping[str, int] = MappingProxyType({})


def sums(mine: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    """Milliseconds from one member over each relay to the other and back, for relays that both have measured."""
    return {name: rtt + theirs[name] for name, rtt in mine.items() if name in theirs}


def much_better(new: float, old: float) -> bool:
    """Whether a pair moves from a relay with the sum `old` to one with the sum `new`, milliseconds."""
    return new < RELAY_GAIN * old and new < old - RELAY_GAIN_MS


def weighted(rtt_ms: float, load: int) -> float:
    """The sum at which a relay with this load ranks, milliseconds. With a load of two, another relay without load is
    better unless this one is much better (`much_better`); a load of one counts half as much.
    """
    return rtt_ms / math.pow(RELAY_GAIN, load / 2) + RELAY_GAIN_MS * load / 2


def ranked(total: Mapping[str, float]) -> list[str]:
    """The names, nearest first, and of those that are hardly farther than the nearest left one the first as they come.

    `total`: milliseconds, which may be infinite, in the document's order.
    """
    left, found = dict(total), []
    while left:
        limit = min(left.values()) + RELAY_TIE_MS
        found.append(next(name for name, rtt_ms in left.items() if rtt_ms <= limit))
        del left[found[-1]]
    return found


def differs(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether another relay may be the best one after these changes."""
    return before.keys() != after.keys() or any(
        much_better(*sorted((before[name], rtt_ms))) for name, rtt_ms in after.items()
    )


class Ranking(NamedTuple):
    """The order of a pair's relays, and what it was made of."""

    numbers: tuple[object, ...]
    names: tuple[str, ...]
    """Best first."""
    total: Mapping[str, int]
    """Milliseconds over each relay that both members have measured."""


class PairRelays:
    """All relays of one pair, which uses them as one relay."""

    def __init__(
        self,
        peer: str,
        rng: Callable[[int], bytes],
        mine: Mapping[str, int] = NOTHING,
        load: Mapping[str, int] = NOTHING,
        *,
        everywhere: bool = False,
    ) -> None:
        """`mine`: this host's present round trips to relays, milliseconds; `load`: how loaded they said to
        be. The owner of the mappings changes them.

        `everywhere`: bind at all relays, because the peer is a stock app and chooses by itself.
        """
        self._peer, self._rng, self._mine = peer, rng, mine
        self._everywhere = everywhere
        self.theirs: Mapping[str, int] = NOTHING
        """The peer's round trips, from its last offer."""
        self._load = load
        self._their_load: Mapping[str, int] = NOTHING
        self.wanted = False
        self.silent: set[str] = set()
        """Relays that have just fallen silent: a reason to measure all of them. Emptied by whoever has seen them."""
        self._links: dict[str, RelayLink] = {BESIDE: RelayLink(peer, rng)}
        self._home = BESIDE
        """The name of the relay beside this host's mediator; `BESIDE`: the document has no other mediator."""
        self._current = BESIDE
        self._current_at = float("-inf")
        self._asked_at: dict[str, float] = {}
        """Relays that were asked while none carries, with the time of the first question."""
        self._bad_until: dict[str, float] = {}
        """Relays that did not answer, or at which the peer was not bound: they rank last until this time."""
        self._trials: dict[str, float] = {}
        """Relays at which this host binds while another one is in use, with the time at which each trial ends."""
        self._doubts = 0
        """Times in a row that packets went out and none came, although the relay answers."""
        self._fell_silent_at = float("-inf")
        """When the relay in use last fell silent while it carried."""
        self._plan_due: float | None = None
        self._ranking = Ranking((), (), {})
        """The last ranking."""
        self._moved = False
        """Whether a plan would now differ from the last one."""
        self._tunnel: str | None = None
        """The relay to which the TLS connection leads; None: there is none."""

    # --- state ---

    @property
    def beside(self) -> RelayLink:
        """The relay beside this host's mediator."""
        return self._links[self._home]

    @property
    def _used(self) -> RelayLink:
        return self._links[self._current]

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self._links) > 1

    @property
    def name(self) -> str:
        """The name of the relay in use; `BESIDE`: the one beside the document's only mediator."""
        return self._current

    @property
    def usable(self) -> bool:
        """Whether both members are bound at the relay in use, so that packets flow."""
        return self._used.usable

    @property
    def answered_at(self) -> float:
        """When it last answered."""
        return self._used.answered_at

    @property
    def address(self) -> SocketAddress | None:
        """The address for the engine's endpoint of the peer."""
        return self._used.address

    @property
    def by_tls(self) -> bool:
        """Whether frames over TLS carry this pair."""
        return self._used.by_tls

    def is_at(self, address: SocketAddress) -> bool:
        """Whether this is an address of any of the relays, with their port for this peer."""
        for link in self._links.values():  # noqa: SIM110 - each packet of a relay asks, of one pair after another
            if address in link.servers:
                return True
        return False

    @property
    def needs_tunnel(self) -> bool:
        """Whether the TLS connection is needed, to whichever relay it leads."""
        if self._used.usable and not self._used.by_tls:
            return False
        return self.beside.needs_tunnel or self._links[self._by_tls].needs_tunnel

    @property
    def _by_tls(self) -> str:
        """The relay to which the TLS connection leads. Without one, that beside this host's mediator; but if no relay
        answers over UDP, the first, because TLS leads there, and it is the first that is asked.
        """
        if self._tunnel is not None:
            return self._tunnel
        measured = any(rtt_ms < OUT_OF_REACH_MS for rtt_ms in self._mine.values())
        return self._home if measured else next(iter(self._links))

    @property
    def tunnel_server(self) -> SocketAddress | None:
        """The address, with the port for this peer, of the relay to which the TLS connection leads."""
        return self._links[self._tunnel].server if self._tunnel is not None else None

    def seeks_another(self, now: float) -> bool:
        """Whether the relay in use has just died. The peer, which may be said to be offline because its mediator died
        with it, goes to another one, too.
        """
        return self.several and now < self._fell_silent_at + RELAY_WATCH

    def heard_since(self, since: float) -> bool:
        """Whether any relay has answered since then."""
        return any(link.answered_at >= since for link in self._links.values())

    def carry(self, data: bytes, *, whole: bool = False) -> list[SendDatagram | SendFrame]:
        """The effects that send data to the peer over the relay in use. `whole`: without fragments on our own leg."""
        return self._used.carry(data, whole=whole)

    def describe(self) -> str | None:
        """Why no relay carries this pair, for people; None if one does or none is wanted."""
        if self.usable or not self.several:
            return self._used.describe()
        lines = (self._links[name].describe() for name in self._asked_at if name in self._links)
        return "; ".join(line for line in lines if line) or self._used.describe()

    # --- events ---

    def know(self, relays: Sequence[str], now: float, home: str = BESIDE) -> None:
        """Set the relays with names, in the document's order: those beside mediators, then those apart.

        `home`: the name of the one beside this host's mediator, `BESIDE` where the document has no other mediator.
        """
        names = tuple(relays) if home in relays else (home, *relays)
        if (names, home) == (tuple(self._links), self._home):
            return
        if (BESIDE in self._links) != (home == BESIDE):
            self._rename(BESIDE if home != BESIDE else self._home, home)
        before, self._home = self._links, home
        self._links = {name: before.get(name) or RelayLink(self._peer, self._rng) for name in names}
        for name, link in self._links.items():
            link.name = BESIDE if name == home else name
        if self._tunnel not in self._links:
            self._tunnel = None
        for name in before.keys() - self._links.keys():
            before[name].release()
            self._asked_at.pop(name, None)
        if self._current not in self._links:
            self._current = home
        self._trials = {name: ends for name, ends in self._trials.items() if name in self._links}
        self._plan(now)

    def _rename(self, old: str, new: str) -> None:
        """The relay beside this host's mediator is known by another name from now on."""
        if old not in self._links or new in self._links:
            return
        self._links[new] = self._links.pop(old)
        for times in (self._asked_at, self._bad_until, self._trials):
            if old in times:
                times[new] = times.pop(old)
        self._current = new if self._current == old else self._current
        self._tunnel = new if self._tunnel == old else self._tunnel

    def want(self, now: float) -> None:
        """Bind at a relay, and keep the binding."""
        if not self.wanted:
            self.wanted = True
            self._asked_at.clear()
            self._plan(now)

    def release(self) -> None:
        """End all bindings: they are not refreshed any more."""
        self.wanted = False
        self._plan_due = None
        self._trials.clear()
        self._asked_at.clear()
        self._doubts = 0
        for link in self._links.values():
            link.release()

    def refresh(self, now: float) -> None:
        """The path may not work: refresh the binding at the relay in use."""
        self._used.refresh(now)

    def doubt(self, now: float) -> None:
        """Packets are sent and none is received."""
        self._doubts += 1
        self.refresh(now)
        self._plan(now)

    def heard(self) -> None:
        """Packets are received."""
        self._doubts = 0

    def told(self, theirs: Mapping[str, int], now: float, load: Mapping[str, int] = NOTHING) -> None:
        """Take the peer's round trips to the relays, and how loaded these said to be."""
        if (theirs, load) != (self.theirs, self._their_load):
            self.theirs, self._their_load = theirs, load
            self._plan(now)

    def control_up(self, now: float) -> None:
        """The mediator is connected: grants can be requested."""
        for link in self._links.values():
            link.control_up(now)

    def woke(self, now: float, suspended_s: float) -> None:
        """This host stood still, `suspended_s` of it by suspend, in which grants have aged."""
        for link in self._links.values():
            link.woke(now, suspended_s)

    def try_udp(self, now: float) -> None:
        """The network has changed: UDP may work now."""
        self._bad_until.clear()
        for link in self._links.values():
            link.try_udp(now)

    def set_tunnel(self, relay: str | None, now: float) -> None:
        """The TLS connection is up and leads to this relay; None: it is down."""
        before, self._tunnel = self._tunnel, relay if relay in self._links else None
        if before is not None and before != self._tunnel:
            self._links[before].set_tunnel(False, now)
        if self._tunnel is not None:
            self._links[self._tunnel].set_tunnel(True, now)
        self._plan(now)

    def handle_grant(self, grant: RelayGrant, now: float, servers: tuple[SocketAddress, ...] = ()) -> None:
        """Take the grant for one relay. `servers`: its addresses, which the document tells of relays with names."""
        link = self._links.get(grant.relay)
        if link is not None and (servers or grant.relay == self._home):
            link.handle_grant(grant, now, servers)

    def handle_datagram(self, data: bytes, source: SocketAddress, now: float) -> bool:
        """A relay message over UDP; True if `usable` or `address` changed."""
        before = self.usable, self.address
        for link in self._links.values():
            if source in link.servers:
                link.handle_datagram(data, source, now)
        self._plan(now)
        return (self.usable, self.address) != before

    def handle_frame(self, data: bytes, now: float) -> bool:
        """A relay message over TLS; True if `usable` or `address` changed."""
        before = self.usable, self.address
        if self._tunnel is not None:
            self._links[self._tunnel].handle_frame(data, now)
        self._plan(now)
        return (self.usable, self.address) != before

    def follow(self, endpoint: SocketAddress, now: float, *, peer_chooses: bool) -> bool:
        """WireGuard received from the peer over another relay at `endpoint`. True: that relay is in use from now on."""
        for name, link in self._links.items():
            there = name != self._current and link.usable and link.address == endpoint
            if there and (peer_chooses or self._everywhere or not self.usable or self._used.quiet):
                self._take(name, now)
                return True
        return False

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(self._plan_due, *[link.next_timer() for link in self._links.values()])

    def handle_timer(self, now: float, online: bool) -> list[LinkEffect]:
        """Perform what is due."""
        self._moved = False
        self._plan(now)
        effects: list[LinkEffect] = []
        for link in self._links.values():
            if link.is_due(now):
                effects += link.handle_timer(now, online)
                self._moved = True
        if self._moved:
            self._plan(now)
        return effects

    # --- choosing ---

    def _plan(self, now: float) -> None:
        """Ask the relays that are worth a question, take the best that carries, and release the others."""
        self._plan_due = None
        if not self.wanted:
            return
        if self._everywhere:
            self._hear(now)
            return
        if not self.several:
            self.beside.want(now)
            return
        for name, link in self._links.items():
            if link.wanted and link.quiet and now >= self._bad_until.get(name, now):
                self._bad_until[name] = now + RELAY_TRIAL_REST
                self.silent.add(name)
                self._moved = True
                if name == self._current and link.usable:
                    self._fell_silent_at = now
        if self.usable:
            self._improve(now)
        else:
            self._search(now)

    def _hear(self, now: float) -> None:
        """The peer is a stock app: be bound at every relay, and use one at which the app is heard."""
        for link in self._links.values():
            link.want(now)
        if self.usable and not self._used.quiet:
            return
        heard = (name for name, link in self._links.items() if link.usable and not link.quiet)
        if (name := next(heard, self._current)) != self._current:
            self._take(name, now)

    def _search(self, now: float) -> None:
        """No relay carries: ask the best, and further ones as time passes."""
        ranked = self._ranked(now).names
        carrying = next((name for name in ranked if self._links[name].usable), None)
        if carrying is not None:
            self._take(carrying, now)
            self._improve(now)
            return
        asked = self._asked(ranked, now)
        for name in self._links:
            if name not in asked and self._links[name].wanted:
                self._links[name].release()
                self._asked_at.pop(name, None)
                self._moved = True
        for name in asked:
            link = self._links[name]
            link.want(now)
            asked_at = self._asked_at.setdefault(name, now)
            if not link.quiet and now < asked_at + RELAY_ALONE:
                self._plan_due = asked_at + RELAY_ALONE
                return
        leave = (self._asked_at[name] + RELAY_TRIAL for name in asked)
        self._plan_due = min((at for at in leave if at > now), default=None)

    def _asked(self, ranked: Sequence[str], now: float) -> list[str]:
        """The relays to ask while none carries, best first: `RELAYS_ASKED` at most.

        One that answers keeps its place for `RELAY_TRIAL` although others rank better by now: the peer may just be
        binding there, and the relay tells it for a minute that this host is bound. The relay to which the TLS
        connection leads, or will lead, is among them while that is needed (`_by_tls`).
        """
        for name, link in self._links.items():
            if link.wanted and not link.quiet:
                self._asked_at.setdefault(name, now)
        kept = [
            name
            for name, at in self._asked_at.items()
            if self._links[name].wanted and not self._links[name].quiet and now < at + RELAY_TRIAL
        ]
        asked = [*kept, *(name for name in ranked if name not in kept)][:RELAYS_ASKED]
        if self.needs_tunnel and self._by_tls not in asked:
            asked[-1] = self._by_tls
        return sorted(asked, key=ranked.index)

    def _improve(self, now: float) -> None:
        """A relay carries: it stays, unless another one is much better, or its packets do not arrive."""
        used, ranking = self._used, self._ranked(now)
        best, total = ranking.names[0], ranking.total
        load = self._load_of(best)
        others = [name for name in ranking.names if name != self._current]
        self._links[others[0]].prepare(now)
        if used.quiet or self._doubts >= RELAY_DOUBTS:
            self._try(self._in_place_of_a_dead_one(others, now), now)
        elif (
            best != self._current
            and total.get(best, OUT_OF_REACH_MS) < OUT_OF_REACH_MS
            and load < MAX_LOAD
            and self._current in total
            and much_better(weighted(total[best], load), total[self._current])
            and now >= self._current_at + RELAY_MOVE_REST
        ):
            self._try([best], now)
        else:
            self._try([], now)

    def _in_place_of_a_dead_one(self, others: list[str], now: float) -> list[str]:
        """Relays to bind at, best first. One more every `RELAY_SECOND`: the peer may rank them differently by now."""
        kept = [name for name in self._trials if not self._links[name].quiet]
        if not kept:
            return others[:1]
        youngest = max(self._trials[name] for name in kept) - RELAY_TRIAL
        new = [name for name in others if name not in kept] if len(kept) < RELAYS_ASKED else []
        if now < youngest + RELAY_SECOND:
            self._plan_due = youngest + RELAY_SECOND if new else None
            return kept
        return [*kept, *new[:1]]

    def _try(self, wishes: list[str], now: float) -> None:
        """Bind at these relays and at no other beside the one in use, and take the first at which the peer is, too."""
        if not wishes and not self._trials:
            for name, link in self._links.items():
                if link.wanted and name != self._current:
                    link.release()
            return
        self._trials = {name: self._trials.get(name, now + RELAY_TRIAL) for name in wishes}
        for name in [name for name, ends in self._trials.items() if now >= ends]:
            self._bad_until[name] = now + RELAY_TRIAL_REST  # the peer did not bind there
            del self._trials[name]
            self._moved = True
        for name, link in self._links.items():
            if name in self._trials:
                link.want(now)
            elif name != self._current and link.wanted:
                link.release()
        self._plan_due = earliest(self._plan_due, *self._trials.values())
        bound = next((name for name in self._trials if self._links[name].usable), None)
        if bound is not None:
            self._take(bound, now)

    def _take(self, name: str, now: float) -> None:
        self._current, self._current_at = name, now
        self._asked_at.clear()
        self._bad_until.pop(name, None)
        self._trials.clear()
        self._doubts = 0
        self._moved = True

    def _ranked(self, now: float) -> Ranking:
        """The relays' names, best first: those that answer, the full ones after the others, each by `weighted`.

        A pair asks at each of its events, and the numbers change seldom: the same numbers rank as before.
        """
        bad = tuple(name for name, until in self._bad_until.items() if now < until)
        mine, load = tuple(self._mine.items()), tuple(self._load.items())
        numbers = (tuple(self._links), bad, mine, self.theirs, load, self._their_load)
        if numbers != self._ranking.numbers:
            total = sums(self._mine, self.theirs)
            self._ranking = Ranking(numbers, tuple(self._rank(bad, total)), total)
        return self._ranking

    def _rank(self, bad: Collection[str], total: Mapping[str, int]) -> list[str]:
        measured = {name: rtt_ms for name, rtt_ms in total.items() if rtt_ms < OUT_OF_REACH_MS}
        groups: dict[tuple[bool, bool], dict[str, float]] = {}
        for name in self._links:
            load, sum_ms = self._load_of(name), measured.get(name, math.inf)
            group = groups.setdefault((name in bad, load >= MAX_LOAD), {})
            group[name] = weighted(sum_ms, load)
        return [name for key in sorted(groups) for name in ranked(groups[key])]

    def _load_of(self, name: str) -> int:
        return max(self._load.get(name, 0), self._their_load.get(name, 0))
