"""Messages of the control connection, typed (schemas/control.schema.json; docs/protocol.md)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from netctl.model.errors import RemoteError

PROTOCOL_VERSION = 1
MAX_CANDIDATES = 32
"""A host with more addresses than this picks the likeliest."""

Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
Identity = Annotated[str, Meta(pattern=r"^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})+$", max_length=256)]
Socket = Annotated[str, Meta(min_length=9, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=63)]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Token = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
MAX_COUNT = 2**53 - 1
"""The largest whole number that every JSON library keeps exact (RFC 8259 §6, RFC 7493 §2.2): no number grows a string
of thousands of digits, which Python refuses to write."""
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
MAX_VIEW_PARTS = 256
"""Of 500 rows each: more than any document may have; it bounds what a member keeps of an unfinished view."""
MAX_VIEW_MEMBERS = 131_072


class Candidate(Struct, frozen=True, forbid_unknown_fields=True):
    """An address where a member might be reached."""

    kind: Literal["host", "srflx", "prflx", "mapped", "explicit"]
    address: Socket


Port = Annotated[int, Meta(ge=1, le=65535)]


class Nat(Struct, frozen=True, omit_defaults=True):
    """How the sender's NAT gives out ports, and where its next mapping will be.

    `fixed`: one outside for everybody, at `address` and `first`. All others give each destination another port out
    of the window `first`, `first + step`, … of `count` ports. `birthday`: the sender takes part in an attempt now.
    """

    allocation: Literal["fixed", "sequential", "block", "random"]
    address: Annotated[str, Meta(min_length=2, max_length=45)]
    first: Port
    step: Annotated[int, Meta(ge=-16, le=16)] = 1
    count: Port = 1
    birthday: bool = False


class Hello(Struct, frozen=True, tag="hello"):
    """Mediator, first: a fresh nonce (32 bytes) to be signed."""

    version: Count
    nonce: Hex


class Login(Struct, frozen=True, tag="login"):
    """Member: who it is, and the signature that proves it (`netctl.session.login`)."""

    version: Count
    identity: Identity
    wireguard: Key
    nonce: Hex
    signature: Hex
    view: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The digest of the view that the member still has: the same one is not sent again. A hint, not signed."""
    previous: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The nonce of the `Hello` that this process was welcomed on last: it is no other host that has the same key."""


class EnrolStart(Struct, frozen=True, tag="enrol-start"):
    """A host that has no login yet, or wants another key: a challenge, please."""

    version: Count


class EnrolChallenge(Struct, frozen=True, tag="enrol-challenge"):
    """Mediator: a fresh X25519 key for this connection, to prove a WireGuard key against."""

    ephemeral: Key


class Enrol(Struct, frozen=True, tag="enrol"):
    """A host with an invite: its two keys, each proven (`netctl.session.enrol`)."""

    version: Count
    identity: Identity
    wireguard: Key
    name: Label
    """What it wants to be called."""
    token: Token
    nonce: Hex
    signature: Hex
    mac: Hex
    exact: bool = False
    """No other name will do; else a number is put behind one that is taken."""


class Enrolled(Struct, frozen=True, tag="enrolled"):
    """Mediator: it is a member, or (`admitted` false) will be when the operator approves."""

    name: Label
    network: Name
    admitted: bool


class Rotate(Struct, frozen=True, tag="rotate"):
    """A member that joined by invite: two new keys, each proven, and the word of the old identity."""

    version: Count
    previous: Key
    identity: Identity
    wireguard: Key
    nonce: Hex
    signature: Hex
    mac: Hex
    previous_signature: Hex


class Rotated(Struct, frozen=True, tag="rotated"):
    """Mediator: name and leases belong to the new key now."""

    name: Label


class Welcome(Struct, frozen=True, tag="welcome"):
    """Mediator: the login is good."""

    generation: Count
    epoch: Count
    observed: Socket
    """Where the control connection comes from, as the mediator sees it."""
    stun: Annotated[list[Socket], Meta(max_length=8)] = []
    keepalive_s: Annotated[float, Meta(ge=1, le=3600)] = 20.0
    store: Annotated[str, Meta(max_length=256)] = ""
    """Names the mediator's store: replicas of one share it."""


class MemberRow(Struct, frozen=True):
    """A member in a view."""

    name: Label
    key: Key


