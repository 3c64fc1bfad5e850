"""Who belongs, put together: the document, those who joined by invite, those who were shut out.

The book of the store is kept here as the last transaction left it, so that a new document takes effect whatever the
store is doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.enrollment import Left, Redeem, Rekey
from mediator.shell.memberstore import MemberStore
from netctl.model.document import Document, Mediator, Network
from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire import control as w
from netctl.wire.invite import Invite, pack_invite

GATHER_S = 0.02
"""Forty hosts that enrol at once cost the others one new view, and nobody notices so short a wait."""


def unix_now() -> int:
    """Seconds since 1970: invites expire by the mediator's clock alone."""
    return int(time.time())


@dataclass(slots=True)
class MembershipService:
    """Changes what the hub knows of membership; each method that returns effects wants them performed."""

    hub: h.Hub
    store: MemberStore
    later: Callable[[float, Callable[[], None]], object]
    """Calls back after seconds: the event loop's."""
    perform: Callable[[list[fx.Effect]], None]
    grants_s: Callable[[], int]
    """Seconds since 1970 by the clock that the relay shares."""
    document: Document = field(default_factory=lambda: Document({}, {}))
    """What the file says, without anybody who joined."""
    book: a.Book = field(default_factory=a.Book)
    """What the store says of those who joined."""
    mediator: Mediator | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    """Who joined and cannot take part, and why."""
    _answers: list[tuple[int, w.Message]] = field(default_factory=list)
    _due: bool = False

    def set_document(self, document: Document, mediator: Mediator) -> list[fx.Effect]:
        """A new document, valid."""
        self.document, self.mediator = document, mediator
        return self.rebuild()

    def rebuild(self) -> list[fx.Effect]:
        """The hub gets what document and store say now."""
        assert self.mediator is not None
        document, self.waiting = a.effective(self.document, self.book)
        guests = frozenset(entry.key for entry in self.book.admissions)
        return self.hub.load(document, self.mediator, self.grants_s(), guests=guests)

    # -- what hosts ask for ---------------------------------------------------------------------------------

    async def redeem(self, request: Redeem) -> list[fx.Effect]:
        """Let a host in. It is answered when the others can see it."""
        try:
            verdict, book = await self.store.redeem(self.document, request.applicant, unix_now())
        except NetctlError as error:
            return self.hub.refuse(request.connection, _remote(error))
        before, self.book = self.book, book
        self.hub.granted([verdict.lease] if verdict.lease is not None else [])
        entry = verdict.admission
        answer = w.Enrolled(entry.name, verdict.network, admitted=not entry.pending)
        if not verdict.fresh:
            if book == before:
                return [fx.Send(request.connection, answer)]
            self.hub.restore_leases(book.leases)  # it was let in by a commit whose answer was lost
            return self._answer(request.connection, answer)
        waits = ", waits for approval" if entry.pending else ""
        said = fx.Say(f"'{entry.name}' joined '{verdict.network}' with invite {entry.invite}{waits}")
        return [said, *self._answer(request.connection, answer)]

    async def rekey(self, request: Rekey) -> list[fx.Effect]:
        """Give a member that joined its new keys."""
        try:
            name = await self._rekey(request.previous, request.key, request.identity, None)
        except NetctlError as error:
            return self.hub.refuse(request.connection, _remote(error))
        said = fx.Say(f"'{name}' has new keys")
        return [said, *self._answer(request.connection, w.Rotated(name))]

    async def leave(self, request: Left) -> list[fx.Effect]:
        """A member that joined is one no longer; it may come again with another invite."""
        try:
            self.book = await self.store.leave(request.key, unix_now())
        except LocalError as error:
            return [fx.Say(str(error))]
        self.hub.forget(request.key, self.grants_s())
        return self.rebuild()

    async def _rekey(
        self, old: WireGuardKey, key: WireGuardKey, identity: IdentityKey, by: str | None
    ) -> str:
        if any(member.wireguard == key for member in self.document.members.values()):
            raise RemoteError("the document has the new key for a member", "rotate.taken")
        self.book = book = await self.store.rekey(old, key, identity, unix_now(), by=by)
        for one in (old, key):
            self.hub.forget(one, self.grants_s())
        self.hub.restore_leases(book.leases)
        return next(entry.name for entry in book.admissions if entry.key == key)

    def _answer(self, connection: int, message: w.Message) -> list[fx.Effect]:
        self._answers.append((connection, message))
        if not self._due:
            self._due = True
            self.later(GATHER_S, self._gathered)
        return []

    def _gathered(self) -> None:
        self._due = False
        answers, self._answers = self._answers, []
        effects: list[fx.Effect] = self.rebuild()
        self.perform([*effects, *(fx.Send(number, message) for number, message in answers)])

    # -- what the operator asks for -------------------------------------------------------------------------

    def network(self, name: str) -> Network:
        """A network of the document that lets invites in. Raises LocalError."""
        network = self.document.networks.get(name)
        if network is None:
            there = ", ".join(self.document.networks) or "none"
            raise LocalError(f"there is no network '{name}'; there are: {there}")
        if not network.join.invites:
            raise LocalError(
                f"'{name}' lets nobody in by invite: say `join: {{invites: true}}` for it in the document"
            )
        return network

    async def invite(
        self, network: Network, uses: int, life_s: int, name: str, by: str
    ) -> tuple[a.Invite, str]:
        """A new invite and its string; `by`: who makes it, as with all below. Raises LocalError."""
        if name:
            taken = {*self.document.members, *(entry.name for entry in self.book.admissions)}
            if name in taken:
                raise LocalError(f"the name '{name}' is taken")
        now = unix_now()
        made, token = await self.store.invite(
            network.id, called=network.name, uses=uses, made_s=now, expires_s=now + life_s, name=name, by=by
        )
        full = [mediator for mediator in self.document.mediators if not mediator.relay_only]
        mine = sorted(full, key=lambda mediator: mediator is not self.mediator)
        return made, pack_invite(Invite(network.name, token, tuple(mine)))

    def find(self, who: str) -> tuple[WireGuardKey, str]:
        """Key and name of a member, by either. Raises LocalError."""
        book = self.book
        entries = {entry.key: entry.name for entry in book.admissions}
        entries.update(book.revoked)
        for member in self.document.members.values():
            if member.wireguard is not None:
                entries[member.wireguard] = member.name
        found = [(key, name) for key, name in entries.items() if who in (name, str(key))]
        present = [entry for entry in found if entry[0] not in book.revoked] or found
        if not present:
            raise LocalError(f"there is no member '{who}'; `netctl members` shows all")
        if len(present) > 1:
            raise LocalError(f"'{who}' is several members: say the key")
        return present[0]

    async def revoke_invite(self, identifier: str, by: str) -> str:
        """It is good for nothing any more. Raises LocalError."""
        await self.store.revoke_invite(identifier, unix_now(), by=by)
        return identifier

    async def approve(self, who: str, by: str) -> str:
        """Let in who waits. Raises LocalError."""
        key, name = self.find(who)
        self.book = await self.store.approve(key, unix_now(), by=by)
        self.perform(self.rebuild())
        return name

    async def revoke(self, who: str, by: str, *, pending: bool = False) -> str:
        """Shut a member out; `pending`: only one that waits. Raises LocalError."""
        key, name = self.find(who)
        if pending and not any(entry.key == key and entry.pending for entry in self.book.admissions):
            raise LocalError(
                f"'{name}' does not wait for approval; `netctl members revoke` shuts a member out"
            )
        self.book = await self.store.revoke(key, name, unix_now(), by=by)
        self.hub.forget(key, self.grants_s())
        self.perform(self.rebuild())
        return name

    async def restore(self, who: str, by: str) -> str:
        """Take a revocation back. Raises LocalError."""
        key, name = self.find(who)
        self.book = await self.store.restore(key, unix_now(), by=by)
        self.perform(self.rebuild())
        return name

    async def rekey_by_operator(self, who: str, key: WireGuardKey, identity: IdentityKey, by: str) -> str:
        """A reinstalled machine: its name and leases go to a new key. Raises NetctlError."""
        old, _ = self.find(who)
        name = await self._rekey(old, key, identity, by)
        self.perform(self.rebuild())
        return name


def _remote(error: NetctlError) -> RemoteError:
    if isinstance(error, RemoteError):
        return error
    return RemoteError(f"the mediator cannot let anybody in just now ({error})", "invite.store")
