"""Pairs with a stock app: its address is learned from WireGuard alone, and from nothing that a stranger can make."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core import relay_pairs as rp
from mediator.core.relay_limits import Limits
from mediator.core.relay_pairs import PairMember, PairPort, PairTable
from mediator.core.relay_table import Answer, RelayTable
from netctl.model.addresses import SocketAddress
from netctl.model.keys import WireGuardKey
from netctl.wire import relay

SECRET = bytes(range(32))
PORTS = range(40000, 40010)
UNIX = 1_800_000_000.0
AGENT, PHONE, TABLET = (WireGuardKey(bytes([n]) * 32) for n in (1, 2, 3))
P_AGENT, P_PHONE, P_TABLET, PAIR, WIDE = 40000, 40001, 40002, 40003, 40004
AT_AGENT = SocketAddress("203.0.113.1", 51820)
AT_PHONE = SocketAddress("192.0.2.1", 7001)
AT_TABLET = SocketAddress("192.0.2.9", 7009)
MOVED = SocketAddress("198.51.100.7", 4444)
EVE = SocketAddress("198.51.100.66", 9)
STOCK_PAIR = PairPort(PAIR, (PairMember(AGENT, P_AGENT, False), PairMember(PHONE, P_PHONE, True)))
WIDE_PAIR = PairPort(WIDE, (PairMember(PHONE, P_PHONE, True), PairMember(TABLET, P_TABLET, True)))


def with_macs(body: bytes, to: WireGuardKey) -> bytes:
    key = hashlib.blake2s(b"mac1----" + to.raw).digest()
    return body + hashlib.blake2s(body, key=key, digest_size=16).digest() + bytes(16)


def initiation(index: int, to: WireGuardKey) -> bytes:
    return with_macs(struct.pack("<II", 1, index) + bytes(108), to)


def response(index: int, receiver: int, to: WireGuardKey) -> bytes:
    return with_macs(struct.pack("<III", 2, index, receiver) + bytes(48), to)


def cookie_reply(receiver: int) -> bytes:
    return struct.pack("<II", 3, receiver) + bytes(56)


def transport(receiver: int, counter: int) -> memoryview:
    return memoryview(struct.pack("<IIQ", 4, receiver, counter) + bytes(80))


class Relay:
    """A relay with a pair of an agent and a phone, and one of two apps."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.table = RelayTable(SECRET, b"c" * 32, PORTS, limits)
        self.pairs = PairTable(self.table)
        self.pairs.load([STOCK_PAIR, WIDE_PAIR], 0.0)

    def bind_agent(self, source: SocketAddress = AT_AGENT, now: float = 0.0) -> relay.Bound:
        """As an agent does: by its allocation. What it is told in the end."""
        right = relay.Allocation(P_AGENT, PAIR, int(UNIX) + 60)
        key = right.key(SECRET)
        ask = relay.seal(relay.Bind(right, b"t" * 8), key)
        (answer,) = self.table.handle_control(ask, source, PAIR, now, UNIX)
        cookie = relay.open_message(answer.data, key)
        assert isinstance(cookie, relay.Cookie)
        confirm = relay.seal(relay.Confirm(right, b"u" * 8, cookie.cookie), key)
        (answer,) = self.table.handle_control(confirm, source, PAIR, now, UNIX)
        bound = relay.open_message(answer.data, key)
        assert isinstance(bound, relay.Bound)
        return bound

    def send(self, data: bytes, source: SocketAddress, now: float = 0.0, port: int = PAIR) -> list[Answer]:
        return self.pairs.handshake(port, data, source, now)

    def meet(
        self, source: SocketAddress = AT_PHONE, now: float = 0.0, theirs: int = 71, mine: int = 81
    ) -> None:
        """The phone's handshake with the agent: it writes to the index `mine` from then on."""
        assert self.send(initiation(theirs, AGENT), source, now) != []
        assert self.send(response(mine, theirs, PHONE), AT_AGENT, now) != []

    def carries(self, source: SocketAddress, now: float = 1.0, port: int = PAIR) -> SocketAddress | None:
        flow = self.pairs.flow(port, source, now)
        return flow.destination if flow is not None else None


