"""Two and more real hubs on one bad bus: presence, logins, introductions, and what a lost mediator leaves behind."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import pytest

from mediator.core import busmessages as b
from mediator.core import duplicates as d
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core import introducer
from mediator.core import peers as p
from mediator.core.logins import DUPLICATE
from netctl.model.keys import WireGuardKey
from netctl.session.login import make_login
from netctl.wire import control as w
from tests.mediator.lossybus import LossyBus
from tests.mediator.test_hub import (
    MEDIATOR,
    NAMES,
    NONCE,
    PIN,
    SECRET,
    SOURCE,
    document,
    identity,
    key,
    note_sent,
    private,
)
from tests.support.seeds import tell

SEEDS = 60


class Mediator:
    """A hub with its store in memory, and what it sends to whom."""

    def __init__(self, world: World, number: int, *, name: str = "") -> None:
        self.world, self.run = world, bytes([number]) * b.RUN_LEN
        self.hub = h.Hub(PIN, MEDIATOR.sign, SECRET, generation=100)
        self.hub.join_bus(self.run, name or f"m{number}", world.now)
        self.sent: dict[int, list[w.Message]] = {}
        self.dropped: dict[int, str] = {}
        self.moved: list[int] = []
        self.news: list[fx.News] = []
        self.sooner, self.due = -1, 0.0
        self.perform(self.hub.load(document(), document().mediators[0], 0))

    def look(self) -> None:
        """What the shell does after each event: it sets its timer anew only if the hub's count has grown."""
        due, before = self.hub.next_bus_timer(), self.due
        assert due is not None
        assert self.sooner < self.hub.bus_sooner or due >= before, (
            "something is due earlier, and nobody looks"
        )
        self.sooner, self.due = self.hub.bus_sooner, due

    def perform(self, effects: list[fx.Effect]) -> None:
        self.look()
        pending = list(effects)
        while pending:
            match pending.pop(0):
                case fx.Send() | fx.Deliver() as told:
                    note_sent(self.sent, told)
                    self.news += [told] if isinstance(told, fx.News) else []
                case fx.Drop(number, error):
                    self.dropped[number] = error.code
                    self.world.dropped(self, number)
                case fx.Store() as wanted:
                    done = self.hub.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, 0)
                    pending = done + pending
                case fx.Publish(message):
                    self.world.bus.publish(message, [one.run for one in self.world.mediators], self.world.now)
                case fx.StoreMoved(state):
                    self.moved.append(state)
                case _:
                    pass

    def give(self, number: int, message: w.Message) -> None:
        self.perform(self.hub.received(number, w.encode(message), self.world.now, 0))

    def login(self, number: int, name: str, previous: bytes = b"") -> bytes:
        nonce = bytes([number]) * 31 + self.run[:1]
        self.perform(self.hub.connected(number, SOURCE, nonce, self.world.now))
        login = make_login(PIN, nonce, NONCE, identity(name), key(name), private(name).sign)
        self.give(
            number,
            w.Login(
                login.version,
                login.identity,
                login.wireguard,
                login.nonce,
                login.signature,
                "",
                previous.hex(),
            ),
        )
        return nonce

    def lose(self, number: int) -> None:
        self.perform(self.hub.disconnected(number))

    def kinds(self, number: int, kind: type) -> list[w.Message]:
        return [message for message in self.sent.get(number, []) if isinstance(message, kind)]

    def welcomed(self, number: int) -> bool:
        return bool(self.kinds(number, w.Welcome))


@dataclass
class World:
    bus: LossyBus = field(default_factory=lambda: LossyBus(random.Random(1)))
    now: float = 100.0
    mediators: list[Mediator] = field(default_factory=list)
    answering: bool = True
    """Members answer pings."""
    gone: list[tuple[Mediator, int]] = field(default_factory=list)

    def add(self, number: int, name: str = "") -> Mediator:
        made = Mediator(self, number, name=name)
        self.mediators.append(made)
        return made

    def dropped(self, mediator: Mediator, number: int) -> None:
        self.gone.append((mediator, number))

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            timers = [due for one in self.mediators if (due := one.hub.next_timer()) is not None]
            due = min([self.bus.due, *timers])
            if due > end:
                break
            self.now = max(self.now, due)
            for run, message in self.bus.pop(self.now):
                for one in self.mediators:
                    if one.run == run:
                        one.perform(one.hub.heard(message, self.now))
            for one in self.mediators:
                one.perform(one.hub.handle_timer(self.now, 0))
            self._pong()
        self.now = end

    def _pong(self) -> None:
        for one in self.mediators:
            for number, sent in one.sent.items():
                for message in [m for m in sent if isinstance(m, w.Ping) and m.id]:
                    sent.remove(message)
                    if self.answering and number not in one.dropped:
                        one.give(number, w.Pong(message.id))


