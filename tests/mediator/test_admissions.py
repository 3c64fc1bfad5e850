"""Who comes in with an invite: decided on values; and every way in which somebody does not."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from mediator.core.admissions import (
    MAX_PENDING,
    Admission,
    Applicant,
    Book,
    Invite,
    Verdict,
    decide,
    effective,
    rekeyed,
)
from netctl.config import load_document
from netctl.model.document import Document
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey

PIN = str(IdentityKey(b"\x08" * 32))
NOW = 1_000_000


def key(number: int) -> WireGuardKey:
    return WireGuardKey(number.to_bytes(32, "big"))


def identity(number: int) -> IdentityKey:
    return IdentityKey((number + 1000).to_bytes(32, "big"))


def document(pool: str = "10.1.0.0/28", **join: Any) -> Document:
    members = {
        "home": {"wireguard": str(key(1)), "identity": str(identity(1)), "previousKeys": [str(key(5))]},
        "gone": {"wireguard": str(key(2)), "state": "absent"},
        "other": {"wireguard": str(key(3))},
    }
    text = {
        "apiVersion": "netctl/v1",
        "mediators": [{"url": "netctl://192.0.2.1:8443", "identity": [PIN]}],
        "members": members,
        "networks": {
            "lan": {
                "mode": "routed",
                "ipv4": pool,
                "members": ["home"],
                "addresses": {"home": pool.replace("0/", "1/").partition("/")[0]},
                "join": {"invites": True, **join},
            },
            "all": {"mode": "routed", "ipv4": "10.2.0.0/24", "members": ["*"]},
        },
    }
    return load_document(json.dumps(text)).document


DOCUMENT = document()
LAN = DOCUMENT.networks["lan"].id
INVITE = Invite("abcdef", LAN, uses=2, used=0, made_s=NOW - 10, expires_s=NOW + 10)


def host(number: int, name: str = "newbie", *, exact: bool = False) -> Applicant:
    return Applicant(key(number), identity(number), name, exact, b"\6" * 16)


def admission(number: int, name: str, *, pending: bool = False, network: str = LAN) -> Admission:
    return Admission(key(number), identity(number), name, network, "abcdef", pending)


def refused(
    who: Applicant, *, invite: Invite | None = INVITE, book: Book | None = None, there: Document = DOCUMENT
) -> str:
    with pytest.raises(RemoteError) as caught:
        decide(there, book or Book(), invite, who, NOW)
    return caught.value.code


def test_a_good_invite_lets_a_host_in_with_an_address_of_the_pool() -> None:
    verdict = decide(DOCUMENT, Book(), INVITE, host(10), NOW)
    assert verdict.fresh
    assert (verdict.network, verdict.admission.name, verdict.admission.pending) == ("lan", "newbie", False)
    assert verdict.lease is not None
    assert (pool := DOCUMENT.networks["lan"].ipv4) is not None
    assert verdict.lease.address in pool
    assert verdict.lease.address != IPv4Address("10.1.0.1"), "that one is fixed"


def test_it_comes_into_that_network_alone_though_another_takes_all() -> None:
    there, waiting = effective(DOCUMENT, Book((admission(10, "newbie"),)))
    assert waiting == {}
    assert there.networks["lan"].member_names == ("home", "newbie")
    assert "newbie" not in there.networks["all"].member_names
    member = there.members["newbie"]
    assert member.groups == {"invited"}
    assert (member.routes, member.guest) == ((), True)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"used": 2}, "invite.used-up"),
        ({"expires_s": NOW}, "invite.expired"),
        ({"revoked": True}, "invite.unknown"),
        ({"network": "0" * 16}, "invite.network"),
        ({"network": DOCUMENT.networks["all"].id}, "invite.closed"),
    ],
)
def test_an_invite_that_is_no_good(change: dict[str, Any], code: str) -> None:
    assert refused(host(10), invite=replace(INVITE, **change)) == code
    assert refused(host(10), invite=None) == "invite.unknown"


def test_one_second_before_its_end_it_is_good() -> None:
    assert decide(DOCUMENT, Book(), replace(INVITE, expires_s=NOW + 1), host(10), NOW).fresh


def test_the_same_host_gets_the_same_membership_even_from_an_invite_that_is_used_up() -> None:
    book = Book((admission(10, "newbie"),))
    worn = replace(INVITE, used=2, expires_s=NOW - 1)
    verdict = decide(DOCUMENT, book, worn, host(10, "another-name"), NOW)
    assert verdict == Verdict(admission(10, "newbie"), "lan", fresh=False)
    assert refused(host(10), book=book, invite=replace(worn, revoked=True)) == "invite.unknown"


@pytest.mark.parametrize(
    ("who", "book", "code"),
    [
        (host(1), Book(), "enrol.known"),
        (replace(host(10), identity=identity(1)), Book(), "enrol.known"),
        (host(2), Book(), "enrol.revoked"),
        (host(5), Book(), "enrol.revoked"),
        (host(10), Book(revoked={key(10): "newbie"}), "enrol.revoked"),
        (replace(host(10), identity=identity(11)), Book((admission(10, "x"),)), "enrol.mixed"),
        (replace(host(11), identity=identity(10)), Book((admission(10, "x"),)), "enrol.mixed"),
    ],
    ids=["document-key", "document-identity", "absent", "previous", "revoked", "my-key", "my-identity"],
)
def test_keys_that_are_somebodys_or_out_of_use(who: Applicant, book: Book, code: str) -> None:
    assert refused(who, book=book) == code


def test_a_name_that_is_taken_gets_a_number_or_a_refusal() -> None:
    book = Book((admission(11, "newbie"), admission(12, "newbie-2")))
    assert decide(DOCUMENT, book, INVITE, host(10), NOW).admission.name == "newbie-3"
    assert decide(DOCUMENT, book, INVITE, host(10, "gone"), NOW).admission.name == "gone-2"
    assert refused(host(10, exact=True), book=book) == "enrol.name"
    assert refused(host(10), book=book, invite=replace(INVITE, name="newbie")) == "enrol.name"
    long = decide(DOCUMENT, Book((admission(11, "x" * 63),)), INVITE, host(10, "x" * 63), NOW)
    assert long.admission.name == "x" * 61 + "-2"


def test_approval_by_hand_gives_no_address_before() -> None:
    there = document(approve="manual")
    verdict = decide(there, Book(), INVITE, host(10), NOW)
    assert verdict.admission.pending
    assert verdict.lease is None
    waiting, _ = effective(there, Book((verdict.admission,)))
    assert waiting.networks_of("newbie") == ()
    crowd = tuple(admission(100 + n, f"n{n}", pending=True) for n in range(MAX_PENDING))
    assert refused(host(10), book=Book(crowd), there=there) == "invite.full"


def test_a_full_pool_is_said_and_takes_no_use() -> None:
    there = document("10.1.0.0/30")
    network = there.networks["lan"].id
    one = decide(there, Book(), replace(INVITE, network=network), host(10), NOW)
    assert one.lease is not None
    book = Book((one.admission,), leases={(network, key(10)): one.lease.address})
    with pytest.raises(RemoteError, match=r"pool 10\.1\.0\.0/30 .*full.*no address is left"):
        decide(there, book, replace(INVITE, network=network), host(11, "late"), NOW)


def test_the_documents_word_comes_first() -> None:
    book = Book((admission(10, "other"), admission(2, "x"), admission(3, "y"), admission(11, "z")))
    there, waiting = effective(DOCUMENT, book)
    assert there.members["other"].wireguard == key(3)
    assert set(waiting) == {"other", "x"}
    assert "belongs to another key" in waiting["other"]
    assert "out of use" in waiting["x"]
    assert "y" not in there.members, "the document has this key already: then its entry is the member"
    assert there.networks["lan"].member_names == ("home", "z")


def test_who_is_shut_out_is_absent_whatever_the_document_says() -> None:
    there, _ = effective(
        DOCUMENT, Book((admission(10, "newbie"),), revoked={key(1): "home", key(10): "newbie"})
    )
    assert there.networks["lan"].member_names == ()
    assert there.member_by_key(key(1)) is None
    assert there.member_by_key(key(10)) is None


def test_new_keys_for_who_joined_and_for_nobody_else() -> None:
    book = Book((admission(10, "newbie"), admission(11, "x")), revoked={key(20): "old"})
    rekeyed(book, key(10), key(30), identity(30))
    for old, new, new_identity, code in (
        (key(1), key(30), identity(30), "rotate.document"),
        (key(10), key(11), identity(30), "rotate.taken"),
        (key(10), key(30), identity(11), "rotate.taken"),
        (key(10), key(20), identity(30), "rotate.taken"),
    ):
        with pytest.raises(RemoteError) as caught:
            rekeyed(book, old, new, new_identity)
        assert caught.value.code == code
