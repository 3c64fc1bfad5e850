"""The other mediators of one store, and which members are logged in at which of them, as far as the bus tells.

The bus may lose, double and reorder messages (`mediator.core.busmessages`). What is known of another mediator is kept
by its run id:

| state   | event                                  | next                                                          |
|---------|----------------------------------------|---------------------------------------------------------------|
| NEW     | any message of an unknown run          | BEHIND: it is asked for its members                           |
| BEHIND  | `Everybody`, all parts                 | CURRENT, unless later numbers are missing                     |
| CURRENT | the next number                        | CURRENT                                                       |
| CURRENT | a later number, or a beat that names it| BEHIND: it is asked after `REORDER_S` if the gap remains      |
| any     | no message for `SILENT_S`              | SILENT: its members are "unknown, check"; the table is kept   |
| SILENT  | any message                            | CURRENT or BEHIND: its members are shown again                |
| SILENT  | no message for `FORGET_S`; a new run of the same name | forgotten                                      |

A message whose number was received before is dropped. An epoch is a Lamport clock: one more than the highest epoch that
this mediator has given or received; between equal epochs the run id decides. Without a bus (`begin` was not called) all
tables are empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile

from mediator.core import busmessages as b
from mediator.core.effects import Publish, StoreMoved
from netctl.model.keys import WireGuardKey

BEAT_S = 1.0
SILENT_S = 3.0
"""Three missing beats."""
GATHER_S = 0.05
"""Shortest interval of messages with presence. The first change after a rest is sent at once."""
GATHER_MANY_S = 0.1
"""The same while many come: each message is a write to each member that it concerns."""
MANY = 8
"""Changes of one message."""
ANSWER_AFTER = 0.5
"""Whoever hears presence, and gathers some, sends it at once if this share of the interval is over. So all mediators
send at the same time, and a member hears of members here and elsewhere by one write. Without this limit two busy
mediators would answer each other without end.
"""
REORDER_S = 0.2
"""A message may arrive after a later one. After this time a missing message counts as lost."""
ASK_AGAIN_S = 1.0
ANSWER_EVERY_S = 0.5
"""All others may ask at the same time, when the bus is back: one answer is for all of them."""
HELD_S = 2.5
"""Longest wait for the answer of another mediator, which gives its older connection two seconds
(`duplicates.ANSWER_S`).
"""
WORD_S = 0.5
"""A mediator that works beats at once when it is asked, well within this. Nothing heard of it for so long after the
question: it is gone, and the newer connection need not wait for `HELD_S`.
"""
HANDED_S = 2.0
"""After a connection was released for a login elsewhere: if that login is not reported within this time, the member is
offline.
"""
FORGET_S = 60.0
"""A run that was silent for so long has most likely ended. If it comes back, it is asked for its members."""
MAX_PEERS = 32
"""Most other mediators. More are a fault of somebody who uses the bus, and would only need memory."""
MAX_AHEAD = 1_000
"""Most messages kept after a gap: more than ten seconds at the full rate. Above it the whole table is asked for."""
MAX_TABLE = b.MAX_PARTS * b.MAX_ROWS
"""Most members of one other mediator, and most members that have left it: as many as `Everybody` can name."""
MAX_OPEN = 4_096
"""Most unanswered questions of other mediators about older connections, 100 bytes each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A member has logged in at another mediator, or is logged in at none (`online` False; or that is unknown)."""

    key: WireGuardKey
    online: bool


@dataclass(frozen=True, slots=True)
class Superseded:
    """A member that is logged in here has logged in elsewhere since."""

    key: WireGuardKey


@dataclass(frozen=True, slots=True)
class Asked:
    """Another mediator asks whether the older connection here still works: call `answer` with this ticket."""

    ticket: int
    key: WireGuardKey
    message: b.LoginAsked


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer about an older connection elsewhere: it works (`source`: its address), or has ended.

    `connections`: those that waited for the answer. They are refused if the older connection works.
    """

    connections: tuple[int, ...]
    lives: bool
    source: str


@dataclass(frozen=True, slots=True)
class Carried:
    """A frame from the mediator `run`, for a member that is logged in here."""

    run: bytes
    sender: WireGuardKey
    receiver: WireGuardKey
    frame: bytes


