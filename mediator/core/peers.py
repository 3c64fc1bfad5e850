"""The other mediators of one store: who is logged in at which of them, by what the bus brings.

The bus loses, doubles and reorders (`mediator.core.busmessages` has the messages). What is known of another mediator
is held by its run id:

| state   | event                                  | next                                                          |
|---------|----------------------------------------|---------------------------------------------------------------|
| NEW     | any message of a run not known yet     | BEHIND: it is asked for everybody                             |
| BEHIND  | `Everybody`, all parts                 | CURRENT, unless later numbers are missing                     |
| CURRENT | the next number                        | CURRENT                                                       |
| CURRENT | a later number, or a beat that names it| BEHIND: asked after `REORDER_S`, if the gap is still there    |
| any     | nothing for `SILENT_S`                 | SILENT: its members are "unknown, check"; what is known stays |
| SILENT  | any message                            | CURRENT or BEHIND: its members are shown again                |
| SILENT  | nothing for `FORGET_S`; a new run of the same name | forgotten                                         |

A number that was had already is dropped. An epoch is a Lamport clock: one more than the highest that this mediator has
given or heard of; the run id decides between equal ones. Without a bus (`begin` was not called) all tables are empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mediator.core import busmessages as b
from mediator.core.effects import Publish, StoreMoved
from netctl.model.keys import WireGuardKey

BEAT_S = 1.0
SILENT_S = 3.0
"""Three beats that did not come."""
GATHER_S = 0.05
"""Presence waits so long for more of it, as news for members does."""
REORDER_S = 0.2
"""A message may be overtaken by the next; so much later it is lost."""
ASK_AGAIN_S = 1.0
ANSWER_EVERY_S = 0.5
"""All others may ask at one moment (the bus is back): one answer serves them all."""
HELD_S = 2.5
"""For the word of another mediator, which gives its older connection two seconds (`duplicates.ANSWER_S`)."""
HANDED_S = 2.0
"""A connection was released for a login elsewhere. If that login does not show so long, the member is gone."""
FORGET_S = 60.0
"""A run that was silent so long has most likely ended; should it come back, it is asked for everybody."""
MAX_PEERS = 32
"""Other mediators. More than this is a fault of the bus's users, and would only cost memory."""
MAX_AHEAD = 1_000
"""Messages kept beyond a gap: at their full rate more than ten seconds of them. Past it everybody is asked for anew."""
MAX_OPEN = 4_096
"""Questions of other mediators about older connections, of 100 bytes, that are not answered yet."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A member came to another mediator, or is at none any more (`online` False: or nobody knows)."""

    key: WireGuardKey
    online: bool


@dataclass(frozen=True, slots=True)
class Superseded:
    """A member that is logged in here has logged in later elsewhere."""

    key: WireGuardKey


@dataclass(frozen=True, slots=True)
class Asked:
    """Another mediator wants to know whether the older connection here lives: `answer` with this ticket."""

    ticket: int
    key: WireGuardKey
    message: b.LoginAsked


@dataclass(frozen=True, slots=True)
class Answered:
    """The older connection elsewhere lives (`source`: from where), or is over: these connections may go on or not."""

    connections: tuple[int, ...]
    lives: bool
    source: str


@dataclass(frozen=True, slots=True)
class Carried:
    """A frame for a member that is logged in here, from the mediator `run`."""

    run: bytes
    sender: WireGuardKey
    receiver: WireGuardKey
    frame: bytes


Event = Publish | StoreMoved | Seen | Superseded | Asked | Answered | Carried


@dataclass(frozen=True, slots=True)
class PeerRow:
    """What is known of another mediator, for people."""

    name: str
    run: str
    alive: bool
    silent_s: float
    online: int
    """Members there, as far as is known here."""
    state: int
    current: bool
    """Nothing of what it said is missing here."""


