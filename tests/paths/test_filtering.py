"""Whom a NAT lets in, as STUN answers from elsewhere show it (RFC 4787 §5, RFC 5780 §4.4)."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import FILTER_TRIES, FILTER_WAIT
from netctl.paths.effects import CloseBatch, Effect, OpenBatch, SendFrom
from netctl.paths.filtering import JUDGED, FilterTest
from netctl.wire import stun
from tests.support.pathsim import World

SERVER = SocketAddress.of("192.0.2.1", 3478)
SECOND = SocketAddress.of("192.0.2.2", 3479)
OUT = SocketAddress.of("203.0.113.9", 40000)
Filter = Callable[[SocketAddress], bool]
FILTERS: dict[str, Filter] = {
    "endpoint-independent": lambda source: True,
    "address-dependent": lambda source: source.host == SERVER.host,
    "address and port-dependent": lambda source: source == SERVER,
}


class Server:
    """What a mediator can do, behind a filter, over a wire that loses the first packets."""

    def __init__(self, lets_in: Filter, *, port: bool = True, address: bool = True, lost: int = 0) -> None:
        self.lets_in = lets_in
        self.other = SocketAddress(SECOND.host if address else SERVER.host, SECOND.port) if port else None
        self.address = address
        self.lost = lost
        self.asked = 0

    def answer(self, data: bytes) -> tuple[bytes, SocketAddress] | None:
        self.asked += 1
        answer = stun.answer_from(data, OUT, self.other, second_address=self.address)
        assert answer is not None
        assert len(answer.data) <= len(data)
        source = SocketAddress(
            SECOND.host if answer.other_address else SERVER.host,
            SECOND.port if answer.other_port else SERVER.port,
        )
        return (answer.data, source) if self.asked > self.lost and self.lets_in(source) else None


def play(server: Server, sockets: int = 2) -> tuple[FilterTest, list[Effect], float]:
    """One whole test: the machine, what it did and when it was done."""
    test = FilterTest(random.Random(1).randbytes, lambda: 7)
    queue, done, now = test.begin(SERVER, 0.0), [], 0.0
    while test.batch is not None:
        if not queue:
            due = test.next_timer()
            assert due is not None
            now = due
            queue = test.handle_timer(now)
            continue
        effect = queue.pop(0)
        done.append(effect)
        if isinstance(effect, OpenBatch):
            queue += test.opened(tuple(range(50000, 50000 + min(sockets, effect.count))), now)
        elif isinstance(effect, SendFrom) and (answer := server.answer(effect.data)) is not None:
            assert effect.destination == SERVER
            queue += test.handle(effect.index, *answer)
    return test, done + queue, now


@pytest.mark.parametrize("kind", FILTERS)
def test_the_kinds_of_filters(kind: str) -> None:
    test, effects, now = play(Server(FILTERS[kind]))
    assert test.found == kind
    assert effects[-1] == CloseBatch(7)
    assert (now == 0.0) == (kind == "endpoint-independent"), "silence is waited for"
    assert now in (0.0, FILTER_WAIT)


@pytest.mark.parametrize("kind", FILTERS)
def test_with_one_address_the_ports_part_alone_is_known(kind: str) -> None:
    test, _, _ = play(Server(FILTERS[kind], address=False))
    expected = "address and port-dependent" if "and" in kind else "endpoint-independent or address-dependent"
    assert test.found == expected


@pytest.mark.parametrize("kind", FILTERS)
def test_with_one_port_nothing_is_known(kind: str) -> None:
    assert play(Server(FILTERS[kind], port=False, address=False))[0].found == "unknown"


def test_lost_packets_are_no_filter() -> None:
    server = Server(FILTERS["endpoint-independent"], lost=2 * (FILTER_TRIES - 1))
    assert play(server)[0].found == "endpoint-independent"


def test_too_few_sockets_mean_unknown() -> None:
    test, effects, _ = play(Server(FILTERS["endpoint-independent"]), sockets=1)
    assert test.found == "unknown"
    assert effects == [OpenBatch(7, 2), CloseBatch(7)]


@given(st.binary(max_size=80), st.integers(0, 3), st.sampled_from([SERVER, SECOND, OUT]))
def test_foreign_answers_count_for_nothing(data: bytes, index: int, source: SocketAddress) -> None:
    test = FilterTest(random.Random(1).randbytes, lambda: 7)
    test.begin(SERVER, 0.0)
    assert test.handle(index, data, source) == []
    sent = test.opened((1, 2), 0.0)
    assert len(sent) == 2
    for forged in (data, stun.binding_success(b"netctl-stun1", OUT)):
        assert test.handle(index, forged, source) == []
    while test.batch is not None:
        due = test.next_timer()
        assert due is not None
        test.handle_timer(due)
    assert test.found == "address and port-dependent"


def test_a_server_that_ignores_the_wish_lets_nobody_seem_open() -> None:
    test = FilterTest(random.Random(1).randbytes, lambda: 7)
    test.begin(SERVER, 0.0)
    for index, sent in enumerate(test.opened((1, 2), 0.0)):
        assert isinstance(sent, SendFrom)
        test.handle(index, stun.binding_success(sent.data[8:20], OUT), SERVER)
    assert test.found == "unknown"


def test_every_pair_of_verdicts_is_judged() -> None:
    verdicts = ("passed", "silent", "refused")
    assert set(JUDGED) == {(one, other) for one in verdicts for other in verdicts}


@pytest.mark.parametrize("second", [None, "198.51.100.2"])
def test_hosts_learn_it_while_they_find_their_paths(second: str | None) -> None:
    world = World(4)
    world.second_address = second
    behind = world.host("behind", "10.0.0.2", world.nat("203.0.113.1"))
    free = world.host("free", "203.0.113.2")
    world.start()
    world.run(3.0)
    assert behind.manager.filtering == "address and port-dependent"
    expected = "endpoint-independent or address-dependent" if second is None else "endpoint-independent"
    assert free.manager.filtering == expected
    assert not behind.batches
    before = behind.opened
    world.run(60.0)
    assert behind.opened == before, "once for an outside"
