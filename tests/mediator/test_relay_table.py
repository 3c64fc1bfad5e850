"""The relay's table: bindings only with a good allocation and a real source, traffic only between bound ends."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core import relay_table
from mediator.core.relay_limits import Limits
from mediator.core.relay_table import Answer, RelayTable
from netctl.model.addresses import SocketAddress
from netctl.wire import relay

SECRET = bytes(range(32))
PORTS = range(40000, 40010)
UNIX = 1_800_000_000.0
P_A, P_B, P_C = 40000, 40001, 40002
A = SocketAddress("192.0.2.1", 51820)
B = SocketAddress("203.0.113.1", 51820)
EVE = SocketAddress("198.51.100.66", 9)


def table(limits: Limits | None = None) -> RelayTable:
    return RelayTable(SECRET, b"c" * 32, PORTS, limits)


def allocation(own: int, peer: int, *, expires: int = int(UNIX) + 60) -> relay.Allocation:
    return relay.Allocation(own, peer, expires)


def ask(
    relays: RelayTable,
    message: relay.Bind | relay.Confirm,
    source: SocketAddress,
    now: float,
    secret: bytes = SECRET,
) -> list[Answer]:
    data = relay.seal(message, message.allocation.key(secret))
    answers = relays.handle_control(data, source, message.allocation.peer_port, now, UNIX)
    if answers:
        assert len(answers[0].data) <= len(data)
    return answers


def cookie_for(relays: RelayTable, given_to: relay.Allocation, source: SocketAddress, now: float) -> bytes:
    (answer,) = ask(relays, relay.Bind(given_to, b"t" * 8), source, now)
    cookie = relay.open_message(answer.data, given_to.key(SECRET))
    assert isinstance(cookie, relay.Cookie)
    assert (answer.port, answer.destination) == (given_to.peer_port, source)
    return cookie.cookie


def bind(relays: RelayTable, own: int, peer: int, source: SocketAddress, now: float = 0.0) -> list[Answer]:
    right = allocation(own, peer)
    return ask(relays, relay.Confirm(right, b"u" * 8, cookie_for(relays, right, source, now)), source, now)


def told(answer: Answer, own: int, peer: int) -> bool:
    message = relay.open_message(answer.data, allocation(own, peer).key(SECRET))
    assert isinstance(message, relay.Bound)
    return bool(message.flags & relay.BoundFlag.PEER_BOUND)


def test_two_bound_members_reach_each_other_and_nobody_else_does() -> None:
    relays = table()
    (first,) = bind(relays, P_A, P_B, A)
    assert not told(first, P_A, P_B)
    assert relays.flow(P_B, A, 0.0) is None
    second, notice = bind(relays, P_B, P_A, B)
    assert told(second, P_B, P_A)
    assert told(notice, P_A, P_B)
    assert (notice.port, notice.destination) == (P_B, A)
    there, back = relays.flow(P_B, A, 1.0), relays.flow(P_A, B, 1.0)
    assert there is not None
    assert back is not None
    assert (there.port, there.destination) == (P_A, B)
    assert (back.port, back.destination) == (P_B, A)
    for port in PORTS:
        assert relays.flow(port, EVE, 1.0) is None
    assert relays.flow(P_C, A, 1.0) is None
    assert relays.flow(P_A, A, 1.0) is None


def test_bad_allocations_get_silence() -> None:
    relays = table()
    right = allocation(P_A, P_B)
    assert ask(relays, relay.Bind(allocation(P_A, P_B, expires=int(UNIX)), b"t" * 8), A, 0.0) == []
    assert ask(relays, relay.Bind(right, b"t" * 8), A, 0.0, secret=b"f" * 32) == []
    assert ask(relays, relay.Bind(allocation(50000, P_B), b"t" * 8), A, 0.0) == []
    elsewhere = relay.seal(relay.Bind(right, b"t" * 8), right.key(SECRET))
    assert relays.handle_control(elsewhere, A, P_C, 0.0, UNIX) == []


def test_a_cookie_is_of_one_source_and_ends() -> None:
    relays = table()
    right = allocation(P_A, P_B)
    cookie = cookie_for(relays, right, A, 0.0)
    confirm = relay.Confirm(right, b"u" * 8, cookie)
    for source, now in ((EVE, 0.0), (A, 3 * relay_table.COOKIE_SLOT_S)):
        (answer,) = ask(relays, confirm, source, now)
        assert isinstance(relay.open_message(answer.data, right.key(SECRET)), relay.Cookie)
    assert len(relays) == 0


def test_a_binding_ends_without_refreshes_and_the_peer_hears_of_its_return() -> None:
    relays = table()
    bind(relays, P_A, P_B, A)
    bind(relays, P_B, P_A, B)
    later = relay_table.BINDING_TTL_S + 1
    bind(relays, P_A, P_B, A, now=later - 5)
    assert relays.flow(P_B, A, later) is None
    generation = relays.generation
    relays.expire(later)
    assert len(relays) == 1
    assert relays.generation != generation
    answers = bind(relays, P_B, P_A, B, now=later)
    assert [told(answers[0], P_B, P_A), told(answers[1], P_A, P_B)] == [True, True]


def test_a_rebound_nat_moves_the_binding() -> None:
    relays = table()
    moved = SocketAddress("192.0.2.1", 61000)
    bind(relays, P_A, P_B, A)
    bind(relays, P_B, P_A, B)
    bind(relays, P_A, P_B, moved)
    assert relays.flow(P_B, A, 0.0) is None
    flow = relays.flow(P_A, B, 0.0)
    assert flow is not None
    assert flow.destination == moved
    assert len(relays) == 2


def test_one_source_at_one_port_is_one_member() -> None:
    relays = table()
    bind(relays, P_A, P_B, A)
    bind(relays, P_C, P_B, A)
    bind(relays, P_B, P_C, B)
    flow = relays.flow(P_B, A, 0.0)
    assert flow is not None
    assert flow.port == P_C
    assert len(relays) == 2


def test_one_member_cannot_fill_the_table() -> None:
    many = range(30000, 30000 + relay_table.MAX_BINDINGS_PER_MEMBER + 5)
    relays = RelayTable(SECRET, b"c" * 32, many)
    answered = [bool(bind(relays, many[0], peer, A)) for peer in many[1:]]
    assert sum(answered) == relay_table.MAX_BINDINGS_PER_MEMBER == len(relays)
    assert bind(relays, many[1], many[0], B)


@given(st.binary(max_size=90), st.sampled_from(list(relay.RelayKind)), st.booleans())
@settings(max_examples=60)
def test_foreign_bytes_get_silence_and_leave_nothing(
    data: bytes, kind: relay.RelayKind, with_header: bool
) -> None:
    relays = table()
    attempt = b"\xf5nc1" + bytes([kind]) + data if with_header else data
    assert relays.handle_control(attempt, EVE, P_B, 0.0, UNIX) == []
    assert len(relays) == 0


def test_it_knows_which_pairs_it_carries_and_how_much() -> None:
    relays = table()
    bind(relays, P_A, P_B, A)
    bind(relays, P_A, P_C, A)
    assert relays.carried(0.0) == [], "one end alone is no pair"
    bind(relays, P_B, P_A, B)
    for port, source, size in ((P_B, A, 500), (P_A, B, 70)):
        flow = relays.flow(port, source, 1.0)
        assert flow is not None
        assert flow.toll.take(size, 1.0)
    assert relays.carried(1.0) == [(P_A, P_B, 570)]
    assert relays.carried(relay_table.BINDING_TTL_S + 1) == [], "neither has renewed it"


def test_grants_of_several_mediators_are_good_until_one_is_trusted_no_more() -> None:
    relays = table()
    others = [bytes([number]) * 32 for number in range(40, 43)]
    relays.trust([SECRET, *others])
    bind(relays, P_A, P_B, A)
    right = allocation(P_B, P_A)
    bound = bytes(range(60, 92))
    for secret in (others[2], bound):
        asked = relay.seal(relay.Bind(right, b"t" * 8), right.key(secret))
        answers = relays.handle_control(asked, B, P_A, 0.0, UNIX)
        assert bool(answers) == (secret in others)
    cookie = relay.open_message(
        relays.handle_control(
            relay.seal(relay.Bind(right, b"t" * 8), right.key(others[2])), B, P_A, 0.0, UNIX
        )[0].data,
        right.key(others[2]),
    )
    assert isinstance(cookie, relay.Cookie)
    confirm = relay.seal(relay.Confirm(right, b"u" * 8, cookie.cookie), right.key(others[2]))
    assert relays.handle_control(confirm, B, P_A, 0.0, UNIX)
    assert relays.flow(P_B, A, 1.0) is not None, "one mediator's member with another's"
    generation = relays.generation
    relays.trust([SECRET])
    assert relays.flow(P_B, A, 1.0) is None
    assert relays.generation > generation
    assert relays.handle_control(confirm, B, P_A, 0.0, UNIX) == []
    assert relays.source_of(P_A, P_B, 1.0) == A


def test_a_grant_that_is_over_is_silence_and_counted_only_where_it_was_good() -> None:
    relays = table()
    over = allocation(P_A, P_B, expires=int(UNIX))
    for secret, counted in ((SECRET, 1), (b"f" * 32, 1)):
        data = relay.seal(relay.Bind(over, b"t" * 8), over.key(secret))
        assert relays.handle_control(data, A, P_B, 0.0, UNIX) == []
        assert relays.expired == counted