def pair() -> tuple[World, Mediator, Mediator]:
    world = World()
    one, two = world.add(1), world.add(2)
    world.pass_time(2)
    return world, one, two


def online(mediator: Mediator, number: int, peer: str) -> list[bool]:
    """What a member was told of a peer's presence, one after the other."""
    told = mediator.kinds(number, w.Presence)
    return [m.online for m in told if isinstance(m, w.Presence) and m.peer == str(key(peer))]


def test_members_at_two_mediators_see_each_other_come_and_go() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    two.login(1, "bob")
    two.login(2, "dan")
    world.pass_time(0.5)
    assert online(one, 1, "bob") == [True]
    assert two.hub.view(key("bob")).members[key("ann")].online, "it was there when bob came"
    assert two.hub.is_online(key("ann"))
    assert (one.hub.online, two.hub.online) == (1, 2)
    one.lose(1)
    world.pass_time(0.5)
    assert online(two, 1, "ann") == [False]
    assert online(two, 2, "ann") == [False]
    assert not two.hub.is_online(key("ann"))


def test_members_of_one_network_that_came_elsewhere_are_told_together() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    two.login(1, "bob")
    world.pass_time(0.02)
    two.login(2, "cid")
    two.lose(1)
    world.pass_time(0.5)
    assert [(len(told.payloads), told.elsewhere) for told in one.news] == [(1, True), (2, True)]
    assert (online(one, 1, "bob"), online(one, 1, "cid")) == ([True, False], [True])


def test_nobody_hears_of_a_member_that_it_may_not_see() -> None:
    world, one, two = pair()
    one.login(1, "bob")
    two.login(1, "dan")
    world.pass_time(0.5)
    assert online(two, 1, "bob") == []
    assert online(one, 1, "dan") == []


def candidates(peer: str, number: int) -> w.Candidates:
    return w.Candidates(str(key(peer)), number, [w.Candidate("host", "192.0.2.7:51820")])


@pytest.mark.parametrize("first", ["ann", "bob"])
@pytest.mark.parametrize("apart_s", [0.0, 0.5])
def test_a_pair_at_two_mediators_is_introduced_and_punches_once_and_late_enough(
    first: str, apart_s: float
) -> None:
    world, one, two = pair()
    one.login(1, "ann")
    two.login(1, "bob")
    world.pass_time(0.5)
    at = {"ann": (one, "bob"), "bob": (two, "ann")}
    second = "bob" if first == "ann" else "ann"
    at[first][0].give(1, candidates(at[first][1], 3))
    world.pass_time(apart_s)
    at[second][0].give(1, candidates(at[second][1], 3))
    world.pass_time(0.5)
    for mediator, peer in ((one, "bob"), (two, "ann")):
        (told,) = mediator.kinds(1, w.Introduction)
        assert isinstance(told, w.Introduction)
        assert (told.peer, told.round, len(told.candidates)) == (str(key(peer)), 3, 1)
        assert mediator.kinds(1, w.Punch) == [w.Punch(str(key(peer)), introducer.PUNCH_ACROSS_MS)]


def test_a_pair_at_two_mediators_hears_how_far_the_relays_are() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    two.login(1, "bob")
    world.pass_time(0.5)
    relays = [w.RelayTime(12, str(identity("relay")))]
    beside = w.RelayTime(3)  # another relay for each of the two, so it is no place to meet
    one.give(1, msgspec.structs.replace(candidates("bob", 3), relays=[beside, *relays]))
    world.pass_time(0.5)
    (told,) = two.kinds(1, w.Introduction)
    assert isinstance(told, w.Introduction)
    assert told.relays == relays