Event = Publish | StoreMoved | Seen | Superseded | Asked | Answered | Carried


@dataclass(frozen=True, slots=True)
class PeerRow:
    """What is known of another mediator, for an operator."""

    name: str
    run: str
    alive: bool
    silent_s: float
    online: int
    """Count of members that are logged in there, as far as is known here."""
    state: int
    current: bool
    """Whether no message of it is missing here."""


@dataclass(slots=True)
class _Peer:
    run: bytes
    heard: float
    missing_since: float | None
    name: str = ""
    state: int = 0
    alive: bool = True
    leaving: bool = False
    """Whether it has said that it ends: it is asked no questions then."""
    upto: int | None = None
    """All messages up to this number were received. None: the whole table has to be received first."""
    told: int = 0
    """The highest number in its messages."""
    ahead: dict[int, b.Presence | None] = field(default_factory=dict)
    """Messages received after a gap, by number."""
    asked: float = float("-inf")
    table: dict[WireGuardKey, int] = field(default_factory=dict)
    """Members that are logged in there, with their epochs."""
    gone: dict[WireGuardKey, int] = field(default_factory=dict)
    """Members that have logged out there, with their epochs, while an older message may still arrive."""
    parts: dict[int, bytes] = field(default_factory=dict)
    parts_of: tuple[int, int] = (0, 0)
    """The number and the count of the parts that are being collected."""

    def first_time(self, number: int, presence: b.Presence | None, now: float) -> bool:
        """Note a counted message. False: it was received before."""
        self.told = max(self.told, number)
        if number in self.ahead or (self.upto is not None and number <= self.upto):
            return False
        self.ahead[number] = presence
        if len(self.ahead) > MAX_AHEAD:
            self.upto = None
            self.ahead.clear()
        self.settle(now)
        return True

    def settle(self, now: float) -> None:
        """Raise `upto` as far as there is no gap."""
        if self.upto is not None:
            while self.upto + 1 in self.ahead:
                self.upto += 1
                del self.ahead[self.upto]
            if self.told <= self.upto:
                self.missing_since = None
                return
        if self.missing_since is None:
            self.missing_since = now

    def apply(self, rows: bytes) -> list[WireGuardKey]:
        """Apply rows about its members, in any order. Returns their keys."""
        keys = []
        for key, epoch, here in b.unpack(rows):
            keys.append(key)
            known = self.table.get(key, -1)
            if not here:
                if key in self.gone or len(self.gone) < MAX_TABLE:
                    self.gone[key] = max(epoch, self.gone.get(key, -1))
                if epoch >= known:
                    self.table.pop(key, None)
            elif epoch > max(known, self.gone.get(key, -1)) and (known >= 0 or len(self.table) < MAX_TABLE):
                self.table[key] = epoch
        return keys

    def ask_due(self) -> float | None:
        if self.missing_since is None or not self.alive:
            return None
        return max(self.missing_since + REORDER_S, self.asked + ASK_AGAIN_S)


@dataclass(slots=True)
class _Question:
    key: WireGuardKey
    whom: bytes
    asked: float
    waiting: dict[int, None]
    """Connections that wait for the answer, oldest first."""


@dataclass(slots=True)
class _Questions:
    """The questions to one mediator by number, oldest first. No operation looks at all of them."""

    unheard: dict[int, _Question] = field(default_factory=dict)
    """Nothing was heard of the mediator since they were asked."""
    heard: dict[int, _Question] = field(default_factory=dict)
    """The mediator was heard since: it works. All are older than those of `unheard`."""

    def hear(self, at: float) -> None:
        """The mediator was last heard at this time."""
        while self.unheard:
            number = next(iter(self.unheard))
            if self.unheard[number].asked >= at:
                return
            self.heard[number] = self.unheard.pop(number)

    def pop(self, number: int) -> None:
        """A question is answered."""
        self.unheard.pop(number, None)
        self.heard.pop(number, None)

    def waits(self, *, works: bool) -> Iterator[tuple[dict[int, _Question], float]]:
        """How long each kind waits for its answer, in seconds. `works`: whether the mediator may answer at all."""
        yield self.heard, HELD_S if works else 0.0
        yield self.unheard, WORD_S if works else 0.0


