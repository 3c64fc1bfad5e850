"""Measures the round trip to each relay, sans-IO: a few STUN questions to each, at the start and every few minutes.

The questions leave from the WireGuard port, so they go the way of relayed packets. With a document without relays apart
there is no choice, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from netctl.model.addresses import SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.errors import RemoteError
from netctl.paths.constants import METER_EVERY, METER_QUESTIONS, METER_REST, METER_WAIT
from netctl.paths.effects import SendDatagram
from netctl.paths.relaychoice import BESIDE, OUT_OF_REACH_MS, differs
from netctl.wire import stun
from netctl.wire.control import MAX_RELAYS, RelayTime


class RelayMeter:
    """Round trips in milliseconds, by the relays' names."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self.rtt_ms: dict[str, int] = {}
        """The shortest of the last series. A relay that answered nothing is not here, or `OUT_OF_REACH_MS` away if it
        owed answers to a pair as well.
        """
        self.load: dict[str, int] = {}
        """How loaded relays are, 1 to `stun.MAX_LOAD`, by their last answers; relays without load are not here."""
        self.spread: set[str] = set()
        """Where members may spread over mediators, by the last answers (`stun.SPREAD`)."""
        self._doubted: set[str] = set()
        """Relays that owed answers to a pair since their last answer here."""
        self._apart: Mapping[str, Sequence[SocketAddress]] = {}
        self._beside: Sequence[SocketAddress] = ()
        self._home = BESIDE
        self._found: dict[str, int] = {}
        self._asked: dict[bytes, tuple[str, SocketAddress, float]] = {}
        self._questions: list[float] = []
        """The times of the questions of this series that are not sent yet."""
        self._ends: float | None = None
        self._next: float | None = None
        self._began = float("-inf")
        self._told: dict[str, int] = {}
        self._told_load: dict[str, int] = {}

    def use(self, apart: Mapping[str, Sequence[SocketAddress]], now: float) -> None:
        """Set the relays with names, each with its STUN port at all its addresses."""
        if dict(apart) == self._apart:
            return
        self._apart = dict(apart)
        self._forget_others()
        self._begin(now)

    def set_home(self, name: str, now: float) -> None:
        """Set the name of the relay beside the mediator that this host is logged in to."""
        if name != self._home:
            self._home = name
            self._forget_others()
            self._begin(now)

    def _forget_others(self) -> None:
        for known in (self.rtt_ms, self.load):
            for name in known.keys() - {self._home, *self._apart}:
                del known[name]

    def use_beside(self, servers: Sequence[SocketAddress], now: float) -> None:
        """Set the mediator's STUN servers: the relay beside the mediator is as far."""
        first = {server.host: server for server in reversed(servers)}
        if tuple(first.values()) != self._beside:
            self._beside = tuple(first.values())
            self._begin(now)

    def measure(self, now: float) -> None:
        """After a change: measure now, unless a series began within `METER_REST`."""
        if self._apart and now - self._began >= METER_REST:
            self._begin(now)

    def doubt(self, silent: Collection[str], now: float) -> None:
        """These relays owe answers to a pair: measure all."""
        self._doubted.update(silent)
        self.measure(now)

    def _begin(self, now: float) -> None:
        self._asked.clear()
        self._found = {}
        self._doubted &= {self._home, *self._apart}
        if not self._apart:
            self._questions, self._ends, self._next = [], None, None
            self.rtt_ms.clear()
            self.load.clear()
            return
        self._began = now
        self._questions = [now + at for at in METER_QUESTIONS]
        self._ends = self._questions[-1] + METER_WAIT
        self._next = now + METER_EVERY

    def next_timer(self) -> float | None:
        """When `handle_timer` is due."""
        return earliest(self._questions[0] if self._questions else None, self._ends, self._next)

    def handle_timer(self, now: float) -> list[SendDatagram]:
        """Send the questions that are due, and end a series."""
        if self._next is not None and now >= self._next:
            self._begin(now)
        effects: list[SendDatagram] = []
        if self._questions and now >= self._questions[0]:
            del self._questions[0]
            beside = self._beside or self._apart.get(self._home, ())
            for name, servers in {**self._apart, self._home: beside}.items():
                for server in servers:
                    transaction = self._rng(stun.TRANSACTION_LEN)
                    self._asked[transaction] = name, server, now
                    effects.append(SendDatagram(server, stun.binding_request(transaction)))
        if self._ends is not None and now >= self._ends:
            self._ends = None
            self._asked.clear()
            self._doubted -= self._found.keys()
            self.rtt_ms.clear()
            self.rtt_ms.update(self._found)
            self.rtt_ms.update(dict.fromkeys(self._doubted, OUT_OF_REACH_MS))
        return effects

    def handle_answer(self, data: bytes, source: SocketAddress, now: float) -> bool:
        """Take a STUN message. True: it answers a question of ours."""
        transaction = data[stun.HEADER_LEN - stun.TRANSACTION_LEN : stun.HEADER_LEN]
        asked = self._asked.get(transaction)
        if asked is None or asked[1] != source:
            return False
        try:
            message = stun.decode(data)
        except RemoteError:
            return True
        if message.kind != stun.BINDING_SUCCESS:
            return True
        name, _, at = self._asked.pop(transaction)
        if message.load:
            self.load[name] = message.load
        else:
            self.load.pop(name, None)
        (self.spread.add if message.spread else self.spread.discard)(name)
        rtt_ms = min(round((now - at) * 1000), OUT_OF_REACH_MS)
        self._found[name] = min(self._found.get(name, OUT_OF_REACH_MS), rtt_ms)
        # Until the series is over one late answer says nothing: a pair would move for it.
        self.rtt_ms[name] = min(self.rtt_ms.get(name, OUT_OF_REACH_MS), rtt_ms)
        return True

    @property
    def changed(self) -> bool:
        """Whether peers should be told: by the last series another relay may be best. False during a series."""
        return self._ends is None and (differs(self._told, self.rtt_ms) or self.load != self._told_load)

    def told(self) -> list[RelayTime]:
        """The round trips for an offer to peers, which count as told. The relay beside this host's mediator is also in
        it without its name, which agents of earlier releases do not know.
        """
        self._told, self._told_load = dict(self.rtt_ms), dict(self.load)
        if not self._apart:
            return []
        found = [RelayTime(rtt_ms, name, self.load.get(name, 0)) for name, rtt_ms in self.rtt_ms.items()]
        if self._home != BESIDE and self._home in self.rtt_ms:
            found.insert(0, RelayTime(self.rtt_ms[self._home], BESIDE, self.load.get(self._home, 0)))
        return found[:MAX_RELAYS]