@dataclass(slots=True)
class _Peer:
    run: bytes
    heard: float
    missing_since: float | None
    name: str = ""
    state: int = 0
    alive: bool = True
    upto: int | None = None
    """All numbers up to this one have come. None: everybody has to be known first."""
    told: int = 0
    """The highest number that it has named."""
    ahead: dict[int, b.Presence | None] = field(default_factory=dict)
    """What came beyond a gap, by number."""
    asked: float = float("-inf")
    table: dict[WireGuardKey, int] = field(default_factory=dict)
    """Who is logged in there, with the epoch."""
    gone: dict[WireGuardKey, int] = field(default_factory=dict)
    """Who has gone, with the epoch, while an older message may still come."""
    parts: dict[int, bytes] = field(default_factory=dict)
    parts_of: tuple[int, int] = (0, 0)
    """The number and how many parts."""

    def first_time(self, number: int, presence: b.Presence | None, now: float) -> bool:
        """Note a message that counts. False: it was here before."""
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
        """Count what follows without a gap."""
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
        """What it says of its members, in any order: the keys that are affected."""
        keys = []
        for key, epoch, here in b.unpack(rows):
            keys.append(key)
            known = self.table.get(key, -1)
            if not here:
                self.gone[key] = max(epoch, self.gone.get(key, -1))
                if epoch >= known:
                    self.table.pop(key, None)
            elif epoch > known and epoch > self.gone.get(key, -1):
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
    due: float
    waiting: list[int]


