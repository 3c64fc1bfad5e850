"""Presence by interest: who is told that a member came or went, and what it takes to be told."""

from __future__ import annotations

import json
import random

import pytest

from mediator.core import audience as a
from mediator.core import effects as fx
from mediator.core import pace
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w
from tests.mediator.test_hub import PIN, Shell, document, identity, key, names

LARGE = 2
"""In these tests a view of more members than this is a large one: all but dan's."""
STRANGER = WireGuardKey(b"\x99" * 32)


def heard(shell: Shell, number: int, start: int = 0) -> list[tuple[str, bool]]:
    """The presence that a connection was told, in order."""
    found = []
    for message in shell.sent[number][start:]:
        match message:
            case w.Presence(peer, online):
                found.append((peer, online))
            case w.Presences(online, offline):
                found += [(peer, True) for peer in online] + [(peer, False) for peer in offline]
    return found


def text(name: str) -> str:
    return str(key(name))


def sealed(shell: Shell, number: int) -> w.Sealed:
    found = [message for message in shell.sent[number] if isinstance(message, w.Sealed)]
    return found[-1]


def test_in_a_large_view_nobody_is_told_of_anybody_unasked() -> None:
    shell = Shell(interest_above=LARGE)
    shell.login(1, "ann")
    shell.login(2, "bob")
    shell.login(3, "dan")
    shell.perform(shell.hub.disconnected(2))
    assert [sealed(shell, number).online for number in (1, 2)] == ["", ""]
    assert heard(shell, 1) == []
    assert sealed(shell, 3).online, "dan sees ann alone: a small view"
    shell.perform(shell.hub.disconnected(1))
    assert heard(shell, 3) == [(text("ann"), False)]


def test_interest_is_answered_and_ends_with_a_word_or_with_the_connection() -> None:
    shell = Shell(interest_above=LARGE)
    shell.login(1, "ann")
    shell.login(2, "bob")
    answer = shell.give(1, w.Interest([text("bob"), text("cid")]))
    assert answer == [w.Presences([text("bob")], [text("cid")])]
    shell.login(3, "cid")
    shell.perform(shell.hub.disconnected(2))
    start = len(shell.sent[1])
    assert heard(shell, 1)[2:] == [(text("cid"), True), (text("bob"), False)]
    assert shell.give(1, w.Interest(drop=[text("bob")])) == []
    shell.login(4, "bob")
    shell.perform(shell.hub.disconnected(3))
    assert heard(shell, 1, start) == [(text("cid"), False)]
    shell.perform(shell.hub.disconnected(1))
    assert len(shell.hub._audience) == 0
    assert not shell.hub._audience._watchers
    shell.login(5, "ann")
    start = len(shell.sent[5])
    shell.perform(shell.hub.disconnected(4))
    assert heard(shell, 5, start) == [], "a login begins without interest"


def test_who_looks_at_all_is_told_of_all_for_a_minute() -> None:
    shell = Shell(interest_above=LARGE)
    shell.login(1, "ann", 0.0)
    shell.login(2, "bob", 0.0)
    (answer,) = shell.give(1, w.Interest(all=True), 5.0)
    assert isinstance(answer, w.Sealed)
    online = {member.name for member in shell.view(1, "ann").members.values() if member.online}
    assert online == {"ann", "bob"}
    start = len(shell.sent[1])
    shell.login(3, "cid", 6.0)
    assert heard(shell, 1, start) == [(text("cid"), True)]
    for number in (1, 2, 3):
        shell.give(number, w.Ping(1), 40.0)
    assert shell.hub.next_timer() == 5.0 + w.INTEREST_ALL_S
    shell.perform(shell.hub.handle_timer(5.0 + w.INTEREST_ALL_S, 0))
    shell.perform(shell.hub.disconnected(3))
    assert heard(shell, 1, start) == [(text("cid"), True)]