@pytest.fixture
def met() -> Relay:
    made = Relay()
    made.bind_agent()
    made.meet()
    return made


def test_an_app_is_bound_by_the_answer_to_its_initiation() -> None:
    made = Relay()
    assert not made.bind_agent().flags
    question = initiation(71, AGENT)
    assert made.send(question, AT_PHONE) == [Answer(PAIR, AT_AGENT, question)]
    assert made.carries(AT_PHONE) is None
    assert made.carries(AT_AGENT) is None
    answer = response(81, 71, PHONE)
    forwarded, notice = made.send(answer, AT_AGENT)
    assert forwarded == Answer(PAIR, AT_PHONE, answer)
    told = relay.open_message(notice.data, relay.Allocation(P_AGENT, PAIR, int(UNIX) + 60).key(SECRET))
    assert isinstance(told, relay.Bound)
    assert told.flags is relay.BoundFlag.PEER_BOUND
    assert made.carries(AT_PHONE) == AT_AGENT
    assert made.carries(AT_AGENT) == AT_PHONE
    assert made.bind_agent().flags is relay.BoundFlag.PEER_BOUND


def test_an_agent_begins_with_an_app_that_is_known(met: Relay) -> None:
    question, answer = initiation(91, PHONE), response(72, 91, AGENT)
    assert met.send(question, AT_AGENT, 1.0) == [Answer(PAIR, AT_PHONE, question)]
    assert met.send(answer, AT_PHONE, 1.0) == [Answer(PAIR, AT_AGENT, answer)]
    assert met.pairs.transport(PAIR, transport(91, 0), MOVED, 2.0) is not None


def test_two_apps_find_each_other() -> None:
    made = Relay()
    first, second = initiation(1, TABLET), initiation(2, PHONE)
    assert made.send(first, AT_PHONE, port=WIDE) == []
    assert made.send(second, AT_TABLET, port=WIDE) == [Answer(WIDE, AT_PHONE, second)]
    answer = response(3, 2, TABLET)
    assert made.send(answer, AT_PHONE, port=WIDE) == [Answer(WIDE, AT_TABLET, answer)]
    assert made.carries(AT_PHONE, port=WIDE) == AT_TABLET
    assert made.carries(AT_TABLET, port=WIDE) == AT_PHONE


def test_forged_macs_lengths_and_indices_go_nowhere() -> None:
    made = Relay()
    made.bind_agent()
    good = initiation(71, AGENT)
    for forged in (
        good[:-20] + b"\0" + good[-19:],
        initiation(71, TABLET),
        good + b"\0",
        good[:-1],
        response(81, 71, AGENT),
        cookie_reply(71),
        bytes(148),
        b"",
    ):
        assert made.send(forged, EVE) == []
    assert made.send(good, AT_PHONE) != []
    for foreign in (
        (response(81, 72, PHONE), AT_AGENT),
        (response(81, 71, AGENT), AT_AGENT),
        (response(81, 71, PHONE), EVE),
        (cookie_reply(72), EVE),
    ):
        assert made.send(*foreign) == []
    assert made.carries(AT_PHONE) is None


def test_nobody_is_the_agent_but_where_its_allocation_has_bound_it(met: Relay) -> None:
    assert met.send(initiation(5, PHONE), EVE, 1.0) == []
    assert met.send(initiation(6, PHONE), AT_PHONE, 1.0) == []
    assert met.carries(AT_AGENT) == AT_PHONE


def test_an_answer_counts_once_and_in_time(met: Relay) -> None:
    assert met.send(response(81, 71, PHONE), AT_AGENT, 1.0) == []
    met.send(initiation(72, AGENT), MOVED, 2.0)
    assert met.send(response(82, 72, PHONE), AT_AGENT, 2.1 + rp.ATTEMPT_S) == []
    assert met.carries(AT_AGENT, 3.0) == AT_PHONE


