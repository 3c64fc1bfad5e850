"""Which mediator a member tries next: spread by chance and round trip, one order without a relay apart, bad input."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from netctl.model.document import Mediator
from netctl.model.keys import IdentityKey
from netctl.session.mediatorchoice import (
    LIMIT_LEAST_S,
    LIMIT_S,
    LIMIT_UNKNOWN_S,
    MediatorChoice,
    name_of,
)

ONE, TWO, THREE = (
    Mediator(f"m{n}.example.net", 8443, (IdentityKey(bytes([n]) * 32),), tls=(443,)) for n in (1, 2, 3)
)
RELAY = Mediator("r.example.net", 8443, (IdentityKey(b"\x09" * 32),), relay_only=True)
ALL = (ONE, TWO, THREE)


def spread(*mediators: Mediator) -> MediatorChoice:
    choice = MediatorChoice()
    choice.use((*mediators, RELAY))
    return choice


def rtts(choice: MediatorChoice, **milliseconds: int) -> None:
    choice.measured({name_of(one): milliseconds[one.host[:2]] for one in ALL if one.host[:2] in milliseconds})


def whole_round(choice: MediatorChoice, fraction: float = 0.0) -> list[Mediator]:
    found = []
    for _ in ALL:
        found.append(choice.next(fraction).mediator)
        choice.over(lost=True)
    return found


def shares(choice: MediatorChoice, draws: int = 4000) -> dict[Mediator, float]:
    """How often each is tried first."""
    chance, found = random.Random(1), Counter[Mediator]()
    for _ in range(draws):
        choice.retry()
        found[choice.next(chance.random()).mediator] += 1
        choice.over(lost=False)
    return {one: found[one] / draws for one in ALL}


def test_members_spread_evenly_over_mediators_of_which_nothing_is_known() -> None:
    assert all(0.3 < share < 0.37 for share in shares(spread(*ALL)).values())


def test_the_nearer_of_two_near_ones_gets_more_members_and_a_far_one_none() -> None:
    choice = spread(*ALL)
    rtts(choice, m1=20, m2=35, m3=180)
    found = shares(choice)
    assert 0.55 < found[ONE] < 0.65
    assert 0.35 < found[TWO] < 0.45
    assert found[THREE] == 0


def test_mediators_in_one_hall_get_equal_shares_whatever_their_fractions_of_a_millisecond() -> None:
    choice = spread(*ALL)
    rtts(choice, m1=0, m2=1, m3=0)
    assert all(share > 0.3 for share in shares(choice).values())


def test_whoever_answers_comes_before_whoever_does_not() -> None:
    choice = spread(*ALL)
    rtts(choice, m1=20, m3=180)
    assert whole_round(choice) == [ONE, THREE, TWO]


def test_without_a_relay_apart_all_members_keep_the_order_of_the_document() -> None:
    choice = MediatorChoice()
    choice.use(ALL)
    rtts(choice, m1=200, m2=1, m3=1)
    for fraction in (0.0, 0.5, 0.999):
        choice.retry()
        assert whole_round(choice, fraction) == [ONE, TWO, THREE]


def test_without_a_relay_apart_members_spread_once_all_mediators_that_answer_say_that_they_may() -> None:
    choice = MediatorChoice()
    choice.use(ALL)
    assert choice.measures
    names = [name_of(one) for one in ALL]
    near = {names[0]: 20, names[1]: 20}
    choice.measured(near, names[:1])
    assert whole_round(choice, 0.999) == [ONE, TWO, THREE], "the second is of an earlier release"
    choice.measured(near, names[:2])
    assert whole_round(choice, 0.999) == [TWO, ONE, THREE], "the third may be down"
    choice.measured({}, ())
    assert whole_round(choice, 0.999) == [ONE, TWO, THREE], "nothing is known where UDP is blocked"


def test_one_mediator_is_not_measured() -> None:
    choice = MediatorChoice()
    choice.use(ALL[:1])
    assert not choice.measures


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999999999])
def test_after_a_loss_the_others_come_first_and_the_lost_one_last(fraction: float) -> None:
    for choice in (spread(*ALL), MediatorChoice()):
        choice.use((*ALL, RELAY) if choice._apart else ALL)
        rtts(choice, m1=1, m2=300, m3=400)
        lost = choice.next(0.0).mediator
        choice.works()
        choice.over(lost=True)
        assert lost == ONE
        assert not choice.others_left, "the first try waits its jitter"
        choice.retry()
        assert whole_round(choice, fraction)[2] == ONE
        assert choice.next(0.0).mediator == ONE, "it counts as any other again"


def test_a_member_comes_back_to_the_mediator_that_it_did_not_lose() -> None:
    choice = spread(*ALL)
    was = choice.next(0.5).mediator
    choice.works()
    rtts(choice, m1=50, m2=90, m3=5)
    choice.over(lost=False)
    assert was == TWO
    assert choice.next(0.0).mediator == was
    choice.over(lost=True)
    assert choice.next(0.0).mediator == THREE, "and to others where that one does not answer now"


def test_other_round_trips_move_nobody() -> None:
    """There is no event by which a choice ends a connection; what changed meanwhile counts at the next one."""
    choice = spread(ONE, TWO)
    rtts(choice, m1=1, m2=300)
    assert choice.next(0.0).mediator == ONE
    choice.works()
    rtts(choice, m1=900, m2=1)
    choice.over(lost=False)
    assert choice.next(0.999).mediator == ONE


def test_within_a_round_nobody_waits_and_all_dead_is_a_whole_round() -> None:
    choice = spread(*ALL)
    for _ in range(3):
        tried = []
        for left in (True, True, False):
            tried.append(choice.next(0.4).mediator)
            choice.over(lost=True)
            assert choice.others_left is left
        assert sorted(map(name_of, tried)) == sorted(map(name_of, ALL))


def test_only_a_round_of_refusals_is_a_refusal() -> None:
    choice = MediatorChoice()
    choice.use((ONE, TWO))
    for first, second in ((True, True), (False, True), (True, False)):
        choice.next(0.0)
        choice.over(lost=not first, refused=first)
        choice.next(0.0)
        choice.over(lost=not second, refused=second)
        assert not choice.others_left
        assert choice.all_refuse is (first and second)


def test_each_visit_takes_the_next_port() -> None:
    choice = MediatorChoice()
    choice.use((ONE,))
    ports = []
    for _ in range(4):
        ports.append(choice.next(0.9).port)
        choice.over(lost=True)
    assert ports == [8443, 443, 8443, 443]


def test_who_needs_one_answer_asks_each_port_once_and_the_first_ports_first() -> None:
    choice = MediatorChoice()
    plain = Mediator("m4.example.net", 8443, (IdentityKey(b"4" * 32),), tls=(8443,))
    choice.use((ONE, plain, TWO, RELAY))
    asked = [(one.mediator, one.port, one.limit_s) for one in choice.all_ports()]
    assert asked == [
        (ONE, 8443, LIMIT_UNKNOWN_S),
        (plain, 8443, LIMIT_UNKNOWN_S),
        (TWO, 8443, LIMIT_S),
        (ONE, 443, LIMIT_S),
        (TWO, 443, LIMIT_S),
    ]
    choice.use(())
    assert list(choice.all_ports()) == []


def test_a_lone_mediator_gets_all_the_time_there_is() -> None:
    for mediators in ((ONE,), (ONE, RELAY)):
        choice = MediatorChoice()
        choice.use(mediators)
        assert not choice.measures
        for _ in range(3):
            chosen = choice.next(0.7)
            assert (chosen.mediator, chosen.limit_s) == (ONE, LIMIT_S)
            choice.works()
            choice.over(lost=True)
            assert not choice.others_left


def test_a_mediator_is_waited_for_by_its_round_trip_while_others_are_left() -> None:
    choice = spread(*ALL)
    assert choice.next(0.0).limit_s == LIMIT_UNKNOWN_S
    for milliseconds, limit_s in ((5, LIMIT_LEAST_S), (700, 5.6), (9000, LIMIT_S)):
        choice = spread(*ALL)
        rtts(choice, m1=milliseconds, m2=60_000)
        assert choice.next(0.0).limit_s == pytest.approx(limit_s)


def test_after_a_round_in_vain_a_slow_link_gets_all_the_time_there_is() -> None:
    choice = spread(*ALL)
    rtts(choice, m1=5, m2=5, m3=5)
    whole_round(choice)
    assert [choice.next(0.5).limit_s for _ in ALL] == [LIMIT_S] * 3
    choice.works()
    choice.over(lost=True)
    assert choice.next(0.5).limit_s == LIMIT_LEAST_S


def test_no_mediators_and_relays_alone_are_no_choice() -> None:
    choice = MediatorChoice()
    with pytest.raises(LookupError):
        choice.next(0.5)
    choice.use((RELAY,))
    choice.over(lost=True)
    choice.retry()
    assert not choice.measures
    assert not choice.others_left
    with pytest.raises(LookupError):
        choice.next(0.5)


def test_another_list_forgets_who_is_not_in_it() -> None:
    choice = spread(*ALL)
    choice.next(0.0)
    choice.works()
    choice.use((TWO, THREE, RELAY))
    choice.over(lost=False)
    assert {choice.next(0.0).mediator for _ in range(4)} == {TWO, THREE}


def test_round_trips_of_strangers_change_nothing() -> None:
    choice = spread(*ALL)
    choice.measured({"x.example.net:8443": 1, "": 0})
    assert all(share > 0.3 for share in shares(choice).values())


def test_whatever_happens_each_round_tries_everybody_once() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        choice = spread(*ALL) if chance.random() < 0.5 else MediatorChoice()
        choice.use((*ALL, RELAY) if choice._apart else ALL)
        since: list[Mediator] = []
        for _ in range(40):
            rtts(
                choice,
                **{name: chance.choice((0, 3, 90, 60_000)) for name in ("m1", "m3") if chance.random() < 0.6},
            )
            since.append(choice.next(chance.random()).mediator)
            works = chance.random() < 0.2
            if works:
                choice.works()
            choice.over(lost=chance.random() < 0.5)
            if works:
                since.clear()
            if len(since) == 3:
                assert set(since) == set(ALL), seed
                since.clear()


def at_each(choices: list[MediatorChoice]) -> list[float]:
    """The share of each mediator."""
    found = Counter(choice._current for choice in choices)
    return [found[one] / len(choices) for one in ALL]


def connect(choice: MediatorChoice, chance: random.Random, *, down: Mediator | None = None) -> None:
    while choice.next(chance.random()).mediator == down:
        choice.over(lost=True)
    choice.works()


def test_a_rolling_restart_leaves_five_eighths_three_eighths_and_none_until_agents_start_anew() -> None:
    """The figures of docs/scaling.md: nobody moves because a mediator is back."""
    chance, count = random.Random(1), 6000
    choices = [spread(*ALL) for _ in range(count)]
    for choice in choices:
        rtts(choice, m1=10, m2=10, m3=10)
        connect(choice, chance)
    assert at_each(choices) == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.03)
    moves = 0
    for restarted in ALL:
        for choice in choices:
            if choice._current == restarted:
                choice.over(lost=True)
                connect(choice, chance, down=restarted)
                moves += 1
    assert at_each(choices) == pytest.approx([5 / 8, 3 / 8, 0], abs=0.03)
    assert moves / count == pytest.approx(1 / 3 + 1 / 2 + 3 / 4, abs=0.05)
    for number in range(count):
        choices[number] = spread(*ALL)
        rtts(choices[number], m1=10, m2=10, m3=10)
        connect(choices[number], chance)
    assert at_each(choices) == pytest.approx([1 / 3, 1 / 3, 1 / 3], abs=0.03)


def test_a_try_of_before_the_round_does_not_make_a_refusal_final() -> None:
    """Somebody wants a connection now while the second is asked, which refuses: the first was not asked since."""
    choice = MediatorChoice()
    choice.use((ONE, TWO))
    choice.next(0.0)
    choice.over(lost=True)
    assert choice.next(0.0).mediator == TWO
    choice.retry()
    choice.over(lost=True, refused=True)
    assert not choice.all_refuse
    for _ in (ONE, TWO):
        choice.next(0.0)
        choice.over(lost=True, refused=True)
    assert choice.all_refuse
