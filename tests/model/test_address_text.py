"""The fast text of addresses is the standard library's."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from netctl.model.addresses import address_text

GROUPS = st.lists(st.sampled_from([0, 0, 0, 1, 0x10, 0xABCD, 0xFFFF]), min_size=8, max_size=8)


@given(GROUPS)
def test_ipv6(groups: list[int]) -> None:
    address = IPv6Address(b"".join(group.to_bytes(2) for group in groups))
    assert address_text(address) == str(address)


@given(st.ip_addresses())
def test_any(address: IPv4Address | IPv6Address) -> None:
    assert address_text(address) == str(address)


def test_a_scope_stays() -> None:
    assert address_text(IPv6Address("fe80::1%eth0")) == "fe80::1%eth0"
