"""Pairs with a stock WireGuard app at the relay, sans-IO: learns the app's address from WireGuard messages.

Such a pair has one relay port, to which both members send. A member with an agent is bound by its allocation, as for
any peer (`mediator.core.relay_table`). An app speaks only WireGuard, so the relay learns its address from that:

state      event                                                           next
UNHEARD    initiation with a valid mac1 for the other side                 UNHEARD: forwarded, tentatively
UNHEARD    the other side's response to it, with its index                 BOUND, where the initiation came from
BOUND      initiation from another address, and the response to it         BOUND there
BOUND      transport from another address, index of a session that the
           other side agreed to, counter above all counters seen           BOUND there
BOUND      the app's own response to the other side's initiation           BOUND
BOUND      any WireGuard message from its address                          BOUND
BOUND      `APP_TTL_S` of silence                                          UNHEARD
any        anything else                                                   unchanged, no answer

A datagram from an unknown address gets no answer: one datagram of the same size goes to the other side, at a bounded
rate, or none. The first initiation with an index owns it: a copy from elsewhere has no effect. The relay cannot check
a transport message's tag, so an attacker who sees an app's packets and sends faster may receive its traffic for a
moment; the attacker cannot read it, and the app's next handshake corrects the address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from mediator.core.relay_limits import PairClass, TokenBucket, Toll
from mediator.core.relay_table import Answer, Flow, RelayTable
from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.wire import wireguard as wg

APP_TTL_S = 180.0
"""Reject-After-Time: after so long a silence an app has no session, and no NAT keeps its mapping."""
ATTEMPT_S = 5.0
"""Rekey-Timeout: after this an initiator sends a new initiation with another index."""
ATTEMPT_RATE = 5.0
ATTEMPT_BURST = 10.0
"""Initiations a second from one side of a pair, from all unbound addresses together, and the same again from the bound
address. An app sends one per 5 s.
"""
MAX_ATTEMPTS = 64
"""More than the rates admit within `ATTEMPT_S`."""
SOURCE_RATE = 0.5
SOURCE_BURST = 3.0
"""The part of these for one address (IPv6: one /64), so that one address cannot use up all."""
MAX_SOURCES = 256
"""Addresses per side of a pair whose rate is remembered."""
MAX_JUMP = 1 << 20
"""Packets that may be lost before a transport message from a new address: 10 s at full speed. Without this bound one
forged counter would lock the app out until its next handshake.
"""
SESSIONS = 3
"""WireGuard keeps a previous, a current and a next session."""


@dataclass(frozen=True, slots=True)
class PairMember:
    """One side of a pair."""

    key: WireGuardKey
    port: int
    """The member's own relay port, which names its account."""
    stock: bool
    """Whether the member has no agent."""


@dataclass(frozen=True, slots=True)
class PairPort:
    """A relay port that belongs to two members, at least one of them without an agent."""

    port: int
    members: tuple[PairMember, PairMember]


