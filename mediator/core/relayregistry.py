"""The relays apart that have registered with this mediator, sans-IO: their load, and which pairs they are told.

state        event                                                     next
HELLO        a registration proven by a relay of the document, in 10 s REGISTERED: it is told all pairs with apps
HELLO        anything else                                             closed
REGISTERED   its load                                                  REGISTERED, for `LIFE_S` more
REGISTERED   the pairs have changed                                    REGISTERED: it is told all of them again
REGISTERED   the same relay registers anew                             closed, for the newer one
REGISTERED   `LIFE_S` of silence; the relay leaves the document        closed
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mediator.core.relay_pairs import PairPort
from netctl.model.document import Document
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey
from netctl.model.portspans import Span, checked, ports_in
from netctl.wire import registration as w
from netctl.wire.control import Error

REGISTER_TIMEOUT_S = 10.0
OFFENCES = frozenset({"register.signature", "register.malformed", "register.order", "message.bad"})
"""Codes of what no relay of ours does. A relay that the document does not name yet may try again and again."""


@dataclass(frozen=True, slots=True)
class Told:
    """All pairs with a stock app at one moment."""

    generation: int
    first: int
    """The first relay port of this mediator's range."""
    pairs: list[PairPort]


@dataclass(slots=True)
class _Connection:
    nonce: bytes
    heard: float
    relay: str = ""
    """Its identity; empty: not registered yet."""
    place: str = ""
    since: float = 0.0
    load: w.Load | None = None
    told: list[PairPort] | None = None
    unheld: frozenset[int] = frozenset()

    @property
    def deadline(self) -> float:
        return self.heard + (w.LIFE_S if self.relay else REGISTER_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Tell:
    """Send these messages on a connection. `known`: the relay has just proven itself."""

    connection: int
    messages: tuple[w.Message, ...]
    known: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """Send the error, and close the connection."""

    connection: int
    error: Error


Effect = Tell | End


class RelayRegistry:
    """Times are monotonic seconds."""

    def __init__(
        self, identity: IdentityKey, document: Callable[[], Document], pairs: Callable[[], Told]
    ) -> None:
        """`identity`: this mediator's. `document`: the one in force. `pairs`: the present ones."""
        self._identity, self._document, self._pairs = identity, document, pairs
        self._connections: dict[int, _Connection] = {}
        self._registered: dict[str, int] = {}

    def __contains__(self, relay: object) -> bool:
        """Whether the relay with this identity (text) is registered, and so knows the pairs with apps."""
        return relay in self._registered

    def __len__(self) -> int:
        return len(self._registered)

    def unheld(self, relay: str) -> frozenset[int]:
        """The relay ports that the relay with this identity could not bind, as it has told."""
        number = self._registered.get(relay)
        return self._connections[number].unheld if number is not None else frozenset()

    def has(self, connection: int) -> bool:
        """Whether the connection is a relay's, or that of a client that has not proven itself yet."""
        return connection in self._connections

    def connected(self, connection: int, nonce: bytes, now: float) -> list[Effect]:
        """A relay has connected. `nonce`: 32 fresh random bytes."""
        self._connections[connection] = _Connection(nonce, now)
        return [Tell(connection, (w.Hello(w.VERSION, nonce.hex()),))]

    def disconnected(self, connection: int) -> None:
        """A connection has ended."""
        state = self._connections.pop(connection, None)
        if state is not None and self._registered.get(state.relay) == connection:
            del self._registered[state.relay]

    def received(self, connection: int, payload: bytes, now: float) -> list[Effect]:
        """A frame has come."""
        state = self._connections.get(connection)
        if state is None:
            return []
        try:
            message = w.decode(payload)
            if not state.relay and isinstance(message, w.Register):
                return self._register(connection, state, message, now)
            if state.relay and isinstance(message, w.Load):
                if state.load is None or state.load.unheld != message.unheld:
                    state.unheld = _ports(message.unheld)
                state.heard, state.load = now, message
                return [Tell(connection, (w.Heard(int(w.LIFE_S)),))]
            raise RemoteError("a relay registers, and then tells its load", "register.order")
        except RemoteError as error:
            return self._end(connection, error.code, str(error))

    def handle_timer(self, now: float) -> list[Effect]:
        """Close what is over, and tell changed pairs. To be called about once a second."""
        effects: list[Effect] = []
        allowed = self._allowed() if self._connections else {}
        for number, state in list(self._connections.items()):
            if now >= state.deadline:
                effects += self._end(number, "register.silent", "nothing was heard in time")
            elif state.relay and state.relay not in allowed:
                effects += self._end(number, "register.unknown", "the document names this relay no more")
        if self._registered:
            told = self._pairs()
            for number in self._registered.values():
                effects += self._tell(number, self._connections[number], told)
        return effects

    def status(self, now: float) -> list[dict[str, object]]:
        """A row for each relay apart of the document, registered or not; relays that are members register nowhere."""
        rows: list[dict[str, object]] = []
        for name, where in self._allowed().items():
            number = self._registered.get(name)
            state = self._connections[number] if number is not None else None
            load = state.load if state is not None else None
            rows.append(
                {
                    "relay": where,
                    "identity": name,
                    "registered": state is not None,
                    "place": state.place if state is not None else "",
                    "since_s": round(now - state.since, 1) if state is not None else None,
                    "expires_s": round(state.deadline - now, 1) if state is not None else None,
                    "bindings": load.bindings if load is not None else None,
                    "members": load.members if load is not None else None,
                    "bits_per_s": load.bits_per_s if load is not None else None,
                    "forwarded_bytes": load.forwarded_bytes if load is not None else None,
                    "unheld": load.unheld if load is not None else [],
                }
            )
        return rows

    def _allowed(self) -> dict[str, str]:
        """The relays that may register, with their host and port."""
        relays = (one for one in self._document().mediators if one.relay_only and not one.member)
        return {str(one.identity[0]): f"{one.host}:{one.port}" for one in relays}

    def _register(self, connection: int, state: _Connection, message: w.Register, now: float) -> list[Effect]:
        relay = str(w.check(message, state.nonce, self._identity))
        if relay not in self._allowed():
            raise RemoteError("no relay of the mediator's document has this identity", "register.unknown")
        effects: list[Effect] = []
        older = self._registered.get(relay)
        if older is not None:
            effects += self._end(older, "register.replaced", "this relay has registered again")
        self._registered[relay] = connection
        state.relay, state.place, state.heard, state.since = relay, message.place, now, now
        effects.append(Tell(connection, (w.Heard(int(w.LIFE_S)),), known=True))
        return effects + self._tell(connection, state, self._pairs())

    def _tell(self, connection: int, state: _Connection, told: Told) -> list[Effect]:
        if state.told == told.pairs:
            return []
        state.told = told.pairs
        return [Tell(connection, tuple(parts_of(told)))]

    def _end(self, connection: int, code: str, message: str) -> list[Effect]:
        self.disconnected(connection)
        return [End(connection, Error(code[:64], message[:512]))]


def _ports(told: list[Span]) -> frozenset[int]:
    try:
        return ports_in(checked(told))
    except ValueError as error:
        raise RemoteError(str(error), "message.bad") from None


def parts_of(told: Told) -> Iterator[w.Pairs]:
    """The messages that tell these pairs."""
    rows = [
        w.PairRow(
            pair.port,
            (str(pair.members[0].key), str(pair.members[1].key)),
            (pair.members[0].port, pair.members[1].port),
            (pair.members[0].stock, pair.members[1].stock),
        )
        for pair in told.pairs
    ]
    parts = max(1, -(-len(rows) // w.ROWS))
    for part in range(parts):
        some = rows[part * w.ROWS : (part + 1) * w.ROWS]
        yield w.Pairs(told.generation, told.first, part, parts, some)
