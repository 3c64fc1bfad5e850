"""Signed views: made by the mediator, checked and put together by the member, kept on disk as they came."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session.login import Signer
from netctl.wire.control import LeaseRow, MemberRow, ViewBody, ViewChunk, decode_view_body, encode

LABEL = b"netctl view"
ROWS_PER_CHUNK = 500
"""About 60 KB of JSON: well under a frame."""
TEXT_PER_CHUNK = 40_000
"""Characters of an excerpt: JSON in JSON in JSON triples at worst, and this still fits beside the rows."""


def sign_view(view: View, to: WireGuardKey, identity: IdentityKey, sign: Signer) -> list[ViewChunk]:
    """A view as signed chunks for one member."""
    members = [MemberRow(m.name, str(m.key), m.online) for m in view.members.values()]
    leases = [
        LeaseRow(lease.network, str(lease.key), [str(a) for a in lease.addresses])
        for lease in view.leases.values()
    ]
    rows_parts = -(-max(len(members), len(leases)) // ROWS_PER_CHUNK)
    parts = max(1, rows_parts, -(-len(view.document) // TEXT_PER_CHUNK))
    chunks = []
    for part in range(parts):
        rows = slice(part * ROWS_PER_CHUNK, (part + 1) * ROWS_PER_CHUNK)
        piece = view.document[part * TEXT_PER_CHUNK : (part + 1) * TEXT_PER_CHUNK]
        body = ViewBody(view.generation, part, parts, str(to), members[rows], leases[rows], piece)
        text = encode(body).decode()
        signature = sign(LABEL + text.encode()).hex()
        chunks.append(ViewChunk(view.generation, part, parts, text, str(identity), signature))
    return chunks


def _open(chunk: ViewChunk, pins: Sequence[IdentityKey], to: WireGuardKey) -> ViewBody:
    identity = IdentityKey.parse(chunk.identity)
    if identity not in pins:
        raise RemoteError("a view signed by an identity that is not pinned", "view.identity")
    try:
        signed = LABEL + chunk.body.encode()
        Ed25519PublicKey.from_public_bytes(identity.raw).verify(bytes.fromhex(chunk.signature), signed)
    except (InvalidSignature, ValueError) as error:
        raise RemoteError("a view whose signature is wrong", "view.signature") from error
    body = decode_view_body(chunk.body)
    if body.to != str(to):
        raise RemoteError("a view made for another member", "view.recipient")
    if (body.generation, body.part, body.parts) != (chunk.generation, chunk.part, chunk.parts):
        raise RemoteError("a view whose inside is not what its outside says", "view.mismatch")
    return body


def open_view(chunks: Sequence[ViewChunk], pins: Sequence[IdentityKey], to: WireGuardKey) -> View:
    """All chunks of one view, in order, to the view. Raises RemoteError for anything not whole and signed."""
    bodies = [_open(chunk, pins, to) for chunk in chunks]
    whole = bool(bodies) and all(
        (body.generation, body.part, body.parts) == (bodies[0].generation, index, len(bodies))
        for index, body in enumerate(bodies)
    )
    if not whole:
        raise RemoteError("a view with parts missing", "view.incomplete")
    members: dict[WireGuardKey, ViewMember] = {}
    leases: dict[tuple[str, WireGuardKey], Lease] = {}
    try:
        for body in bodies:
            for row in body.members:
                key = WireGuardKey.parse(row.key)
                members[key] = ViewMember(row.name, key, row.online)
            for lease in body.leases:
                key = WireGuardKey.parse(lease.key)
                addresses = tuple(ipaddress.ip_address(text) for text in lease.addresses)
                leases[lease.network, key] = Lease(lease.network, key, addresses)
    except ValueError as error:
        raise RemoteError(f"a view with a bad value: {error}", "view.bad") from error
    return View(bodies[0].generation, members, leases, "".join(body.document for body in bodies))
