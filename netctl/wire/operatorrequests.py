"""What an operator asks of the mediator at its socket, and what it replies."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct, field, structs

from netctl.wire.jsonline import Operations, Request

Text = Annotated[str, Meta(min_length=1)]
Reply = TypeVar("Reply")
Kind = TypeVar("Kind")


class Change(Request[Reply], Generic[Reply], frozen=True, kw_only=True):
    """A request that the audit log tells of. `by`: who asks, in the asker's own words."""

    by: Annotated[str, Meta(max_length=64)] = ""


def signed(request: Kind, by: str) -> Kind:
    """With the asker's name, where the audit log wants one."""
    return structs.replace(request, by=by) if isinstance(request, Change) else request


class InviteRow(Struct, frozen=True):
    """An invite. `network` None: it is gone; `expires_s`: Unix time; `state`: open, used, expired or revoked."""

    id: str
    network: str | None
    uses: int
    used: int
    name: str | None
    expires_s: float
    state: str


class NewInvite(InviteRow, frozen=True):
    """An invite just made, with the string that admits a host: it is nowhere else."""

    invite: str
    approve: str


class CreateInvite(Change[NewInvite], frozen=True, tag="invite.create"):
    """Make an invite. `expires`: ``30m``, ``24h``, ``7d``."""

    network: Text
    uses: int = 1
    expires: str | None = None
    name: str | None = None


class ListInvites(Request[list[InviteRow]], frozen=True, tag="invite.list"):
    """All invites."""


class RevokeInvite(Change[str], frozen=True, tag="invite.revoke"):
    """Make an invite good for nothing; its id comes back."""

    id: Text


class MemberRow(Struct, frozen=True):
    """A member. `source`: document or invite; `networks`: its addresses in each."""

    name: str
    wireguard: str
    identity: str | None
    state: str
    networks: dict[str, list[str]]
    condition: str | None
    source: str = field(name="from")


class ListMembers(Request[list[MemberRow]], frozen=True, tag="members.list"):
    """All members, also those who wait and those who are shut out."""


class Approve(Change[str], frozen=True, tag="members.approve"):
    """Let in who waits: a name or a key. The name comes back, as from the next three."""

    who: Text


class Reject(Change[str], frozen=True, tag="members.reject"):
    """Shut out who waits, and the key with it."""

    who: Text


class Revoke(Change[str], frozen=True, tag="members.revoke"):
    """Shut a member out."""

    who: Text


class Restore(Change[str], frozen=True, tag="members.restore"):
    """Let a member come back that was shut out."""

    who: Text


class Rekey(Change[str], frozen=True, tag="members.rekey"):
    """Give a member new keys; its addresses move along."""

    who: Text
    wireguard: Text
    identity: Text


class GuestRow(Struct, frozen=True):
    """A member that joined by invite and is in no document."""

    name: str
    wireguard: str
    identity: str
    networks: list[str]


class ExportReply(Struct, frozen=True):
    """Who joined by invite, and the path of the document that the mediator has."""

    document: str
    guests: list[GuestRow]


class Export(Request[ExportReply], frozen=True, tag="export"):
    """Who joined by invite."""


class StockPeer(Struct, frozen=True):
    """A peer of a stock app: `endpoint` is the relay's port of this pair."""

    name: str
    wireguard: str
    endpoint: str
    allowed: list[str]
    keepalive_s: int


class StockConfig(Struct, frozen=True):
    """A stock WireGuard app's configuration, without its private key."""

    member: str
    wireguard: str
    networks: list[str]
    addresses: list[str]
    mtu: int
    peers: list[StockPeer]
    without_port: list[str]


class ExportWireGuard(Request[StockConfig], frozen=True, tag="export.wg"):
    """A stock app's configuration."""

    member: Text


class ServedDocument(Struct, frozen=True):
    """The document in force. `refused`: why the file as it is now is not."""

    path: str
    digest: str
    since_s: float
    refused: str | None = None


class ServerStatus(Struct, frozen=True):
    """What the mediator is doing."""

    online: int
    members: int
    networks: int
    document: ServedDocument
    relay_state: str
    relay_ports: dict[str, str]
    without_address: list[str]
    without_port: int
    store: str | None = None
    """Why the store takes nothing now."""


class ServerStatusRequest(Request[ServerStatus], frozen=True, tag="status"):
    """How the mediator is."""


class Ban(Struct, frozen=True):
    """An address that may not connect for a while."""

    source: str
    left_s: float
    refused: int


class Slowed(Struct, frozen=True):
    """A member that logs in too often."""

    member: str
    refused: int


class BansReply(Struct, frozen=True):
    """What is held against whom. `unauthenticated`: how many connections have not logged in yet."""

    bans: list[Ban]
    slowed: list[Slowed]
    unauthenticated: int = field(name="strangers")


class ListBans(Request[BansReply], frozen=True, tag="bans.list"):
    """Who may not connect now."""


class LiftedReply(Struct, frozen=True):
    """Whom nothing is held against any more."""

    source: str


class LiftBan(Request[LiftedReply], frozen=True, tag="bans.lift"):
    """Forget what is held against an address or a member."""

    source: Text


class AuditRow(Struct, frozen=True):
    """A line of the audit log (`mediator.core.audit.Entry`). `at_s`: Unix time."""

    number: int
    at_s: int
    who: str
    what: str
    subject: str
    detail: str


class ListAudit(Request[list[AuditRow]], frozen=True, tag="audit.list"):
    """Lines with a higher number than `after`, not older than `since_s` (Unix time): the first of them; ask again."""

    since_s: int = 0
    after: int = 0


OPERATIONS = Operations(
    "mediator",
    *(CreateInvite, ListInvites, RevokeInvite),
    *(ListMembers, Approve, Reject, Revoke, Restore, Rekey),
    *(Export, ExportWireGuard, ServerStatusRequest, ListBans, LiftBan, ListAudit),
)