class Peers:
    """One mediator's knowledge of the others. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.run = b""
        """Empty: there is no bus."""
        self.here: dict[WireGuardKey, bytes] = {}
        """Members that are logged in at another mediator that works, and its run id."""
        self.state = 0
        self.refused = 0
        """Messages of more mediators than there may be."""
        self._name = ""
        self._epoch = 0
        self._number = 0
        self._local: dict[WireGuardKey, int] = {}
        self._pending: dict[WireGuardKey, tuple[int, bool]] = {}
        self._gather_due = float("inf")
        self._beat_due = float("inf")
        self._answer_due = float("inf")
        self._answered = float("-inf")
        self._handed: dict[WireGuardKey, tuple[int, float]] = {}
        self._peers: dict[bytes, _Peer] = {}
        self._questions: dict[int, _Question] = {}
        self._asked: dict[WireGuardKey, int] = {}
        self._open: dict[int, b.LoginAsked] = {}
        self._tickets = 0
        self._questioned = 0
        self._now = float("-inf")

    def begin(self, run: bytes, name: str, now: float) -> None:
        """There is a bus. `run`: fresh random bytes; `name`: what people call this mediator."""
        if len(run) != b.RUN_LEN:
            raise ValueError(f"a run id is {b.RUN_LEN} bytes")
        self.run, self._name = run, name[: b.MAX_NAME]
        self._beat_due = self._now = now

    def speak(self, now: float) -> None:
        """Beat at once: somebody listens who has not heard of this mediator, or not for a while."""
        if self.run:
            self._beat_due = min(self._beat_due, now)

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
        """For a login: above all that were given (`given`: by this mediator) or heard of."""
        self._epoch = max(self._epoch, given) + 1
        return self._epoch

    def came(self, key: WireGuardKey, epoch: int) -> None:
        """A member has logged in here."""
        if self.run:
            self._local[key] = epoch
            self._handed.pop(key, None)
            self._tell(key, epoch, here=True)

    def went(self, key: WireGuardKey) -> None:
        """A member is logged in here no more."""
        epoch = self._local.pop(key, None)
        if epoch is not None:
            self._tell(key, epoch, here=False)

    def hand(self, key: WireGuardKey, now: float) -> None:
        """The same, because it logs in elsewhere: nobody is told until that login is told."""
        epoch = self._local.pop(key, None)
        if epoch is not None:
            self._handed[key] = epoch, now + HANDED_S

    def _tell(self, key: WireGuardKey, epoch: int, *, here: bool) -> None:
        self._pending[key] = epoch, here
        self._gather_due = min(self._gather_due, self._now + GATHER_S)

    def state_is(self, number: int) -> list[Event]:
        """The store's state that this mediator shows."""
        if not self.run or number <= self.state:
            return []
        self.state = number
        return [Publish(b.Changed(self.run, self._count(), number))]

    def carry(self, whom: bytes, sender: WireGuardKey, receiver: WireGuardKey, frame: bytes) -> Publish:
        """Send a frame to a member at another mediator."""
        return Publish(b.Carry(self.run, self._count(), whom, sender.raw, receiver.raw, frame))

    def ask(
        self, key: WireGuardKey, whom: bytes, connection: int, previous: bytes, source: str, now: float
    ) -> list[Event]:
        """A connection waits for the word of the mediator that has an older connection of its key."""
        found = self._asked.get(key)
        if found is not None:
            self._questions[found].waiting.append(connection)
            return []
        self._questioned += 1
        self._asked[key] = self._questioned
        self._questions[self._questioned] = _Question(key, whom, now + HELD_S, [connection])
        asked = b.LoginAsked(self.run, self._count(), whom, self._questioned, key.raw, previous, source)
        return [Publish(asked)]

    def gone(self, connection: int) -> None:
        """A connection is over: it waits for nothing."""
        for question in self._questions.values():
            if connection in question.waiting:
                question.waiting.remove(connection)

    def answer(self, ticket: int, source: str, *, lives: bool) -> list[Event]:
        """The word on an older connection here."""
        found = self._open.pop(ticket, None)
        if found is None:
            return []
        return [Publish(b.Held(self.run, self._count(), found.run, found.question, lives, source))]

    def asker(self, ticket: int) -> str:
        """Where a login at another mediator comes from."""
        found = self._open.get(ticket)
        return found.source if found is not None else ""

    def _count(self) -> int:
        self._number += 1
        return self._number

    # -- what the bus brings --------------------------------------------------------------------------------

    def received(self, message: b.Message, now: float) -> list[Event]:
        """A message that `busmessages.decode` let through."""
        if not self.run or message.run == self.run:
            return []
        self._now = max(self._now, now)
        peer = self._peer(message.run, now)
        if peer is None:
            self.refused += 1
            return []
        peer.heard = now
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
                return self._changed(peer, peer.apply(message.rows))
            case b.Ask() if mine:
                self._answer_due = min(self._answer_due, max(now, self._answered + ANSWER_EVERY_S))
            case b.Everybody():
                return self._everybody(peer, message, now)
            case b.LoginAsked() if mine:
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
                del self._peers[other.run]  # this is its next life
        return self._moved(peer, beat.state)

    def _moved(self, peer: _Peer, state: int) -> list[Event]:
        """Said again with each beat, until this mediator shows it."""
        peer.state = max(peer.state, state)
        return [StoreMoved(state)] if state > self.state else []

    def _changed(self, peer: _Peer, keys: Iterable[WireGuardKey]) -> list[Event]:
        events: list[Event] = []
        for key in keys:
            epoch = peer.table.get(key)
            if epoch is None:
                continue
            self._epoch = max(self._epoch, epoch)
            mine = self._local.get(key)
            if mine is None:
                continue
            if (epoch, peer.run) > (mine, self.run):
                events.append(Superseded(key))
            else:  # it drops its own when it hears this
                self._tell(key, mine, here=True)
        return events + self._place(keys)

    def _place(self, keys: Iterable[WireGuardKey]) -> list[Event]:
        """Find out where these members are now."""
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
        return [Answered(tuple(question.waiting), lives, source)]

    # -- time -----------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When something is due; None without a bus."""
        if not self.run:
            return None
        times = [self._gather_due, self._beat_due, self._answer_due]
        for peer in self._peers.values():
            times.append(peer.heard + (SILENT_S if peer.alive else FORGET_S))
            if (due := peer.ask_due()) is not None:
                times.append(due)
        times += [question.due for question in self._questions.values()]
        times += [due for _, due in self._handed.values()]
        return min(times)

    def handle_timer(self, now: float) -> list[Event]:
        """Whatever is due by now."""
        if not self.run:
            return []
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
            if late > BEAT_S:  # this process stood still: what was said meanwhile is yet to be read
                peer.heard += late
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
        events: list[Event] = []
        for number, question in list(self._questions.items()):
            peer = self._peers.get(question.whom)
            if now >= question.due or peer is None or not peer.alive:
                events += self._answer(number, "", lives=False)
        for key, (epoch, due) in list(self._handed.items()):
            if now >= due:
                del self._handed[key]
                self._tell(key, epoch, here=False)
                if key not in self.here and key not in self._local:
                    events.append(Seen(key, online=False))
        return events

    def _flush(self) -> list[Event]:
        rows = [(key, epoch, here) for key, (epoch, here) in self._pending.items()]
        self._pending.clear()
        self._gather_due = float("inf")
        return [
            Publish(b.Presence(self.run, self._count(), b.pack(rows[at : at + b.MAX_ROWS])))
            for at in range(0, len(rows), b.MAX_ROWS)
        ]

    def _tell_everybody(self, now: float) -> list[Event]:
        self._answer_due, self._answered = float("inf"), now
        events = self._flush()
        rows = [(key, epoch, True) for key, epoch in self._local.items()]
        parts = max(1, -(-len(rows) // b.MAX_ROWS))
        for part in range(min(parts, b.MAX_PARTS)):
            chunk = b.pack(rows[part * b.MAX_ROWS : (part + 1) * b.MAX_ROWS])
            events.append(Publish(b.Everybody(self.run, self._number, part, parts, chunk)))
        return events
