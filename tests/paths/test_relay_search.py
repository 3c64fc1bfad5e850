"""One pair and an absent peer: real relays answer, and the peer comes to none of them."""

from __future__ import annotations

import itertools

import pytest

from mediator.core.relay_grants import grant
from mediator.core.relay_table import RelayTable
from netctl.model.addresses import SocketAddress
from netctl.paths.constants import RELAY_ALONE, RELAY_TRIAL, RELAY_TRIAL_REST, RELAY_WATCH, RELAYS_ASKED
from netctl.paths.effects import SendControl, SendDatagram
from netctl.paths.relaychoice import BESIDE, PairRelays
from netctl.wire import relay
from netctl.wire.control import RelayGrant, RelayRequest
from netctl.wire.stun import MAX_LOAD

UNIX = 1_800_000_000
OWN, PEER = 40000, 40001
HERE = SocketAddress("198.51.100.1", 51820)
APART = tuple(f"ed25519:{letter * 42}A=" for letter in "BCDEF")
ADDRESSES = {name: f"192.0.2.{number}" for number, name in enumerate((BESIDE, *APART), 1)}
STEP_S = 0.25
TLS_NEEDED_S = 1.25
"""Three messages without an answer, at the times of `RELAY_RETRY`, and a step of the clock for each."""


class Alone:
    """A pair whose peer is nowhere, and its relays."""

    def __init__(self, home: str = BESIDE) -> None:
        count = itertools.count()
        self.home = home
        self.mine = {name: 10 * number for number, name in enumerate((*APART, BESIDE), 1)}
        self.now = 0.0
        self.dead: set[str] = set()
        self.most = 0
        self.tables = {name: RelayTable(bytes(32), b"c" * 32, range(OWN, PEER + 1)) for name in ADDRESSES}
        self.relays = PairRelays("peer", lambda size: next(count).to_bytes(size, "big"), self.mine)
        self.relays.know(APART, self.now, home)
        self.relays.told(dict(self.mine), self.now)
        self.relays.want(self.now)

    @property
    def asked(self) -> set[str]:
        return {name for name, link in self.relays._links.items() if link.wanted}

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            for effect in self.relays.handle_timer(self.now, online=True):
                self._perform(effect)
            self.most = max(self.most, len(self.asked))
            self.now += STEP_S

    def _perform(self, effect: object) -> None:
        if isinstance(effect, SendControl) and isinstance(effect.message, RelayRequest):
            name = effect.message.relay or self.home
            given = grant(bytes(32), OWN, PEER, UNIX + 3600)
            at = SocketAddress(ADDRESSES[name], PEER)
            told = RelayGrant("peer", str(at), given.allocation, given.key, given.expires_s, name)
            self.relays.handle_grant(told, self.now, (at,))
        if isinstance(effect, SendDatagram):
            name = next(name for name, address in ADDRESSES.items() if address == effect.destination.host)
            if name not in self.dead:
                for answer in self.tables[name].handle_control(effect.data, HERE, PEER, self.now, UNIX):
                    self.relays.handle_datagram(answer.data, effect.destination, self.now)

    def come(self, name: str) -> None:
        """The peer binds at this relay."""
        given, table, there = (
            grant(bytes(32), PEER, OWN, UNIX + 3600),
            self.tables[name],
            SocketAddress("203.0.113.9", 5),
        )
        allocation, key = relay.Allocation.unpack(bytes.fromhex(given.allocation)), bytes.fromhex(given.key)
        asked: relay.RelayMessage = relay.Bind(allocation, bytes(relay.TRANSACTION_LEN))
        (answer,) = table.handle_control(relay.seal(asked, key), there, OWN, self.now, UNIX)
        cookie = relay.open_message(answer.data, key)
        assert isinstance(cookie, relay.Cookie)
        asked = relay.Confirm(allocation, bytes(relay.TRANSACTION_LEN), cookie.cookie)
        for told in table.handle_control(relay.seal(asked, key), there, OWN, self.now, UNIX):
            if told.destination == HERE:
                self.relays.handle_datagram(told.data, SocketAddress(ADDRESSES[name], PEER), self.now)


def test_three_relays_are_asked_for_an_absent_peer_and_no_more() -> None:
    alone = Alone()
    alone.run(3 * RELAY_ALONE + 2)
    assert alone.asked == set(APART[:RELAYS_ASKED])
    alone.mine.update(zip(APART, (900, 800, 700, 5, 5), strict=True))
    alone.run(60)
    assert alone.asked == {*APART[3:], BESIDE}
    assert alone.most <= RELAYS_ASKED