def test_who_looks_at_all_while_the_store_is_written_is_shown_the_view_that_is_sealed() -> None:
    """A document has come, and the store has not answered yet: a seal of this generation is for the new view alone."""
    shell = Shell(document(absent=("cid",)), interest_above=LARGE - 1)
    shell.login(1, "ann", 0.0)
    wanted = document()
    waiting = shell.hub.load(wanted, wanted.mediators[0], shell.unix_s)
    assert any(isinstance(effect, fx.Store) for effect in waiting), "cid has no lease yet"
    told = shell.give(1, w.Interest(all=True), 1.0)
    assert names(shell.view(1, "ann")) == {"ann", "bob", "cid", "dan"}
    assert told[-1] == sealed(shell, 1)
    assert sealed(shell, 1).online
    shell.perform(waiting)
    seals = [message for message in shell.sent[1] if isinstance(message, w.Sealed)]
    by_generation: dict[int, str] = {}
    for seal in seals:
        assert by_generation.setdefault(seal.generation, seal.digest) == seal.digest
    assert shell.view(1, "ann").generation == shell.hub.generation


def test_interest_in_strangers_looks_like_interest_in_nobody() -> None:
    """bob may not see dan: his answer is the one that he gets for a key that does not exist."""
    shell = Shell(interest_above=LARGE)
    shell.login(1, "bob")
    shell.login(2, "dan")
    for stranger in (text("dan"), str(STRANGER), text("nobody")):
        assert shell.give(1, w.Interest([stranger])) == []
    shell.perform(shell.hub.disconnected(2))
    assert heard(shell, 1) == []
    assert len(shell.hub._audience) == 0


def test_a_member_that_leaves_the_view_is_not_told_of_and_one_that_comes_back_is() -> None:
    shell = Shell(interest_above=LARGE)
    shell.login(1, "ann")
    shell.login(2, "bob")
    shell.give(1, w.Interest([text("bob")]))
    shell.load(document(absent=("bob",)))
    start = len(shell.sent[1])
    shell.load(document())
    shell.login(3, "bob")
    assert heard(shell, 1, start) == [(text("bob"), True)]
    assert names(shell.view(1, "ann")) == {"ann", "bob", "cid", "dan"}


def test_a_seal_that_tells_of_everybody_ends_what_was_declared_before() -> None:
    """Its member forgets it too, and declares anew in a large view: the sum would be more than any agent declares."""
    shell = Shell(interest_above=3)
    shell.login(1, "ann")
    shell.login(2, "cid")
    shell.give(1, w.Interest([text("bob"), text("cid")], all=True))
    assert len(shell.hub._audience) == 2
    shell.load(document(absent=("bob",)))
    assert sealed(shell, 1).online
    assert len(shell.hub._audience) == 0
    shell.load(document())
    assert not sealed(shell, 1).online
    start = len(shell.sent[1])
    shell.perform(shell.hub.disconnected(2))
    assert heard(shell, 1, start) == [], "nobody is declared"
    assert shell.hub._audience.next_timer() is None


def test_a_member_of_the_release_before_is_told_of_everybody() -> None:
    shell = Shell(minor=0, interest_above=LARGE)
    shell.login(1, "ann")
    shell.minor = 1
    shell.login(2, "bob")
    shell.login(3, "cid")
    assert sealed(shell, 1).online
    assert heard(shell, 1) == [(text("bob"), True), (text("cid"), True)]
    assert heard(shell, 2) == []


