"""What mediators of one store tell each other over the bus: typed, bounded, and in few bytes.

A bus loses, doubles and reorders, and nothing is stored on it. Each message has its sender's run id, which is random
for each process, and a number. Some messages count: each has the next number, so a receiver sees what it has missed
and what it has had already. The others name the number of the sender's last message that counted.

| message      | counts | content                                               | when it is lost                    |
|--------------|--------|-------------------------------------------------------|------------------------------------|
| `Beat`       | no     | each second: the state shown, the number, members here| three missing: "unknown, check"    |
| `Changed`    | yes    | a state's number                                      | the next beat names it             |
| `Presence`   | yes    | keys that came and went, with their epochs            | a gap: the sender is asked         |
| `Ask`        | no     | whom: everybody who is there, please                  | asked again                        |
| `Everybody`  | no     | all keys of a sender, in parts, as of a number        | asked again                        |
| `LoginAsked` | yes    | a key logs in here: does your older connection live?  | the newer one is let in            |
| `Held`       | yes    | the answer: the older connection lives, or is released| the newer one is let in            |
| `Carry`      | yes    | one frame for a member there: an introduction, a punch| the pair offers again              |
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
"""The first byte of each message: mediators of different releases may be on one bus."""
RUN_LEN = 16
"""Bytes of a run id: no two processes have the same."""
MAX_MESSAGE = 5_900
"""Bytes of a message: PostgreSQL's NOTIFY carries less than 8,000 of text, and base64 makes 4 bytes of 3."""
MAX_ROWS = 140
"""Of 40 bytes, in one message."""
MAX_PARTS = 1_024
"""Of `Everybody`: more members than a view may have."""
MAX_NUMBER = 2**52
"""Of an epoch, state or message: one that a member's JSON keeps exact, with room to count on."""
MAX_NAME = 200

Run = Annotated[bytes, Meta(min_length=RUN_LEN, max_length=RUN_LEN)]
RawKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
Source = Annotated[str, Meta(max_length=64)]
"""An IP address with its port; empty: not known."""
_ROW = Layout(">32sQ")
"""Key, and twice the epoch: plus one for a member that is there."""
Rows = Annotated[bytes, Meta(max_length=MAX_ROWS * _ROW.size)]


class Beat(Struct, frozen=True, array_like=True, tag="beat"):
    """A mediator works."""

    run: Run
    number: Number
    state: Number
    """The newest state of the store that it shows; 0: it does not share a store."""
    name: Annotated[str, Meta(max_length=MAX_NAME)]
    """What people call it: the URL of its entry in the document."""
    online: Number
    """Members that are logged in there."""


class Changed(Struct, frozen=True, array_like=True, tag="changed"):
    """The store has a new state."""

    run: Run
    number: Number
    state: Number


class Presence(Struct, frozen=True, array_like=True, tag="presence"):
    """Members came or went."""

    run: Run
    number: Number
    rows: Rows


class Ask(Struct, frozen=True, array_like=True, tag="ask"):
    """`whom` is to tell who is logged in there."""

    run: Run
    number: Number
    whom: Run


class Everybody(Struct, frozen=True, array_like=True, tag="everybody"):
    """A part of all who are logged in there; `number` is the same in all parts."""

    run: Run
    number: Number
    part: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    rows: Rows


class LoginAsked(Struct, frozen=True, array_like=True, tag="login"):
    """A member logs in at the sender while `whom` has an older connection of it."""

    run: Run
    number: Number
    whom: Run
    question: Number
    """Chosen by the sender: the answer names it."""
    key: RawKey
    previous: Annotated[bytes, Meta(max_length=32)]
    """SHA-256 of `Login.previous`: it proves the same process, and the secret itself stays off the bus."""
    source: Source


class Held(Struct, frozen=True, array_like=True, tag="held"):
    """The answer to `LoginAsked`."""

    run: Run
    number: Number
    whom: Run
    question: Number
    lives: bool
    """The older connection has answered; else it is over."""
    source: Source
    """Where the older one is connected from."""


class Carry(Struct, frozen=True, array_like=True, tag="carry"):
    """An introduction or a punch for a member that is logged in at `whom`."""

    run: Run
    number: Number
    whom: Run
    sender: RawKey
    """The member that it is about: the receiver checks that the two may see each other."""
    receiver: RawKey
    frame: Annotated[bytes, Meta(max_length=MAX_MESSAGE - 300)]


Message = Beat | Changed | Presence | Ask | Everybody | LoginAsked | Held | Carry
COUNTED = (Changed, Presence, LoginAsked, Held, Carry)
"""Messages that take a number of their own."""

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """For the bus. Raises ValueError for one that is too long."""
    payload = VERSION + _ENCODER.encode(message)
    if len(payload) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(payload)} bytes for the bus")
    return payload


def decode(payload: bytes) -> Message:
    """What came from the bus. Raises RemoteError: garbage, too long, or another release's."""
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
    """Keys with their epoch and whether they are there. At most `MAX_ROWS`."""
    return b"".join(_ROW.pack(key.raw, epoch << 1 | here) for key, epoch, here in rows)


def unpack(rows: bytes) -> Iterator[tuple[WireGuardKey, int, bool]]:
    """The rows of a message that `decode` let through."""
    for raw, word in _ROW.iter_unpack(rows):
        yield WireGuardKey(raw), word >> 1, bool(word & 1)


def _check(rows: bytes) -> None:
    if len(rows) % _ROW.size:
        raise RemoteError("rows that are cut off", "bus.bad")
    for _, word in _ROW.iter_unpack(rows):
        if word >> 1 > MAX_NUMBER:
            raise RemoteError("an epoch beyond all counting", "bus.bad")
