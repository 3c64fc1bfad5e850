"""The operator's socket in the state directory: performs the requests of `netctl.wire.operatorrequests`.

`netctl-mediator`, and `netctl invite`, `members` and `export` on the mediator's machine use it. Other machines cannot
reach it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import structs

from mediator.core import admissions as a
from mediator.core.audit import OPERATOR, Entry
from mediator.core.duplicates import Duplicate
from mediator.core.membershipservice import Done, Terms
from mediator.core.transactions import Job
from mediator.shell.membershiprunner import MembershipRunner, unix_now
from mediator.shell.timearguments import duration_s
from netctl.config.resolve.stockconfig import stock_config
from netctl.model.document import Mediator, MemberState
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.system.lineserver import LineServer, Progress, Service, cannot_listen
from netctl.wire import operatorrequests as r
from netctl.wire.jsonline import Request

SOCKET_NAME = "admin.sock"
MAX_REQUEST = 64 * 1024
"""Bytes. A request is one line; an answer may be longer."""
DEFAULT_LIFE = "24h"


def life_s(text: str) -> int:
    """Seconds from a text such as ``24h``. Raises LocalError."""
    seconds = duration_s(text) or 0
    if not 0 < seconds <= a.MAX_LIFE_S:
        raise LocalError(f"'{text}' is no time to live: say 30m, 24h or 7d, at most a year")
    return seconds


Kind = TypeVar("Kind", bound=Request[Any])


class AdminServer:
    """Serves the operator's requests."""

    def __init__(self, runner: MembershipRunner, state: Path, document: Path) -> None:
        self._runner = runner
        self._membership = runner.service
        self._hub = runner.service.hub
        self._path = state / SOCKET_NAME
        self._document = document
        self._operations: dict[type[Request[Any]], Callable[[Any], Any]] = {}
        self.service = Service("mediator", r.OPERATIONS, self._perform, MAX_REQUEST)
        self._server = LineServer(self._path, self.service)
        self.add(r.CreateInvite, self._invite)
        self.add(r.ListInvites, self._invites)
        self.add(r.RevokeInvite, self._revoke_invite)
        self.add(r.ListMembers, self._members)
        self.add(r.Approve, lambda request: self._decide(self._membership.approve, request))
        self.add(r.Reject, lambda request: self._decide(self._membership.reject, request))
        self.add(r.Revoke, lambda request: self._decide(self._membership.revoke, request))
        self.add(r.Restore, lambda request: self._decide(self._membership.restore, request))
        self.add(r.Rekey, self._rekey)
        self.add(r.Export, self._export)
        self.add(r.ExportWireGuard, self._export_wg)
        self.add(r.ListAudit, self._audit)

    def add(self, kind: type[Kind], operation: Callable[[Kind], Any]) -> None:
        """Serve another operation; a coroutine function if it waits for the store."""
        self._operations[kind] = operation

    async def start(self) -> None:
        """Listen. Raises LocalError."""
        try:
            await self._server.start()
        except OSError as error:
            raise cannot_listen(self._path, error) from error

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()

    async def _perform(self, request: Request[Any], progress: Progress) -> Any:
        operation = self._operations.get(type(request))
        if operation is None:
            raise LocalError(f"this mediator cannot do '{request.operation()}' here")
        result = operation(request)
        return await result if isinstance(result, Awaitable) else result

    # -- invites --------------------------------------------------------------------------------------------

    async def _invite(self, request: r.CreateInvite) -> r.NewInvite:
        life = life_s(request.expires or DEFAULT_LIFE)
        terms = Terms(request.network, request.uses, life, request.name or "")
        job = self._membership.invite(terms, _by(request), unix_now())
        made, text, approve = await self._runner.carry(job)
        return r.NewInvite(**structs.asdict(self._row(made)), invite=text, approve=approve)

    async def _revoke_invite(self, request: r.RevokeInvite) -> str:
        return await self._runner.carry(self._membership.revoke_invite(request.id, _by(request), unix_now()))

    def _row(self, invite: a.Invite) -> r.InviteRow:
        names = {network.id: network.name for network in self._membership.document.networks.values()}
        return r.InviteRow(
            id=invite.id,
            network=names.get(invite.network),
            uses=invite.uses,
            used=invite.used,
            name=invite.name or None,
            expires_s=invite.expires_s,
            state=invite.state(unix_now()),
        )

    async def _invites(self, _: r.ListInvites) -> list[r.InviteRow]:
        return [self._row(invite) for invite in await self._runner.store.invites()]

    async def _audit(self, request: r.ListAudit) -> list[r.AuditRow]:
        entries = await self._runner.store.audit(request.since_s, request.after)
        return [audit_row(entry) for entry in entries]

    # -- members --------------------------------------------------------------------------------------------

    def _members(self, _: r.ListMembers) -> list[r.MemberRow]:
        membership, book = self._membership, self._membership.book
        document, waiting = a.effective(membership.document, book)
        full = {(item.network, item.member): item.message for item in self._hub.exhausted}
        shared = {one.key: one for one in self._hub.duplicates(time.monotonic())}
        pending = {entry.key for entry in book.admissions if entry.pending}
        invited = {entry.key: entry for entry in book.admissions}
        rows = []
        shown = set()
        for member in document.members.values():
            key = member.wireguard
            if key is None:
                continue
            shown.add(key)
            networks = document.networks_of(member.name)
            trouble = [full[n.id, member.name] for n in networks if (n.id, member.name) in full]
            state = "online" if self._hub.is_online(key) else "offline"
            if key in book.revoked:
                state = "revoked"
            elif member.state.value == "absent":
                state = "absent"
            elif key in pending and not networks:
                state = "pending"
            rows.append(
                r.MemberRow(
                    name=member.name,
                    wireguard=str(key),
                    identity=str(member.identity) if member.identity is not None else None,
                    state=state,
                    networks={
                        n.name: [str(x) for x in self._hub.addresses(n.name, member.name, key)]
                        for n in networks
                    },
                    condition=waiting.get(member.name)
                    or (_on_two_hosts(shared[key]) if key in shared else None)
                    or (trouble[0] if trouble else None),
                    source="invite" if member.guest else "document",
                )
            )
        names = {row.name for row in rows}
        for key, name in book.revoked.items():
            if key not in shown and name not in names:  # leave out the old key of a member with a new key
                rows.append(_bare(name, key, "revoked", None))
        for key, entry in invited.items():
            if key not in shown and key not in book.revoked:
                rows.append(_bare(entry.name, key, "waiting", waiting.get(entry.name)))
        return rows

    async def _rekey(self, request: r.Rekey) -> str:
        try:
            key = WireGuardKey.parse(request.wireguard)
            identity = IdentityKey.parse(request.identity)
        except ValueError as error:
            raise LocalError(f"{error}; `netctl keys` on the host prints both") from error
        job = self._membership.rekey_by_operator(request.who, key, identity, _by(request), unix_now())
        return await self._runner.done(job)

    async def _decide(
        self,
        decide: Callable[[str, str, int], Job[Done]],
        request: r.Approve | r.Reject | r.Revoke | r.Restore,
    ) -> str:
        """Perform a decision about one member."""
        return await self._runner.done(decide(request.who, _by(request), unix_now()))

    def _export(self, _: r.Export) -> r.ExportReply:
        book = self._membership.book
        known = {member.wireguard for member in self._membership.document.members.values()}
        guests = a.guests_of(self._membership.document, book)
        return r.ExportReply(
            str(self._document.absolute()),
            [
                r.GuestRow(guest.name, str(guest.key), str(guest.identity), list(guest.networks))
                for guest in guests
                if guest.key not in known and guest.networks
            ],
        )

    def _export_wg(self, request: r.ExportWireGuard) -> r.StockConfig:
        name = request.member
        document = self._hub.document
        member = document.members.get(name)
        key = member.wireguard if member is not None and member.state is MemberState.PRESENT else None
        if key is None or self._membership.mediator is None:
            raise LocalError(f"the mediator's document has no present member '{name}'")
        hub = self._hub
        found = {}

        def meeting(peer: WireGuardKey) -> tuple[Mediator, int] | None:
            found[peer] = place = hub.meeting(key, peer)
            return place

        made = stock_config(document, name, hub.view(key), meeting)
        relays = dict.fromkeys(place[0] for place in found.values() if place is not None)
        away = [one.host for one in relays if one.relay_only and str(one.identity[0]) not in hub.registered]
        return msgspec.convert({**made, "unregistered": away}, r.StockConfig)


def audit_row(entry: Entry) -> r.AuditRow:
    """A line of the audit log as an answer."""
    return r.AuditRow(entry.number, entry.at_s, entry.who, entry.what, entry.subject, entry.detail)


def _by(request: r.Change[Any]) -> str:
    return request.by or OPERATOR


def _on_two_hosts(one: Duplicate) -> str:
    ago = f"{time.monotonic() - one.last_s:.0f} s ago"
    return (
        f"two hosts have its key (a cloned disk?): {one.holder.host} is connected, {one.other.host} waits and tried "
        f"{ago}; each needs keys of its own"
    )


def _bare(name: str, key: WireGuardKey, state: str, condition: str | None) -> r.MemberRow:
    return r.MemberRow(
        name=name,
        wireguard=str(key),
        identity=None,
        state=state,
        networks={},
        condition=condition,
        source="invite",
    )