class _Side:
    """A member at the port of one of its pairs."""

    def __init__(self, member: PairMember, port: int, toll: Toll, now: float) -> None:
        self.member = member
        self.port = port
        self.toll = toll
        self.mac1_key = wg.mac1_key(member.key.raw)
        self.source: SocketAddress | None = None
        """The address of an app. (An agent's address is in the relay's table.)"""
        self.claimed: SocketAddress | None = None
        """The source of the app's newest initiation, not yet proven."""
        self.heard_at = now
        self.sessions: OrderedDict[int, int] = OrderedDict()
        """Receiver index of this side's messages, chosen by the other side, to the highest counter seen."""
        self.attempts: OrderedDict[int, _Attempt] = OrderedDict()
        """Forwarded initiations of this side, by sender index."""
        self.stranger_rate = TokenBucket(ATTEMPT_RATE, ATTEMPT_BURST, now)
        self.bound_rate = TokenBucket(ATTEMPT_RATE, ATTEMPT_BURST, now)
        self.sources: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def note(self, datagram: memoryview, now: float) -> None:
        """A transport message from the bound address was forwarded."""
        self.heard_at = now
        index = wg.receiver_index(datagram)
        seen = self.sessions.get(index)
        if seen is not None:
            self.sessions[index] = max(seen, wg.counter(datagram))

    def agreed(self, index: int, now: float) -> None:
        """Add a session in which this side sends to `index`."""
        self.heard_at = now
        self.sessions[index] = -1
        self.sessions.move_to_end(index)
        while len(self.sessions) > SESSIONS:
            self.sessions.popitem(last=False)

    def may_try(self, source: SocketAddress, now: float) -> bool:
        """Whether the rates admit an initiation of this side from `source`."""
        if source == self.source:
            return self.bound_rate.take(1, now)
        packed = source.address.packed
        prefix = packed[:8] if len(packed) == 16 else packed
        rate = self.sources.get(prefix)
        if rate is None:
            rate = self.sources[prefix] = TokenBucket(SOURCE_RATE, SOURCE_BURST, now)
            while len(self.sources) > MAX_SOURCES:
                self.sources.popitem(last=False)
        self.sources.move_to_end(prefix)
        return rate.take(1, now) and self.stranger_rate.take(1, now)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A forwarded initiation."""

    source: SocketAddress
    sent_to: SocketAddress | None
    """None: the other side's address was unknown; the attempt still counts against the other side's own initiation."""
    at: float


@dataclass(slots=True)
class _Pair:
    port: PairPort
    sides: tuple[_Side, _Side]
    silent: int = 0
    """Count of datagrams that were not forwarded."""
    wide: bool = False
    """Whether both sides are apps."""

    def both(self) -> tuple[tuple[_Side, _Side], tuple[_Side, _Side]]:
        one, other = self.sides
        return (one, other), (other, one)


class PairTable:
    """All pairs with apps of one relay, beside its table of bindings."""

    def __init__(self, table: RelayTable) -> None:
        self._table = table
        self._pairs: dict[int, _Pair] = {}

    def __contains__(self, port: int) -> bool:
        return port in self._pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def load(self, ports: Iterable[PairPort], now: float) -> None:
        """Set the pairs; an unchanged pair keeps its state."""
        wanted = {pair.port: pair for pair in ports}
        for port, pair in list(self._pairs.items()):
            if wanted.get(port) != pair.port:
                for gone, peer in pair.both():
                    self._silence(gone, peer, now)
                del self._pairs[port]
        for port, new in wanted.items():
            if port not in self._pairs:
                one, other = new.members
                wide = one.stock and other.stock
                kind = PairClass.APPS if wide else PairClass.APP
                toll = self._table.ledger.toll
                sides = (
                    _Side(one, port, toll(one.port, other.port, now, kind), now),
                    _Side(other, port, toll(other.port, one.port, now, kind), now),
                )
                self._pairs[port] = _Pair(new, sides, wide=wide)
        self._table.generation += 1

    def expire(self, now: float) -> None:
        """Forget silent apps and unanswered attempts; to be called every few seconds."""
        for pair in self._pairs.values():
            for side, other in pair.both():
                self._forget_attempts(side, now)
                if side.source is not None and now - side.heard_at > APP_TTL_S:
                    self._silence(side, other, now)

    def flow(self, port: int, source: SocketAddress, now: float) -> Flow | None:
        """The destination of transport messages from a bound address; None: call `transport` for each."""
        pair = self._pairs.get(port)
        for side, other in pair.both() if pair is not None else ():
            destination = self._where(other, now)
            if source == self._where(side, now) and destination is not None:
                return Flow(port, destination, side.toll, side if side.member.stock else None)
        return None

    def transport(self, port: int, datagram: memoryview, source: SocketAddress, now: float) -> Flow | None:
        """Handle a transport message from an unbound address: an app has moved, or None: no answer."""
        pair = self._pairs.get(port)
        if pair is None:
            return None
        index, count = wg.receiver_index(datagram), wg.counter(datagram)
        for side in pair.sides:
            seen = side.sessions.get(index)
            if side.source is None or seen is None or not seen < count <= seen + MAX_JUMP:
                continue
            side.source = source
            side.note(datagram, now)
            self._table.generation += 1
            return self.flow(port, source, now)
        pair.silent += 1
        return None

    def handshake(self, port: int, datagram: bytes, source: SocketAddress, now: float) -> list[Answer]:
        """Handle an initiation, response or cookie reply at a pair's port; returns the datagrams to send."""
        pair = self._pairs.get(port)
        if pair is None:
            return []
        match wg.message_type(datagram):
            case wg.INITIATION:
                answers = self._initiation(pair, datagram, source, now)
            case wg.RESPONSE:
                answers = self._response(pair, datagram, source, now)
            case wg.COOKIE_REPLY:
                answers = self._cookie_reply(pair, datagram, source, now)
            case _:
                answers = []
        pair.silent += not answers
        return answers

    def status(self, now: float) -> list[dict[str, object]]:
        """Each pair with the addresses and counters of its sides, for `status`."""
        return [
            {
                "port": port,
                "silent": pair.silent,
                "sides": [
                    {
                        "member": side.member.port,
                        "key": str(side.member.key),
                        "stock": side.member.stock,
                        "at": str(where) if (where := self._where(side, now)) is not None else None,
                        "sent": side.toll.passed,
                        "refused": side.toll.refused,
                    }
                    for side in pair.sides
                ],
            }
            for port, pair in self._pairs.items()
        ]

    # -------------------------------------------------------------------------------------------------

    def _where(self, side: _Side, now: float) -> SocketAddress | None:
        if side.member.stock:
            return side.source
        return self._table.source_of(side.member.port, side.port, now)

    def _initiation(self, pair: _Pair, datagram: bytes, source: SocketAddress, now: float) -> list[Answer]:
        found = next((both for both in pair.both() if wg.has_mac1(both[1].mac1_key, datagram)), None)
        if found is None:
            return []
        side, other = found
        if not side.member.stock and source != self._where(side, now):
            return []  # an agent may send only from its bound address
        self._forget_attempts(side, now)
        index = wg.sender_index(datagram)
        earlier = side.attempts.get(index)
        if (earlier is not None and earlier.source != source) or len(side.attempts) >= MAX_ATTEMPTS:
            return []
        if not side.may_try(source, now):
            return []
        destination = self._where(other, now)
        if destination is None and pair.wide:
            destination = other.claimed
        side.claimed = source
        side.attempts[index] = _Attempt(source, destination, now)
        return self._on(side, destination, datagram, now)

    def _response(self, pair: _Pair, datagram: bytes, source: SocketAddress, now: float) -> list[Answer]:
        index = wg.receiver_index(datagram)
        for side, other in pair.both():  # `side` sent the initiation, `other` answers
            attempt = side.attempts.get(index)
            if attempt is None or attempt.sent_to != source or now - attempt.at > ATTEMPT_S:
                continue
            if not wg.has_mac1(side.mac1_key, datagram):
                continue
            del side.attempts[index]
            answers = self._on(other, attempt.source, datagram, now)
            answers += self._bind(side, attempt.source, wg.sender_index(datagram), other, now)
            return answers + self._bind(other, source, index, side, now)
        return []

    def _cookie_reply(self, pair: _Pair, datagram: bytes, source: SocketAddress, now: float) -> list[Answer]:
        index = wg.receiver_index(datagram)
        for side, other in pair.both():
            attempt = side.attempts.get(index)
            if attempt is not None and attempt.sent_to == source and now - attempt.at <= ATTEMPT_S:
                return self._on(other, attempt.source, datagram, now)
        for side, other in pair.both():  # a cookie reply to a response, whose attempt is gone
            if source == self._where(side, now):
                return self._on(side, self._where(other, now), datagram, now)
        return []

    def _on(self, side: _Side, destination: SocketAddress | None, data: bytes, now: float) -> list[Answer]:
        """Forward a datagram of `side` unchanged."""
        if destination is None or not side.toll.take(len(data), now):
            return []
        return [Answer(side.port, destination, data)]

    def _bind(
        self, side: _Side, source: SocketAddress, writes_to: int, other: _Side, now: float
    ) -> list[Answer]:
        if not side.member.stock:
            return []
        new = side.source is None
        if side.source != source:
            side.source = source
            self._table.generation += 1
        side.claimed = None
        side.agreed(writes_to, now)
        if not new or other.member.stock:
            return []
        return self._table.announce(other.member.port, side.port, now, present=True)

    def _silence(self, side: _Side, other: _Side, now: float) -> None:
        if side.source is None:
            return
        side.source = side.claimed = None
        side.sessions.clear()
        self._table.generation += 1
        if not other.member.stock:
            self._table.announce(other.member.port, side.port, now, present=False)

    @staticmethod
    def _forget_attempts(side: _Side, now: float) -> None:
        while side.attempts:
            index, attempt = next(iter(side.attempts.items()))
            if now - attempt.at <= ATTEMPT_S:
                return
            del side.attempts[index]
            if side.claimed == attempt.source:
                side.claimed = None
