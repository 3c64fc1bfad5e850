"""Who is at which mediator, by a bus that loses, doubles and reorders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core import busmessages as b
from mediator.core import peers as p
from mediator.core.effects import Publish, StoreMoved
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from tests.mediator.lossybus import LossyBus
from tests.support.seeds import tell
from tests.support.work import lines_run

SEEDS = 150
CORE = Path(p.__file__).parent


def key(number: int) -> WireGuardKey:
    return WireGuardKey(number.to_bytes(32, "big"))


def run(number: int) -> bytes:
    return bytes([number]) * b.RUN_LEN


@dataclass
class Cluster:
    """Mediators' tables on one bus, without hubs."""

    bus: LossyBus = field(default_factory=lambda: LossyBus(random.Random(1)))
    now: float = 100.0
    peers: dict[bytes, p.Peers] = field(default_factory=dict)
    events: dict[bytes, list[p.Event]] = field(default_factory=dict)

    def add(self, number: int, name: str = "") -> p.Peers:
        one = p.Peers()
        one.begin(run(number), name or f"m{number}", self.now)
        self.peers[run(number)] = one
        self.events.setdefault(run(number), [])
        return one

    def perform(self, who: bytes, events: Sequence[p.Event]) -> None:
        for event in events:
            if isinstance(event, Publish):
                self.bus.publish(event.message, list(self.peers), self.now)
            else:
                self.events[who].append(event)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            timers = [due for one in self.peers.values() if (due := one.next_timer()) is not None]
            due = min([self.bus.due, *timers])
            if due > end:
                break
            self.now = max(self.now, due)
            for who, message in self.bus.pop(self.now):
                if who in self.peers:
                    self.perform(who, self.peers[who].received(message, self.now))
            for who, one in list(self.peers.items()):
                timer = one.next_timer()
                if timer is not None and timer <= self.now:
                    self.perform(who, one.handle_timer(self.now))
        self.now = end

    def seen(self, number: int) -> list[tuple[WireGuardKey, bool]]:
        return [(event.key, event.online) for event in self.events[run(number)] if isinstance(event, p.Seen)]


def test_presence_crosses_within_a_gathering_and_names_the_run() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    one.came(key(7), one.next_epoch(0))
    world.pass_time(p.GATHER_S + 0.02)
    assert two.here == {key(7): run(1)}
    assert world.seen(2) == [(key(7), True)]
    one.went(key(7))
    world.pass_time(p.GATHER_S + 0.02)
    assert two.here == {}
    assert world.seen(2) == [(key(7), True), (key(7), False)]


def presence_sent(world: Cluster, number: int) -> int:
    return sum(isinstance(m, b.Presence) and m.run == run(number) for m in world.bus.published)


def test_the_first_change_after_a_rest_is_sent_at_once_and_the_next_ones_together() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    one.came(key(1), one.next_epoch(0))
    world.pass_time(0.02)
    assert (presence_sent(world, 1), set(two.here)) == (1, {key(1)})
    for number in (2, 3):
        one.came(key(number), one.next_epoch(0))
        world.pass_time(0.01)
    assert presence_sent(world, 1) == 1
    world.pass_time(p.GATHER_S)
    assert (presence_sent(world, 1), set(two.here)) == (2, {key(1), key(2), key(3)})


def test_while_many_come_the_interval_is_longer() -> None:
    world = Cluster()
    one, _ = world.add(1), world.add(2)
    world.pass_time(1.5)
    for number in range(p.MANY):
        one.came(key(number), one.next_epoch(0))
    world.pass_time(0.001)
    one.came(key(p.MANY), one.next_epoch(0))
    world.pass_time((p.GATHER_S + p.GATHER_MANY_S) / 2)
    assert presence_sent(world, 1) == 1
    world.pass_time(p.GATHER_MANY_S)
    assert presence_sent(world, 1) == 2


def test_who_hears_presence_sends_at_once_what_it_has_gathered_itself() -> None:
    """So members hear of members here and elsewhere at the same moment."""
    world = Cluster()
    world.bus.delay_s = 0.001
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    two.came(key(20), two.next_epoch(0))
    half_s = p.ANSWER_AFTER * p.GATHER_S
    world.pass_time(half_s + 0.005)
    two.came(key(21), two.next_epoch(0))
    assert presence_sent(world, 2) == 1, "the next one waits"
    one.came(key(10), one.next_epoch(0))
    world.pass_time(2.5 * world.bus.delay_s)
    assert presence_sent(world, 2) == 2
    assert key(21) in one.here
    assert half_s + 0.005 + 2.5 * world.bus.delay_s < p.GATHER_S, "its own time was not up"