class Peers:
    """What one mediator knows of the others. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.run = b""
        """Empty: there is no bus."""
        self.here: dict[WireGuardKey, bytes] = {}
        """Members that are logged in at another working mediator, with its run id."""
        self.state = 0
        self.sooner = 0
        """A count that grows whenever `next_timer` may have become earlier."""
        self.refused = 0
        """Count of messages from mediators above `MAX_PEERS`."""
        self._name = ""
        self._epoch = 0
        self._number = 0
        self._local: dict[WireGuardKey, int] = {}
        self._pending: dict[WireGuardKey, tuple[int, bool]] = {}
        self._gather_due = float("inf")
        self._gathered = float("-inf")
        """When presence was last sent."""
        self._interval_s = GATHER_S
        self._beat_due = float("inf")
        self._answer_due = float("inf")
        self._answered = float("-inf")
        self._handed: dict[WireGuardKey, tuple[int, float]] = {}
        """Epoch, and when it counts as offline: the first of these first."""
        self._peers: dict[bytes, _Peer] = {}
        self._questions: dict[int, _Question] = {}
        self._asked_of: dict[bytes, _Questions] = {}
        """The same by the mediator that was asked; none without a question."""
        self._asked: dict[WireGuardKey, int] = {}
        self._waits: dict[int, int] = {}
        """The question whose answer a connection waits for."""
        self._open: dict[int, b.LoginAsked] = {}
        self._tickets = 0
        self._questioned = 0
        self._now = float("-inf")

    def begin(self, run: bytes, name: str, now: float) -> None:
        """Begin to use a bus. `run`: fresh random bytes; `name`: this mediator's name for people."""
        if len(run) != b.RUN_LEN:
            raise ValueError(f"a run id is {b.RUN_LEN} bytes")
        self.run, self._name = run, name[: b.MAX_NAME]
        self._beat_due = self._now = now
        self.sooner += 1

    def speak(self, now: float) -> None:
        """Beat at once: another mediator may not have heard of this one yet, or not for some time."""
        if self.run:
            self._beat_due = min(self._beat_due, now)
            self.sooner += 1

    def rows(self, now: float) -> list[PeerRow]:
        """The other mediators, by name."""
        found = (
            PeerRow(
                peer.name,
                peer.run.hex(),
                peer.alive,
                max(0.0, now - peer.heard),
                len(peer.table),
                peer.state,
                peer.missing_since is None,
            )
            for peer in self._peers.values()
        )
        return sorted(found, key=lambda row: (row.name, row.run))

    # -- what happens here ----------------------------------------------------------------------------------

    def next_epoch(self, given: int) -> int:
        """The epoch of a login: above all epochs given by this mediator (`given`) or received."""
        self._epoch = max(self._epoch, given) + 1
        return self._epoch

    def came(self, key: WireGuardKey, epoch: int) -> None:
        """A member has logged in here."""
        if self.run:
            self._local[key] = epoch
            self._handed.pop(key, None)
            self._tell(key, epoch, here=True)

    def went(self, key: WireGuardKey) -> None:
        """A member's connection here has ended."""
        epoch = self._local.pop(key, None)
        if epoch is not None:
            self._tell(key, epoch, here=False)

    def hand(self, key: WireGuardKey, now: float) -> None:
        """As `went`, because the member logs in elsewhere. Others are told only if that login is not reported."""
        epoch = self._local.pop(key, None)
        if epoch is not None:
            self._handed.pop(key, None)
            self._handed[key] = epoch, now + HANDED_S
            self.sooner += 1

    def _tell(self, key: WireGuardKey, epoch: int, *, here: bool) -> None:
        if not self._pending:
            self._gather_due = max(self._now, self._gathered + self._interval_s)
            self.sooner += 1
        self._pending[key] = epoch, here

    def state_is(self, number: int) -> list[Event]:
        """This mediator shows the store's state of this number."""
        if not self.run or number <= self.state:
            return []
        self.state = number
        return [Publish(b.Changed(self.run, self._count(), number))]

    def carry(self, whom: bytes, sender: WireGuardKey, receiver: WireGuardKey, frame: bytes) -> list[Publish]:
        """Send a frame to a member at another mediator. One that is too long for the bus is dropped."""
        if len(frame) > b.MAX_FRAME:
            return []
        return [Publish(b.Carry(self.run, self._count(), whom, sender.raw, receiver.raw, frame))]

    def leave(self) -> list[Event]:
        """This mediator ends: the others let its members in without asking it."""
        return [*self._flush(), Publish(b.Leaving(self.run, self._number))] if self.run else []

    def can_answer(self, run: bytes) -> bool:
        """Whether it makes sense to ask the mediator `run` about an older connection."""
        peer = self._peers.get(run)
        return peer is not None and peer.alive and not peer.leaving

    def ask(
        self, key: WireGuardKey, whom: bytes, connection: int, previous: bytes, source: str, now: float
    ) -> list[Publish]:
        """Ask the mediator `whom` about its older connection of this key; `connection` waits for the answer."""
        found = self._asked.get(key)
        if found is not None:
            self._questions[found].waiting[connection] = None
            self._waits[connection] = found
            return []
        self.sooner += 1
        self._questioned += 1
        self._asked[key] = self._waits[connection] = self._questioned
        question = self._questions[self._questioned] = _Question(key, whom, now, {connection: None})
        of_peer = self._asked_of.setdefault(whom, _Questions())
        of_peer.unheard[self._questioned] = question
        if (peer := self._peers.get(whom)) is not None:
            of_peer.hear(peer.heard)
        asked = b.LoginAsked(self.run, self._count(), whom, self._questioned, key.raw, previous, source)
        return [Publish(asked)]

    def gone(self, connection: int) -> None:
        """A connection has ended, and waits for no answer."""
        number = self._waits.pop(connection, None)
        if number is not None:
            del self._questions[number].waiting[connection]

    def answer(self, ticket: int, source: str, *, lives: bool) -> list[Publish]:
        """Answer the question of this ticket about an older connection here."""
        found = self._open.pop(ticket, None)
        if found is None:
            return []
        return [Publish(b.Held(self.run, self._count(), found.run, found.question, lives, source))]

    def asker(self, ticket: int) -> str:
        """The address of the login at another mediator that this ticket is about."""
        found = self._open.get(ticket)
        return found.source if found is not None else ""

    def _count(self) -> int:
        self._number += 1
        return self._number

    # -- what the bus brings --------------------------------------------------------------------------------

    def received(self, message: b.Message, now: float) -> list[Event]:
        """Take a message that `busmessages.decode` has checked."""
        if not self.run or message.run == self.run:
            return []
        self.sooner += 1
        self._now = max(self._now, now)
        peer = self._peer(message.run, now)
        if peer is None:
            self.refused += 1
            return []
        self._hear(peer, now)
        events: list[Event] = []
        if not peer.alive:
            peer.alive = True
            events += self._place(peer.table)
        if isinstance(message, b.COUNTED):
            presence = message if isinstance(message, b.Presence) else None
            if not peer.first_time(message.number, presence, now):
                return events
        elif message.number > peer.told:
            peer.told = message.number
            peer.settle(now)
        events += self._take(peer, message, now)
        if peer.missing_since is None:
            peer.gone.clear()
        return events

    def _take(self, peer: _Peer, message: b.Message, now: float) -> list[Event]:
        mine = getattr(message, "whom", self.run) == self.run
        match message:
            case b.Beat():
                return self._beat(peer, message)
            case b.Changed():
                return self._moved(peer, message.state)
            case b.Presence():
                events = self._changed(peer, peer.apply(message.rows))
                answers = bool(self._pending) and now >= self._gathered + ANSWER_AFTER * self._interval_s
                return [*events, *self._flush()] if answers else events
            case b.Leaving():
                peer.leaving = True
                return self._settle_logins(now)
            case b.Ask() if mine:
                self._answer_due = min(self._answer_due, max(now, self._answered + ANSWER_EVERY_S))
            case b.Everybody():
                return self._everybody(peer, message, now)
            case b.LoginAsked() if mine:
                self.speak(now)  # the asker hears at once that this mediator works
                if len(self._open) >= MAX_OPEN:
                    del self._open[next(iter(self._open))]
                self._tickets -= 1  # below all connections
                self._open[self._tickets] = message
                return [Asked(self._tickets, WireGuardKey(message.key), message)]
            case b.Held() if mine:
                question = self._questions.get(message.question)
                if question is not None and question.whom == peer.run:
                    return self._answer(message.question, message.source, lives=message.lives)
            case b.Carry() if mine:
                sender, receiver = WireGuardKey(message.sender), WireGuardKey(message.receiver)
                return [Carried(peer.run, sender, receiver, message.frame)]
        return []

    def _hear(self, peer: _Peer, at: float) -> None:
        peer.heard = at
        if (asked := self._asked_of.get(peer.run)) is not None:
            asked.hear(at)

    def _peer(self, run: bytes, now: float) -> _Peer | None:
        peer = self._peers.get(run)
        if peer is None:
            if len(self._peers) >= MAX_PEERS:
                silent = [one for one in self._peers.values() if not one.alive]
                if not silent:
                    return None
                del self._peers[min(silent, key=lambda one: one.heard).run]
            peer = self._peers[run] = _Peer(run, now, now - REORDER_S)
            self.speak(now)
        return peer

    def _beat(self, peer: _Peer, beat: b.Beat) -> list[Event]:
        if beat.name and beat.name != peer.name:
            peer.name = beat.name
            for other in [one for one in self._peers.values() if one.name == beat.name and not one.alive]:
                del self._peers[other.run]  # the same mediator, restarted
        return self._moved(peer, beat.state)

    def _moved(self, peer: _Peer, state: int) -> list[Event]:
        """Another mediator shows this state. Reported again with each beat, until this mediator shows the state."""
        peer.state = max(peer.state, state)
        return [StoreMoved(state)] if state > self.state else []

    def _changed(self, peer: _Peer, keys: Iterable[WireGuardKey]) -> list[Event]:
        events: list[Event] = []
        for key in keys:
            epoch = peer.table.get(key)
            if epoch is None:
                continue
            if epoch <= b.MAX_NUMBER:
                self._epoch = max(self._epoch, epoch)
            mine = self._local.get(key)
            if mine is None:
                continue
            if (epoch, peer.run) > (mine, self.run):
                events.append(Superseded(key))
            else:  # the other mediator drops its connection when it receives this
                self._tell(key, mine, here=True)
        return events + self._place(keys)

    def _place(self, keys: Iterable[WireGuardKey]) -> list[Event]:
        """Update where these members are logged in."""
        events: list[Event] = []
        for key in list(keys):
            best: tuple[int, bytes] | None = None
            for peer in self._peers.values():
                epoch = peer.table.get(key) if peer.alive else None
                if epoch is not None and (best is None or (epoch, peer.run) > best):
                    best = epoch, peer.run
            before = self.here.pop(key, None)
            if best is not None:
                self.here[key] = best[1]
            if (before is None) != (best is None):
                events.append(Seen(key, best is not None))
        return events

    def _everybody(self, peer: _Peer, message: b.Everybody, now: float) -> list[Event]:
        if peer.missing_since is None or (peer.upto is not None and message.number < peer.upto):
            return []
        of = message.number, message.parts
        if of != peer.parts_of:
            if of < peer.parts_of:
                return []
            peer.parts_of = of
            peer.parts.clear()
        if message.part >= message.parts:
            return []
        peer.parts[message.part] = message.rows
        if len(peer.parts) < message.parts:
            return []
        before, peer.table = peer.table, {}
        peer.gone.clear()
        for rows in peer.parts.values():
            peer.apply(rows)
        peer.parts.clear()
        peer.parts_of = 0, 0
        later = [number for number in sorted(peer.ahead) if number > message.number]
        peer.ahead = {number: peer.ahead[number] for number in later}
        for number in later:
            if (presence := peer.ahead[number]) is not None:
                peer.apply(presence.rows)
        peer.upto, peer.missing_since = message.number, None
        peer.settle(now)
        return self._changed(peer, dict.fromkeys((*before, *peer.table)))

    def _answer(self, number: int, source: str, *, lives: bool) -> list[Event]:
        question = self._questions.pop(number)
        del self._asked[question.key]
        of_peer = self._asked_of[question.whom]
        of_peer.pop(number)
        if not of_peer.heard and not of_peer.unheard:
            del self._asked_of[question.whom]
        for connection in question.waiting:
            del self._waits[connection]
        return [Answered(tuple(question.waiting), lives, source)]

    # -- time -----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` is due; None without a bus."""
        if not self.run:
            return None
        soonest = min(self._gather_due, self._beat_due, self._answer_due)
        for peer in self._peers.values():
            soonest = min(soonest, peer.heard + (SILENT_S if peer.alive else FORGET_S))
            if peer.missing_since is not None and (due := peer.ask_due()) is not None:
                soonest = min(soonest, due)
        for run, asked in self._asked_of.items():
            for questions, wait_s in asked.waits(works=self.can_answer(run)):
                for question in islice(questions.values(), 1):
                    soonest = min(soonest, question.asked + wait_s)
        for _, due in islice(self._handed.values(), 1):
            soonest = min(soonest, due)
        return soonest

    def handle_timer(self, now: float) -> list[Event]:
        """Do what is due by now."""
        if not self.run:
            return []
        self.sooner += 1
        self._now = max(self._now, now)
        events = self._listen(now) + self._settle_logins(now)
        if now >= self._gather_due:
            events += self._flush()
        if now >= self._answer_due:
            events += self._tell_everybody(now)
        if now >= self._beat_due:
            self._beat_due = now + BEAT_S
            beat = b.Beat(self.run, self._number, self.state, self._name, len(self._local))
            events.append(Publish(beat))
        return events

    def _listen(self, now: float) -> list[Event]:
        events: list[Event] = []
        late = now - self._beat_due
        for peer in list(self._peers.values()):
            if late > BEAT_S:  # this process stood still: messages of that time are yet to be read
                self._hear(peer, peer.heard + late)
            if peer.alive and now >= peer.heard + SILENT_S:
                peer.alive = False
                events += self._place(peer.table)
            elif not peer.alive and now >= peer.heard + FORGET_S:
                del self._peers[peer.run]
            elif (due := peer.ask_due()) is not None and now >= due:
                peer.asked = now
                events.append(Publish(b.Ask(self.run, self._number, peer.run)))
        return events

    def _settle_logins(self, now: float) -> list[Event]:
        """Go on without answers that did not come in time, and without logins elsewhere that were not reported."""
        overdue: list[int] = []
        for run, asked in self._asked_of.items():
            for questions, wait_s in asked.waits(works=self.can_answer(run)):
                late = takewhile(lambda item: now >= item[1].asked + wait_s, questions.items())  # noqa: B023
                overdue += [number for number, _ in late]
        events = [event for number in sorted(overdue) for event in self._answer(number, "", lives=False)]
        for key, (epoch, _) in list(takewhile(lambda item: now >= item[1][1], self._handed.items())):
            del self._handed[key]
            self._tell(key, epoch, here=False)
            if key not in self.here and key not in self._local:
                events.append(Seen(key, online=False))
        return events

    def _flush(self) -> list[Event]:
        rows = [(key, epoch, here) for key, (epoch, here) in self._pending.items()]
        self._pending.clear()
        self._gather_due = float("inf")
        if rows:
            self._gathered = self._now
            self._interval_s = GATHER_S if len(rows) < MANY else GATHER_MANY_S
        return [
            Publish(b.Presence(self.run, self._count(), b.pack(rows[at : at + b.MAX_ROWS])))
            for at in range(0, len(rows), b.MAX_ROWS)
        ]

    def _tell_everybody(self, now: float) -> list[Event]:
        self._answer_due, self._answered = float("inf"), now
        events = self._flush()
        # The same number must stand for the same rows in the same parts: a listener may put its table together from
        # two answers. A member that was handed on counts until its departure is told.
        there = {key: epoch for key, (epoch, _) in self._handed.items()} | self._local
        rows = [(key, epoch, True) for key, epoch in sorted(there.items())]
        parts = max(1, -(-len(rows) // b.MAX_ROWS))
        for part in range(min(parts, b.MAX_PARTS)):
            chunk = b.pack(rows[part * b.MAX_ROWS : (part + 1) * b.MAX_ROWS])
            events.append(Publish(b.Everybody(self.run, self._number, part, parts, chunk)))
        return events
