"""Views: their rows, their digest, and the seal by which the mediator signs them (docs/protocol.md).

The mediator signs the digest of a whole view, not the messages that carry it. So a view can be sent in parts or as
differences, and the member checks the same digest in both cases. On disk it keeps one view and one seal, which stay
verifiable after any number of differences.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from netctl.model.addresses import Address, address_text, parse_address
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session.login import Signer
from netctl.wire.control import LeaseRow, MemberRow, Sealed, ViewChunk
from netctl.wire.packed import packed

LABEL = b"netctl view"
ROWS_PER_CHUNK = 500
"""At most 170 KB of JSON, with the longest names and addresses: a frame has 256 KiB."""
TEXT_PER_CHUNK = 20_000
"""Characters of an excerpt in a chunk: at most four bytes each, which still fit in a frame beside the rows."""
_RAW = attrgetter("raw")
"""The order of keys, for sorting thousands: Python then compares bytes, in a seventh of the time."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


def _network_and_raw(name: tuple[str, WireGuardKey]) -> tuple[str, bytes]:
    return name[0], name[1].raw


def member_line(name: str, key: str) -> bytes:
    """The line of a member in the digest."""
    return f"member {name} {key}\n".encode()


def lease_line(network: str, key: str, addresses: Iterable[Address]) -> bytes:
    """The line of a lease in the digest."""
    return " ".join(("lease", network, key, *map(address_text, addresses))).encode() + b"\n"


def digest_of(members: Iterable[bytes], leases: Iterable[bytes], document: str) -> str:
    """Hex of BLAKE2s-256 over the lines: members by raw key, leases by network and raw key, then the excerpt."""
    text = b"".join((*members, *leases, b"document\n", document.encode()))
    return hashlib.blake2s(text).hexdigest()


def view_digest(view: View) -> str:
    """The digest of a view's content: presence and generation are no part of it."""
    members = (member_line(view.members[key].name, str(key)) for key in sorted(view.members, key=_RAW))
    leases = (
        lease_line(network, str(key), view.leases[network, key].addresses)
        for network, key in sorted(view.leases, key=_network_and_raw)
    )
    return digest_of(members, leases, view.document)


def transcript(generation: int, digest: str) -> bytes:
    """What is signed."""
    return packed(LABEL, generation.to_bytes(8, "big"), bytes.fromhex(digest))


def seal(generation: int, digest: str, online: str, identity: IdentityKey, sign: Signer) -> Sealed:
    """Sign a view's digest, generation and presence."""
    return Sealed(
        generation, digest, str(identity), sign(transcript(generation, digest)).hex(), online=online
    )


def check_seal(sealed: Sealed, pins: Sequence[IdentityKey]) -> IdentityKey:
    """The identity that made the seal. Raises RemoteError for a bad signature."""
    try:
        identity = IdentityKey.parse(sealed.identity)
        if identity not in pins:
            raise RemoteError("a view signed by an identity that is not pinned", "view.identity")
        signed = transcript(sealed.generation, sealed.digest)
        Ed25519PublicKey.from_public_bytes(identity.raw).verify(bytes.fromhex(sealed.signature), signed)
    except (InvalidSignature, ValueError, OverflowError) as error:
        raise RemoteError("a view whose signature is wrong", "view.signature") from error
    return identity


