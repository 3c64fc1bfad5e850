"""The login proves one identity to one mediator in one connection, and nothing else."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey
from netctl.session.login import check_login, make_login, transcript
from netctl.wire.control import PROTOCOL_VERSION, Login
from tests.session.loginkit import KEY, MEDIATOR, MEDIATOR_NONCE, MEMBER, NONCE, OTHER, PEER, public

PIN = public(MEDIATOR)
GOLDEN_SIGNATURE = (
    "d2887742d4b8300b809ae6e99a3d486e7b3f16ccac19f6e8a2e842bb3472e2d7"
    "6cfdd0ffb8408f7513b3b0013f01b25662cd876ab5ecd579b2dc276091b95b04"
)
"""Ed25519 is deterministic (RFC 8032 §5.1.6): these keys and nonces give this and nothing else."""


def login(pin: IdentityKey = PIN, mediator_nonce: bytes = MEDIATOR_NONCE) -> Login:
    return make_login(pin, mediator_nonce, NONCE, public(MEMBER), KEY, MEMBER.sign)


def refused(answer: Login, *, nonce: bytes = MEDIATOR_NONCE, expected: IdentityKey | None = None) -> str:
    with pytest.raises(RemoteError) as caught:
        check_login(answer, nonce, PIN, expected or public(MEMBER))
    return caught.value.code


def test_the_transcript_is_what_the_protocol_says_byte_for_byte() -> None:
    by_hand = (
        b"\0\0\0\x0cnetctl login"
        + b"\0\0\0\x04\0\0\0\x01"
        + b"".join(
            b"\0\0\0\x20" + part
            for part in (PIN.raw, MEDIATOR_NONCE, NONCE, public(MEMBER).raw, b"\x11" * 32)
        )
    )
    assert transcript(1, PIN, MEDIATOR_NONCE, NONCE, public(MEMBER), KEY) == by_hand
    assert login().signature == GOLDEN_SIGNATURE
    assert login().wireguard == "ERERERERERERERERERERERERERERERERERERERERERE="


def test_a_good_login_is_good() -> None:
    check_login(login(), MEDIATOR_NONCE, PIN, public(MEMBER))


def test_a_recorded_login_is_worth_nothing_in_another_connection() -> None:
    assert refused(login(), nonce=b"\7" * 32) == "login.signature"


def test_a_signature_for_one_mediator_is_worth_nothing_at_another() -> None:
    assert refused(login(pin=public(OTHER))) == "login.signature"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"wireguard": str(PEER)}, "login.signature"),
        ({"nonce": "00" * 32}, "login.signature"),
        ({"signature": "00" * 64}, "login.signature"),
        ({"signature": "00" * 63}, "login.malformed"),
        ({"nonce": "00" * 31}, "login.malformed"),
        ({"identity": str(public(OTHER))}, "login.identity"),
        ({"version": PROTOCOL_VERSION + 1}, "login.version"),
    ],
)
def test_whatever_is_changed_afterwards_is_refused(change: dict[str, object], code: str) -> None:
    assert refused(msgspec.structs.replace(login(), **change)) == code


def test_another_members_identity_does_not_log_in_with_this_key() -> None:
    answer = make_login(PIN, MEDIATOR_NONCE, NONCE, public(OTHER), KEY, OTHER.sign)
    assert refused(answer) == "login.identity"


def test_an_identity_of_small_order_is_refused_though_the_library_accepts_its_forgery() -> None:
    neutral = IdentityKey(b"\1" + bytes(31))
    forged = b"\1" + bytes(63)  # R = neutral, S = 0: S·B = R + h·A for every message
    answer = make_login(PIN, MEDIATOR_NONCE, NONCE, neutral, KEY, lambda _: forged)
    signed = transcript(PROTOCOL_VERSION, PIN, MEDIATOR_NONCE, NONCE, neutral, KEY)
    Ed25519PublicKey.from_public_bytes(neutral.raw).verify(forged, signed)
    assert refused(answer, expected=neutral) == "login.weak-key"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_the_member_signs_no_nonce_of_another_length(length: int) -> None:
    with pytest.raises(RemoteError) as caught:
        login(mediator_nonce=bytes(length))
    assert caught.value.code == "login.bad-nonce"
