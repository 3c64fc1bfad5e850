"""Allowed IPs against a list searched whole."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model.addresses import Address, Prefix
from netctl.tunnel import Device, Peer
from netctl.tunnel.allowedips import AllowedIPs, parse_prefix
from netctl.tunnel.constants import LOOKUP_CACHE_SIZE


def make_peers(n: int) -> list[Peer]:
    device = Device(None, bytes)
    peers = [device.add_peer(bytes([i + 1]) * 32) for i in range(n)]
    return [peer for peer in peers if peer is not None]


PEERS = make_peers(4)

# Few distinct bits, so that prefixes nest and collide.
v4 = st.builds(
    lambda a, b: ipaddress.IPv4Address((10 << 24) | (a << 16) | b), st.integers(0, 3), st.integers(0, 7)
)
v6 = st.builds(
    lambda a, b: ipaddress.IPv6Address((0xFD << 120) | (a << 64) | b), st.integers(0, 3), st.integers(0, 7)
)
addresses = st.one_of(v4, v6)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(addresses)
    length = draw(
        st.sampled_from([0, 1, 8, 14, 16, 30, 31, 32] + [63, 64, 65, 127, 128] * (address.version == 6))
    )
    return ipaddress.ip_network((address, length), strict=False)


changes = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "remove", "remove_peer"]), prefixes(), st.sampled_from(PEERS)
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(changes, st.lists(addresses, min_size=1, max_size=10))
def test_longest_prefix_as_the_model(steps: list[tuple[str, Prefix, Peer]], asked: list[Address]) -> None:
    table, model = AllowedIPs(), dict[Prefix, Peer]()
    for action, prefix, peer in steps:
        if action == "insert":
            table.insert(prefix, peer)
            model[prefix] = peer
        elif action == "remove":
            assert table.remove(prefix, peer) == (model.get(prefix) is peer)
            if model.get(prefix) is peer:
                del model[prefix]
        else:
            table.remove_peer(peer)
            model = {known: owner for known, owner in model.items() if owner is not peer}
        for address in asked:  # between changes, so that a stale cache would show
            covering = [known for known in model if address in known]
            best = max(covering, key=lambda known: known.prefixlen, default=None)
            expected = model[best] if best is not None else None
            assert table.lookup(address.packed) is expected
            assert table.lookup(address.packed) is expected
    for peer in PEERS:
        assert set(table.prefixes(peer)) == {prefix for prefix, owner in model.items() if owner is peer}


def test_a_prefix_moves_to_the_last_peer_that_claims_it() -> None:
    table = AllowedIPs()
    prefix = ipaddress.ip_network("10.1.0.0/16")
    table.insert(prefix, PEERS[0])
    table.insert(prefix, PEERS[1])
    assert table.prefixes(PEERS[0]) == ()
    assert table.lookup(bytes([10, 1, 2, 3])) is PEERS[1]


@pytest.mark.parametrize("length", [0, 3, 5, 15, 17])
def test_what_is_no_address_has_no_owner(length: int) -> None:
    table = AllowedIPs()
    table.insert(ipaddress.ip_network("0.0.0.0/0"), PEERS[0])
    table.insert(ipaddress.ip_network("::/0"), PEERS[0])
    assert table.lookup(bytes(length)) is None


def test_host_bits_are_masked() -> None:
    assert parse_prefix(bytes([10, 0, 0, 7]), 24) == ipaddress.ip_network("10.0.0.0/24")


def test_the_cache_is_bounded() -> None:
    table = AllowedIPs()
    table.insert(ipaddress.ip_network("10.0.0.0/8"), PEERS[0])
    for i in range(LOOKUP_CACHE_SIZE + 10):
        assert table.lookup(((10 << 24) + i).to_bytes(4, "big")) is PEERS[0]
    assert len(table._cache) <= LOOKUP_CACHE_SIZE
