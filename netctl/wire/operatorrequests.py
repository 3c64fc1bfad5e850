"""Requests of an operator to the mediator at its local socket, and the mediator's replies."""

from __future__ import annotations

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Struct, field, structs

from netctl.wire.jsonline import Operations, Request

Text = Annotated[str, Meta(min_length=1)]
Reply = TypeVar("Reply")
Kind = TypeVar("Kind")


class Change(Request[Reply], Generic[Reply], frozen=True, kw_only=True):
    """A request that the audit log records. `by`: the name of the operator, as the client states it."""

    by: Annotated[str, Meta(max_length=64)] = ""


def signed(request: Kind, by: str) -> Kind:
    """The request with the operator's name, if it is one that the audit log records."""
    return structs.replace(request, by=by) if isinstance(request, Change) else request


class InviteRow(Struct, frozen=True):
    """An invite. `network` None: the network is gone; `expires_s`: Unix time; `state`: open, used, expired, revoked."""

    id: str
    network: str | None
    uses: int
    used: int
    name: str | None
    expires_s: float
    state: str


class NewInvite(InviteRow, frozen=True):
    """A new invite with `invite`, the string that admits a host and that the mediator does not keep."""

    invite: str
    approve: str


class CreateInvite(Change[NewInvite], frozen=True, tag="invite.create"):
    """Create an invite. `expires`: its lifetime, such as ``30m``, ``24h``, ``7d``."""

    network: Text
    uses: int = 1
    expires: str | None = None
    name: str | None = None


class ListInvites(Request[list[InviteRow]], frozen=True, tag="invite.list"):
    """All invites."""


class RevokeInvite(Change[str], frozen=True, tag="invite.revoke"):
    """Revoke an invite. The reply is its id."""

    id: Text


class MemberRow(Struct, frozen=True):
    """A member. `source`: document or invite; `networks`: its addresses by network."""

    name: str
    wireguard: str
    identity: str | None
    state: str
    networks: dict[str, list[str]]
    condition: str | None
    source: str = field(name="from")


class ListMembers(Request[list[MemberRow]], frozen=True, tag="members.list"):
    """Ask for all members, also those that wait for approval and those that are revoked."""


class Approve(Change[str], frozen=True, tag="members.approve"):
    """Admit a host that waits. `who`: a name or a key. The reply is the name, as for the next four requests."""

    who: Text


class Reject(Change[str], frozen=True, tag="members.reject"):
    """Reject a host that waits, and its key."""

    who: Text


class Revoke(Change[str], frozen=True, tag="members.revoke"):
    """Revoke a member."""

    who: Text


class Restore(Change[str], frozen=True, tag="members.restore"):
    """Admit a revoked member again."""

    who: Text


class Rekey(Change[str], frozen=True, tag="members.rekey"):
    """Give a member new keys; its addresses stay its own."""

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
    """The members that joined by invite and are in no document, and the path of the mediator's document."""

    document: str
    guests: list[GuestRow]


class Export(Request[ExportReply], frozen=True, tag="export"):
    """Ask for the members that joined by invite and are in no document."""


class StockPeer(Struct, frozen=True):
    """A peer in a stock app's configuration: `endpoint` is the relay's port of this pair."""

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
    unregistered: list[str] = []
    """Hosts of relays in it that have not registered with this mediator, so that they may not know the app's pairs."""


class ExportWireGuard(Request[StockConfig], frozen=True, tag="export.wg"):
    """Ask for the configuration of a member that uses a stock WireGuard app."""

    member: Text


class ServedDocument(Struct, frozen=True):
    """The document in force. `refused`: why the mediator refuses the file's present content, or None."""

    path: str
    digest: str
    since_s: float
    refused: str | None = None
    disagrees: str | None = None
    """With several mediators on one store: the file is good, and another document is in force."""
    store_refused: str | None = None
    """With several mediators on one store: why this one serves an older document than the others."""


class OtherMediator(Struct, frozen=True):
    """A mediator of the same store, as the bus shows it."""

    name: str
    run: str
    """Another one for each process."""
    alive: bool
    """False: it says nothing, and nobody knows about its members."""
    silent_s: float
    online: int
    """Members that are logged in there, as far as is known."""
    state: int
    """The newest state of the store that it shows."""
    current: bool
    """False: something that it said was missed, and is asked for."""


class RelayRow(Struct, frozen=True):
    """A relay apart of the document, as this mediator knows it."""

    relay: str
    identity: str
    registered: bool
    place: str = ""
    since_s: float | None = None
    expires_s: float | None = None
    """After so many seconds of silence the registration is over."""
    bindings: int | None = None
    members: int | None = None
    bits_per_s: int | None = None
    forwarded_bytes: int | None = None
    unheld: list[tuple[int, int]] = []
    """Spans of its relay ports that other programs hold."""


class ServerStatus(Struct, frozen=True):
    """The state of the mediator."""

    online: int
    members: int
    networks: int
    document: ServedDocument
    relay_state: str
    relay_ports: dict[str, str]
    without_address: list[str]
    without_port: int
    store: str | None = None
    """Why the store accepts no writes now, or None."""
    bus: str | None = None
    """None: there are no other mediators."""
    bus_away: str | None = None
    """Why the bus carries nothing now."""
    bus_lost: int = 0
    """Messages that did not go out."""
    bus_dropped: int = 0
    """What came and was no message of this release."""
    mediators: list[OtherMediator] = []
    relays: list[RelayRow] = []


class ServerStatusRequest(Request[ServerStatus], frozen=True, tag="status"):
    """Ask for the state of the mediator."""


class Ban(Struct, frozen=True):
    """An address that may not connect for a while."""

    source: str
    left_s: float
    refused: int


class Slowed(Struct, frozen=True):
    """A member whose logins are slowed down because it logs in too often."""

    member: str
    refused: int


class BansReply(Struct, frozen=True):
    """Banned addresses and slowed members. `unauthenticated`: count of connections that have not logged in yet."""

    bans: list[Ban]
    slowed: list[Slowed]
    unauthenticated: int = field(name="strangers")


class ListBans(Request[BansReply], frozen=True, tag="bans.list"):
    """Ask for the addresses and members that may not connect now."""


class LiftedReply(Struct, frozen=True):
    """The address or member that may connect again."""

    source: str


class LiftBan(Request[LiftedReply], frozen=True, tag="bans.lift"):
    """Lift the ban of an address or a member."""

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
    """Ask for the first lines of the audit log with a number above `after`, not older than `since_s` (Unix time).

    A reply holds a limited number of lines: repeat the request with the last line's number.
    """

    since_s: int = 0
    after: int = 0


OPERATIONS = Operations(
    "mediator",
    *(CreateInvite, ListInvites, RevokeInvite),
    *(ListMembers, Approve, Reject, Revoke, Restore, Rekey),
    *(Export, ExportWireGuard, ServerStatusRequest, ListBans, LiftBan, ListAudit),
)
