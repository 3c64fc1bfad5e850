"""Why a pair has no direct path, and the peer's NAT, in words."""

from __future__ import annotations

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.blocker import blocker, peer_nat
from netctl.paths.route import Route
from netctl.wire.control import Nat

ONE, OTHER = Nat("fixed", "203.0.113.1", 51820), Nat("fixed", "203.0.113.2", 51820)
COUNTED = Nat("sequential", "203.0.113.3", 2000, 1, 32)
RANDOM = Nat("random", "203.0.113.4", 1024, 1, 64512)
SEEN = ("host", "srflx")


def candidates(kinds: tuple[str, ...], hosts: tuple[str, ...] = ("192.168.1.2",)) -> dict[SocketAddress, str]:
    """What a peer offered."""
    outside = [kind for kind in kinds if kind != "host"]
    inside = hosts if "host" in kinds else ()
    return {
        **{SocketAddress(host, 51820): "host" for host in inside},
        **{SocketAddress("203.0.113.7", 51820 + number): kind for number, kind in enumerate(outside)},
    }


@pytest.mark.parametrize(
    ("own", "peer", "kinds", "says"),
    [
        (ONE, None, ("host",), "no server saw the peer over UDP"),
        (None, None, ("host",), "no server saw the peer over UDP"),
        (RANDOM, COUNTED, SEEN, "both NATs give every destination another port"),
        (COUNTED, COUNTED, SEEN, "both NATs give every destination another port"),
        (RANDOM, ONE, SEEN, "this host's NAT gives every destination another random port"),
        (ONE, RANDOM, SEEN, "the peer's NAT gives every destination another random port"),
        (ONE, COUNTED, SEEN, "one NAT gives every destination another port, and guessing"),
        (ONE, ONE, SEEN, "both are behind 203.0.113.1, and"),
        (ONE, OTHER, SEEN, "both NATs would allow it, so a firewall on the way"),
    ],
)
def test_why_there_is_no_direct_path(
    own: Nat | None, peer: Nat | None, kinds: tuple[str, ...], says: str
) -> None:
    assert (blocker(own, peer, candidates(kinds)) or "").startswith(says)


@pytest.mark.parametrize(
    ("own", "peer", "kinds"), [(None, ONE, SEEN), (ONE, None, SEEN), (ONE, None, ()), (None, None, ())]
)
def test_nothing_is_made_up_where_a_side_is_unknown(
    own: Nat | None, peer: Nat | None, kinds: tuple[str, ...]
) -> None:
    assert blocker(own, peer, candidates(kinds)) is None


def test_no_family_in_common_is_said_and_a_public_address_of_its_own_is_one_that_is_seen() -> None:
    four, six = SocketAddress("192.168.1.9", 51820), SocketAddress("2001:db8::9", 51820)
    said = blocker(ONE, None, {six: "host"}, (four, SocketAddress("203.0.113.1", 51820)))
    assert said == "this host has IPv4 alone and the peer IPv6 alone: only the relay joins the two"
    said = blocker(None, ONE, {SocketAddress("192.168.1.2", 51820): "host"}, (six,))
    assert said == "this host has IPv6 alone and the peer IPv4 alone: only the relay joins the two"
    assert blocker(ONE, None, {six: "host"}, (four, SocketAddress("2001:db8::8", 51820))) is None
    assert peer_nat(None, {six: "host"}) == "unknown"


@pytest.mark.parametrize(
    ("nat", "hosts", "kinds", "says"),
    [
        (None, (), (), ""),
        (None, ("192.168.1.2",), ("host",), "unknown: no server saw it over UDP"),
        (None, ("192.168.1.2",), SEEN, "unknown"),
        (ONE, ("203.0.113.1",), ("host",), "none: it has a public address"),
        (ONE, ("192.168.1.2",), SEEN, "endpoint-independent mapping"),
        (COUNTED, ("192.168.1.2",), SEEN, "symmetric mapping, ports counted"),
    ],
)
def test_the_nat_of_a_peer(
    nat: Nat | None, hosts: tuple[str, ...], kinds: tuple[str, ...], says: str
) -> None:
    assert peer_nat(nat, candidates(kinds, hosts)) == says


def test_probes_that_were_answered_before_the_path_died_are_not_counted_as_unanswered() -> None:
    route = Route(SocketAddress("203.0.113.1", 51820), "srflx")
    route.sent(b"1", 0.0)
    assert route.answered(b"1", 0.01)
    assert route.describe() == "203.0.113.1:51820 (seen from outside): answers in 10.0 ms, not chosen"
    route.forget_trust()
    route.sent(b"2", 1.0)
    assert route.describe() == "203.0.113.1:51820 (seen from outside): no answer to 1 probe"