def test_a_flood_of_interest_ends_the_connection() -> None:
    shell = Shell()
    shell.login(1, "ann")
    flood = w.Interest([str(WireGuardKey(n.to_bytes(32, "big"))) for n in range(w.MAX_INTEREST)])
    for _ in range(pace.QUESTIONS_BURST * a.KEYS_PER_QUESTION // w.MAX_INTEREST):
        assert shell.give(1, flood) == []
    assert shell.dropped == {1: "session.flood"}
    shell.login(2, "bob")
    for _ in range(pace.REFRESHES_BURST):
        assert shell.give(2, w.Interest(all=True))
    shell.give(2, w.Interest(all=True))
    assert shell.dropped[2] == "session.flood"


def crowd(servers: int, sensors: int, *, acls: bool) -> Document:
    """One network; with `acls` the sensors talk to the servers alone."""
    members = {
        name: {"wireguard": text(name), "identity": str(identity(name)), "groups": [name[:2]]}
        for name in (*(f"se{n}" for n in range(sensors)), *(f"hq{n}" for n in range(servers)))
    }
    rules = [{"name": "report", "src": ["group:se"], "dst": ["group:hq"]}]
    network = {"mode": "routed", "ipv4": "10.1.0.0/16", "members": ["*"]} | ({"acls": rules} if acls else {})
    return load_document(
        json.dumps(
            {
                "apiVersion": "netctl/v1",
                "id": "crwd-0001",
                "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [str(PIN)]}],
                "members": members,
                "networks": {"lan": network},
            }
        )
    ).document


def test_more_interest_than_any_agent_has_ends_the_connection() -> None:
    shell = Shell(crowd(1, w.MAX_INTEREST + 1, acls=False))
    shell.login(1, "hq0")
    keys = [text(f"se{n}") for n in range(w.MAX_INTEREST + 1)]
    assert shell.give(1, w.Interest(keys[:-1])) == [w.Presences([], keys[:-1])]
    assert shell.give(1, w.Interest(keys[-1:], keys[:1])) == [w.Presences([], keys[-1:])]
    shell.give(1, w.Interest(keys[:1]))
    assert shell.dropped == {1: "session.flood"}


def test_a_sensor_sees_its_servers_and_costs_like_three_peers() -> None:
    shell = Shell(crowd(3, 400, acls=True))
    shell.login(1, "se0")
    assert names(shell.view(1, "se0")) == {"se0", "hq0", "hq1", "hq2"}
    assert sum(len(w.encode(message)) for message in shell.sent[1]) < 1500
    shell.login(2, "hq0")
    assert len(shell.view(2, "hq0").members) == 401
    assert heard(shell, 1) == [(text("hq0"), True)], "who sees few is told of them all"
    shell.login(3, "se1")
    assert [heard(shell, number) for number in (1, 2)] == [[(text("hq0"), True)], []]
    shell.give(2, w.Interest([text("se1"), text("se2")]))
    shell.login(4, "se2")
    assert heard(shell, 2) == [(text("se1"), True), (text("se2"), False), (text("se2"), True)]


def test_the_seal_of_a_large_view_is_the_same_bytes_for_all() -> None:
    shell = Shell(crowd(0, a.INTEREST_ABOVE + 1, acls=False))
    shell.login(1, "se0")
    shell.login(2, "se1")
    assert w.encode(sealed(shell, 1)) == w.encode(sealed(shell, 2))
    assert shell.hub._audience.of(key("se1")) == []
    smaller = Shell(crowd(0, a.INTEREST_ABOVE, acls=False))
    smaller.login(1, "se0")
    smaller.login(2, "se1")
    assert smaller.hub._audience.of(key("se1")) == [1]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_those_are_told_who_have_to_be(seed: int) -> None:
    """Held against a plain list of who declared what."""
    chance = random.Random(seed)
    shell = Shell(interest_above=chance.choice([1, 2, 3, 4]))
    people = ("ann", "bob", "cid", "dan")
    online: dict[str, int] = {}
    declared: dict[str, set[str]] = {}
    everything: dict[str, float] = {}
    older: set[str] = set()
    now, number = 0.0, 0
    for _ in range(120):
        now += chance.choice([0.0, 1.0, 20.0])
        for connection in online.values():
            shell.give(connection, w.Ping(1), now)
        shell.perform(shell.hub.handle_timer(now, 0))
        everything = {name: until for name, until in everything.items() if now < until}
        name = chance.choice(people)
        before = {other: len(shell.sent[connection]) for other, connection in online.items()}
        if name not in online:
            number += 1
            shell.minor = chance.choice([0, 1, 1])
            shell.login(number, name, now)
            online[name], declared[name] = number, set()
            older |= {name} if shell.minor == 0 else set()
            changed = True
        elif chance.random() < 0.3:
            shell.perform(shell.hub.disconnected(online.pop(name)))
            everything.pop(name, None)
            older.discard(name)
            changed = False
        else:
            add, drop = (set(chance.sample(people, chance.randint(0, 3))) for _ in range(2))
            wants_all = chance.random() < 0.1
            shell.give(online[name], w.Interest([*map(text, add)], [*map(text, drop)], wants_all), now)
            declared[name] = declared[name] - drop | add
            if wants_all:
                everything[name] = now + w.INTEREST_ALL_S
            continue
        for other, connection in online.items():
            if other == name:
                continue
            sees = names(shell.hub.view(key(other)))
            small = len(sees) <= shell.hub._audience._above
            wants = small or name in declared[other] or other in everything or other in older
            told = (text(name), changed) in heard(shell, connection, before.get(other, 0))
            assert told == (name in sees and wants), f"{other} of {name}, seed {seed}"
