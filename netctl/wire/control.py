"""Messages of the control connection, as typed structs (schemas/control.schema.json; docs/protocol.md)."""

from __future__ import annotations

import zlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from netctl.model.errors import RemoteError
from netctl.wire.frame import LIMIT_AFTER_LOGIN

PROTOCOL_VERSION = 1
MINOR_VERSION = 2
"""Of the messages that only a side which knows them is sent: 1 has `rows`, `interest` and `presences`; 2 has compressed
messages.
"""
COMPRESSED = b"x"
"""The first byte of a compressed message, by which it differs from JSON: a zlib stream with a window of 32 KiB
(RFC 1950 §2.2).
"""
MAX_CANDIDATES = 32
"""Candidates of one message: a host with more addresses sends the likeliest."""

Key = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
Identity = Annotated[str, Meta(pattern=r"^ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$")]
RelayName = Annotated[str, Meta(pattern=r"^(ed25519:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)?$")]
"""The identity of a relay apart, or the name of a relay beside a mediator, which is written like an identity
(`netctl.model.derive.relay_beside`). Empty: the relay beside the mediator that the message goes to or comes from.
"""
MAX_RELAYS = 16
"""As many mediators as a document may have."""
Hex = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})+$", max_length=256)]
Socket = Annotated[str, Meta(min_length=9, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=63)]
Label = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Token = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
MAX_COUNT = 2**53 - 1
"""The largest whole number that every JSON library keeps exact (RFC 8259 §6, RFC 7493 §2.2). Without a limit, a number
could have thousands of digits, which Python refuses to print."""
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
MAX_VIEW_PARTS = 256
"""Parts of 500 rows each: more than any document may have. Bounds the memory of a member for an unfinished view."""
MAX_VIEW_MEMBERS = 131_072
MAX_INTEREST = 1_024
"""Members whose presence one connection may ask for by name. Who needs more asks for all."""
INTEREST_ALL_S = 60.0
"""How long interest in all members lasts. Who still looks asks again before; who has stopped costs nothing later. The
member counts from its question, so its time ends no later than the mediator's.
"""


class Candidate(Struct, frozen=True, forbid_unknown_fields=True):
    """An address where a member might be reached."""

    kind: Literal["host", "srflx", "prflx", "mapped", "explicit"]
    address: Socket


Port = Annotated[int, Meta(ge=1, le=65535)]


class Nat(Struct, frozen=True, omit_defaults=True):
    """How the sender's NAT gives out ports, and where its next mapping will be.

    `fixed`: one mapping for all destinations, at `address` and port `first`. Every other allocation gives each
    destination another port out of the window `first`, `first + step`, … of `count` ports. `birthday`: the sender
    takes part in a birthday attempt now.
    """

    allocation: Literal["fixed", "sequential", "block", "random"]
    address: Annotated[str, Meta(min_length=2, max_length=45)]
    first: Port
    step: Annotated[int, Meta(ge=-16, le=16)] = 1
    count: Port = 1
    birthday: bool = False


class RelayTime(Struct, frozen=True, omit_defaults=True):
    """How far a relay is from the sender."""

    rtt_ms: Annotated[int, Meta(ge=0, le=60_000)]
    relay: RelayName = ""
    load: Annotated[int, Meta(ge=0, le=3)] = 0
    """As the relay told it (`stun.RELAY_LOAD`)."""


class Hello(Struct, frozen=True, tag="hello"):
    """Mediator, first message: a fresh nonce (32 bytes) for the member to sign."""

    version: Count
    nonce: Hex


class Login(Struct, frozen=True, tag="login"):
    """Member: its keys, and the signature that proves its identity (`netctl.session.login`)."""

    version: Count
    identity: Identity
    wireguard: Key
    nonce: Hex
    signature: Hex
    view: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The digest of the view that the member still has: the mediator does not send that view again. Not signed."""
    previous: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")] = ""
    """The nonce of the `Hello` of this process's last login: proves that this is the same process, not another host."""
    newest: Count = 0
    """The highest generation that the member has seen: a mediator that is behind looks at its store first. A hint."""
    minor: Count = 0
    """The newest minor version of the protocol that the member knows (`MINOR_VERSION`). Not signed."""


class EnrolStart(Struct, frozen=True, tag="enrol-start"):
    """A host that is no member yet, or a member that rotates its keys: asks for an `EnrolChallenge`."""

    version: Count


class EnrolChallenge(Struct, frozen=True, tag="enrol-challenge"):
    """Mediator: a fresh X25519 key for this connection, with which the host proves its WireGuard key."""

    ephemeral: Key


