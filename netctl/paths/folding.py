"""Lazy peers: their tunnels are opened with the first packet, and folded up when nobody talks. Without I/O.

state   event                                                              next
FOLDED  the engine sends to the doorbell                                   OPEN, with a round of our own
FOLDED  the peer's offer arrives                                           OPEN, in the peer's round
FOLDED  the engine has received something                                  OPEN, with a round of our own
OPEN    no data in either direction for the idle time                      FOLDED
OPEN    no data for a tenth of it, nothing carries the pair, and a path    FOLDED
        is due to be looked for or the peer is offline
OPEN    the mediator is gone                                               OPEN: nobody could wake the other side

A ring for a peer whose presence is not known asks the mediator first. It binds at the relay when the mediator says that
the peer is online, or says nothing for `PRESENCE_WAIT`.

A folded peer has an entry in the engine and a `Folded` here. It has no state machine, no probes, no relay
binding and no offers. Both sides count the same data, so they fold up within a second of each other. If one
side still sends, its packets reach the other's engine by the path that was there, and the pair opens again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netctl.model.hoststate import PeerStatus
from netctl.paths.constants import LAZY_CALM, LAZY_IDLE, LAZY_QUIET, RING_DATAGRAMS, RING_KEPT
from netctl.paths.effects import PathStatus
from netctl.wire.wireguard import INITIATION, message_type


@dataclass(slots=True)
class Folded:
    """The state of a folded peer."""

    status: PathStatus
    online: bool | None = True
    """None: the mediator does not tell. A ring then waits for its word (`Pair.asks_presence`)."""
    counters: tuple[int, int] | None = None
    """The engine's (received, sent) bytes at the last look; None: none yet."""
    woken: bool = False
    """This host stood still since the pair was folded up, so its engine may have no session, and the peer's may."""

    def hears(self, status: PeerStatus) -> bool:
        """Whether the engine has received something since the last look. Counters that fell are a new engine's."""
        before, self.counters = self.counters, (status.rx_bytes, status.tx_bytes)
        return before is not None and status.rx_bytes > before[0]


@dataclass(slots=True)
class Waiting:
    """Datagrams that the engine sent to a doorbell and that wait for a path."""

    _datagrams: list[tuple[float, bytes]] = field(default_factory=list)

    def add(self, datagram: bytes, now: float) -> None:
        """Keep a datagram. An initiation replaces the one before, which it makes invalid."""
        if message_type(datagram) == INITIATION:
            self._datagrams = [one for one in self._datagrams if message_type(one[1]) != INITIATION]
        self._datagrams = [*self._datagrams[1 - RING_DATAGRAMS :], (now, datagram)]

    def take(self, now: float) -> list[bytes]:
        """Remove all datagrams, and return those that have waited for `RING_KEPT` at most, oldest first."""
        found, self._datagrams = self._datagrams, []
        return [datagram for at, datagram in found if now - at <= RING_KEPT]

    def __bool__(self) -> bool:
        return bool(self._datagrams)


class Activity:
    """When a pair had data last, and whether it may be folded up: never unless `lazy` is set. Times are in
    seconds."""

    def __init__(self, *, idle_s: float = LAZY_IDLE) -> None:
        self.lazy = False
        self.idle_s = idle_s
        self._at = 0.0
        self._idle_work = False
        """Whether a round for a path was left out because nobody talks."""

    def seen(self, now: float) -> None:
        """Record that data passed, or that one side wants to talk."""
        self._at = now
        self._idle_work = False

    def quiet(self, now: float) -> bool:
        """Whether nobody has talked for so long that a path is not looked for."""
        return self.lazy and now - self._at >= self.idle_s * LAZY_QUIET

    def work_left(self) -> None:
        """Record that a round for a path was left out because nobody talks."""
        self._idle_work = True

    def ending(self, now: float) -> bool:
        """Whether the pair is about to be folded up, so that its tunnel must carry nothing of our own."""
        return self.lazy and now - self._at >= self.idle_s * (1 - LAZY_CALM)

    def over(self, now: float, *, stranded: bool, offline: bool = False) -> bool:
        """Whether the pair may be folded up. `stranded`: no path carries it; `offline`: the peer is offline."""
        if not self.lazy:
            return False
        hopeless = stranded and (self._idle_work or offline)
        return now - self._at >= self.idle_s or (hopeless and self.quiet(now))
