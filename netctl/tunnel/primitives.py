"""The paper's primitives (§5.4) by the names it gives them, over `cryptography` and the standard library."""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from netctl.tunnel.constants import TAI64N_BASE, TIMESTAMP_GRANULARITY_NS

KEY_LEN = 32
HASH_LEN = 32
TAG_LEN = 16
MAC_LEN = 16
TIMESTAMP_LEN = 12
XNONCE_LEN = 24
ZERO_NONCE = bytes(12)

_CHACHA_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")


def hash_(*parts: bytes) -> bytes:
    """HASH: BLAKE2s-256 (RFC 7693) of the concatenated parts."""
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """MAC: keyed BLAKE2s, 16 bytes."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_LEN).digest()


def kdf(n: int, key: bytes | bytearray, data: bytes | bytearray) -> tuple[bytes, ...]:
    """KDF_n: HKDF (RFC 5869) with HMAC-BLAKE2s and no info; `n` outputs of 32 bytes, 1 ≤ n ≤ 3."""
    secret = hmac.digest(key, data, "blake2s")
    outputs = []
    last = b""
    for counter in range(1, n + 1):
        last = hmac.digest(secret, last + bytes([counter]), "blake2s")
        outputs.append(last)
    return tuple(outputs)


def seal(key: bytes, plaintext: bytes, data: bytes, nonce: bytes = ZERO_NONCE) -> bytes:
    """AEAD: ChaCha20-Poly1305 (RFC 8439)."""
    return ChaCha20Poly1305(key).encrypt(nonce, plaintext, data)


def open_(key: bytes, ciphertext: bytes, data: bytes, nonce: bytes = ZERO_NONCE) -> bytes | None:
    """The inverse of `seal`; None when it is not authentic."""
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, data)
    except InvalidTag:
        return None


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha-03 §2.2) of a 32-byte key and a 16-byte nonce.

    A ChaCha20 block is the permuted state plus the input state; HChaCha20 is the permuted state's first and last
    rows. So HChaCha20 is the library's block minus the input words: no rounds are implemented here.
    """
    words = struct.unpack("<16I", Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64)))
    entered = (*_CHACHA_CONSTANTS, *struct.unpack("<4I", nonce))
    left = (*words[:4], *words[12:])
    return struct.pack("<8I", *((out - put) & 0xFFFFFFFF for out, put in zip(left, entered, strict=True)))


def xseal(key: bytes, nonce: bytes, plaintext: bytes, data: bytes) -> bytes:
    """XAEAD: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03 §2.3), 24-byte nonce."""
    return seal(hchacha20(key, nonce[:16]), plaintext, data, bytes(4) + nonce[16:])


def xopen(key: bytes, nonce: bytes, ciphertext: bytes, data: bytes) -> bytes | None:
    """The inverse of `xseal`; None when it is not authentic."""
    return open_(hchacha20(key, nonce[:16]), ciphertext, data, bytes(4) + nonce[16:])


def public_key(private_key: bytes) -> bytes:
    """The X25519 (RFC 7748) public half."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def dh(private_key: X25519PrivateKey, public: bytes) -> bytes | None:
    """DH: X25519; None where the result is all zero (a point of small order), which must not be used."""
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return None


def tai64n(unix_now: float, after: bytes = b"") -> bytes:
    """TIMESTAMP: TAI64N of a Unix time, coarse, and always greater than `after` (12 bytes, or empty).

    A clock that stepped back must not make our next initiation look like a replay.
    """
    nanoseconds = int(unix_now * 1_000_000_000)
    nanoseconds -= nanoseconds % 1_000_000_000 % TIMESTAMP_GRANULARITY_NS
    stamp = _tai64n_bytes(nanoseconds)
    if stamp <= after:
        seconds, fraction = struct.unpack(">QI", after)
        stamp = _tai64n_bytes((seconds - TAI64N_BASE) * 1_000_000_000 + fraction + TIMESTAMP_GRANULARITY_NS)
    return stamp


def _tai64n_bytes(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return struct.pack(">QI", TAI64N_BASE + seconds, fraction)
