"""IPv4 inside IPv6: the vectors of RFC 6052 §2.4, and what a resolver's answers tell (RFC 7050 §3)."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from netctl.model.addresses import SocketAddress
from netctl.wire.nat64 import (
    LENGTHS,
    MAX_PREFIXES,
    WELL_KNOWN_ADDRESSES,
    WELL_KNOWN_PREFIX,
    Translation,
    embedded,
    extracted,
    prefixes_of,
)

VECTORS = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
    "64:ff9b::/96": "64:ff9b::192.0.2.33",
}
"""RFC 6052 §2.4, tables 2 and 3."""


@pytest.mark.parametrize("prefix", VECTORS)
def test_the_vectors_of_the_rfc(prefix: str) -> None:
    address, network = IPv4Address("192.0.2.33"), IPv6Network(prefix)
    assert embedded(network, address) == IPv6Address(VECTORS[prefix])
    assert extracted(network, IPv6Address(VECTORS[prefix])) == address


@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_written_is_read(length: int) -> None:
    chance = random.Random(length)
    for _ in range(200):
        base = 0x20010DB8 << 96 | chance.getrandbits(96) & ~(0xFF << 56)
        prefix = IPv6Network((base, length), strict=False)
        address = IPv4Address(chance.getrandbits(32))
        written = embedded(prefix, address)
        assert written is not None
        assert written.packed[8] == 0
        assert extracted(prefix, written) == address


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_is_found_by_the_resolvers_answers(length: int) -> None:
    prefix = IPv6Network(("2001:db8:64:6400::", length), strict=False)
    answers = [one for ip in WELL_KNOWN_ADDRESSES if (one := _embed(prefix, ip)) is not None]
    assert prefixes_of(answers) == (prefix,)
    assert prefixes_of(answers[:1]) == (prefix,)


def _embed(prefix: IPv6Network, address: IPv4Address) -> IPv6Address | None:
    octets = bytearray(prefix.network_address.packed)
    places = [octet for octet in range(prefix.prefixlen // 8, 16) if octet != 8][:4]
    for place, octet in zip(places, address.packed, strict=True):
        octets[place] = octet
    return IPv6Address(bytes(octets))


def test_the_well_known_prefix_is_found() -> None:
    """Its own answers hold addresses that it must not stand before: they are for this alone."""
    assert prefixes_of([IPv6Address("64:ff9b::192.0.0.170"), IPv6Address("64:ff9b::192.0.0.171")]) == (
        WELL_KNOWN_PREFIX,
    )


def test_several_prefixes_are_kept_in_their_order_and_their_number_has_an_end() -> None:
    prefixes = [IPv6Network(f"2001:db8:{number:x}::/96") for number in range(1, 9)]
    answers = [one for prefix in prefixes if (one := _embed(prefix, WELL_KNOWN_ADDRESSES[0])) is not None]
    assert prefixes_of(answers[:2]) == tuple(prefixes[:2])
    assert prefixes_of(answers) == tuple(prefixes[:MAX_PREFIXES])


def test_an_address_that_can_be_read_twice_tells_what_the_other_one_tells() -> None:
    """The prefix itself holds 192.0.0.170: at /32 and at /96 (RFC 7050 §3)."""
    prefix = IPv6Network("2001:db8:c000:aa::/96")
    one, other = (_embed(prefix, address) for address in WELL_KNOWN_ADDRESSES)
    assert one is not None
    assert other is not None
    assert prefixes_of([one, other]) == (prefix,)


@pytest.mark.parametrize("answer", ["2001:db8::1", "::", "2001:db8:c000:aa:100::", "64:ff9b::192.0.2.1"])
def test_other_answers_tell_nothing(answer: str) -> None:
    assert prefixes_of([IPv6Address(answer)]) == ()


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.1", "100.64.1.1", "127.0.0.1", "169.254.1.1", "224.0.0.1"]
)
def test_private_addresses_are_not_written_behind_the_well_known_prefix(address: str) -> None:
    assert embedded(WELL_KNOWN_PREFIX, IPv4Address(address)) is None
    there = SocketAddress(address, 7)
    assert Translation((WELL_KNOWN_PREFIX,)).outward(there) == there
    own = IPv6Network("2001:db8:64::/96")
    assert Translation((WELL_KNOWN_PREFIX, own)).outward(there).is_ipv6, (
        "a prefix of the network's own takes it"
    )


def test_a_translation_goes_there_and_back_and_leaves_the_rest() -> None:
    one, other = IPv6Network("2001:db8:64::/96"), IPv6Network("2001:db8:122:344::/64")
    made = Translation((one, other))
    peer = SocketAddress("203.0.113.9", 51820)
    assert made.outward(peer) == SocketAddress.of("2001:db8:64::203.0.113.9", 51820)
    assert made.inward(made.outward(peer)) == peer
    behind = Translation((other,)).outward(peer)
    assert made.inward(behind) == peer, "whichever prefix it came by"
    for same in (SocketAddress("2001:db8:9::1", 7), SocketAddress("fe80::1%eth0", 7)):
        assert made.inward(same) == made.outward(same) == same
    assert Translation().outward(peer) == peer
    assert Translation().inward(behind) == behind
