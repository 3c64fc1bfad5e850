"""Leases stay where a host has seen them: only its document moves an address."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, ip_address
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.config import judge_leases, load_document, resolve
from netctl.config.resolve.pins import Judged
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.model.view import Lease, View, ViewMember

NAMES = ("ann", "bob", "cid")
KEYS = {name: WireGuardKey(name.encode().ljust(32, b"!")) for name in (*NAMES, "eve")}
IDENTITY = "ed25519:" + "A" * 43 + "="


def document(
    pool: str = "10.1.0.0/24", members: tuple[str, ...] = NAMES, invites: bool = False, **fixed: str
) -> Document:
    text: dict[str, Any] = {
        "apiVersion": "netctl/v1",
        "id": "pins-0001",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [IDENTITY]}],
        "members": {name: {"wireguard": str(KEYS[name])} for name in members},
        "networks": {
            "lan": {"mode": "routed", "ipv4": pool, "members": ["*"], "addresses": fixed},
        },
    }
    if invites:
        text["networks"]["lan"]["join"] = {"invites": True}
    return load_document(json.dumps(text)).document


def view(**addresses: str) -> View:
    return View(
        1,
        {KEYS[name]: ViewMember(name, KEYS[name]) for name in addresses},
        {
            ("lan", KEYS[name]): Lease("lan", KEYS[name], (ip_address(text),))
            for name, text in addresses.items()
        },
    )


def believed(judged: Judged) -> dict[str, str]:
    """Addresses by name."""
    assert judged.view is not None
    found = {key: lease.addresses for (_, key), lease in judged.view.leases.items()}
    return {name: str(*found[key]) for name, key in KEYS.items() if found.get(key)}


def second(before: View, after: View, then: Document | None = None) -> Judged:
    """Two views, one after the other."""
    first = judge_leases(document(), before, {})
    assert first.conditions == ()
    return judge_leases(then or document(), after, first.pins)


def test_the_first_lease_is_believed_and_kept() -> None:
    told = view(ann="10.1.0.1", bob="10.1.0.2")
    judged = second(told, told)
    assert judged.conditions == ()
    assert judged.view == told
    assert set(judged.pins.values()) == {IPv4Address("10.1.0.1"), IPv4Address("10.1.0.2")}


def test_an_address_that_moves_is_refused_and_told() -> None:
    judged = second(view(ann="10.1.0.1"), view(ann="10.1.0.9"))
    assert believed(judged) == {"ann": "10.1.0.1"}
    (condition,) = judged.conditions
    assert condition.peer == "ann"
    assert "from 10.1.0.1 to 10.1.0.9" in condition.message
    assert "netctl leases forget ann" in condition.message
    assert list(judged.refused.values()) == [IPv4Address("10.1.0.9")]


def test_an_address_outside_the_pool_does_not_move_it_either() -> None:
    assert believed(second(view(ann="10.1.0.1"), view(ann="192.168.0.1"))) == {"ann": "10.1.0.1"}


def test_an_address_given_to_a_second_key_stays_with_the_first() -> None:
    judged = second(view(ann="10.1.0.1"), view(ann="10.1.0.1", bob="10.1.0.1"))
    assert believed(judged) == {"ann": "10.1.0.1"}
    assert [condition.peer for condition in judged.conditions] == ["bob"]
    hidden = second(view(ann="10.1.0.1"), view(bob="10.1.0.1"))
    assert believed(hidden) == {}, "whoever is not shown keeps its address too"
    swapped = second(view(ann="10.1.0.1", bob="10.1.0.2"), view(ann="10.1.0.2", bob="10.1.0.1"))
    assert believed(swapped) == {"ann": "10.1.0.1", "bob": "10.1.0.2"}
    assert len(swapped.conditions) == 2


def test_the_document_moves_what_it_likes() -> None:
    fixed = second(view(ann="10.1.0.1", bob="10.1.0.2"), view(bob="10.1.0.7"), document(ann="10.1.0.2"))
    assert fixed.conditions == ()
    assert believed(fixed) == {"bob": "10.1.0.7"}
    elsewhere = view(ann="10.2.0.5")
    assert second(view(ann="10.1.0.1"), elsewhere, document("10.2.0.0/24")).view == elsewhere
    left = second(view(ann="10.1.0.1"), view(bob="10.1.0.1"), document(members=("bob", "cid")))
    assert left.conditions == ()
    assert believed(left) == {"bob": "10.1.0.1"}


def test_whoever_left_and_comes_back_has_its_address() -> None:
    first = judge_leases(document(), view(ann="10.1.0.1"), {})
    away = judge_leases(document(members=("bob",)), view(bob="10.1.0.2"), first.pins)
    back = judge_leases(document(), view(ann="10.1.0.9"), away.pins)
    assert believed(back) == {"ann": "10.1.0.1"}


def test_an_invited_member_never_gets_an_address_that_somebody_has() -> None:
    shared = document(invites=True)
    first = judge_leases(shared, view(ann="10.1.0.1", bob="10.1.0.2"), {})
    told = view(ann="10.1.0.1", bob="10.1.0.2", eve="10.1.0.2")
    judged = judge_leases(shared, told, first.pins)
    assert believed(judged) == {"ann": "10.1.0.1", "bob": "10.1.0.2"}
    assert [condition.peer for condition in judged.conditions] == ["eve"]


def test_without_mediator_or_view_there_is_nothing_to_judge() -> None:
    assert judge_leases(document(), None, {}) == Judged(None, {})


POOL = st.sampled_from([f"10.1.0.{number}" for number in range(1, 5)])
VIEWS = st.dictionaries(st.sampled_from(NAMES), POOL, min_size=1)


@given(st.lists(VIEWS, min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_whatever_a_mediator_says_no_address_ever_moves_or_is_shared(told: list[dict[str, str]]) -> None:
    pins: Any = {}
    seen: dict[str, str] = {}
    for addresses in told:
        judged = judge_leases(document(), view(**addresses), pins)
        pins = judged.pins
        now = believed(judged)
        assert len(set(now.values())) == len(now)
        for name, address in now.items():
            assert seen.setdefault(name, address) == address
        assert len(set(seen.values())) == len(seen)
        wanted = resolve(document(), "ann", judged.view).state
        assert wanted.wireguard is not None
        prefixes = [p for peer in wanted.wireguard.peers.values() for p in peer.allowed_ips]
        assert len(prefixes) == len(set(prefixes))