def test_candidates_that_no_bus_carries_harm_nobody_else() -> None:
    """A host may write what it likes into an address: four bytes for each character of it."""
    world, one, two = pair()
    one.login(1, "ann")
    two.login(1, "bob")
    world.pass_time(0.5)
    long = [w.Candidate("host", "\U0001f600" * 64)] * w.MAX_CANDIDATES
    one.give(1, w.Candidates(str(key("bob")), 3, long))
    world.pass_time(0.5)
    assert two.kinds(1, w.Introduction) == []
    assert [row.current for row in two.hub.peers(world.now)] == [True]
    one.give(1, candidates("bob", 4))
    world.pass_time(0.5)
    assert len(two.kinds(1, w.Introduction)) == 1


def test_members_of_a_mediator_that_ends_in_good_order_are_let_in_elsewhere_at_once() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    two.login(1, "bob")
    world.pass_time(0.5)
    one.perform(one.hub.leave_bus())
    world.pass_time(0.05)
    world.mediators.remove(one)
    two.login(2, "ann")
    assert two.welcomed(2)
    world.pass_time(p.SILENT_S + 1)
    assert False not in online(two, 1, "ann"), "nobody is told that it went"


def test_a_frame_from_the_bus_reaches_a_member_only_if_it_may_see_its_sender_and_it_introduces() -> None:
    world, one, two = pair()
    two.login(1, "bob")
    world.pass_time(0.5)
    before = list(two.sent[1])
    introduction = w.Introduction(str(key("dan")), 1, [])
    hostile = [
        (key("dan"), w.encode(introduction)),
        (key("ann"), w.encode(introduction)),
        (key("ann"), w.encode(w.Presence(str(key("ann")), online=True))),
        (key("ann"), w.encode(w.Error("login.removed", "go"))),
        (key("ann"), b"garbage"),
        (WireGuardKey(b"?" * 32), w.encode(introduction)),
    ]
    for number, (sender, frame) in enumerate(hostile, 1000):
        carried = b.Carry(one.run, number, two.run, sender.raw, key("bob").raw, frame)
        two.perform(two.hub.heard(carried, world.now))
    assert two.sent[1] == before


def test_the_same_process_moves_to_another_mediator_at_once_and_is_seen_all_the_time() -> None:
    world, one, two = pair()
    three = world.add(3)
    three.login(1, "cid")
    nonce = one.login(1, "ann")
    world.pass_time(1)
    two.login(1, "ann", nonce)
    world.pass_time(0.1)
    assert two.welcomed(1)
    assert one.dropped == {1: "session.replaced"}
    world.pass_time(p.HANDED_S + 1)
    assert online(three, 1, "ann") == [True], "nobody is told that it went"
    assert three.hub.is_online(key("ann"))
    assert one.hub.is_online(key("ann"))


def test_the_secret_that_proves_the_process_is_not_on_the_bus() -> None:
    world, one, two = pair()
    nonce = one.login(1, "ann")
    world.pass_time(0.5)
    two.login(1, "ann", nonce)
    world.pass_time(0.5)
    assert not any(nonce in b.encode(m) or nonce.hex().encode() in b.encode(m) for m in world.bus.published)


def test_a_second_host_with_the_key_waits_while_the_older_one_lives_at_another_mediator() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    two.login(1, "ann", b"\7" * 32)
    world.pass_time(0.5)
    assert two.dropped == {1: DUPLICATE}
    assert one.dropped == {}
    assert [item.key for item in one.hub.duplicates(world.now)] == [key("ann")]
    assert [item.key for item in two.hub.duplicates(world.now)] == [key("ann")]


def test_a_host_whose_older_connection_is_dead_is_let_in_when_that_is_known() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    world.answering = False
    two.login(1, "ann")
    world.pass_time(d.ANSWER_S - 0.2)
    assert not two.welcomed(1)
    world.pass_time(0.5)
    assert two.welcomed(1)
    assert one.dropped == {1: "session.replaced"}
    assert one.hub.is_online(key("ann"))


def test_where_no_word_comes_the_newer_login_stands_everywhere_once_the_bus_is_back() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    world.bus.loss = 1.0
    two.login(1, "ann")
    world.pass_time(p.HELD_S + 0.1)
    assert two.welcomed(1)
    assert one.dropped == {}
    world.bus.loss = 0.0
    world.pass_time(p.SILENT_S + 1)
    assert one.dropped == {1: "session.replaced"}
    assert two.dropped == {}
    assert one.hub.is_online(key("ann"))


def test_a_connection_that_ends_while_it_waits_leaves_nothing_behind() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    world.pass_time(0.5)
    world.answering = False
    two.login(1, "ann")
    two.lose(1)
    world.pass_time(p.HELD_S + 1)
    assert not two.welcomed(1)
    assert two.hub.online == 0