def test_one_that_was_just_asked_keeps_its_place_for_a_while() -> None:
    """The peer, which heard of other distances later, may be on its way to it."""
    alone = Alone()
    alone.run(1)
    alone.mine.update(zip(APART, (900, 5, 5, 5, 5), strict=True))
    alone.run(RELAY_TRIAL - 3)
    assert APART[0] in alone.asked
    alone.run(10)
    assert alone.asked == set(APART[1:4])
    assert alone.most <= RELAYS_ASKED


@pytest.mark.parametrize("dead", [1, 2, 3])
def test_one_that_is_silent_is_replaced_and_not_added_to(dead: int) -> None:
    alone = Alone()
    alone.run(3 * RELAY_ALONE + 2)
    alone.dead.update(APART[:dead])
    alone.run(RELAY_TRIAL_REST - 10)
    assert not alone.asked & alone.dead
    assert len(alone.asked) == RELAYS_ASKED
    alone.dead.clear()
    alone.run(RELAY_TRIAL_REST + 30)
    assert alone.asked == set(APART[:RELAYS_ASKED])
    assert alone.most <= RELAYS_ASKED


def test_where_all_are_silent_the_one_that_tls_leads_to_stays() -> None:
    alone = Alone()
    alone.dead.update(ADDRESSES)
    alone.run(30)
    for _ in range(20):
        alone.run(3)
        assert BESIDE in alone.asked
        assert alone.relays.needs_tunnel
        assert len(alone.asked) <= RELAYS_ASKED


@pytest.mark.parametrize("home", APART)
def test_where_udp_is_blocked_tls_begins_as_soon_beside_whichever_mediator_the_member_is_logged_in(
    home: str,
) -> None:
    """It leads to the first relay, which is asked first."""
    alone = Alone(home)
    alone.mine.clear()  # no relay has answered STUN
    alone.dead.update(ADDRESSES)
    alone.run(TLS_NEEDED_S)
    assert alone.relays.needs_tunnel
    for _ in range(100):
        alone.run(0.5)
        assert alone.relays.needs_tunnel, "until the connection is there"
        assert len(alone.asked) <= RELAYS_ASKED


def test_nobody_needs_tls_because_the_first_relay_is_dead_and_others_answer() -> None:
    alone = Alone(APART[1])
    alone.dead.add(APART[0])
    for _ in range(100):
        alone.run(STEP_S)
        assert not alone.relays.needs_tunnel
    assert alone.relays.beside.answered_at > 0


def test_relays_are_ranked_anew_only_when_a_number_changes() -> None:
    alone = Alone()
    first = alone.relays._ranked(alone.now)
    alone.run(1.0)
    assert alone.relays._ranked(alone.now) is first
    alone.mine[BESIDE] = 1  # the meter changes its mapping in place
    assert alone.relays._ranked(alone.now).total[BESIDE] == 61
    alone.relays.told(dict.fromkeys(alone.mine, 10), alone.now, {BESIDE: MAX_LOAD})
    assert alone.relays._ranked(alone.now).names[-1] == BESIDE, "full"
    alone.relays.know(APART[:2], alone.now)
    assert set(alone.relays._ranked(alone.now).names) == {BESIDE, *APART[:2]}


def test_the_relay_beside_the_mediator_keeps_its_binding_when_it_gets_a_name_and_is_asked_for_without_it() -> (
    None
):
    alone = Alone()
    alone.relays.know((), alone.now)
    alone.run(1.0)
    link = alone.relays.beside
    assert link.answered_at > 0
    alone.relays.know((), alone.now, APART[0])
    alone.relays.know(APART[:2], alone.now, APART[0])  # the document has got a second mediator
    assert alone.relays.beside is link
    assert (alone.relays.name, link.name) == (APART[0], BESIDE)
    alone.relays.know(APART[:2], alone.now, APART[1])  # the host is logged in to that one
    assert alone.relays._links[APART[0]] is link
    assert (link.name, alone.relays.beside.name) == (APART[0], BESIDE)
    assert link.wanted
    alone.relays.know((), alone.now)  # one mediator is left
    assert alone.relays.name == BESIDE
    assert set(alone.relays._links) == {BESIDE}


def test_a_pair_whose_relay_has_just_died_seeks_another_for_a_minute() -> None:
    alone = Alone()
    alone.run(1.0)
    name = APART[0]
    alone.come(name)
    alone.run(30.0)
    assert alone.relays.name == name
    assert alone.relays.usable
    assert not alone.relays.seeks_another(alone.now)
    alone.dead.update(ADDRESSES)
    alone.run(30.0)
    assert not alone.relays.usable
    assert alone.relays.seeks_another(alone.now)
    alone.run(RELAY_WATCH)
    assert not alone.relays.seeks_another(alone.now)
