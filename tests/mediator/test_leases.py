"""Leases: one address for one member, the same for as long as it keeps its key."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mediator.core.leasegrants import Exhausted, GrantLease, LeaseKey, missing_leases
from netctl.config import load_document
from netctl.model.derive import network_id
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey


def key(number: int) -> WireGuardKey:
    return WireGuardKey(number.to_bytes(32, "big"))


def document(
    numbers: list[int],
    pool: str = "10.9.0.0/28",
    fixed: dict[int, str] | None = None,
    gone: tuple[int, ...] = (),
) -> Document:
    """`pool` may be too small, which the loader would not let pass: leases must hold all the same."""
    members: dict[str, dict[str, str]] = {f"m{n}": {"wireguard": str(key(n))} for n in numbers}
    for number in gone:
        members[f"m{number}"]["state"] = "absent"
    text = {
        "apiVersion": "netctl/v1",
        "id": "lses-0001",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": ["ed25519:" + "A" * 43 + "="]}],
        "members": members,
        "networks": {"lan": {"mode": "routed", "ipv4": "10.9.0.0/24", "members": ["*"]}},
    }
    loaded = load_document(json.dumps(text)).document
    addresses = {f"m{n}": (IPv4Address(address),) for n, address in (fixed or {}).items()}
    network = replace(loaded.networks["lan"], ipv4=IPv4Network(pool), addresses=addresses)
    return replace(loaded, networks={"lan": network})


def settle(wanted: Document, held: dict[LeaseKey, IPv4Address]) -> list[Exhausted]:
    """Grant what is missing."""
    refused = []
    for item in list(missing_leases(wanted, held)):
        if isinstance(item, GrantLease):
            if item.taken_from is not None:
                assert held.pop((item.network, item.taken_from)) == item.address
            held[item.network, item.key] = item.address
        else:
            refused.append(item)
    return refused


def by_number(held: dict[LeaseKey, IPv4Address]) -> dict[int, IPv4Address]:
    return {int.from_bytes(where[1].raw, "big"): address for where, address in held.items()}


def test_a_pool_is_filled_to_its_last_address_and_then_says_so() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    assert settle(document(list(range(1, 15))), held) == []
    assert set(held.values()) == {IPv4Address(f"10.9.0.{n}") for n in range(1, 15)}
    (refused,) = settle(document(list(range(1, 16))), held)
    assert refused.member == "m15"
    assert "10.9.0.0/28" in refused.message
    assert "'lan'" in refused.message
    assert len(held) == 14


def test_what_is_held_stays_whoever_comes_and_goes() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    settle(document([1, 2, 3]), held)
    before = by_number(held)
    settle(document([4, 5, 1, 2, 3], gone=(2,)), held)
    settle(document([3, 2, 1]), held)
    assert {number: by_number(held)[number] for number in before} == before


def test_a_full_pool_gives_on_what_belongs_to_nobody_any_more() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    settle(document(list(range(1, 15))), held)
    before = by_number(held)
    numbers = [*range(2, 15), 15, 16]
    assert settle(document(numbers, gone=(2,)), held) == []
    after = by_number(held)
    assert {after[15], after[16]} == {before[1], before[2]}
    assert 1 not in after
    assert 2 not in after
    (refused,) = settle(document([*numbers, 17], gone=(2,)), held)
    assert refused.member == "m17"


def test_whoever_is_absent_keeps_its_address_longer_than_whoever_is_gone() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    settle(document(list(range(1, 15))), held)
    gone = by_number(held)[1]
    settle(document([*range(2, 16)], gone=(2,)), held)
    assert by_number(held)[15] == gone
    assert 2 in by_number(held)


def test_a_renumbered_network_gives_new_addresses_and_the_old_pool_is_free() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    settle(document([1, 2, 3]), held)
    assert settle(document([1, 2, 3], pool="10.8.0.0/29"), held) == []
    assert len(set(held.values())) == 3
    assert all(str(address).startswith("10.8.0.") for address in held.values())
    assert list(missing_leases(document([1, 2, 3], pool="10.8.0.0/29"), held)) == []


def test_a_fixed_address_is_taken_from_its_holder_and_given_to_nobody_else() -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    settle(document([1, 2]), held)
    taken = by_number(held)[1]
    wanted = document([1, 2, *range(3, 15)], fixed={2: str(taken)})
    assert settle(wanted, held) == []
    others = {number: address for number, address in by_number(held).items() if number != 2}
    assert taken not in others.values()
    assert len(set(others.values())) == 13


@st.composite
def documents(draw: st.DrawFn) -> Document:
    numbers = draw(st.lists(st.integers(1, 18), min_size=1, max_size=16, unique=True))
    pool = draw(st.sampled_from(["10.9.0.0/28", "10.9.0.0/29", "10.8.0.0/28"]))
    gone = tuple(draw(st.sets(st.sampled_from(numbers), max_size=len(numbers) - 1)))
    candidates = [number for number in numbers if number not in gone]
    owner = draw(st.none() | st.sampled_from(candidates))
    fixed = (
        {} if owner is None else {owner: pool.replace(".0/", f".{draw(st.integers(1, 6))}/").split("/")[0]}
    )
    return document(numbers, pool, fixed, gone)


@given(st.lists(documents(), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_through_any_documents_no_two_members_have_one_address(story: list[Document]) -> None:
    held: dict[LeaseKey, IPv4Address] = {}
    for wanted in story:
        refused = {item.member for item in settle(wanted, held)}
        network = wanted.networks["lan"]
        pool = network.ipv4
        assert pool is not None
        owners: dict[object, str] = {a: name for name, found in network.addresses.items() for a in found}
        for name in network.member_names:
            member = wanted.members[name].wireguard
            assert member is not None
            if name in network.addresses:
                continue
            address = held.get((network.id, member))
            if name in refused:
                continue
            assert address is not None
            assert address in pool
            assert address not in (pool.network_address, pool.broadcast_address)
            assert owners.setdefault(address, name) == name
        assert [i for i in missing_leases(wanted, held) if isinstance(i, GrantLease)] == []


def renewed(*, previous: tuple[int, ...]) -> Document:
    """`a` with key 26, and the keys that it had before; the pool has room for two."""
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": ["ed25519:" + str(key(50))]}],
        "members": {
            "b": {"wireguard": str(key(2))},
            "a": {"wireguard": str(key(26)), "previousKeys": [str(key(number)) for number in previous]},
        },
        "networks": {"n": {"mode": "routed", "ipv4": "10.0.0.0/30", "members": ["a", "b"]}},
    }
    return load_document(json.dumps(text)).document


def test_a_member_with_a_new_key_takes_the_address_of_its_old_one_over() -> None:
    document = renewed(previous=(25, 1))
    network = document.networks["n"].id
    held = {(network, key(1)): IPv4Address("10.0.0.2"), (network, key(2)): IPv4Address("10.0.0.1")}
    assert list(missing_leases(document, held)) == [
        GrantLease(network, key(26), IPv4Address("10.0.0.2"), taken_from=key(1))
    ]


def test_nobody_else_is_given_the_address_that_a_new_key_is_about_to_take() -> None:
    document = renewed(previous=(1, 25))
    network = document.networks["n"].id
    held = {(network, key(1)): IPv4Address("10.0.0.1"), (network, key(25)): IPv4Address("10.0.0.2")}
    granted = [item for item in missing_leases(document, held) if isinstance(item, GrantLease)]
    assert [(lease.key, lease.taken_from) for lease in granted] == [(key(2), key(25)), (key(26), key(1))]


def test_each_network_has_its_own_pool_and_a_full_one_hurts_no_other() -> None:
    members = {f"m{n}": {"wireguard": str(key(n + 1))} for n in range(4)}
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": ["ed25519:" + str(key(50))]}],
        "members": members,
        "networks": {
            "wide": {"mode": "routed", "ipv4": "10.1.0.0/24", "members": ["*"]},
            "tight": {"mode": "routed", "ipv4": "10.2.0.0/30", "members": ["m0", "m1"]},
        },
    }
    document = load_document(json.dumps(text)).document
    tight = document.networks["tight"]
    crowded = replace(
        document, networks={**document.networks, "tight": replace(tight, member_names=tuple(members))}
    )
    found = list(missing_leases(crowded, {}))
    full = [item for item in found if isinstance(item, Exhausted)]
    assert [(item.network, item.member) for item in full] == [(tight.id, "m2"), (tight.id, "m3")]
    assert all("10.2.0.0/30 of network 'tight' is full" in item.message for item in full)
    wide = [item for item in found if isinstance(item, GrantLease) and item.network != tight.id]
    assert len({lease.address for lease in wide}) == 4


class Walked(dict[Any, Any]):
    """A mapping that counts how often somebody goes through all of it."""

    times = 0

    def items(self) -> Any:
        self.times += 1
        return super().items()

    def values(self) -> Any:
        self.times += 1
        return super().values()


def test_another_network_does_not_cost_a_look_at_every_lease_and_member() -> None:
    loaded = document(list(range(1, 6)))
    lan = loaded.networks["lan"]
    names = [f"n{number}" for number in range(50)]
    networks = {name: replace(lan, name=name, id=network_id("lses-0001", name)) for name in names}
    members = Walked(loaded.members)
    held: Walked = Walked()
    many = replace(loaded, members=members, networks=networks)
    assert settle(many, held) == []
    assert len(held) == 5 * len(networks)
    members.times = held.times = 0
    assert list(missing_leases(many, held)) == []
    assert (members.times, held.times) == (1, 1)
