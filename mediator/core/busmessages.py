"""The messages between mediators of one store, over the bus: typed, and bounded in size.

A bus may lose, double and reorder messages, and stores none. Each message has its sender's run id, which is random for
each process, and a number. Some messages are counted: each takes the next number, so a receiver sees which messages it
has missed and which it has received before. The other messages name the number of the sender's last counted message.

| message      | counted| content                                               | when it is lost                    |
|--------------|--------|-------------------------------------------------------|------------------------------------|
| `Beat`       | no     | each second: state, number, count of members logged in| three missing: "unknown, check"    |
| `Changed`    | yes    | the number of the store's newest state                | the next beat names it             |
| `Presence`   | yes    | keys that logged in or out, with their epochs         | a gap: the sender is asked         |
| `Ask`        | no     | `whom` is to send all members that are logged in there| asked again                        |
| `Everybody`  | no     | all members logged in at the sender, in parts         | asked again                        |
| `LoginAsked` | yes    | a key logs in here: does your older connection answer?| the newer one is let in            |
| `Held`       | yes    | the answer: the older connection lives, or has ended  | the newer one is let in            |
| `Carry`      | yes    | a frame for a member at `whom`: introduction, punch   | the pair offers again              |
| `Leaving`    | no     | the sender ends: logins elsewhere need not wait for it| three beats missing                |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct as Layout
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey

VERSION = b"\x01"
"""The first byte of each message: mediators of different releases may use one bus."""
RUN_LEN = 16
"""Bytes of a run id, random, so that no two processes have the same."""
MAX_MESSAGE = 5_900
"""Bytes of a message: PostgreSQL's NOTIFY carries less than 8,000 of text, and base64 makes 4 bytes of 3."""
MAX_ROWS = 140
"""Most rows of one message, 40 bytes each."""
MAX_PARTS = 1_024
"""Most parts of `Everybody`: together they name more members than a view may have."""
MAX_FRAME = MAX_MESSAGE - 300
"""Most bytes of a frame for a member: the other fields of `Carry` need the rest."""
MAX_NUMBER = 2**52
"""The largest number of a state or message: a member's JSON keeps it exact."""
MAX_EPOCH = 2**53 - 1
"""The largest epoch. Mediators count on from received epochs up to `MAX_NUMBER` only, so that a false epoch leaves
room for later ones.
"""
MAX_NAME = 200

Run = Annotated[bytes, Meta(min_length=RUN_LEN, max_length=RUN_LEN)]
RawKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Source = Annotated[str, Meta(max_length=64)]
"""An IP address with its port; empty: unknown."""
_ROW = Layout(">32sQ")
"""A key, and twice the epoch, plus one if the member is logged in."""
Rows = Annotated[bytes, Meta(max_length=MAX_ROWS * _ROW.size)]


class _Said(Struct, frozen=True, array_like=True):
    """The fields of every message: the sender's run id, and the number (see the table above)."""

    run: Run
    number: Number


class Beat(_Said, frozen=True, array_like=True, tag="beat"):
    """The sender works."""

    state: Number
    """The number of the store's state that the sender shows; 0: it does not share a store."""
    name: Annotated[str, Meta(max_length=MAX_NAME)]
    """The sender's name for people: host and port of its entry in the document."""
    online: Number
    """Count of members that are logged in at the sender."""


class Changed(_Said, frozen=True, array_like=True, tag="changed"):
    """The store has a new state."""

    state: Number


class Presence(_Said, frozen=True, array_like=True, tag="presence"):
    """Members logged in or out at the sender."""

    rows: Rows


class Ask(_Said, frozen=True, array_like=True, tag="ask"):
    """`whom` is to send `Everybody`."""

    whom: Run


class Everybody(_Said, frozen=True, array_like=True, tag="everybody"):
    """A part of the list of all members that are logged in at the sender; `number` is the same in all parts."""

    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    rows: Rows


class LoginAsked(_Said, frozen=True, array_like=True, tag="login"):
    """A member logs in at the sender while `whom` has an older connection of it."""

    whom: Run
    question: Number
    """Chosen by the sender; the answer repeats it."""
    key: RawKey
    previous: Annotated[bytes, Meta(max_length=32)]
    """SHA-256 of `Login.previous`: it proves that the same process logs in, and keeps the secret off the bus."""
    source: Source


class Held(_Said, frozen=True, array_like=True, tag="held"):
    """The answer to `LoginAsked`."""

    whom: Run
    question: Number
    lives: bool
    """Whether the older connection has answered; if not, it has ended."""
    source: Source
    """The address from which the older connection comes."""


class Carry(_Said, frozen=True, array_like=True, tag="carry"):
    """An introduction or a punch for a member that is logged in at `whom`."""

    whom: Run
    sender: RawKey
    """The member that the frame is about. The receiver checks that the two members may see each other."""
    receiver: RawKey
    frame: Annotated[bytes, Meta(max_length=MAX_FRAME)]


class Leaving(_Said, frozen=True, array_like=True, tag="leaving"):
    """The sender ends in good order: its members log in elsewhere, and it answers no more questions."""


Message = Beat | Changed | Presence | Ask | Everybody | LoginAsked | Held | Carry | Leaving
COUNTED = (Changed, Presence, LoginAsked, Held, Carry)
"""The counted messages."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """A message as bytes for the bus. Raises ValueError if it is too long."""
    payload = VERSION + _ENCODER.encode(message)
    if len(payload) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(payload)} bytes for the bus")
    return payload


def decode(payload: bytes) -> Message:
    """A message from the bus. Raises RemoteError if it is malformed, too long, or of another release."""
    if len(payload) > MAX_MESSAGE:
        raise RemoteError(f"{len(payload)} bytes", "bus.long")
    if payload[:1] != VERSION:
        raise RemoteError("not a message of this release's bus", "bus.version")
    try:
        message = _DECODER.decode(payload[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteError(f"not a message of the bus: {error}", "bus.bad") from error
    if isinstance(message, Presence | Everybody):
        _check(message.rows)
    return message


def pack(rows: Iterable[tuple[WireGuardKey, int, bool]]) -> bytes:
    """Rows of key, epoch, and whether the member is logged in; at most `MAX_ROWS`."""
    return b"".join(_ROW.pack(key.raw, epoch << 1 | here) for key, epoch, here in rows)


def unpack(rows: bytes) -> Iterator[tuple[WireGuardKey, int, bool]]:
    """The rows of a message that `decode` has checked."""
    for raw, word in _ROW.iter_unpack(rows):
        yield WireGuardKey(raw), word >> 1, bool(word & 1)


def _check(rows: bytes) -> None:
    if len(rows) % _ROW.size:
        raise RemoteError("rows that are cut off", "bus.bad")
    for _, word in _ROW.iter_unpack(rows):
        if word >> 1 > MAX_EPOCH:
            raise RemoteError("an epoch beyond all counting", "bus.bad")
