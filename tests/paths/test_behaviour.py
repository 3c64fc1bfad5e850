"""What the answers of STUN servers say about a NAT (RFC 4787)."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.behaviour import behaviour
from netctl.paths.constants import HAIRPIN_WAIT, STUN_GATHER
from netctl.paths.discovery import Discovery
from netctl.wire import stun

ONE, TWO = SocketAddress.of("192.0.2.1", 3478), SocketAddress.of("192.0.2.1", 3479)
ELSEWHERE = SocketAddress.of("198.51.100.1", 3478)
OWN = SocketAddress.of("10.0.0.2", 51820)
OUT, OTHER, PORT = (SocketAddress.of("203.0.113.9", port) for port in (51820, 40000, 40001))


@pytest.mark.parametrize(
    ("answers", "udp", "mapping", "address_known", "kept"),
    [
        ({}, "not asked", "unknown", False, None),
        ({ONE: None, TWO: None}, "blocked", "unknown", False, None),
        ({ONE: OWN, TWO: OWN}, "works", "none", False, None),
        ({ONE: OUT}, "works", "unknown", False, None),
        ({ONE: OUT, TWO: None}, "works", "unknown", False, None),
        ({ONE: OUT, TWO: OUT}, "works", "endpoint-independent", False, True),
        ({ONE: OTHER, TWO: OTHER}, "works", "endpoint-independent", False, False),
        ({ONE: OTHER, TWO: OTHER, ELSEWHERE: OTHER}, "works", "endpoint-independent", True, False),
        ({ONE: OUT, TWO: OUT, ELSEWHERE: OTHER}, "works", "address-dependent", True, False),
        ({ONE: OTHER, TWO: PORT}, "works", "address and port-dependent", False, False),
        ({ONE: OTHER, TWO: PORT, ELSEWHERE: OUT}, "works", "address and port-dependent", True, False),
    ],
)
def test_behaviour(
    answers: dict[SocketAddress, SocketAddress | None],
    udp: str,
    mapping: str,
    address_known: bool,
    kept: bool | None,
) -> None:
    seen = behaviour(answers, frozenset({OWN}), OWN.port)
    assert (seen.udp, seen.mapping) == (udp, mapping)
    assert (seen.address_dependence_known, seen.port_kept) == (address_known, kept)
    assert set(seen.mapped) == {mapped for mapped in answers.values() if mapped is not None}


def gathered(mapped: SocketAddress) -> tuple[Discovery, list[tuple[SocketAddress, bytes]]]:
    """A discovery that one server has answered, and what it sends afterwards."""
    numbers = iter(range(100))
    discovery = Discovery(lambda n: next(numbers).to_bytes(n, "big"))
    discovery.own = frozenset({OWN})
    discovery.set_servers([ONE], 0.0)
    (question,) = discovery.handle_timer(0.0)
    assert discovery.handle_answer(stun.binding_success(question.data[8:20], mapped), ONE, 0.1)
    return discovery, [(sent.destination, sent.data) for sent in discovery.handle_timer(0.1)]


def test_a_nat_that_sends_back_what_goes_to_its_outside_is_seen() -> None:
    discovery, sent = gathered(OUT)
    assert [destination for destination, _ in sent] == [OUT]
    assert discovery.hairpin(0.2) is None
    assert not discovery.handle_answer(sent[0][1], OUT, 0.2)
    assert discovery.hairpin(0.2) is True
    assert [e for e in discovery.handle_timer(STUN_GATHER + 1) if e.destination == OUT] == [], (
        "once is enough"
    )


def test_a_nat_that_does_not_is_known_after_a_while() -> None:
    discovery, _ = gathered(OUT)
    assert discovery.hairpin(0.1 + HAIRPIN_WAIT) is False


def test_a_host_without_a_nat_asks_nobody() -> None:
    discovery, sent = gathered(OWN)
    assert sent == []
    assert discovery.hairpin(100.0) is None