def online_bits(flags: Iterable[bool]) -> str:
    """Presence as hex, one bit a member, the first one the highest."""
    text = "".join(map("01".__getitem__, flags))
    padded = text + "0" * (-len(text) % 8)
    return int(padded, 2).to_bytes(len(padded) // 8, "big").hex() if padded else ""


def read_online(sealed: Sealed, members: Iterable[WireGuardKey]) -> frozenset[WireGuardKey]:
    """The members that are online. Raises RemoteError for bits that do not fit the members."""
    keys = sorted(members, key=_RAW)
    bits = bytes.fromhex(sealed.online)
    if len(bits) != -(-len(keys) // 8):
        raise RemoteError("presence for another number of members", "view.online")
    return frozenset(key for index, key in enumerate(keys) if bits[index >> 3] & (0x80 >> (index & 7)))


def make_chunks(members: Sequence[MemberRow], leases: Sequence[LeaseRow], document: str) -> list[ViewChunk]:
    """The whole view in parts that fit a frame."""
    rows_parts = -(-max(len(members), len(leases)) // ROWS_PER_CHUNK)
    parts = max(1, rows_parts, -(-len(document) // TEXT_PER_CHUNK))
    chunks = []
    for part in range(parts):
        rows = slice(part * ROWS_PER_CHUNK, (part + 1) * ROWS_PER_CHUNK)
        piece = document[part * TEXT_PER_CHUNK : (part + 1) * TEXT_PER_CHUNK]
        chunks.append(ViewChunk(part, parts, list(members[rows]), list(leases[rows]), piece))
    return chunks


def pack_view(view: View) -> list[ViewChunk]:
    """The messages that carry a view, without its seal."""
    members = [MemberRow(view.members[key].name, str(key)) for key in sorted(view.members, key=_RAW)]
    leases = [
        LeaseRow(
            network, str(key), [address_text(address) for address in view.leases[network, key].addresses]
        )
        for network, key in sorted(view.leases, key=_network_and_raw)
    ]
    return make_chunks(members, leases, view.document)


def sign_view(view: View, identity: IdentityKey, sign: Signer) -> Sealed:
    """The seal for a view with its presence."""
    online = online_bits(bool(view.members[key].online) for key in sorted(view.members, key=_RAW))
    return seal(view.generation, view_digest(view), online, identity, sign)


def read_members(rows: Iterable[MemberRow]) -> dict[WireGuardKey, ViewMember]:
    """Rows to members. Raises RemoteError."""
    found: dict[WireGuardKey, ViewMember] = {}
    for row in rows:
        key = read_key(row.key)
        found[key] = ViewMember(read_name(row.name), key)
    return found


def read_leases(rows: Iterable[LeaseRow]) -> dict[tuple[str, WireGuardKey], Lease]:
    """Rows to leases. Raises RemoteError."""
    found: dict[tuple[str, WireGuardKey], Lease] = {}
    for row in rows:
        key, network = read_key(row.key), read_name(row.network)
        try:
            addresses = tuple(parse_address(text) for text in row.addresses)
        except ValueError as error:
            raise RemoteError(f"a view with a bad address: {error}", "view.bad") from error
        found[network, key] = Lease(network, key, addresses)
    return found


def read_chunks(chunks: Sequence[ViewChunk]) -> View:
    """All chunks of a view, in order, to the view, without generation and presence. Raises RemoteError."""
    members = read_members(row for chunk in chunks for row in chunk.members)
    leases = read_leases(row for chunk in chunks for row in chunk.leases)
    return View(0, members, leases, "".join(chunk.document for chunk in chunks))


def open_view(
    chunks: Sequence[ViewChunk], sealed: Sealed, pins: Sequence[IdentityKey], to: WireGuardKey
) -> View:
    """All chunks of one view, in order, and its seal, to the view. Raises RemoteError."""
    if [(chunk.part, chunk.parts) for chunk in chunks] != [(n, len(chunks)) for n in range(len(chunks))]:
        raise RemoteError("a view with parts missing", "view.incomplete")
    return judge(read_chunks(chunks), sealed, pins, to)


def judge(view: View, sealed: Sealed, pins: Sequence[IdentityKey], to: WireGuardKey) -> View:
    """The view, at the seal's generation and with its presence, if the seal is for it. Raises RemoteError."""
    check_seal(sealed, pins)
    if view_digest(view) != sealed.digest:
        raise RemoteError("a view that is not the sealed one", "view.mismatch")
    if to not in view.members:
        raise RemoteError("a view made for another member", "view.recipient")
    return with_presence(view, sealed)


def with_presence(view: View, sealed: Sealed) -> View:
    """The view with the presence that came with its seal; where none came nobody's is known."""
    online = read_online(sealed, view.members) if sealed.online else None
    members: Mapping[WireGuardKey, ViewMember] = {
        key: _with(member, key in online if online is not None else None)
        for key, member in view.members.items()
    }
    return View(sealed.generation, members, view.leases, view.document)


def _with(member: ViewMember, online: bool | None) -> ViewMember:
    """The member with this presence; itself if it has that already."""
    return member if member.online is online else ViewMember(member.name, member.key, online)


def known(view: View, online: Mapping[WireGuardKey, bool | None]) -> View:
    """The view with what is known of its members' presence."""
    members = {key: _with(one, online.get(key)) for key, one in view.members.items()}
    return replace(view, members=members)


def read_key(text: str) -> WireGuardKey:
    """A key in a view. Raises RemoteError."""
    try:
        return WireGuardKey.parse(text)
    except ValueError as error:
        raise RemoteError(f"a view with a bad key: {error}", "view.bad") from error


def read_name(text: str) -> str:
    """A name in a view. Raises RemoteError."""
    if not _NAME.match(text):
        raise RemoteError("a view with a name that is no host name", "view.bad")
    return text
