"""The secret that a mediator and a relay apart have in common without having told each other anything.

Both have an Ed25519 identity that the document names. Each computes X25519 of its own private key and the other's
public one (RFC 7748 §6.1), and HKDF-SHA256 (RFC 5869) of that, with both public keys in its `info`. So a grant by this
secret can be made by that mediator and checked by that relay, offline, and is nothing to any other relay.

Keys of Ed25519 are keys of X25519 by the map between the two curves (RFC 7748 §4.1) and the first half of SHA-512 of
the seed (RFC 8032 §5.1.5), as libsodium's `crypto_sign_ed25519_pk_to_curve25519` and its `sk` counterpart do it.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey
from netctl.wire.relay import SECRET_LEN

LABEL = b"netctl relay grant v1"
_P = 2**255 - 19
_KEY_LEN = 32


def agreed_secret(own: Ed25519PrivateKey, mediator: IdentityKey, relay: IdentityKey) -> bytes:
    """32 bytes that these two alone can compute; `own` is the private key of one of them.

    Raises RemoteError for a public key with which nothing secret can be agreed, ValueError where `own` is neither's.
    """
    me = own.public_key().public_bytes_raw()
    if me not in (mediator.raw, relay.raw) or mediator == relay:
        raise ValueError("the secret is between a mediator and another identity's relay")
    other = relay if me == mediator.raw else mediator
    try:
        shared = x25519_private(own).exchange(X25519PublicKey.from_public_bytes(x25519_public(other)))
    except ValueError:
        raise RemoteError(
            f"{other} is no Ed25519 public key to agree on a secret with", "relay.key"
        ) from None
    info = LABEL + mediator.raw + relay.raw
    return HKDF(algorithm=SHA256(), length=SECRET_LEN, salt=None, info=info).derive(shared)


def x25519_private(key: Ed25519PrivateKey) -> X25519PrivateKey:
    """The same scalar as a key of X25519, which clamps it by itself."""
    return X25519PrivateKey.from_private_bytes(hashlib.sha512(key.private_bytes_raw()).digest()[:_KEY_LEN])


def x25519_public(key: IdentityKey) -> bytes:
    """u = (1 + y) / (1 - y). Raises ValueError for what is no point's y coordinate."""
    y = int.from_bytes(key.raw, "little") & (1 << 255) - 1
    if y >= _P:
        raise ValueError("not a coordinate")
    return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(_KEY_LEN, "little")