class Enrol(Struct, frozen=True, tag="enrol"):
    """A host with an invite: its two keys, each proven (`netctl.session.enrol`)."""

    version: Count
    identity: Identity
    wireguard: Key
    name: Label
    """The name that the host asks for."""
    token: Token
    nonce: Hex
    signature: Hex
    mac: Hex
    exact: bool = False
    """Refuse when the name is taken; False: the mediator appends a number to a taken name."""


class Enrolled(Struct, frozen=True, tag="enrolled"):
    """Mediator: the host is a member now, or (`admitted` false) once the operator approves."""

    name: Label
    network: Name
    admitted: bool


class Rotate(Struct, frozen=True, tag="rotate"):
    """A member that joined by invite: two new keys, each proven, and a signature by the old identity."""

    version: Count
    previous: Key
    identity: Identity
    wireguard: Key
    nonce: Hex
    signature: Hex
    mac: Hex
    previous_signature: Hex


class Rotated(Struct, frozen=True, tag="rotated"):
    """Mediator: the member's name and leases belong to the new key now."""

    name: Label


class Welcome(Struct, frozen=True, tag="welcome"):
    """Mediator: the login succeeded."""

    generation: Count
    epoch: Count
    observed: Socket
    """The source address of the control connection, as the mediator sees it."""
    stun: Annotated[list[Socket], Meta(max_length=8)] = []
    keepalive_s: Annotated[float, Meta(ge=1, le=3600)] = 20.0
    store: Annotated[str, Meta(max_length=256)] = ""
    """An identifier of the mediator's store: replicas of one mediator share it."""
    minor: Count = 0
    """The newest minor version of the protocol that the mediator knows."""
    spread: bool = False
    """Whether the mediator gives grants at the relays beside the other mediators of the document."""


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
    """The identity of a lease."""

    network: Label
    key: Key


class ViewChunk(Struct, frozen=True, tag="view"):
    """Mediator: part `part` of `parts` of this member's view. A `Sealed` follows the last part."""

    part: Count
    parts: Annotated[int, Meta(ge=1, le=MAX_VIEW_PARTS)]
    members: list[MemberRow]
    leases: list[LeaseRow]
    document: str = ""
    """For a member that joined by invite and has no document: this part of its excerpt of the mediator's document."""


class RowNetwork(Struct, frozen=True, array_like=True):
    """A network of the rows of one message."""

    name: Label
    prefix: Annotated[str, Meta(max_length=49)]
    """The IPv6 prefix in which `+` stands for the address that a member's key gives; empty: none."""


class Row(Struct, frozen=True, array_like=True):
    """A member in a view, with its leases."""

    name: Label
    key: Key
    leases: Annotated[str, Meta(max_length=65_536)]
    """By commas: the network's index in the message, then the addresses, by single spaces."""


class ViewRows(Struct, frozen=True, tag="rows"):
    """Mediator, to members of minor version 1: part `part` of `parts` of the view. A `Sealed` follows the last part."""

    part: Count
    parts: Annotated[int, Meta(ge=1, le=MAX_VIEW_PARTS)]
    networks: list[RowNetwork]
    rows: list[Row]
    """By raw key. A member with more leases than fit into a part has another row in the next part."""
    document: str = ""
    """As in `ViewChunk`."""


class ViewDelta(Struct, frozen=True, tag="delta"):
    """Mediator: the changes since the view with the digest `base`. A `Sealed` follows at once."""

    base: Digest
    members: list[MemberRow] = []
    """New members, and changed members as they are now."""
    gone: list[Key] = []
    leases: list[LeaseRow] = []
    released: list[LeaseName] = []
    document: str | None = None
    """The whole new excerpt of the document; None: the excerpt has not changed."""


class Sealed(Struct, frozen=True, tag="sealed"):
    """Mediator: the digest of the member's view. Signed by the mediator's identity: a member can keep it as proof."""

    generation: Count
    digest: Digest
    """The digest of all rows that the member has received (`netctl.session.views.view_digest`)."""
    identity: Identity
    signature: Hex
    online: Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*$", max_length=MAX_VIEW_MEMBERS // 4)] = ""
    """Which members are logged in: one bit a member, ordered by raw key, the first the highest bit. Not signed.
    Empty: ask for it by `Interest`.
    """


class Presence(Struct, frozen=True, tag="presence"):
    """Mediator: a member logged in or out. `online` false: check the path to the peer, do not tear it down."""

    peer: Key
    online: bool