def test_a_copied_initiation_moves_nothing(met: Relay) -> None:
    assert met.send(initiation(72, AGENT), AT_PHONE, 2.0) != []
    assert met.send(initiation(72, AGENT), EVE, 2.0) == []
    met.send(response(82, 72, PHONE), AT_AGENT, 2.1)
    assert met.carries(AT_AGENT, 3.0) == AT_PHONE
    assert met.send(initiation(72, AGENT), EVE, 3.0) != []  # the agent sees an old timestamp, and is silent
    assert met.carries(AT_AGENT, 3.0) == AT_PHONE
    assert met.carries(EVE, 3.0) is None


def test_a_new_address_needs_the_index_and_a_higher_counter(met: Relay) -> None:
    flow = met.pairs.flow(PAIR, AT_PHONE, 1.0)
    assert flow is not None
    assert flow.heard is not None
    flow.heard.note(transport(81, 40), 1.0)
    for wrong in (
        transport(82, 41),
        transport(71, 41),
        transport(81, 40),
        transport(81, 0),
        transport(81, 41 + rp.MAX_JUMP),
        transport(81, 2**64 - 1),
    ):
        assert met.pairs.transport(PAIR, wrong, EVE, 2.0) is None
    assert met.carries(AT_AGENT, 2.0) == AT_PHONE
    moved = met.pairs.transport(PAIR, transport(81, 41), MOVED, 2.0)
    assert moved is not None
    assert (moved.port, moved.destination) == (PAIR, AT_AGENT)
    assert met.carries(AT_AGENT, 2.0) == MOVED
    assert met.carries(AT_PHONE, 2.0) is None
    assert met.pairs.transport(PAIR, transport(81, 41), AT_PHONE, 3.0) is None


def test_an_app_that_moves_back_is_heard_there(met: Relay) -> None:
    assert met.pairs.transport(PAIR, transport(81, 5), MOVED, 2.0) is not None
    assert met.pairs.transport(PAIR, transport(81, 6), AT_PHONE, 3.0) is not None
    assert met.carries(AT_AGENT, 3.0) == AT_PHONE


def test_a_handshake_moves_an_app_and_old_sessions_end(met: Relay) -> None:
    for number in range(rp.SESSIONS):
        met.meet(MOVED, 10.0 + number, theirs=100 + number, mine=200 + number)
    assert met.carries(AT_AGENT, 13.0) == MOVED
    assert met.pairs.transport(PAIR, transport(81, 99), EVE, 13.0) is None
    assert met.pairs.transport(PAIR, transport(200, 0), AT_PHONE, 13.0) is not None


def test_a_cookie_reply_reaches_who_asked(met: Relay) -> None:
    met.send(initiation(72, AGENT), MOVED, 2.0)
    reply = cookie_reply(72)
    assert met.send(reply, AT_AGENT, 2.0) == [Answer(PAIR, MOVED, reply)]
    assert met.carries(AT_AGENT, 2.0) == AT_PHONE
    unasked = cookie_reply(81)
    assert met.send(unasked, AT_PHONE, 2.0) == [Answer(PAIR, AT_AGENT, unasked)]


def test_a_silent_app_is_forgotten_and_the_agent_hears_of_its_return(met: Relay) -> None:
    later = rp.APP_TTL_S + 1
    met.bind_agent(now=later)
    generation = met.table.generation
    met.pairs.expire(later)
    assert met.table.generation != generation
    assert not met.bind_agent(now=later).flags
    assert met.pairs.transport(PAIR, transport(81, 9), AT_PHONE, later) is None
    met.meet(now=later, theirs=5, mine=6)
    assert met.bind_agent(now=later).flags


def test_transport_keeps_an_app_alive(met: Relay) -> None:
    for number in range(1, 10):
        flow = met.pairs.flow(PAIR, AT_PHONE, number * 25.0)
        if number * 25.0 > 50:
            met.bind_agent(now=number * 25.0)
            flow = met.pairs.flow(PAIR, AT_PHONE, number * 25.0)
        assert flow is not None
        assert flow.heard is not None
        flow.heard.note(transport(81, number), number * 25.0)
        met.pairs.expire(number * 25.0)
    assert met.carries(AT_PHONE, 226.0) == AT_AGENT