def test_members_of_a_mediator_that_is_killed_are_to_be_checked_and_whole_again_when_they_move() -> None:
    world, one, two = pair()
    one.login(1, "ann")
    two.login(1, "bob")
    world.pass_time(1)
    world.mediators.remove(one)
    world.pass_time(p.SILENT_S + 0.1)
    assert online(two, 1, "ann") == [True, False]
    assert [(row.alive, row.online) for row in two.hub.peers(world.now)] == [(False, 1)]
    began = world.now
    two.login(2, "ann")
    assert two.welcomed(2), "nobody is asked who cannot answer"
    assert world.now == began
    assert online(two, 1, "ann") == [True, False, True]
    again = world.add(9, "m1")
    world.pass_time(2)
    assert again.hub.is_online(key("ann"))
    assert [row.run for row in two.hub.peers(world.now)] == [again.run.hex()]


def test_a_new_state_is_told_across_and_asked_for_until_it_is_shown() -> None:
    world, one, two = pair()
    one.perform(one.hub.shows(7))
    world.pass_time(1.5)
    assert set(two.moved) == {7}
    two.perform(two.hub.shows(7))
    two.moved.clear()
    world.pass_time(3)
    assert two.moved == []
    assert one.moved == []


def test_without_a_bus_a_hub_says_nothing_to_anybody() -> None:
    hub = h.Hub(PIN, MEDIATOR.sign, SECRET)
    assert hub.shows(5) == []
    assert hub.heard(b.Beat(b"1" * 16, 0, 9, "", 0), 0.0) == []
    assert hub.next_bus_timer() is None
    assert hub.handle_bus_timer(1e9) == []
    assert hub.peers(0.0) == []


def story(seed: int) -> None:
    """Three mediators, members that come, go, move and crash, a bus that loses, doubles, reorders and is cut."""
    chance = random.Random(seed)
    jitter, loss = chance.choice((0.0, 0.3)), chance.choice((0.0, 0.1, 0.4))
    world = World(LossyBus(chance, loss=loss, doubled=0.2, jitter_s=jitter))
    lives = 3
    for number in (1, 2, 3):
        world.add(number)
    at: dict[str, tuple[Mediator, int, bytes]] = {}
    connections = 0
    for _ in range(chance.randrange(20, 60)):
        world.pass_time(chance.choice((0.0, 0.02, 0.3, 1.5)))
        for mediator, number in world.gone:
            at = {name: one for name, one in at.items() if one[:2] != (mediator, number)}
        world.gone.clear()
        match chance.random():
            case x if x < 0.06:
                world.bus.cut.add(chance.choice(world.mediators).run)
            case x if x < 0.14:
                world.bus.cut.clear()
            case x if x < 0.18:
                dead = world.mediators.pop(chance.randrange(3))
                at = {name: one for name, one in at.items() if one[0] is not dead}
                lives += 1
                world.add(lives)
            case _:
                name = chance.choice(NAMES)
                if name in at and chance.random() < 0.4:
                    mediator, number, _ = at.pop(name)
                    mediator.lose(number)
                else:
                    previous = at[name][2] if name in at and chance.random() < 0.5 else b""
                    if name in at and not previous:
                        at[name][0].lose(at[name][1])
                    connections += 1
                    mediator = chance.choice(world.mediators)
                    at[name] = mediator, connections, mediator.login(connections, name, previous)
    world.bus.cut.clear()
    world.bus.loss = world.bus.jitter_s = 0.0
    world.pass_time(p.SILENT_S + p.HELD_S + 3 * p.ASK_AGAIN_S)
    for name in NAMES:
        here = [one for one in world.mediators if key(name) in one.hub._online]
        assert len(here) <= 1, f"{name} is logged in twice"
        for one in world.mediators:
            assert one.hub.is_online(key(name)) == bool(here), f"{name} is not the same everywhere"
    for one in world.mediators:
        for member, number in one.hub._online.items():
            for peer in one.hub.view(member).members:
                name = next(name for name in NAMES if key(name) == peer) if peer != key("phone") else ""
                told = online(one, number, name) if name and peer != member else []
                if told:
                    assert told[-1] == one.hub.is_online(peer), f"a member was told the wrong thing of {name}"


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_after_any_loss_each_member_is_logged_in_once_and_everybody_knows(first: int) -> None:
    tell(story, first, first + 20)
