"""The member's side of a control connection: order, silence, and views that are whole and signed or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session import (
    UNPROVEN,
    Backoff,
    ClientSession,
    Closed,
    Effect,
    Kept,
    LoggedIn,
    PathMessage,
    PresenceChanged,
    SendFrame,
    State,
    ViewChanged,
)
from netctl.session import views as v
from netctl.session.login import check_login
from netctl.wire import control as w
from tests.session.loginkit import KEY, MEDIATOR, MEDIATOR_NONCE, MEMBER, NONCE, PEER, public

PIN = public(MEDIATOR)
WELCOME = w.Welcome(7, 8, "203.0.113.9:5555", ["0.0.0.0:3478", "192.0.2.9:3479"], 20.0)
V4_ONLY = (SocketAddress("198.51.100.1", 8443),)
NOT_A_KEY = "A" * 42 + "B="
"""Passes for base64 at first sight; its last bits are no bytes."""


def session(
    kept: Kept | None = None,
    mediator: Sequence[SocketAddress] = V4_ONLY,
    check_store: Callable[[str], None] = lambda store: None,
) -> ClientSession:
    return ClientSession(
        identity=public(MEMBER),
        key=KEY,
        sign=MEMBER.sign,
        pin=PIN,
        pins=(PIN,),
        mediator=mediator,
        nonce=NONCE,
        now=0.0,
        kept=kept,
        check_store=check_store,
    )


def give(client: ClientSession, message: w.Message, now: float = 0.0) -> list[Effect]:
    return client.receive_frame(w.encode(message), now)


def ready() -> ClientSession:
    client = session()
    give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    give(client, WELCOME)
    assert client.state is State.READY
    return client


def closed(effects: list[Effect]) -> str:
    (effect,) = effects
    assert isinstance(effect, Closed)
    return effect.error.code


def view(count: int = 2) -> View:
    keys = [WireGuardKey(number.to_bytes(32, "big")) for number in range(1, count)] + [KEY]
    return View(
        3,
        {key: ViewMember(f"m{key.raw[-1]}", key, online=True) for key in keys},
        {("lan", key): Lease("lan", key, (ip_address("10.0.0.1"), ip_address("fd00::1"))) for key in keys},
    )


def parts(of: View | None = None) -> tuple[list[w.ViewChunk], w.Sealed]:
    of = of or view()
    return v.pack_view(of), v.sign_view(of, PIN, MEDIATOR.sign)


def test_hello_is_answered_with_a_login_that_the_mediator_takes() -> None:
    client = session()
    (effect,) = give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    assert isinstance(effect, SendFrame)
    answer = w.decode(effect.payload)
    assert isinstance(answer, w.Login)
    check_login(answer, MEDIATOR_NONCE, PIN, public(MEMBER))
    (welcome,) = give(client, WELCOME)
    assert isinstance(welcome, LoggedIn)
    assert welcome.stun == (SocketAddress("198.51.100.1", 3478), SocketAddress("192.0.2.9", 3479))


def test_nothing_is_believed_out_of_order() -> None:
    assert closed(give(session(), WELCOME)) == "protocol.order"
    client = session()
    give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    assert closed(give(client, w.Presence(str(PEER), online=True))) == "protocol.order"
    assert closed(give(ready(), w.Hello(1, MEDIATOR_NONCE.hex()))) == "protocol.order"
    assert closed(give(ready(), w.RelayRequest(str(PEER)))) == "protocol.order"


def test_a_closed_session_says_and_hears_nothing() -> None:
    client = ready()
    assert closed(give(client, w.Error("login.removed", "gone"))) == "login.removed"
    assert give(client, w.Presence(str(PEER), online=True)) == []
    assert client.send(w.Refresh()) == []
    assert client.handle_timer(1e9) == []


def test_nothing_is_sent_before_the_login() -> None:
    assert session().send(w.Refresh()) == []


def test_a_silent_mediator_is_pinged_then_given_up() -> None:
    client = ready()
    assert client.next_timer() == 20.0
    (ping,) = client.handle_timer(20.0)
    assert isinstance(ping, SendFrame)
    assert isinstance(w.decode(ping.payload), w.Ping)
    assert client.handle_timer(30.0) == []
    client.handle_timer(40.0)
    assert closed(client.handle_timer(50.0)) == "silent"


def test_an_answering_mediator_is_kept() -> None:
    client = ready()
    now = 0.0
    for _ in range(20):
        now = client.next_timer()
        for effect in client.handle_timer(now):
            assert isinstance(effect, SendFrame)
        give(client, w.Pong(1), now)
    assert client.state is State.READY
    assert now >= 300


def test_where_the_ways_out_have_changed_the_connection_proves_itself_within_two_seconds() -> None:
    """A VPN that takes the default route left it "connected" on a dead way for 50 s."""
    client = ready()
    (effect,) = client.prove(1.0)
    assert isinstance(effect, SendFrame)
    assert client.prove(1.5) == [], "one proof at a time: changes come in bursts"
    assert client.next_timer() == 2.5
    assert client.handle_timer(2.4) == []
    assert closed(client.handle_timer(2.5)) == UNPROVEN, "not silent: this host alone has moved"

    client = ready()
    client.prove(1.0)
    give(client, w.Pong(1), 2.0)
    assert client.handle_timer(3.0) == []
    assert client.state is State.READY
    assert session().prove(0.0) == [], "a login has its own bound"


def test_what_the_mediator_says_about_paths_is_handed_on() -> None:
    client = ready()
    assert give(client, w.Presence(str(PEER), online=False)) == [PresenceChanged(PEER, online=False)]
    grant = w.RelayGrant(str(PEER), "0.0.0.0:40001", "00", "00" * 32, 5)
    (effect,) = give(client, grant)
    assert isinstance(effect, PathMessage)
    assert isinstance(effect.message, w.RelayGrant)
    assert effect.message.address == "198.51.100.1:40001"
    (effect,) = give(client, w.Punch(str(PEER), 50))
    assert effect == PathMessage(w.Punch(str(PEER), 50))


def test_where_you_reached_me_is_every_family_that_the_mediators_name_has() -> None:
    """A member that logged in by IPv6 must know its IPv4 outside too: a peer may have nothing else."""
    reached = [SocketAddress(host, 8443) for host in ("2001:db8::1", "198.51.100.1", "2001:db8::2")]
    client = session(mediator=reached)
    give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    (effect,) = give(client, WELCOME)
    assert isinstance(effect, LoggedIn)
    assert [str(one) for one in effect.stun] == ["[2001:db8::1]:3478", "198.51.100.1:3478", "192.0.2.9:3479"]
    (effect,) = give(client, w.RelayGrant(str(PEER), "0.0.0.0:40001", "00", "00" * 32, 5))
    assert isinstance(effect, PathMessage)
    assert [str(one) for one in effect.servers] == ["[2001:db8::1]:40001", "198.51.100.1:40001"]
    (effect,) = give(client, w.RelayGrant(str(PEER), "192.0.2.9:40001", "00", "00" * 32, 5))
    assert isinstance(effect, PathMessage)
    assert effect.servers == (SocketAddress("192.0.2.9", 40001),), "what the mediator names itself stays so"


@pytest.mark.parametrize(
    "message",
    [
        w.Presence(NOT_A_KEY, online=True),
        w.RelayGrant(str(PEER), "no.address", "00", "00", 5),
    ],
)
def test_bad_values_end_the_connection_and_not_the_agent(message: w.Message) -> None:
    assert closed(give(ready(), message)) == "message.bad"


@given(st.binary(max_size=200))
@settings(max_examples=50)
def test_no_bytes_raise(data: bytes) -> None:
    assert closed(session().receive_frame(data, 0.0)) == "message.bad"


def test_a_view_of_many_parts_is_put_together_and_counts_once_it_is_sealed() -> None:
    big = view(2 * v.ROWS_PER_CHUNK)
    chunks, sealed = parts(big)
    assert len(chunks) == 2
    client = ready()
    assert give(client, chunks[0]) == give(client, chunks[1]) == []
    (effect,) = give(client, sealed)
    assert isinstance(effect, ViewChanged)
    assert effect.view == big
    assert effect.kept == Kept(big, sealed, {PIN: big.generation})


def test_doubt_asks_for_the_whole_view_and_only_once() -> None:
    chunks, sealed = parts(view(2 * v.ROWS_PER_CHUNK))
    client = ready()
    (effect,) = give(client, chunks[1])
    assert isinstance(effect, SendFrame)
    assert w.decode(effect.payload) == w.Refresh()
    assert give(client, sealed) == []
    for chunk in chunks:
        assert give(client, chunk) == []
    (effect,) = give(client, sealed)
    assert isinstance(effect, ViewChanged)


def test_what_the_mediator_refuses_to_sign_ends_the_connection() -> None:
    chunks, sealed = parts()
    client = ready()
    give(client, chunks[0])
    assert closed(give(client, msgspec.structs.replace(sealed, signature="00" * 64))) == "view.signature"


def test_a_member_that_has_a_view_says_so_and_needs_only_its_seal() -> None:
    known = view()
    client = session(Kept(known, parts(known)[1]))
    (effect,) = give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    assert isinstance(effect, SendFrame)
    login = w.decode(effect.payload)
    assert isinstance(login, w.Login)
    assert login.view == v.view_digest(known)
    give(client, WELCOME)
    (effect,) = give(client, parts(replace(known, generation=9))[1])
    assert isinstance(effect, ViewChanged)
    assert effect.view == replace(known, generation=9)


def test_back_off_starts_short_grows_and_starts_again() -> None:
    backoff = Backoff()
    ceilings = [backoff.next_delay(1.0) for _ in range(8)]
    assert ceilings == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    backoff.reset()
    assert backoff.next_delay(0.5) == 1.0


def test_thousands_return_over_seconds_and_nobody_waits_longer_than_half_a_minute() -> None:
    backoff = Backoff()
    for members, first in ((3, 2.0), (5_000, 5.0), (10_000, 10.0), (1_000_000, 15.0)):
        backoff.reset()
        backoff.spread(members)
        assert [backoff.next_delay(1.0) for _ in range(9)][::8] == [first, 30.0]


@given(st.text(max_size=200))
def test_what_a_mediator_says_at_the_end_is_one_line_that_no_terminal_obeys(text: str) -> None:
    """It is shown by `status`, `doctor` and `join`, and kept in logs."""
    [effect] = [e for e in give(ready(), w.Error("login.removed", text)) if isinstance(e, Closed)]
    shown = str(effect.error)
    assert shown.splitlines() in ([shown], [])
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066\u2028" for c in shown)


def test_a_store_that_is_refused_ends_the_session_before_anything_of_it_is_taken() -> None:
    def check(store: str) -> None:
        assert store == "b"
        raise RemoteError("another store", "login.other-store")

    client = session(check_store=check)
    give(client, w.Hello(1, MEDIATOR_NONCE.hex()))
    assert closed(give(client, msgspec.structs.replace(WELCOME, store="b"))) == "login.other-store"
    assert client.state is State.CLOSED
    assert give(client, w.Presence(str(PEER), online=True)) == []