@pytest.mark.parametrize("seed", range(20))
def test_busy_mediators_do_not_answer_each_other_without_end(seed: int) -> None:
    chance, world = random.Random(seed), Cluster()
    world.bus.delay_s = chance.choice((0.0, 0.001, 0.03))
    peers = [world.add(number) for number in (1, 2, 3)]
    world.pass_time(1.5)
    before, began, logins = len(world.bus.published), world.now, 0
    while world.now < began + 2:
        one = chance.choice(peers)
        one.came(key(logins), one.next_epoch(0))
        logins += 1
        world.pass_time(0.002)
    sent = sum(isinstance(message, b.Presence) for message in world.bus.published[before:])
    assert sent <= len(peers) * 2 / (p.ANSWER_AFTER * p.GATHER_S) + len(peers), f"seed {seed}"
    world.pass_time(p.GATHER_MANY_S + world.bus.delay_s)
    assert sum(len(one.here) for one in peers) == 2 * logins, f"seed {seed}"


def test_many_at_once_are_few_messages_below_the_limit_of_a_notify() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    before = len(world.bus.published)
    for number in range(1000):
        one.came(key(number), one.next_epoch(0))
    world.pass_time(p.GATHER_S + 0.02)
    sent = [m for m in world.bus.published[before:] if isinstance(m, b.Presence)]
    assert len(sent) == -(-1000 // b.MAX_ROWS)
    assert max(len(b.encode(message)) for message in sent) * 4 / 3 < 8_000
    assert len(two.here) == 1000


def test_one_that_begins_later_is_told_everybody() -> None:
    world = Cluster()
    one = world.add(1)
    for number in range(500):
        one.came(key(number), one.next_epoch(0))
    world.pass_time(5)
    two = world.add(2)
    world.pass_time(2.5)
    assert len(two.here) == 500
    assert [row.current for row in two.rows(world.now)] == [True]


def test_a_mediator_without_beats_leaves_its_members_unknown_and_brings_them_back() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    one.came(key(7), one.next_epoch(0))
    world.pass_time(3)
    world.bus.cut.add(run(1))
    world.pass_time(p.SILENT_S - p.BEAT_S - 0.1)
    assert key(7) in two.here
    world.pass_time(p.BEAT_S + 0.2)
    assert two.here == {}
    (row,) = two.rows(world.now)
    assert (row.alive, row.online) == (False, 1), (
        "what is known of it is not forgotten: nobody said that it went"
    )
    world.bus.cut.clear()
    world.pass_time(1.2)
    assert two.here == {key(7): run(1)}
    assert world.seen(2) == [(key(7), True), (key(7), False), (key(7), True)]


def test_a_run_that_is_gone_is_forgotten_and_at_once_when_its_next_life_speaks() -> None:
    world = Cluster()
    one, two = world.add(1, "netctl://a"), world.add(2)
    one.came(key(7), one.next_epoch(0))
    world.pass_time(2)
    del world.peers[run(1)]
    world.pass_time(p.SILENT_S + 1)
    assert [row.alive for row in two.rows(world.now)] == [False]
    world.add(3, "netctl://a")
    world.pass_time(1.5)
    assert [row.run for row in two.rows(world.now)] == [run(3).hex()]
    del world.peers[run(3)]
    world.pass_time(p.FORGET_S + 1)
    assert two.rows(world.now) == []


def test_a_gap_is_seen_by_the_numbers_and_asked_for() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(2)
    world.bus.cut.add(run(2))
    one.came(key(7), one.next_epoch(0))
    world.pass_time(0.1)
    world.bus.cut.clear()
    assert key(7) not in two.here
    world.pass_time(p.BEAT_S + p.REORDER_S + 0.5)
    assert two.here == {key(7): run(1)}
    asked = [message for message in world.bus.published if isinstance(message, b.Ask)]
    assert asked[-1].run == run(2)


def test_a_message_that_was_overtaken_is_not_asked_for_and_the_word_of_the_later_epoch_stands() -> None:
    two = p.Peers()
    two.begin(run(2), "m2", 0.0)
    two.received(b.Everybody(run(1), 0, 0, 1, b""), 0.0)
    came, went = b.pack([(key(7), 5, True)]), b.pack([(key(7), 5, False)])
    two.received(b.Presence(run(1), 2, went), 0.0)
    assert two.received(b.Presence(run(1), 1, came), 0.1) == []
    assert two.here == {}
    assert [row.current for row in two.rows(0.1)] == [True]
    assert two.received(b.Presence(run(1), 1, came), 0.1) == [], "and it does not come twice"
    assert two.here == {}


def test_a_whole_table_that_comes_late_does_not_undo_what_came_after_it() -> None:
    two = p.Peers()
    two.begin(run(2), "m2", 0.0)
    two.received(b.Presence(run(1), 6, b.pack([(key(1), 5, False), (key(2), 9, True)])), 0.0)
    two.received(b.Everybody(run(1), 5, 0, 2, b.pack([(key(1), 5, True)])), 0.1)
    assert set(two.here) == {key(2)}, "half of it is nothing yet"
    two.received(b.Everybody(run(1), 5, 1, 2, b.pack([(key(3), 4, True)])), 0.1)
    assert set(two.here) == {key(2), key(3)}
    assert [row.current for row in two.rows(0.1)] == [True]


def test_the_later_login_stands_at_all_mediators_whatever_order_they_hear_of_it() -> None:
    for order in ((1, 2), (2, 1)):
        three = p.Peers()
        three.begin(run(3), "m3", 0.0)
        for number in order:
            three.received(b.Presence(run(number), 1, b.pack([(key(7), 10 + number, True)])), 0.0)
        assert three.here == {key(7): run(2)}
        three.received(b.Presence(run(2), 2, b.pack([(key(7), 12, False)])), 0.0)
        assert three.here == {key(7): run(1)}


def test_epochs_count_on_from_the_highest_that_was_heard_and_equal_ones_have_one_winner() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    one.came(key(7), one.next_epoch(1000))
    world.pass_time(0.2)
    assert two.next_epoch(0) == 1002
    world.bus.cut |= {run(1), run(2)}
    one.came(key(8), 2000)
    two.came(key(8), 2000)
    world.pass_time(0.2)
    world.bus.cut.clear()
    world.pass_time(3)
    assert p.Superseded(key(8)) in world.events[run(1)]
    assert not [e for e in world.events[run(2)] if isinstance(e, p.Superseded)]


def test_a_state_is_told_at_once_and_again_with_each_beat_until_it_is_shown() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    world.perform(run(1), one.state_is(17))
    world.pass_time(0.05)
    assert world.events[run(2)] == [StoreMoved(17)]
    world.pass_time(1.0)
    assert world.events[run(2)] == [StoreMoved(17)] * 2
    world.perform(run(2), two.state_is(17))
    world.pass_time(3.0)
    assert world.events[run(2)] == [StoreMoved(17)] * 2
    assert not world.events[run(1)]


def test_the_word_on_an_older_connection_comes_from_the_mediator_that_was_asked_alone() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    world.perform(run(2), two.ask(key(7), run(1), 4, b"", "192.0.2.1:5", world.now))
    assert two.ask(key(7), run(1), 5, b"", "192.0.2.1:6", world.now) == [], "one question for both"
    world.pass_time(0.1)
    (asked,) = [event for event in world.events[run(1)] if isinstance(event, p.Asked)]
    two.received(b.Held(run(9), 1, run(2), asked.message.question, lives=True, source=""), world.now)
    assert not [event for event in world.events[run(2)] if isinstance(event, p.Answered)]
    world.perform(run(1), one.answer(asked.ticket, "198.51.100.9:1", lives=True))
    assert one.answer(asked.ticket, "", lives=False) == []
    world.pass_time(0.1)
    answered = [event for event in world.events[run(2)] if isinstance(event, p.Answered)]
    assert answered == [p.Answered((4, 5), True, "198.51.100.9:1")]


@pytest.mark.parametrize("dead", [False, True])
def test_without_a_word_in_time_the_newer_connection_goes_on(dead: bool) -> None:
    world = Cluster()
    world.add(1)
    two = world.add(2)
    world.pass_time(1.5)
    asked_at = world.now
    if dead:
        del world.peers[run(1)]
    else:
        world.bus.loss = 1.0
    world.perform(run(2), two.ask(key(7), run(1), 4, b"", "", world.now))
    world.pass_time(p.WORD_S + 0.05)
    assert p.Answered((4,), False, "") in world.events[run(2)]
    assert world.now - asked_at < p.SILENT_S


def test_a_mediator_that_is_killed_costs_a_moving_member_half_a_second_and_one_that_leaves_costs_nothing() -> (
    None
):
    world = Cluster()
    one, two, _three = world.add(1), world.add(2), world.add(3)
    world.pass_time(1.5)
    del world.peers[run(1)]
    world.perform(run(2), two.ask(key(7), run(1), 4, b"", "", world.now))
    world.pass_time(p.WORD_S + 0.05)
    assert p.Answered((4,), False, "") in world.events[run(2)]
    assert two.can_answer(run(3))
    world.perform(run(2), two.ask(key(8), run(3), 5, b"", "", world.now))
    world.pass_time(p.WORD_S + 0.05)
    assert p.Answered((5,), False, "") not in world.events[run(2)], "it works, and may take its two seconds"
    world.perform(run(3), world.peers[run(3)].leave())
    world.pass_time(0.05)
    assert p.Answered((5,), False, "") in world.events[run(2)]
    assert not two.can_answer(run(3))
    assert one.leave(), "a run that is not on the bus any more says so too"
    assert p.Peers().leave() == []


def test_answers_of_one_number_may_be_mixed() -> None:
    """One part of the first answer is lost, another one of the second, and a member was handed on in between."""
    world = Cluster()
    one = world.add(1)
    for number in range(b.MAX_ROWS + 2):
        one.came(key(number), 5)
    world.pass_time(2)
    answers = []
    for _ in range(2):
        one.received(b.Ask(run(2), 0, run(1)), world.now)
        world.now += p.ANSWER_EVERY_S
        said = [event.message for event in one.handle_timer(world.now) if isinstance(event, Publish)]
        answers.append([message for message in said if isinstance(message, b.Everybody)])
        one.hand(key(0), world.now)
    assert [len(parts) for parts in answers] == [2, 2]
    two = p.Peers()
    two.begin(run(2), "m2", 0.0)
    two.received(answers[0][0], 0.0)
    two.received(answers[1][1], 0.1)
    (row,) = two.rows(0.1)
    assert not row.current or set(two.here) >= {key(number) for number in range(1, b.MAX_ROWS + 2)}


def test_a_false_epoch_leaves_room_to_count_on() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    world.pass_time(1.5)
    for epoch in (b.MAX_NUMBER, b.MAX_EPOCH):
        false = b.Presence(run(9), epoch, b.pack([(key(99), epoch, True)]))
        for peers in (one, two):
            peers.received(b.decode(b.encode(msgspec.structs.replace(false, number=1))), world.now)
    one.came(key(7), one.next_epoch(0))
    world.pass_time(1)
    assert two.here[key(7)] == run(1)


def test_more_members_than_a_table_may_have_cost_no_more_memory() -> None:
    two = p.Peers()
    two.begin(run(2), "m2", 0.0)
    for number in range(2 * (b.MAX_PARTS + 2)):  # the first message is missing: nothing is forgotten
        here, first = number % 2 == 0, number // 2 * b.MAX_ROWS
        rows = b.pack([(key(first + more), 5 + number % 2, here) for more in range(b.MAX_ROWS)])
        two.received(b.Presence(run(1), 2 + number, rows), 0.0)
    for number in range(b.MAX_PARTS + 2):
        rows = b.pack([(key(10**6 + number * b.MAX_ROWS + more), 9, True) for more in range(b.MAX_ROWS)])
        two.received(b.Presence(run(1), 10_000 + number, rows), 0.0)
    (peer,) = two._peers.values()
    assert len(peer.gone) == p.MAX_TABLE
    assert len(peer.table) == p.MAX_TABLE


def test_a_frame_too_long_for_the_bus_takes_no_number() -> None:
    one = p.Peers()
    one.begin(run(1), "m1", 0.0)
    assert one.carry(run(2), key(1), key(2), bytes(b.MAX_FRAME + 1)) == []
    (sent,) = one.carry(run(2), key(1), key(2), bytes(b.MAX_FRAME))
    assert sent.message.number == 1
    b.encode(sent.message)


def test_a_member_that_was_handed_on_is_gone_only_when_it_does_not_turn_up() -> None:
    world = Cluster()
    one, two, three = world.add(1), world.add(2), world.add(3)
    world.pass_time(1.5)
    for number in (7, 8):
        one.came(key(number), one.next_epoch(0))
    world.pass_time(0.2)
    one.hand(key(7), world.now)
    one.hand(key(8), world.now)
    two.came(key(7), two.next_epoch(0))
    world.pass_time(p.HANDED_S + 0.3)
    assert three.here == {key(7): run(2)}
    assert [seen for seen in world.seen(3) if seen[0] == key(7)] == [(key(7), True)], (
        "it was there all the time"
    )
    assert (key(8), False) in world.seen(1)


def test_a_process_that_stood_still_does_not_take_the_others_for_dead() -> None:
    world = Cluster()
    one, two = world.add(1), world.add(2)
    one.came(key(7), one.next_epoch(0))
    world.pass_time(2)
    two.handle_timer(world.now + 20)
    assert key(7) in two.here


def test_more_mediators_than_there_may_be_cost_nothing_more() -> None:
    two = p.Peers()
    two.begin(run(255), "me", 0.0)
    for number in range(p.MAX_PEERS + 5):
        two.received(b.Beat(number.to_bytes(b.RUN_LEN, "big"), 0, 0, f"m{number}", 0), 0.0)
    assert len(two.rows(0.0)) == p.MAX_PEERS
    assert two.refused == 5
    for second in range(5):
        two.handle_timer(float(second))
    two.received(b.Beat(run(254), 0, 0, "new", 0), 5.0)
    assert "new" in {row.name for row in two.rows(5.0)}, "one that is silent makes room"


def test_a_flood_beyond_a_gap_is_bounded_and_ends_in_the_whole_table() -> None:
    two = p.Peers()
    two.begin(run(2), "m2", 0.0)
    two.received(b.Everybody(run(1), 0, 0, 1, b""), 0.0)
    for number in range(2, 3 * p.MAX_AHEAD):
        two.received(b.Presence(run(1), number, b""), 0.0)
    assert len(two._peers[run(1)].ahead) <= p.MAX_AHEAD
    two.received(b.Everybody(run(1), 3 * p.MAX_AHEAD, 0, 1, b.pack([(key(1), 1, True)])), 1.0)
    assert [row.current for row in two.rows(1.0)] == [True]
    assert key(1) in two.here


def test_without_a_bus_nothing_is_kept_or_said() -> None:
    alone = p.Peers()
    assert alone.next_epoch(5) == 6
    alone.came(key(1), 6)
    alone.went(key(1))
    assert alone.next_timer() is None
    assert alone.handle_timer(1e9) == []
    assert alone.received(b.Beat(run(1), 0, 0, "", 0), 0.0) == []
    assert alone.rows(0.0) == []


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_the_error_that_is_counted(data: bytes) -> None:
    for payload in (data, b.VERSION + data):
        try:
            message = b.decode(payload)
        except RemoteError:
            continue
        one = p.Peers()
        one.begin(run(1), "m1", 0.0)
        one.received(message, 0.0)


@pytest.mark.parametrize(
    "message",
    [
        b.Presence(run(1), 1, b"\0" * 39),
        b.Presence(run(1), 1, b.pack([(key(1), b.MAX_EPOCH + 1, True)])),
        b.Presence(run(1), b.MAX_NUMBER + 1, b""),
        b.Beat(b"short", 1, 0, "", 0),
        b.Everybody(run(1), 1, b.MAX_PARTS, 1, b""),
        b.LoginAsked(run(1), 1, run(2), 1, b"key", b"", ""),
        b.Changed(run(1), -1, 0),
    ],
)
def test_what_is_out_of_bounds_is_no_message(message: b.Message) -> None:
    with pytest.raises(RemoteError):
        b.decode(b.encode(message))


def test_a_message_too_long_for_a_notify_is_neither_sent_nor_taken() -> None:
    long = b.Carry(run(1), 1, run(2), key(1).raw, key(2).raw, b"x" * b.MAX_MESSAGE)
    with pytest.raises(ValueError):
        b.encode(long)
    with pytest.raises(RemoteError, match="bytes"):
        b.decode(b.VERSION + b"x" * b.MAX_MESSAGE)


def story(seed: int) -> None:
    """Members come, go and move between three mediators over a bad bus, which then is good again."""
    chance = random.Random(seed)
    bus = LossyBus(
        chance, loss=chance.choice((0.0, 0.1, 0.4)), doubled=0.2, jitter_s=chance.choice((0.0, 0.3))
    )
    world = Cluster(bus)
    for number in (1, 2, 3):
        world.add(number)
    where: dict[WireGuardKey, bytes] = {}
    lives = 3
    for _ in range(chance.randrange(20, 120)):
        world.pass_time(chance.choice((0.0, 0.01, 0.2, 1.5)))
        match chance.random():
            case x if x < 0.05 and not bus.cut:
                bus.cut.add(chance.choice(list(world.peers)))
            case x if x < 0.1:
                bus.cut.clear()
            case x if x < 0.13 and len(world.peers) == 3:
                dead = chance.choice(list(world.peers))
                del world.peers[dead]
                where = {member: at for member, at in where.items() if at != dead}
                lives += 1
                world.add(lives, f"m{dead[0]}")
            case _:
                member = key(chance.randrange(12))
                at = where.pop(member, None)
                if at is not None:
                    world.peers[at].went(member)
                if chance.random() < 0.7:
                    new = chance.choice(list(world.peers))
                    world.peers[new].came(member, world.peers[new].next_epoch(0))
                    where[member] = new
    bus.cut.clear()
    bus.loss, bus.jitter_s = 0.0, 0.0
    world.pass_time(p.SILENT_S + 3 * p.ASK_AGAIN_S)
    for who, one in world.peers.items():
        assert one.here == {member: at for member, at in where.items() if at != who}
        assert all(row.current for row in one.rows(world.now) if row.alive)


@pytest.mark.parametrize("first", range(0, SEEDS, 50))
def test_after_any_loss_every_mediator_knows_where_everybody_is(first: int) -> None:
    tell(story, first, first + 50)


# -- a mediator ends, and its members come all at once ------------------------------------------------------


def waiting(count: int) -> Cluster:
    """At the second mediator so many logins wait for the word of the first, and so many members were handed on."""
    world = Cluster()
    world.add(1)
    two = world.add(2)
    world.pass_time(1.5)
    for number in range(count):
        two.ask(key(1_000 + number), run(1), 1_000 + number, b"", "192.0.2.1:5", world.now)
        handed = key(100_000 + number)
        two.came(handed, two.next_epoch(0))
        two.hand(handed, world.now)
    two.handle_timer(world.now)
    return world


@pytest.mark.parametrize("lives", [False, True])
def test_a_login_costs_the_same_however_many_others_wait(lives: bool) -> None:
    def work(count: int) -> int:
        world = waiting(count)
        two = world.peers[run(2)]
        if lives:
            world.now += 0.01
            two.received(b.Beat(run(1), 0, 0, "m1", 0), world.now)

        def login() -> None:
            two.ask(key(1), run(1), 1, b"", "192.0.2.1:5", world.now)
            two.next_timer()
            two.handle_timer(world.now)
            two.gone(1)
            two.next_timer()

        return lines_run(login, CORE)

    assert work(2_000) == work(20)


def test_what_all_logins_cost_together_grows_with_their_count_alone() -> None:
    """Quadratic work would be some 16 times as much."""

    def work(count: int) -> int:
        world = Cluster()
        world.add(1)
        two = world.add(2)
        world.pass_time(1.5)
        del world.peers[run(1)]
        asked, settled = world.now, list[int]()

        def crash() -> None:
            for number in range(count):
                at = asked + 0.4 * number / count
                two.ask(key(number), run(1), number, b"", "192.0.2.1:5", at)
                two.next_timer()
            while len(settled) < count:
                due = two.next_timer()
                assert due is not None
                for event in two.handle_timer(due):
                    if isinstance(event, p.Answered):
                        settled.extend(event.connections)

        lines = lines_run(crash, CORE)
        assert settled == list(range(count)), "the first that asked is the first that goes on"
        return lines

    assert work(800) < 5 * work(200)
