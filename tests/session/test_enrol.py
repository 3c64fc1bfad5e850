"""Enrolment proves both keys of a host to one mediator in one connection; rotation, the old identity too."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey, is_weak_wireguard
from netctl.session.enrol import (
    Agree,
    check_enrol,
    check_rotate,
    enrol_transcript,
    make_enrol,
    make_rotate,
)
from netctl.wire.control import Enrol, Rotate
from tests.session.loginkit import MEDIATOR, MEDIATOR_NONCE, MEMBER, NONCE, OTHER, public

PIN = public(MEDIATOR)
HOST = X25519PrivateKey.from_private_bytes(b"\4" * 32)
FRESH = X25519PrivateKey.from_private_bytes(b"\5" * 32)
TOKEN = b"\6" * 16
P = 2**255 - 19
WEAK = [
    0,
    1,
    P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
]


def agree_with(private: X25519PrivateKey) -> Agree:
    return lambda key: private.exchange(X25519PublicKey.from_public_bytes(key.raw))


def wireguard(private: X25519PrivateKey) -> WireGuardKey:
    return WireGuardKey(private.public_key().public_bytes_raw())


def common(**change: Any) -> dict[str, Any]:
    return {
        "pin": PIN,
        "mediator_nonce": MEDIATOR_NONCE,
        "nonce": NONCE,
        "ephemeral": wireguard(FRESH),
        "identity": public(MEMBER),
        "key": wireguard(HOST),
        "sign": MEMBER.sign,
        "agree": agree_with(HOST),
        **change,
    }


def enrol(**change: Any) -> Enrol:
    return make_enrol(**{**common(), "token": TOKEN, "name": "newbie", **change})


def rotate(**change: Any) -> Rotate:
    return make_rotate(
        **{**common(), "previous": WireGuardKey(b"\x11" * 32), "previous_sign": OTHER.sign, **change}
    )


def judge(message: Enrol | Rotate, **change: Any) -> str:
    """The code of the refusal; empty when it is good."""
    given = {
        "pin": PIN,
        "mediator_nonce": MEDIATOR_NONCE,
        "ephemeral": wireguard(FRESH),
        "agree": agree_with(FRESH),
        **change,
    }
    try:
        if isinstance(message, Enrol):
            check_enrol(message, **given)
        else:
            check_rotate(message, previous_identity=public(OTHER), **given)
    except RemoteError as error:
        return error.code
    return ""


def test_it_is_what_the_protocol_says_byte_for_byte() -> None:
    parts = (
        PIN.raw,
        MEDIATOR_NONCE,
        NONCE,
        wireguard(FRESH).raw,
        public(MEMBER).raw,
        wireguard(HOST).raw,
        TOKEN,
    )
    by_hand = b"\0\0\0\x0cnetctl enrol" + b"\0\0\0\x04\0\0\0\x01"
    by_hand += b"".join(len(part).to_bytes(4, "big") + part for part in parts) + b"\0\0\0\x06newbie"
    keys = (wireguard(FRESH), public(MEMBER), wireguard(HOST))
    text = enrol_transcript(PIN, MEDIATOR_NONCE, NONCE, *keys, TOKEN, "newbie")
    assert text == by_hand
    told = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert f"| {len(text)} bytes, SHA-256 `{hashlib.sha256(text).hexdigest()}` |" in told
    assert f"| signature | `{enrol().signature}` |" in told
    assert f"| MAC | `{enrol().mac}` |" in told


def test_a_good_enrolment_and_a_good_rotation_are_good() -> None:
    assert judge(enrol()) == ""
    assert judge(rotate()) == ""


@pytest.mark.parametrize("make", [enrol, rotate])
def test_it_is_good_for_this_mediator_and_this_connection_alone(make: Any) -> None:
    other = X25519PrivateKey.from_private_bytes(b"\x09" * 32)
    assert judge(make(), pin=public(OTHER)) == "enrol.mac"
    assert judge(make(), mediator_nonce=b"\7" * 32) == "enrol.mac"
    assert judge(make(), ephemeral=wireguard(other), agree=agree_with(other)) == "enrol.mac"


@pytest.mark.parametrize("make", [enrol, rotate])
def test_who_lacks_the_wireguard_key_or_the_identity_gets_nowhere(make: Any) -> None:
    thief = X25519PrivateKey.from_private_bytes(b"\x09" * 32)
    assert judge(make(agree=agree_with(thief))) == "enrol.mac"
    assert judge(make(sign=OTHER.sign)) == "login.signature"


def test_a_rotation_needs_the_old_identity() -> None:
    assert judge(rotate(previous_sign=MEMBER.sign)) == "login.signature"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"name": "other"}, "enrol.mac"),
        ({"token": "07" * 16}, "enrol.mac"),
        ({"nonce": "00" * 32}, "enrol.mac"),
        ({"nonce": "00" * 31}, "login.malformed"),
        ({"mac": "00" * 32}, "enrol.mac"),
        ({"signature": "00" * 63}, "login.malformed"),
        ({"signature": "00" * 64}, "login.signature"),
        ({"version": 2}, "login.version"),
        ({"identity": str(public(OTHER))}, "enrol.mac"),
        ({"identity": "ed25519:" + "A" * 43 + "="}, "enrol.weak-key"),
    ],
)
def test_whatever_is_changed_afterwards_is_refused(change: dict[str, object], code: str) -> None:
    assert judge(msgspec.structs.replace(enrol(), **change)) == code


@pytest.mark.parametrize("u", WEAK)
def test_points_of_small_order_are_weak_and_the_library_agrees(u: int) -> None:
    raw = u.to_bytes(32, "little")
    key = WireGuardKey(raw)
    assert is_weak_wireguard(key)
    with pytest.raises(ValueError):
        HOST.exchange(X25519PublicKey.from_public_bytes(raw))
    assert judge(msgspec.structs.replace(enrol(), wireguard=str(key))) == "enrol.weak-key"
    with pytest.raises(RemoteError):
        enrol(ephemeral=key)


def test_a_key_with_a_second_spelling_is_weak() -> None:
    u = int.from_bytes(wireguard(HOST).raw, "little")
    assert not is_weak_wireguard(wireguard(HOST))
    assert is_weak_wireguard(WireGuardKey((u | 1 << 255).to_bytes(32, "little")))
    assert is_weak_wireguard(WireGuardKey((P + 9).to_bytes(32, "little")))
    twin = WireGuardKey((u | 1 << 255).to_bytes(32, "little"))
    assert judge(enrol(key=twin)) == "enrol.weak-key", "the same private key, so the MAC is good"
