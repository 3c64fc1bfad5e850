"""How a NAT gives out ports, judged from samples; windows that are always ports, and bounded."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import SocketAddress
from netctl.paths import constants as c
from netctl.paths.predict import Sample, allocation, easy, guesses, hard
from netctl.wire.control import Nat

OUTSIDE = "203.0.113.7"
PORTS = st.integers(1, 65535)


def seen(*ports: int, host: str = OUTSIDE, local: int = 33000) -> list[Sample]:
    return [Sample(local + number, SocketAddress(host, port)) for number, port in enumerate(ports)]


@pytest.mark.parametrize(
    ("ports", "kind", "step"),
    [
        (range(33000, 33012), "kept", 1),
        (range(20000, 20012), "sequential", 1),
        (range(20000, 20024, 2), "sequential", 2),
        (range(20012, 20000, -1), "sequential", -1),
        ((20000, 20001, 20002, 20005, 20006, 20007, 20009, 20010), "sequential", 1),
        ((65533, 65534, 65535, 1024, 1025, 1026), "sequential", 1),
        ((40100, 40003, 40077, 40050, 40120, 40011, 40090, 40031), "block", 1),
        ((1200, 64000, 33111, 5123, 48000, 20111, 60001, 9001), "random", 1),
    ],
)
def test_kinds(ports: range | tuple[int, ...], kind: str, step: int) -> None:
    found = allocation(seen(*ports))
    assert found is not None
    assert (found.kind, found.step, found.address) == (kind, step, OUTSIDE)


def test_the_window_of_a_counting_nat_begins_after_the_last_port() -> None:
    found = allocation(seen(*range(20000, 20012)))
    assert found is not None
    assert (found.first, found.count, found.last) == (20012, c.SEQUENTIAL_WINDOW, 20012 + 63)
    nearly_over = allocation(seen(*range(65520, 65532)))
    assert nearly_over is not None
    assert nearly_over.last == 65535
    assert allocation(seen(*range(65524, 65536))) is None


def test_too_few_and_a_pool_of_addresses_say_nothing() -> None:
    assert allocation(seen(1, 2, 3)) is None
    pool = [Sample(1, SocketAddress(f"203.0.113.{n}", 5000 + n)) for n in range(12)]
    assert allocation(pool) is None


def test_blocks_are_covered() -> None:
    """In 99 of 100 blocks of 128 ports the next port lies in the window; it stays narrow."""
    chance, inside, runs = random.Random(1), 0, 2000
    for _ in range(runs):
        first = chance.randint(1024, 65000)
        ports = chance.sample(range(first, first + 128), c.SAMPLES + 1)
        found = allocation(seen(*ports[:-1], local=1))
        assert found is not None
        assert found.kind == "block"
        assert found.count <= 128 + 2 * c.BLOCK_MARGIN * 12
        inside += found.first <= ports[-1] <= found.last
    assert inside >= 0.985 * runs


@given(st.lists(PORTS, min_size=c.MIN_SAMPLES, max_size=20))
@settings(max_examples=200, deadline=None)
def test_every_judgement_is_a_window_of_ports(ports: list[int]) -> None:
    found = allocation(seen(*ports))
    if found is None:
        return
    assert 0 < min(found.first, found.last) <= max(found.first, found.last) <= 65535
    said = hard(found)
    assert (said is None) == (found.kind == "kept")


@given(
    st.sampled_from(["fixed", "sequential", "block", "random"]),
    PORTS,
    st.integers(-16, 16),
    PORTS,
    st.integers(),
)
@settings(max_examples=200, deadline=None)
def test_whatever_a_peer_says_guesses_are_ports_and_few(
    kind: str, first: int, step: int, count: int, seed: int
) -> None:
    chance = random.Random(seed)
    nat = Nat(kind, OUTSIDE, first, step, count)  # type: ignore[arg-type]
    found = list(guesses(nat, iter(lambda: chance.getrandbits(32), None)))
    assert len(found) <= c.BIRTHDAY_PROBES
    assert all(0 < port <= 65535 for port in found)
    if kind == "random":
        assert len(set(found)) == len(found)


def test_guesses_begin_where_they_are_likeliest() -> None:
    nat = Nat("sequential", OUTSIDE, 20012, 2, 64)
    found = list(guesses(nat, itertools.repeat(0)))
    assert found[:3] == [20012, 20014, 20016]
    assert 20010 in found, "an earlier round's mapping may still hold"


def test_an_easy_outside_is_one_address() -> None:
    assert easy(SocketAddress(OUTSIDE, 51820)) == Nat("fixed", OUTSIDE, 51820)
