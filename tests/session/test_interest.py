"""What a member asks and knows of presence: everything in a small view, and in a large one what it declared."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.session import ClientSession, Effect, PresenceChanged, PresenceKnown, SendFrame, ViewChanged
from netctl.session import interest as i
from netctl.wire import control as w
from tests.session.loginkit import KEY
from tests.session.test_client_session import PIN, give, parts, ready, view

COUNT = 5
OTHERS = [WireGuardKey(number.to_bytes(32, "big")) for number in range(1, COUNT)]
STRANGER = WireGuardKey(b"\x77" * 32)


def sent(effects: list[Effect]) -> list[w.Message]:
    return [w.decode(effect.payload) for effect in effects if isinstance(effect, SendFrame)]


def known(effects: list[Effect]) -> dict[WireGuardKey, bool | None]:
    found: dict[WireGuardKey, bool | None] = {}
    for effect in effects:
        match effect:
            case PresenceKnown(online):
                found.update(online)
            case PresenceChanged(key, state):
                found[key] = state
    return found


def text(*keys: WireGuardKey) -> list[str]:
    return [str(key) for key in keys]


def show(client: ClientSession, of: View, now: float = 0.0, *, large: bool = True) -> list[Effect]:
    """The whole view, as a mediator sends it."""
    chunks, sealed = parts(of)
    for chunk in chunks:
        assert give(client, chunk, now) == []
    return give(client, msgspec.structs.replace(sealed, online="") if large else sealed, now)


def large(*interest: WireGuardKey) -> ClientSession:
    client = ready()
    assert client.interested(interest, 0.0) == []
    show(client, view(COUNT))
    return client


def presence(effects: list[Effect]) -> dict[WireGuardKey, bool | None]:
    (shown,) = (effect.view for effect in effects if isinstance(effect, ViewChanged))
    return {key: member.online for key, member in shown.members.items()}


def test_in_a_small_view_everybody_is_known_and_nobody_is_asked_for() -> None:
    client = ready()
    client.interested(OTHERS[:1], 0.0)
    effects = show(client, view(COUNT), large=False)
    assert sent(effects) == []
    assert presence(effects) == dict.fromkeys((*OTHERS, KEY), True)
    assert client.interested(OTHERS, 1.0) == []
    assert client.look_at_all(1.0) == []
    assert known(give(client, w.Presence(str(OTHERS[0]), online=False))) == {OTHERS[0]: False}


def test_in_a_large_view_the_wanted_members_of_it_are_declared_and_all_others_are_unknown() -> None:
    client = ready()
    client.interested([OTHERS[0], STRANGER, KEY], 0.0)
    effects = show(client, view(COUNT))
    assert sent(effects) == [w.Interest(text(OTHERS[0]))]
    assert presence(effects) == {**dict.fromkeys(OTHERS), KEY: True}
    assert known(give(client, w.Presences(text(OTHERS[0]), []))) == {OTHERS[0]: True}
    assert known(give(client, w.Presence(str(OTHERS[0]), online=False))) == {OTHERS[0]: False}
    assert known(give(client, w.Presence(str(OTHERS[1]), online=True))) == {}, "it was not asked for"


def test_differences_are_sent_and_whoever_is_dropped_is_unknown() -> None:
    client = large(OTHERS[0], OTHERS[1])
    give(client, w.Presences(text(OTHERS[0]), text(OTHERS[1])))
    effects = client.interested(OTHERS[1:3], 1.0)
    assert sent(effects) == [w.Interest(text(OTHERS[2]), text(OTHERS[0]))]
    assert known(effects) == {OTHERS[0]: None}
    assert client.interested(OTHERS[1:3], 2.0) == []
    late = give(client, w.Presence(str(OTHERS[0]), online=True))
    assert known(late) == {}, "it was on its way"


def test_another_view_keeps_what_is_known_and_declares_who_came_into_it() -> None:
    client = ready()
    client.interested(OTHERS, 0.0)
    first = view(COUNT - 1)
    assert sent(show(client, first)) == [w.Interest(text(*OTHERS[:-1]))]
    give(client, w.Presences(text(*OTHERS[:-1]), []))
    effects = show(client, view(COUNT))
    assert sent(effects) == [w.Interest(text(OTHERS[-1]))]
    assert presence(effects) == {**dict.fromkeys((*OTHERS[:-1], KEY), True), OTHERS[-1]: None}
    assert sent(show(client, first)) == [w.Interest([], text(OTHERS[-1]))]


def test_who_looks_at_all_knows_all_for_a_minute() -> None:
    client = large(OTHERS[0])
    assert sent(client.look_at_all(1.0)) == [w.Interest(all=True)]
    assert client.look_at_all(1.0 + i.RENEW_S - 1) == [], "it is told of all already"
    give(client, w.Presences([], text(OTHERS[0])), 1.1)
    assert client.awaits_all, "an answer to another question"
    _, sealed = parts(view(COUNT))
    answer = give(client, sealed, 1.2)
    assert not client.awaits_all
    assert known(answer) == dict.fromkeys(OTHERS, True)
    assert not [effect for effect in answer if isinstance(effect, ViewChanged)]
    assert known(give(client, w.Presence(str(OTHERS[3]), online=False), 2.0)) == {OTHERS[3]: False}
    give(client, w.Pong(1), 50.0)
    assert client.next_timer() <= 1.0 + w.INTEREST_ALL_S
    over = client.handle_timer(1.0 + w.INTEREST_ALL_S)
    assert known(over) == dict.fromkeys(OTHERS[1:]), "of itself it knows, then too"
    assert known(give(client, w.Presence(str(OTHERS[3]), online=True), 62.0)) == {}
    assert sent(client.look_at_all(63.0)) == [w.Interest(all=True)]


def test_the_same_view_at_a_later_generation_is_no_change_of_it() -> None:
    client = large(OTHERS[0])
    client.look_at_all(1.0)
    sealed = parts(replace(view(COUNT), generation=4))[1]
    (told,) = give(client, sealed, 1.2)
    assert isinstance(told, PresenceKnown)
    assert told.online == dict.fromkeys(OTHERS, True)
    assert told.kept is not None
    assert told.kept.newest == {PIN: 4}
    assert client.interested(OTHERS[:2], 2.0), "still a large view"
    bare = msgspec.structs.replace(parts(replace(view(COUNT), generation=5))[1], online="")
    (told,) = give(client, bare, 3.0)
    assert isinstance(told, PresenceKnown)
    assert told.online == {}, "and nothing that is known is forgotten"


def test_a_small_view_at_a_later_generation_tells_what_is_new() -> None:
    client = ready()
    show(client, view(COUNT), large=False)
    give(client, w.Presence(str(OTHERS[0]), online=False))
    gone = replace(view(COUNT).members[OTHERS[1]], online=False)
    later = replace(view(COUNT), generation=4, members={**view(COUNT).members, OTHERS[1]: gone})
    (told,) = give(client, parts(later)[1])
    assert isinstance(told, PresenceKnown)
    assert told.online == {OTHERS[0]: True, OTHERS[1]: False}
    assert told.kept is not None


def test_an_answer_that_repeats_what_is_known_is_no_news_but_an_answer() -> None:
    client = large(*OTHERS[:2])
    answer = w.Presences(text(OTHERS[0]), text(OTHERS[1]))
    assert known(give(client, answer, 1.0)) == {OTHERS[0]: True, OTHERS[1]: False}
    assert give(client, answer, 2.0) == [PresenceKnown({})]
    client.look_at_all(3.0)
    sealed = parts(view(COUNT))[1]
    assert known(give(client, sealed, 3.1)) == dict.fromkeys(OTHERS[1:], True)
    assert give(client, sealed, 3.2) == [PresenceKnown({})]
    again = w.Presence(str(OTHERS[0]), online=True)
    assert known(give(client, again, 4.0)) == {OTHERS[0]: True}, "one member: its path is to be checked"


def test_what_a_small_view_told_is_not_known_in_a_large_one() -> None:
    client = ready()
    show(client, view(COUNT), large=False)
    assert presence(show(client, view(COUNT - 1))) == {**dict.fromkeys(OTHERS[:-1]), KEY: True}


def test_a_large_view_that_becomes_small_is_known_whole() -> None:
    client = large(OTHERS[0])
    effects = show(client, view(COUNT - 1), large=False)
    assert presence(effects) == dict.fromkeys((*OTHERS[:-1], KEY), True)
    assert client.interested((), 1.0) == []
    assert sent(show(client, view(COUNT))) == [], "nobody is wanted by now"


def test_who_wants_more_than_can_be_declared_asks_for_all_again_and_again() -> None:
    many = view(w.MAX_INTEREST + 3)
    client = ready()
    client.interested(many.members.keys(), 0.0)
    assert sent(show(client, many)) == [w.Interest(all=True)]
    assert client.awaits_all, "whoever looks waits for this answer"
    assert sent(client.handle_timer(20.0)) == [w.Ping(1)]
    give(client, w.Pong(1), 25.0)
    assert client.next_timer() == i.RENEW_S
    assert sent(client.handle_timer(i.RENEW_S)) == [w.Interest(all=True)]
    fewer = sorted(many.members)[:3]
    assert sent(client.interested(fewer, 31.0)) == [w.Interest(text(*fewer))]
    assert known(give(client, w.Presences([], text(*fewer)), 32.0)) == dict.fromkeys(fewer, False)
    give(client, parts(many)[1], 33.0)
    give(client, w.Pong(1), 80.0)
    over = client.handle_timer(i.RENEW_S + w.INTEREST_ALL_S)
    assert known(over) == dict.fromkeys(many.members.keys() - {*fewer, KEY})


def test_what_was_declared_is_declared_again_from_time_to_time() -> None:
    client = large(*OTHERS[:2])
    give(client, w.Pong(1), i.REPEAT_S - 5)
    client.handle_timer(i.REPEAT_S - 5)
    assert client.next_timer() == i.REPEAT_S
    assert sent(client.handle_timer(i.REPEAT_S)) == [w.Interest(text(*OTHERS[:2]))]
    assert known(give(client, w.Presences([], text(*OTHERS[:2])), i.REPEAT_S)) == dict.fromkeys(
        OTHERS[:2], False
    )
    client.interested((), i.REPEAT_S + 1)
    assert client.next_timer() < 2 * i.REPEAT_S, "a ping is due, and nothing else"
    give(client, w.Pong(2), 2 * i.REPEAT_S)
    assert not [one for one in sent(client.handle_timer(2 * i.REPEAT_S)) if isinstance(one, w.Interest)]