Keys = Annotated[list[Key], Meta(max_length=MAX_INTEREST)]


class Interest(Struct, frozen=True, omit_defaults=True, tag="interest"):
    """Member, where `Sealed` has no presence: the members whose presence it wants to hear. A login begins with none."""

    add: Keys = []
    """Answered by `Presences`, as far as the sender sees these members."""
    drop: Keys = []
    """Taken before `add`."""
    all: bool = False
    """Every member of the view, for a minute. Answered by `Sealed`."""


class Presences(Struct, frozen=True, omit_defaults=True, tag="presences"):
    """Mediator: which of the members that were asked for are logged in."""

    online: Keys = []
    offline: Keys = []


class Candidates(Struct, frozen=True, omit_defaults=True, tag="candidates"):
    """Member: the addresses at which `peer` may try to reach the sender."""

    peer: Key
    round: Count
    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)]
    nat: Nat | None = None
    relays: Annotated[list[RelayTime], Meta(max_length=MAX_RELAYS)] = []
    """How far the relays are from the sender."""


class Introduction(Struct, frozen=True, omit_defaults=True, tag="introduction"):
    """Mediator: the addresses at which the member `peer` may be reached."""

    peer: Key
    round: Count
    candidates: Annotated[list[Candidate], Meta(max_length=MAX_CANDIDATES)]
    nat: Nat | None = None
    relays: Annotated[list[RelayTime], Meta(max_length=MAX_RELAYS)] = []
    """How far the relays are from the sender."""


class Punch(Struct, frozen=True, tag="punch"):
    """Mediator, to both members at the same moment: start punching `after_ms` from now."""

    peer: Key
    after_ms: Annotated[int, Meta(ge=0, le=10_000)]


class RelayRequest(Struct, frozen=True, omit_defaults=True, tag="relay-request"):
    """Member: asks for the right to send to `peer` through a relay."""

    peer: Key
    relay: RelayName = ""


class RelayGrant(Struct, frozen=True, omit_defaults=True, tag="relay-grant"):
    """Mediator: the right to send to `peer` through a relay. `expires_s`: Unix time."""

    peer: Key
    address: Socket
    """The relay's address and the peer's relay port. Of a relay apart the port alone counts: the document says where
    it is."""
    allocation: Hex
    key: Hex
    expires_s: Count
    relay: RelayName = ""


class Ping(Struct, frozen=True, omit_defaults=True, tag="ping"):
    """Either side: asks for a `Pong`."""

    id: Count
    other: Annotated[str, Meta(max_length=45)] = ""
    """Mediator: the address from which another host with this key tries to log in. That login waits."""


class Pong(Struct, frozen=True, tag="pong"):
    """The answer to a ping."""

    id: Count


class Refresh(Struct, frozen=True, tag="refresh"):
    """Member: asks for the whole view again."""


class Leave(Struct, frozen=True, tag="leave"):
    """Member that joined by invite: gives up its membership."""


class Error(Struct, frozen=True, tag="error"):
    """Either side, last message: why the connection ends. `code` is stable, `message` is for people."""

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
    | ViewRows
    | ViewDelta
    | Sealed
    | Presence
    | Interest
    | Presences
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
    """A message as JSON."""
    return _ENCODER.encode(message)


def compressed(data: bytes) -> bytes:
    """An encoded message, compressed for members of minor version 2. The fastest level: keys do not compress further
    than from base64 to their 32 bytes, which every level does.
    """
    return zlib.compress(data, level=1)


def decode_any(data: bytes) -> Message:
    """As `decode`, of a message that may be compressed."""
    return decode(plain(data))


def plain(data: bytes) -> bytes:
    """An encoded message without its compression, if it has any. Raises RemoteError for one that is cut off, or longer
    than a frame may be.
    """
    if not data.startswith(COMPRESSED):
        return data
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, LIMIT_AFTER_LOGIN + 1)
    except zlib.error as error:
        raise RemoteError(f"not a message: {error}", "message.bad") from error
    if len(found) > LIMIT_AFTER_LOGIN:
        raise RemoteError("a compressed message that is longer than a frame may be", "frame.too-long")
    if not stream.eof or stream.unused_data:
        raise RemoteError("a compressed message that is cut off or goes on", "message.bad")
    return found


def decode(data: bytes) -> Message:
    """Decode a message and check its fields. Raises RemoteError for anything that is no message."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RemoteError(f"not a message: {error}", "message.bad") from error
