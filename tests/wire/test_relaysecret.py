"""What a mediator and a relay apart agree on: published keys, and nobody else's secret."""

from __future__ import annotations

import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey
from netctl.wire.relaysecret import agreed_secret, x25519_private, x25519_public

# libsodium, test/default/ed25519_convert.c and .exp.
SEED = bytes.fromhex("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee")
CURVE25519_PUBLIC = bytes.fromhex("f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50")
CURVE25519_PRIVATE = bytes.fromhex("8052030376d47112be7f73ed7a019293dd12ad910b654455798b4667d73de166")


def private(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(key: Ed25519PrivateKey) -> IdentityKey:
    return IdentityKey(key.public_key().public_bytes_raw())


def clamped(raw: bytes) -> bytes:
    """RFC 7748 §5."""
    return bytes([raw[0] & 248]) + raw[1:31] + bytes([raw[31] & 127 | 64])


def test_the_published_key_pair() -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    assert x25519_public(public(key)) == CURVE25519_PUBLIC
    assert clamped(x25519_private(key).private_bytes_raw()) == CURVE25519_PRIVATE


@pytest.mark.parametrize("number", range(20))
def test_both_halves_are_of_one_pair(number: int) -> None:
    key = private(number)
    assert x25519_private(key).public_key().public_bytes_raw() == x25519_public(public(key))


def test_both_sides_agree_and_no_two_pairs_have_one_secret() -> None:
    keys = [private(number) for number in range(4)]
    found = set()
    for mediator, relay in itertools.permutations(keys, 2):
        of_mediator = agreed_secret(mediator, public(mediator), public(relay))
        assert agreed_secret(relay, public(mediator), public(relay)) == of_mediator
        found.add(of_mediator)
    assert len(found) == 12, "a relay that is a mediator elsewhere has another secret there"


def test_a_third_has_no_part() -> None:
    with pytest.raises(ValueError, match="between a mediator and another"):
        agreed_secret(private(3), public(private(1)), public(private(2)))
    with pytest.raises(ValueError, match="between a mediator and another"):
        agreed_secret(private(1), public(private(1)), public(private(1)))


@pytest.mark.parametrize(
    "raw", [bytes(32), bytes([1]) + bytes(31), b"\xff" * 32, (2**255 - 20).to_bytes(32, "little")]
)
def test_a_key_with_which_nothing_is_secret_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteError, match="no Ed25519 public key to agree"):
        agreed_secret(private(1), public(private(1)), IdentityKey(raw))
