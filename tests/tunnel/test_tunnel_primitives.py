"""The published vectors of every primitive."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.tunnel.primitives import (
    dh,
    hash_,
    hchacha20,
    kdf,
    mac,
    open_,
    public_key,
    seal,
    tai64n,
    xopen,
    xseal,
)

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)
AEAD_KEY = bytes(range(0x80, 0xA0))
AEAD_DATA = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")


def selftest_sequence(length: int, seed: int) -> bytes:
    """RFC 7693 appendix E: the deterministic input of the self-test."""
    a, b = 0xDEAD4BAD * seed & 0xFFFFFFFF, 1
    out = bytearray()
    for _ in range(length):
        a, b = b, (a + b) & 0xFFFFFFFF
        out.append(b >> 24)
    return bytes(out)


def test_blake2s_abc_rfc7693_appendix_b() -> None:
    assert hash_(b"a", b"bc").hex() == "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"


def test_blake2s_self_test_rfc7693_appendix_e() -> None:
    grand = hashlib.blake2s()
    for size in (16, 20, 28, 32):
        for length in (0, 3, 64, 65, 255, 1024):
            data, key = selftest_sequence(length, length), selftest_sequence(size, size)
            grand.update(hashlib.blake2s(data, digest_size=size).digest())
            grand.update(hashlib.blake2s(data, digest_size=size, key=key).digest())
    assert grand.hexdigest() == "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe"


def test_mac_is_keyed_blake2s_of_16_bytes() -> None:
    key, data = selftest_sequence(16, 16), selftest_sequence(255, 255)
    assert mac(key, data) == hashlib.blake2s(data, digest_size=16, key=key).digest()


def test_kdf_as_other_implementations_compute_it() -> None:
    first, second, third = kdf(3, b"test-key", b"test-input")
    assert first.hex() == "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633"
    assert second.hex() == "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a"
    assert third.hex() == "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24"
    assert kdf(1, b"test-key", b"test-input") == (first,)


def test_x25519_rfc7748_section_5_2() -> None:
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    shared = dh(X25519PrivateKey.from_private_bytes(scalar), point)
    assert shared is not None
    assert shared.hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_x25519_rfc7748_section_6_1() -> None:
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice_public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    bob_public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert (public_key(alice), public_key(bob)) == (alice_public, bob_public)
    assert dh(X25519PrivateKey.from_private_bytes(alice), bob_public) == shared
    assert dh(X25519PrivateKey.from_private_bytes(bob), alice_public) == shared


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        (1, "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"),
        (1000, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"),
    ],
)
def test_x25519_iterated_rfc7748_section_5_2(rounds: int, expected: str) -> None:
    k = u = bytes([9]) + bytes(31)
    for _ in range(rounds):
        result = dh(X25519PrivateKey.from_private_bytes(k), u)
        assert result is not None
        k, u = result, k
    assert k.hex() == expected


def test_dh_refuses_points_of_small_order() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    order_8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    assert dh(private, bytes(32)) is None
    assert dh(private, bytes([1]) + bytes(31)) is None
    assert dh(private, order_8) is None


def test_chacha20poly1305_rfc8439_section_2_8_2() -> None:
    nonce = bytes.fromhex("070000004041424344454647")
    sealed = seal(AEAD_KEY, SUNSCREEN, AEAD_DATA, nonce)
    assert sealed.hex() == (
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )
    assert open_(AEAD_KEY, sealed, AEAD_DATA, nonce) == SUNSCREEN
    assert open_(AEAD_KEY, sealed[:-1] + b"\0", AEAD_DATA, nonce) is None


def test_hchacha20_draft_xchacha_section_2_2_1() -> None:
    nonce = bytes.fromhex("000000090000004a0000000031415927")
    subkey = hchacha20(bytes(range(32)), nonce)
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


def test_xchacha20poly1305_draft_xchacha_appendix_a_3() -> None:
    nonce = bytes(range(0x40, 0x58))
    sealed = xseal(AEAD_KEY, nonce, SUNSCREEN, AEAD_DATA)
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    assert xopen(AEAD_KEY, nonce, sealed, AEAD_DATA) == SUNSCREEN
    assert xopen(AEAD_KEY, nonce, sealed, b"") is None


def test_tai64n_counts_from_the_label_and_hides_the_fine_clock() -> None:
    assert tai64n(0.0).hex() == "400000000000000a00000000"
    assert tai64n(1.0).hex()[:16] == "400000000000000b"
    assert tai64n(100.001) == tai64n(100.002)


def test_tai64n_never_goes_back() -> None:
    first = tai64n(1_700_000_000.5)
    second = tai64n(1_600_000_000.0, first)
    third = tai64n(1_600_000_000.0, second)
    assert first < second < third
    assert tai64n(1_800_000_000.0, third) == tai64n(1_800_000_000.0)
