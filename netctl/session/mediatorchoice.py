"""Which of the document's mediators a member tries next, and for how long it waits for it. Without I/O.

A round tries each mediator once. It begins when a connection that worked has ended, or when a round is over:

| the last connection                                   | the round that follows                               |
|-------------------------------------------------------|------------------------------------------------------|
| none worked yet                                       | all mediators                                        |
| ended, and its mediator may work (this host's network | that mediator first, then the others                 |
| has changed, somebody ordered it)                     |                                                      |
| was lost                                              | the others first, then that mediator                 |

Among several mediators of a round:

| the document            | order                                                                            |
|-------------------------|----------------------------------------------------------------------------------|
| has a relay apart, or   | the near ones by chance, the nearer the likelier; then those farther away; then  |
| all mediators that      | those whose round trip is not known, all equally likely                          |
| answer say that members |                                                                                  |
| may spread              |                                                                                  |
| has none                | as in the document                                                               |

A mediator that gives no grants at the relays beside the others does not say so (an earlier release, no bus). Then a
pair that needs a relay must be logged in at one mediator: all members keep the same order. A connection that works is
never left for a nearer mediator.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netctl.model.document import Mediator

NEAR_FACTOR = 2.0
NEAR_MS = 20
"""A mediator is near if its round trip is at most twice the shortest one, or at most this much longer: so many
milliseconds nobody notices in a login.
"""
FLOOR_MS = 10
"""Added to each round trip before they are compared: of two mediators in one hall, at 0.2 and 0.4 ms, neither gets
twice the members.
"""
LIMIT_S = 10.0
"""Longest wait for DNS, TCP and TLS together; a slow satellite link needs 4 s."""
LIMIT_UNKNOWN_S = 4.0
"""The same, while other mediators are left in the first round and the round trip is not known."""
LIMIT_LEAST_S = 2.0
LIMIT_TRIPS = 8
"""The same in round trips, at least `LIMIT_LEAST_S`: TCP and TLS take two, and one lost packet takes one second."""


def name_of(mediator: Mediator) -> str:
    """HOST:PORT, as round trips and stores are told by."""
    return f"{mediator.host}:{mediator.port}"


@dataclass(frozen=True, slots=True)
class Try:
    """Connect to this mediator at this TCP port, within `limit_s` seconds."""

    mediator: Mediator
    port: int
    limit_s: float


class MediatorChoice:
    """The order in which one member tries its mediators. Randomness is an argument in [0, 1)."""

    def __init__(self) -> None:
        self._mediators: tuple[Mediator, ...] = ()
        self._apart = self._spread = False
        """Whether the document has a relay apart, and whether members may spread over the mediators."""
        self._rtt_ms: Mapping[str, int] = {}
        self._left: list[Mediator] = []
        """Not tried yet in this round."""
        self._rounds = 0
        """Whole rounds in which no mediator worked."""
        self._first: Mediator | None = None
        self._last: Mediator | None = None
        self._current: Mediator | None = None
        self._works = False
        self.all_refuse = True
        """Whether each mediator that was tried in this round has refused this member."""
        self._retried = False
        """Whether the round began after the last try."""
        self._tries: dict[Mediator, int] = {}

    def use(self, mediators: Sequence[Mediator]) -> None:
        """Set the document's mediators. Relays apart among them are not tried; they allow members to spread."""
        self._mediators = tuple(one for one in mediators if not one.relay_only)
        self._apart = self._spread = any(one.relay_only for one in mediators)
        self._tries = {one: tries for one, tries in self._tries.items() if one in self._mediators}
        self._last = None
        self._begin()

    @property
    def measures(self) -> bool:
        """Whether round trips matter to the order."""
        return len(self._mediators) > 1

    def measured(self, rtt_ms: Mapping[str, int], spread: Collection[str] = ()) -> None:
        """Set the round trips in milliseconds, by `name_of`. A mediator that is missing did not answer.

        `spread`: those that say that members may spread.
        """
        self._rtt_ms = dict(rtt_ms)
        self._spread = self._apart or (bool(rtt_ms) and all(name in spread for name in rtt_ms))

    def retry(self) -> None:
        """The network of this host has changed, or somebody wants a connection now: begin a new round.

        A mediator that was lost comes last in it, too.
        """
        self._begin()

    def next(self, fraction: float) -> Try:
        """The next try. Raises LookupError without mediators."""
        if not self._mediators:
            raise LookupError("there is no mediator to try")
        if not self._left:
            self._left = list(self._mediators)
        if len(self._left) == len(self._mediators):
            self.all_refuse = True
        self._retried = False
        chosen = self._choose(fraction)
        self._left.remove(chosen)
        self._current, self._works = chosen, False
        if self._first == chosen:
            self._first = None
        ports = chosen.tcp_ports
        tries = self._tries.get(chosen, 0)
        self._tries[chosen] = tries + 1
        return Try(chosen, ports[tries % len(ports)], self._limit(chosen))

    def all_ports(self) -> Iterator[Try]:
        """Every port of every mediator once, in rounds, for somebody who needs one answer."""
        for turn in range(max((len(one.tcp_ports) for one in self._mediators), default=0)):
            for _ in self._mediators:
                chosen = self.next(0.0)
                if turn < len(chosen.mediator.tcp_ports):
                    yield chosen
                self.over(lost=True)

    def works(self) -> None:
        """The mediator of the last try has let this member in and shown a good view."""
        self._works = True
        self._rounds = 0

    def over(self, *, lost: bool, refused: bool = False) -> None:
        """The last try, or the connection that it made, is over. `lost`: not by this host's own doing. `refused`: the
        mediator does not let this member in.
        """
        # A try that began before the round says nothing of the others in it.
        self.all_refuse &= refused and not (self._retried and len(self._mediators) > 1)
        if self._works:
            self._works = False
            self._first, self._last = (None, self._current) if lost else (self._current, None)
            self._begin()
        elif not self._left:
            self._rounds += 1
            self._last = None

    @property
    def others_left(self) -> bool:
        """Whether this round has begun and other mediators are left in it: the next try need not wait."""
        return 0 < len(self._left) < len(self._mediators)

    def _begin(self) -> None:
        self._left = list(self._mediators)
        self._rounds = 0
        self.all_refuse = self._retried = True

    def _choose(self, fraction: float) -> Mediator:
        if self._first in self._left:
            assert self._first is not None
            return self._first
        left = [one for one in self._left if one != self._last] or self._left
        if not self._spread:
            return left[0]
        known = {one: self._rtt_ms[name_of(one)] for one in left if name_of(one) in self._rtt_ms}
        if not known:
            return left[min(int(fraction * len(left)), len(left) - 1)]
        best = min(known.values())
        limit_ms = max(NEAR_FACTOR * best, best + NEAR_MS)
        weights = {one: 1 / (rtt_ms + FLOOR_MS) for one, rtt_ms in known.items() if rtt_ms <= limit_ms}
        at = fraction * sum(weights.values())
        for one, weight in weights.items():
            chosen, at = one, at - weight
            if at < 0:
                break
        return chosen

    def _limit(self, chosen: Mediator) -> float:
        if not self._left or self._rounds:
            return LIMIT_S
        rtt_ms = self._rtt_ms.get(name_of(chosen))
        if rtt_ms is None:
            return LIMIT_UNKNOWN_S
        return min(max(LIMIT_LEAST_S, LIMIT_TRIPS * rtt_ms / 1000), LIMIT_S)
