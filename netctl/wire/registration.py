"""What a relay apart and a mediator say to each other, in frames as on the control connection (docs/protocol.md).

The relay registers and tells its load; the mediator tells it the ports of pairs with stock WireGuard apps, which a
relay cannot know by itself. Grants need none of this.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta, Struct

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, is_weak_identity
from netctl.wire.control import Count, Error, Hex, Identity, Key, Port
from netctl.wire.packed import packed

REGISTER_ALPN = "netctl-relay-register/1"
VERSION = 1
NONCE_LEN = 32
LABEL = b"netctl relay registration"
ROWS = 500
"""Pairs of one message: about 85 KB, well below the largest frame."""
MAX_PARTS = 132
"""Messages of one list: there are no more ports than 65,535."""
LIFE_S = 45.0
"""Silence after which a registration is over. A relay tells its load every `LOAD_S`."""
LOAD_S = 10.0
MAX_UNHELD = 32
"""Spans of ports that a relay could not bind in one message. A host with more joins the nearest."""
Place = Annotated[str, Meta(max_length=63)]


class Hello(Struct, frozen=True, tag="hello"):
    """Mediator, first message: a fresh nonce for the relay to sign."""

    version: Count
    nonce: Hex


class Register(Struct, frozen=True, tag="register"):
    """Relay: its identity, proven; and for people where it is."""

    version: Count
    identity: Identity
    nonce: Hex
    signature: Hex
    place: Place = ""


class Load(Struct, frozen=True, omit_defaults=True, tag="load"):
    """Relay: what it does now. The mediator answers with `Heard`."""

    bindings: Count
    members: Count
    """Members whose traffic it has counted."""
    forwarded_bytes: Count
    bits_per_s: Count
    """Of the time since the load before."""
    unheld: Annotated[list[tuple[Port, Port]], Meta(max_length=MAX_UNHELD)] = []
    """Spans (first, last) of its relay ports that it could not bind: no grant is of use there."""


class Heard(Struct, frozen=True, tag="heard"):
    """Mediator: the registration is good for so many seconds from now."""

    life_s: Annotated[int, Meta(ge=1, le=3600)]


class PairRow(Struct, frozen=True, array_like=True):
    """The port of one pair, the keys and relay ports of its members, and which of them have no agent."""

    port: Port
    keys: tuple[Key, Key]
    ports: tuple[Annotated[int, Meta(ge=0, le=65535)], Annotated[int, Meta(ge=0, le=65535)]]
    """0: a member without a port of its own."""
    apps: tuple[bool, bool]


class Pairs(Struct, frozen=True, tag="pairs"):
    """Mediator: one part of all pairs with a stock app. Ports count from `first`, the mediator's first relay port."""

    generation: Count
    first: Port
    part: Annotated[int, Meta(ge=0, le=MAX_PARTS - 1)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    pairs: Annotated[list[PairRow], Meta(max_length=ROWS)]


Message = Hello | Register | Load | Heard | Pairs | Error
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as JSON."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """Decode a message and check its fields. Raises RemoteError for anything that is no message."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(f"not a message: {error}", "message.bad") from error


def transcript(pin: IdentityKey, mediator_nonce: bytes, nonce: bytes, relay: IdentityKey) -> bytes:
    """What the relay signs."""
    return packed(LABEL, VERSION.to_bytes(4, "big"), pin.raw, mediator_nonce, nonce, relay.raw)


def check(message: Register, mediator_nonce: bytes, pin: IdentityKey) -> IdentityKey:
    """The identity that a relay has proven to the mediator with the identity `pin`. Raises RemoteError."""
    if message.version != VERSION:
        raise RemoteError(
            f"this mediator speaks version {VERSION}, the relay {message.version}", "register.version"
        )
    relay, nonce = IdentityKey.parse(message.identity), bytes.fromhex(message.nonce)
    if len(nonce) != NONCE_LEN or is_weak_identity(relay):
        raise RemoteError("the nonce has a wrong length, or the identity is weak", "register.malformed")
    signed = transcript(pin, mediator_nonce, nonce, relay)
    try:
        Ed25519PublicKey.from_public_bytes(relay.raw).verify(bytes.fromhex(message.signature), signed)
    except (InvalidSignature, ValueError) as error:
        raise RemoteError(
            "the signature does not prove this identity to this mediator", "register.signature"
        ) from error
    return relay
