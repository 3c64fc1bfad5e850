"""The derivations renumber every network when they change: golden vectors, and the laws they must keep."""

import ipaddress

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.model import derive
from netctl.model.keys import WireGuardKey

KEY = WireGuardKey(bytes(range(32)))
keys = st.binary(min_size=32, max_size=32).map(WireGuardKey)
ids = st.binary(min_size=8, max_size=8).map(bytes.hex)


GOLDEN: dict[str, object] = {
    "network_id": "e5d92afd64088ea4",
    "network_id of no document id": "d969dec3254238e6",
    "ula_prefix": "fd2b:5347:628b:ce5e::/64",
    "member_ipv6": "fd2b:5347:628b:ce5e:9aa2:eac5:4b69:62a7",
    "underlay_prefix": "fde1:6caf:bb3d:3322::/64",
    "underlay": "fde1:6caf:bb3d:3322:62ea:8370:5b3a:f7f5",
    "vni": 8480403,
    "mac": "46:3a:e9:be:36:c6",
    "lease_start": 148,
    "segment_name": "nsege5d92afd",
}


def test_golden_vectors() -> None:
    network = derive.network_id("q7m2-x4ta", "lan-party")
    found = {
        "network_id": network,
        "network_id of no document id": derive.network_id("", "lan-party"),
        "ula_prefix": str(derive.ula_prefix(network)),
        "member_ipv6": str(derive.member_ipv6(derive.ula_prefix(network), KEY)),
        "underlay_prefix": str(derive.underlay_prefix()),
        "underlay": str(derive.underlay(KEY)),
        "vni": derive.vni(network),
        "mac": derive.mac(network, KEY),
        "lease_start": derive.lease_start(network, ipaddress.IPv4Network("10.147.10.0/24"), KEY),
        "segment_name": derive.segment_name(network),
    }
    assert found == GOLDEN


def test_the_name_of_a_relay_beside_a_mediator() -> None:
    name = "ed25519:oVxOhXF0YAY+hAHEo1QOlk9PCJpGNz2K5QmnptppXrk="
    assert derive.relay_beside("m1.example.net", 8443) == name


def test_parts_are_not_glued_together() -> None:
    assert derive.network_id("ab", "c") != derive.network_id("a", "bc")


@settings(max_examples=50)
@given(ids, keys)
def test_laws(network: str, key: WireGuardKey) -> None:
    prefix = derive.ula_prefix(network)
    address = derive.member_ipv6(prefix, key)
    assert prefix.prefixlen == 64
    assert prefix.subnet_of(ipaddress.IPv6Network("fd00::/8"))
    assert address in prefix
    assert address != prefix.network_address
    assert derive.underlay(key) in derive.underlay_prefix()
    assert derive.underlay(key) not in prefix
    assert 0 < derive.vni(network) < 1 << 24
    first = int(derive.mac(network, key)[:2], 16)
    assert first & 0x03 == 0x02
    assert len(derive.segment_name(network)) == 12


@settings(max_examples=50)
@given(ids, keys, st.integers(min_value=2, max_value=30))
def test_the_first_lease_to_try_is_a_usable_host(network: str, key: WireGuardKey, length: int) -> None:
    pool = ipaddress.IPv4Network((0, length))
    host = ipaddress.IPv4Address(derive.first_host(pool) + derive.lease_start(network, pool, key))
    assert host in pool
    assert host not in (pool.network_address, pool.broadcast_address)
