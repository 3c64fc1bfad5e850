"""Public keys as values. Private keys are never values of the model: only shells read them."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from netctl.model.remembered import Remembered

KEY_LEN = 32
MAX_KNOWN = 1 << 16
"""WireGuard keys that are remembered, so that the same key is one object wherever it is read."""
IDENTITY_PREFIX = "ed25519:"


def _decode(text: str) -> bytes:
    """Strict base64 of exactly 32 bytes. Raises ValueError."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error
    if len(raw) != KEY_LEN or base64.b64encode(raw).decode() != text:
        raise ValueError("not the base64 of 32 bytes")
    return raw


@dataclass(frozen=True, slots=True)
class WireGuardKey:
    """A WireGuard (X25519) public key, which identifies a member. Printed as `wg pubkey` prints it."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_LEN:
            raise ValueError("a WireGuard key is 32 bytes")

    # As a dataclass makes them, without the tuples: a mediator looks up thousands of keys for each change.
    def __hash__(self) -> int:
        return hash(self.raw)

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, WireGuardKey) else NotImplemented

    def __lt__(self, other: WireGuardKey) -> bool:
        return self.raw < other.raw

    @classmethod
    def parse(cls, text: str) -> WireGuardKey:
        """From 44 characters of base64. Raises ValueError."""
        return known(_decode(text))

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()

    @property
    def short(self) -> str:
        """The first 8 characters, for people."""
        return str(self)[:8]


_known: Remembered[bytes, WireGuardKey] = Remembered(MAX_KNOWN)


def known(raw: bytes) -> WireGuardKey:
    """The key of these 32 bytes. Raises ValueError.

    The same object for the same bytes: document, view and engine each name thousands of peers by their keys.
    """
    key = _known.get(raw)
    if key is None:
        key = WireGuardKey(raw)
        _known.keep(key.raw, key)
    return key


@dataclass(frozen=True, slots=True, order=True)
class IdentityKey:
    """An Ed25519 public key, used for login only. Printed as ``ed25519:<base64>``."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_LEN:
            raise ValueError("an identity key is 32 bytes")

    @classmethod
    def parse(cls, text: str) -> IdentityKey:
        """From ``ed25519:`` and 44 characters of base64. Raises ValueError."""
        if not text.startswith(IDENTITY_PREFIX):
            raise ValueError("an identity key starts with 'ed25519:'")
        return cls(_decode(text[len(IDENTITY_PREFIX) :]))

    def __str__(self) -> str:
        return IDENTITY_PREFIX + base64.b64encode(self.raw).decode()


# Edwards25519 (RFC 8032 §5.1): the field's prime, and the y coordinates of the points of order 1, 2, 4 and 8.
_FIELD = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    }
)


def is_weak_identity(key: IdentityKey) -> bool:
    """Whether a forged signature could pass under this key: small order, or not canonical (RFC 8032 §5.1.3)."""
    y = int.from_bytes(key.raw, "little") & ((1 << 255) - 1)
    return y >= _FIELD or y in _SMALL_ORDER_Y


# Curve25519 (RFC 7748 §4.1): the u coordinates of the points of order 1, 2, 4 and 8, on the curve and its twist.
_SMALL_ORDER_U = frozenset(
    {
        0,
        1,
        _FIELD - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


def is_weak_wireguard(key: WireGuardKey) -> bool:
    """Whether a secret shared with this key is no secret (small order), or the key has a second spelling."""
    u = int.from_bytes(key.raw, "little")
    return u >= _FIELD or u in _SMALL_ORDER_U
