"""Which source address the kernel takes, asked on this machine's loopback link."""

from __future__ import annotations

import ipaddress

from netctl.engine.links.routelookup import KEPT, KEPT_S, SourceLookup


def test_the_source_of_an_own_address_is_an_own_address() -> None:
    lookup = SourceLookup()
    assert lookup.find(ipaddress.ip_address("127.0.0.9"), 1.0) == ipaddress.ip_address("127.0.0.1")


def test_where_no_packet_can_go_there_is_no_source() -> None:
    assert SourceLookup().find(ipaddress.ip_address("255.255.255.255"), 1.0) is None


def test_answers_are_kept_for_a_moment_and_in_a_bounded_number() -> None:
    lookup = SourceLookup()
    first = ipaddress.IPv4Address("127.1.0.0")
    for number in range(3 * KEPT):
        lookup.find(first + number, 1.0)
    assert len(lookup._kept) <= KEPT
    assert lookup.find(first, 1.0 + 2 * KEPT_S) == ipaddress.ip_address("127.0.0.1")
