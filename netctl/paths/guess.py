"""Guesses the port of a peer whose NAT gives every destination another port (DESIGN §7.6).

Only a side with a fixed outside address guesses: the other side's NAT admits packets only from that address.

state      event       next        meaning
IDLE       WINDOW      GUESSING    the peer's NAT is sequential or has a small block: its window is probed
IDLE       ATTEMPT     PROMISED    both take part in a birthday attempt, which begins in a moment
PROMISED   BEGIN       GUESSING    we have the fixed outside address: random ports are probed
PROMISED   BEGIN_OPEN  OPEN        our NAT is the random one: open sockets, each with a mapping of its own
GUESSING   END         IDLE        a path was chosen, or all ports were tried
OPEN       HIT         TRIAL       a probe reached one of the sockets: its port is used for the tunnel with this peer
OPEN       END         IDLE
TRIAL      CHOOSE      USED        the path by that port was chosen
TRIAL      END         IDLE        it was not chosen in time: the rewrite is removed
USED       END         IDLE        the path died, or another one was chosen: the rewrite is removed
PROMISED   END         IDLE
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import WireGuardKey
from netctl.paths import constants as c
from netctl.paths.birthday import Birthdays
from netctl.paths.effects import CloseBatch, Effect, OpenBatch, Rewrite, SendFrom
from netctl.paths.predict import guesses
from netctl.paths.routes import Routes
from netctl.wire import probe
from netctl.wire.control import Nat
from netctl.wire.probe import ProbeType


class GuessState(Enum):
    """See the table above."""

    IDLE = "idle"
    PROMISED = "promised"
    GUESSING = "guessing"
    OPEN = "open"
    TRIAL = "trial"
    USED = "used"


class GuessEvent(Enum):
    """See the table above."""

    WINDOW = "window"
    ATTEMPT = "attempt"
    BEGIN = "begin"
    BEGIN_OPEN = "begin-open"
    HIT = "hit"
    CHOOSE = "choose"
    END = "end"


_S, _E = GuessState, GuessEvent
TRANSITIONS: dict[tuple[GuessState, GuessEvent], GuessState] = {
    (_S.IDLE, _E.WINDOW): _S.GUESSING,
    (_S.IDLE, _E.ATTEMPT): _S.PROMISED,
    (_S.PROMISED, _E.BEGIN): _S.GUESSING,
    (_S.PROMISED, _E.BEGIN_OPEN): _S.OPEN,
    (_S.PROMISED, _E.END): _S.IDLE,
    (_S.GUESSING, _E.END): _S.IDLE,
    (_S.OPEN, _E.HIT): _S.TRIAL,
    (_S.OPEN, _E.END): _S.IDLE,
    (_S.TRIAL, _E.CHOOSE): _S.USED,
    (_S.TRIAL, _E.END): _S.IDLE,
    (_S.USED, _E.END): _S.IDLE,
}


_NOT_BEGUN = (_S.IDLE, _S.PROMISED)


class Guesser:
    """The guesses of one pair. `new_batch`: returns the number of a new batch of sockets."""

    def __init__(
        self, key: WireGuardKey, routes: Routes, births: Birthdays, new_batch: Callable[[], int]
    ) -> None:
        self._key = key
        self._routes = routes
        self._births = births
        self._new_batch = new_batch
        self.state = GuessState.IDLE
        self.own: Nat | None = None
        """Our NAT in our last offer."""
        self.peer: Nat | None = None
        """The peer's NAT in its last offer."""
        self.batch: int | None = None
        self._ports: tuple[int, ...] = ()
        self._rest: Iterator[int] = iter(())
        self._asked: dict[int, bytes] = {}
        """Transactions of the pings sent by our sockets, by the socket's index."""
        self._target: Nat | None = None
        self._due: float | None = None
        self._end_at: float | None = None
        self._rewrite: tuple[SocketAddress, int] | None = None
        self._pings: list[float] = []
        self._last_window = float("-inf")
        self._birthday = False
        self.outcome = ""
        """The result of the last guesses, for people."""

    # --- offers of both sides ---

    def offer(self, nat: Nat | None, now: float) -> Nat | None:
        """Our NAT for an offer, with the promise to take part in a birthday attempt where that may help."""
        self.own = nat
        if self.state not in _NOT_BEGUN:
            return nat
        if nat is not None and self._could(nat, self.peer):
            if self._births.promise(self._key, now):
                self.own = Nat(nat.allocation, nat.address, nat.first, nat.step, nat.count, birthday=True)
        elif self.state is GuessState.IDLE:
            self._births.release(self._key)
        return self.own

    @staticmethod
    def _could(own: Nat, peer: Nat | None) -> bool:
        kinds = {"fixed", "random"}
        return own.allocation in kinds and (peer is None or {own.allocation, peer.allocation} == kinds)

    def heard(self, nat: Nat | None) -> None:
        """Take the peer's NAT from its offer."""
        self.peer = nat
        if self.state is GuessState.IDLE and not (
            self.own and nat and nat.birthday and self._could(self.own, nat)
        ):
            self._births.release(self._key)

    def punch(self, at: float) -> None:
        """Both sides start to punch at `at`: begin guesses or an attempt where they may help."""
        own, peer = self.own, self.peer
        if self.state not in _NOT_BEGUN:
            return
        if self.state is GuessState.PROMISED:
            self._enter(GuessEvent.END)  # the round has begun anew, and so the wait does
            self._due = None
        if own is None or peer is None:
            return
        if own.birthday and peer.birthday and self._could(own, peer):
            self._enter(GuessEvent.ATTEMPT)
            head_start = c.BIRTHDAY_HEAD_START if own.allocation == "fixed" else 0.0
            self._due = at + c.BIRTHDAY_AFTER + head_start
            return
        self._births.release(self._key)
        window = own.allocation == "fixed" and peer.allocation in ("sequential", "block")
        if window and at - self._last_window >= c.GUESS_REST:
            self._last_window = at
            self._enter(GuessEvent.WINDOW)
            self._begin_guesses(peer, at)

    # --- results ---

    def chosen(self, address: SocketAddress) -> list[Effect]:
        """The path to `address` was chosen."""
        if self.state is GuessState.TRIAL and self._rewrite is not None and self._rewrite[0] == address:
            self._enter(GuessEvent.CHOOSE)
            self._pings, self._due, self._end_at = [], None, None
            self._births.succeeded(self._key)
            self.outcome = f"the birthday method found local port {self._rewrite[1]}"
            return []
        if self.state is GuessState.USED and self._rewrite is not None and self._rewrite[0] == address:
            return []
        if self._birthday:
            self._births.succeeded(self._key)
        return self.end("a path was found" if self.state is GuessState.GUESSING else self.outcome)

    def inherit(self, remote: SocketAddress, local_port: int) -> None:
        """Take over a path in use whose port an earlier agent has found and rewritten."""
        if self.state is GuessState.IDLE:
            self.state = GuessState.USED
            self._rewrite = remote, local_port

    def end(self, outcome: str) -> list[Effect]:
        """End guesses, attempt or use; remove a rewrite."""
        if self.state is GuessState.IDLE:
            self._births.release(self._key)
            return []
        self._enter(GuessEvent.END)
        self.outcome = outcome
        self._due = self._end_at = None
        self._pings = []
        self._rest = iter(())
        self._birthday = False
        self._births.release(self._key)
        effects: list[Effect] = []
        if self.batch is not None:
            effects.append(CloseBatch(self.batch))
            self.batch = None
        if self._rewrite is not None:
            effects.append(Rewrite(*self._rewrite, wanted=False))
            self._rewrite = None
        return effects

    # --- our own sockets ---

    def opened(self, ports: tuple[int, ...], now: float) -> list[Effect]:
        """Take the local ports of our batch of sockets."""
        if self.state is not GuessState.OPEN:
            return []
        self._ports = ports
        self._asked = {}
        self._rest = iter(range(len(ports)))
        self._due = self._births.pace(now)
        return []

    def handle_batch(self, index: int, data: bytes, source: SocketAddress, now: float) -> list[Effect]:
        """Take a datagram of one of our sockets: an authentic, new probe from the peer's outside address is a hit."""
        if self.state is not GuessState.OPEN or source != self._destination() or index >= len(self._ports):
            return []
        try:
            heard = probe.open_probe(self._routes.keys, data)
        except RemoteError:
            return []
        if heard.kind is ProbeType.PONG:
            meant = self._asked.get(index) == heard.transaction
        else:
            meant = self._routes.is_new(heard, source, now)
        if not meant:
            return []  # a replay
        assert self.batch is not None
        self._enter(GuessEvent.HIT)
        self._rewrite = source, self._ports[index]
        batch, self.batch = self.batch, None
        self._pings = [now + wait for wait in c.REWRITE_PINGS]
        self._due, self._end_at = self._pings[0], now + c.REWRITE_TRIAL
        if self._routes.get(source) is None:
            self._routes.peer_reflexive(source, now)
        return [Rewrite(source, self._rewrite[1], wanted=True, batch=batch), CloseBatch(batch)]

    def _destination(self) -> SocketAddress | None:
        if self._target is None:
            return None
        try:
            found = SocketAddress.of(self._target.address, self._target.first)
        except ValueError:
            return None
        return found if self._routes.me.takes(found) and not found.is_ipv6 else None

    # --- time ---

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(self._due, self._end_at)

    def handle_timer(self, now: float) -> list[Effect]:
        """Send the next guess or the next socket's packet, or end."""
        if self._end_at is not None and now >= self._end_at:
            return self.end(self._failure())
        if self._due is None or now < self._due:
            return []
        self._due = None
        match self.state:
            case GuessState.PROMISED:
                return self._begin_birthday(now)
            case GuessState.GUESSING:
                return self._guess(now)
            case GuessState.OPEN:
                return self._open_next(now)
            case GuessState.TRIAL if self._rewrite is not None:
                self._pings = [at for at in self._pings if at > now]
                self._due = self._pings[0] if self._pings else None
                route = self._routes.get(self._rewrite[0])
                return [] if route is None else [*self._routes.ping(route, now, using=False)]
            case _:
                return []

    def _failure(self) -> str:
        if self.state is GuessState.TRIAL:
            return "the birthday method found a port that did not carry"
        if self._birthday:
            return f"the birthday method found nothing; again after {c.BIRTHDAY_BACK_OFF / 60:.0f} min"
        kind = "" if self._target is None else f" in the peer's {self._target.allocation} window"
        return f"no answer{kind}"

    def _begin_birthday(self, now: float) -> list[Effect]:
        own, peer = self.own, self.peer
        if own is None or peer is None or {own.allocation, peer.allocation} != {"fixed", "random"}:
            return self.end("the peer's NAT has changed")
        self._birthday = True
        self._births.tried(self._key, now)
        if own.allocation == "fixed":
            self._enter(GuessEvent.BEGIN)
            self._begin_guesses(peer, now)
            return []
        self._target = peer
        self._enter(GuessEvent.BEGIN_OPEN)
        if self._destination() is None:
            return self.end("the peer's outside cannot be reached")
        guessing = c.BIRTHDAY_PROBES * c.GUESS_INTERVAL
        self._end_at = now + c.BIRTHDAY_HEAD_START + guessing + c.BIRTHDAY_LATEST
        self.batch = self._new_batch()
        return [OpenBatch(self.batch, c.BIRTHDAY_SOCKETS)]

    def _begin_guesses(self, peer: Nat, at: float) -> None:
        self._target = peer
        self._rest = guesses(peer, self._births.chance())
        self._due = at
        self._end_at = None

    def _guess(self, now: float) -> list[Effect]:
        port = next(self._rest, None)
        if port is None or self._target is None:
            self._end_at = now + c.BIRTHDAY_LATEST
            return []
        self._due = self._births.pace(now + c.GUESS_INTERVAL)
        try:
            guess = SocketAddress.of(self._target.address, port)
        except ValueError:
            return self.end("the peer's outside cannot be reached")
        if not self._routes.me.takes(guess) or guess.is_ipv6:
            return self.end("the peer's outside cannot be reached")
        return [self._routes.knock(guess, now)]

    def _open_next(self, now: float) -> list[Effect]:
        index, destination = next(self._rest, None), self._destination()
        if index is None or destination is None or self.batch is None:
            return []
        self._due = self._births.pace(now + c.GUESS_INTERVAL)
        self._asked[index] = transaction = self._routes.transaction()
        sent = self._routes.knock(destination, now, transaction=transaction)
        return [SendFrom(self.batch, index, destination, sent.data)]

    def _enter(self, event: GuessEvent) -> None:
        found = TRANSITIONS.get((self.state, event))
        if found is None:
            raise LocalError(f"paths: {event.value} while guessing is {self.state.value}")
        self.state = found