def test_a_moved_agent_gets_what_the_app_sends(met: Relay) -> None:
    elsewhere = SocketAddress("203.0.113.2", 51820)
    met.bind_agent(elsewhere, 1.0)
    assert met.carries(AT_PHONE) == elsewhere
    assert met.carries(AT_AGENT) is None


def test_a_flood_of_good_initiations_is_a_trickle() -> None:
    made = Relay()
    made.bind_agent()
    made.meet(theirs=9)
    from_one = sum(bool(made.send(initiation(n, AGENT), EVE, n / 1000)) for n in range(100, 3100))
    assert from_one <= rp.SOURCE_BURST + 3 * rp.SOURCE_RATE + 1
    many = [SocketAddress(f"100.64.{n >> 8}.{n & 255}", 1) for n in range(3000)]
    sent = sum(bool(made.send(initiation(n, AGENT), many[n], 10 + n / 1000)) for n in range(3000))
    assert sent <= rp.ATTEMPT_BURST + 3 * rp.ATTEMPT_RATE + 1
    assert len(made.pairs._pairs[PAIR].sides[1].sources) <= rp.MAX_SOURCES
    assert len(made.pairs._pairs[PAIR].sides[1].attempts) <= rp.MAX_ATTEMPTS
    rekey = initiation(99999, AGENT)
    assert made.send(rekey, AT_PHONE, 13.0) == [Answer(PAIR, AT_AGENT, rekey)]
    assert made.carries(AT_AGENT, 13.0) == AT_PHONE


def test_a_pair_that_is_gone_carries_nothing(met: Relay) -> None:
    met.pairs.load([STOCK_PAIR], 1.0)
    assert met.carries(AT_AGENT) == AT_PHONE
    met.pairs.load([], 1.0)
    assert len(met.pairs) == 0
    assert PAIR not in met.pairs
    assert met.carries(AT_AGENT) is None
    assert met.send(initiation(72, AGENT), AT_PHONE, 1.0) == []
    assert not met.bind_agent(now=1.0).flags


def test_both_members_are_charged() -> None:
    made = Relay(Limits(quota=400))
    made.bind_agent()
    made.meet()
    flow = made.pairs.flow(PAIR, AT_PHONE, 1.0)
    assert flow is not None
    assert flow.toll.take(160, 1.0)  # 148 and 92 have gone before
    assert not flow.toll.take(1, 1.0)
    (pair, _) = made.pairs.status(1.0)
    sides = pair["sides"]
    assert isinstance(sides, list)
    assert [side["sent"] for side in sides] == [92, 308]
    assert [side["at"] for side in sides] == [str(AT_AGENT), str(AT_PHONE)]


messages = st.one_of(
    st.builds(initiation, st.integers(0, 3), st.sampled_from([AGENT, PHONE, TABLET])),
    st.builds(response, st.integers(0, 3), st.integers(0, 3), st.sampled_from([AGENT, PHONE, TABLET])),
    st.builds(cookie_reply, st.integers(0, 3)),
    st.binary(max_size=160),
)


@given(
    st.lists(
        st.tuples(messages, st.sampled_from([EVE, MOVED, AT_TABLET]), st.sampled_from([PAIR, WIDE])),
        max_size=30,
    )
)
@settings(max_examples=40, deadline=None)
def test_strangers_are_never_answered_with_more_than_they_send(
    sent: list[tuple[bytes, SocketAddress, int]],
) -> None:
    """Whatever comes from addresses that nothing has proven: at most the same once, and never to another pair."""
    made = Relay()
    made.bind_agent()
    made.meet()
    for number, (data, source, port) in enumerate(sent):
        answers = made.send(data, source, number / 10, port)
        assert sum(len(answer.data) for answer in answers) <= len(data)
        assert all(answer.port == port and answer.data == data for answer in answers)
    assert made.carries(AT_AGENT) == AT_PHONE
    assert made.carries(AT_PHONE) == AT_AGENT