class LeaseRow(Struct, frozen=True):
    """A lease in a view."""

    network: Label
    key: Key
    addresses: Annotated[list[Annotated[str, Meta(max_length=45)]], Meta(max_length=2)]


class LeaseName(Struct, frozen=True):
    """Which lease is meant."""

    network: Label
    key: Key


class ViewChunk(Struct, frozen=True, tag="view"):
    """Mediator: part `part` of `parts` of all that this member may see. A `Sealed` follows the last one."""

    part: Count
    parts: Annotated[int, Meta(ge=1, le=MAX_VIEW_PARTS)]
    members: list[MemberRow]
    leases: list[LeaseRow]
    document: str = ""
    """For a member that joined by invite and has no document: this part of its excerpt of the mediator's."""


class ViewDelta(Struct, frozen=True, tag="delta"):
    """Mediator: what has changed since the view with the digest `base`. A `Sealed` follows at once."""

    base: Digest
    members: list[MemberRow] = []
    """New ones, and old ones as they are now."""
    gone: list[Key] = []
    leases: list[LeaseRow] = []
    released: list[LeaseName] = []
    document: str | None = None
    """The whole new excerpt; None: it is the same."""


class Sealed(Struct, frozen=True, tag="sealed"):
    """Mediator: the view is this one now. Signed by its identity, so it can be kept and shown to be its word."""

    generation: Count
    digest: Digest
    """Of all rows that the member has by now (`netctl.session.views.view_digest`)."""
    identity: Identity
    signature: Hex
    online: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*$", max_length=MAX_VIEW_MEMBERS // 4)] = ""
    """Who is logged in, not signed: one bit a member, in the order of the raw keys, the first one the highest."""


class Presence(Struct, frozen=True, tag="presence"):
    """Mediator: a member came or went. `online` false means: check it, not: tear it down."""

    peer: Key
    online: bool


class Candidates(Struct, frozen=True, omit_defaults=True, tag="candidates"):
    """Member: where `peer` may try to reach it."""

    peer: Key
    round: Count
    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)]
    nat: Nat | None = None


class Introduction(Struct, frozen=True, omit_defaults=True, tag="introduction"):
    """Mediator: where the member `peer` may be reached."""

    peer: Key
    round: Count
    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)]
    nat: Nat | None = None


class Punch(Struct, frozen=True, tag="punch"):
    """Mediator, to both at one moment: start now plus this."""

    peer: Key
    after_ms: Annotated[int, Meta(ge=0, le=10_000)]


class RelayRequest(Struct, frozen=True, tag="relay-request"):
    """Member: the right to send to `peer` through the relay."""

    peer: Key


class RelayGrant(Struct, frozen=True, tag="relay-grant"):
    """Mediator: that right."""

    peer: Key
    address: Socket
    """The relay's address and the peer's relay port."""
    allocation: Hex
    key: Hex
    expires_s: Count


class Ping(Struct, frozen=True, omit_defaults=True, tag="ping"):
    """Either side: are you there?"""

    id: Count
    other: Annotated[str, Meta(max_length=45)] = ""
    """Mediator: another host with this key tries to log in, from this address. It waits."""


class Pong(Struct, frozen=True, tag="pong"):
    """The answer to a ping."""

    id: Count


class Refresh(Struct, frozen=True, tag="refresh"):
    """Member: send the whole view again."""


class Leave(Struct, frozen=True, tag="leave"):
    """Member that joined by invite: it is one no longer."""


class Error(Struct, frozen=True, tag="error"):
    """Either side, last: why the connection ends. `code` is stable, `message` is for people."""

    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=512)]


Message = (
    Hello
    | Login
    | EnrolStart
    | EnrolChallenge
    | Enrol
    | Enrolled
    | Rotate
    | Rotated
    | Welcome
    | ViewChunk
    | ViewDelta
    | Sealed
    | Presence
    | Candidates
    | Introduction
    | Punch
    | RelayRequest
    | RelayGrant
    | Ping
    | Pong
    | Refresh
    | Leave
    | Error
)

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def encode(message: Message) -> bytes:
    """JSON."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """Decode and check. Raises RemoteError for anything that is no message."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(f"not a message: {error}", "message.bad") from error
