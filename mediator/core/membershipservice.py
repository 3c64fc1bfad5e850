"""Decides membership from the document, the members that joined by invite, and the revocations.

The service keeps the store's book as the last transaction left it, so a new document takes effect while the store is
busy or away.

Whatever needs the store is a job (`mediator.core.transactions`): the shell carries out its transactions and performs
the effects that it returns. Jobs of several hosts and operators wait for the store concurrently.

| asked for        | refused before the store is asked          | once it is kept                                     |
|------------------|--------------------------------------------|-----------------------------------------------------|
| redeem           |                                            | shown to the others, then answered (`GATHER_S`)     |
| rekey            | the document has the new key               | both keys' ports rest, shown, then answered         |
| leave            |                                            | its port rests, the others are shown                |
| invite           | network closed, bounds, name taken         | the invite's string                                 |
| approve, restore | no such member                             | the others are shown                                |
| revoke, reject   | no such member; reject: it does not wait   | dropped, its port rests, the others are shown       |
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.enrollment import Left, Redeem, Rekey
from mediator.core.transactions import (
    Approval,
    Departure,
    InviteRevocation,
    Job,
    KeyChange,
    NewInvite,
    Redemption,
    Restoration,
    Revocation,
    commit,
)
from netctl.config.resolve.guests import NAME
from netctl.model.document import Document, Mediator, Network
from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire import control as w
from netctl.wire.invite import Invite, pack_invite

GATHER_S = 0.02
"""Forty hosts that enrol at once cost the others one new view, and nobody notices so short a wait."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator wants an invite to be. `life_s`: seconds."""

    network: str
    uses: int
    life_s: int
    name: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What an operator asked for is done: the member's name, and what is to be performed."""

    name: str
    effects: list[fx.Effect]


def check_uses(uses: int) -> None:
    """Of an invite. Raises LocalError."""
    if not 1 <= uses <= a.MAX_USES:
        raise LocalError(f"an invite has 1 to {a.MAX_USES} uses")


@dataclass(slots=True)
class MembershipService:
    """Changes what the hub knows of membership. The caller performs the effects that a method returns.

    `now_s`: seconds since 1970 by the mediator's own clock, by which alone invites expire; `unix_s`: by the clock that
    the relay shares; `now`: monotonic.
    """

    hub: h.Hub
    document: Document = field(default_factory=lambda: Document({}, {}))
    """The document of the file, without members that joined by invite."""
    book: a.Book = field(default_factory=a.Book)
    """The store's records of members that joined by invite."""
    mediator: Mediator | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    """Names of members that joined and cannot take part, with the reason."""
    _answers: list[tuple[int, w.Message]] = field(default_factory=list)
    _due: float | None = None

    def set_document(self, document: Document, mediator: Mediator, unix_s: int) -> list[fx.Effect]:
        """A new document that was accepted; `mediator`: the entry of it that is this server."""
        whole, waiting = a.effective(document, self.book)
        guests = frozenset(entry.key for entry in self.book.admissions)
        effects = self.hub.load(whole, mediator, unix_s, guests=guests)
        self.document, self.mediator, self.waiting = document, mediator, waiting
        return effects

    def read_again(self, book: a.Book, unix_s: int) -> list[fx.Effect]:
        """Take the book read anew from the store: a commit whose answer was lost may have changed it."""
        self.book = book
        self.hub.restore_leases(book.leases)
        return self._rebuild(unix_s)

    def _rebuild(self, unix_s: int) -> list[fx.Effect]:
        """Give the hub the present document and book."""
        assert self.mediator is not None
        return self.set_document(self.document, self.mediator, unix_s)

    # -- what hosts ask for ---------------------------------------------------------------------------------

    def redeem(self, request: Redeem, now_s: int) -> Job[list[fx.Effect]]:
        """Let a host in. It is answered when the others can see it."""
        try:
            kept = yield from commit(Redemption(self.document, request.applicant, now_s))
        except NetctlError as error:
            return self.hub.refuse(request.connection, _remote(error))
        verdict, book = kept.outcome
        before, self.book = self.book, book
        self.hub.granted([verdict.lease] if verdict.lease is not None else [])
        entry = verdict.admission
        answer = w.Enrolled(entry.name, verdict.network, admitted=not entry.pending)
        if not verdict.fresh:
            if book == before:
                return [fx.Send(request.connection, answer)]
            self.hub.restore_leases(book.leases)  # it was let in by a commit whose answer was lost
            return self._answer(request.connection, answer, kept.now)
        waits = ", waits for approval" if entry.pending else ""
        said = fx.Say(f"'{entry.name}' joined '{verdict.network}' with invite {entry.invite}{waits}")
        return [said, *self._answer(request.connection, answer, kept.now)]

    def rekey(self, request: Rekey, now_s: int) -> Job[list[fx.Effect]]:
        """Give a member that joined its new keys."""
        change = KeyChange(request.previous, request.key, request.identity, now_s, None)
        try:
            name, now, _ = yield from self._rekey(change)
        except NetctlError as error:
            return self.hub.refuse(request.connection, _remote(error))
        said = fx.Say(f"'{name}' has new keys")
        return [said, *self._answer(request.connection, w.Rotated(name), now)]

    def leave(self, request: Left, now_s: int) -> Job[list[fx.Effect]]:
        """A member that joined is one no longer; it may come again with another invite."""
        try:
            kept = yield from commit(Departure(request.key, now_s))
        except LocalError as error:
            return [fx.Say(str(error))]
        self.book = kept.outcome
        self.hub.forget(request.key, kept.unix_s)
        return self._rebuild(kept.unix_s)

    def _rekey(self, change: KeyChange) -> Job[tuple[str, float, int]]:
        """The member's name, and the two times of the commit (see `Committed`)."""
        if any(member.wireguard == change.key for member in self.document.members.values()):
            raise RemoteError("the document has the new key for a member", "rotate.taken")
        kept = yield from commit(change)
        self.book = book = kept.outcome
        for one in (change.old, change.key):
            self.hub.forget(one, kept.unix_s)
        self.hub.restore_leases(book.leases)
        name = next(entry.name for entry in book.admissions if entry.key == change.key)
        return name, kept.now, kept.unix_s

    def _answer(self, connection: int, message: w.Message, now: float) -> list[fx.Effect]:
        self._answers.append((connection, message))
        if self._due is None:
            self._due = now + GATHER_S
        return []

    def next_timer(self) -> float | None:
        """Monotonic time at which the waiting answers are due; None: no answer waits."""
        return self._due

    def handle_timer(self, now: float, unix_s: int) -> list[fx.Effect]:
        """Show the new members to the others, then answer the new members."""
        if self._due is None or now < self._due:
            return []
        self._due = None
        answers, self._answers = self._answers, []
        effects = self._rebuild(unix_s)
        return [*effects, *(fx.Send(number, message) for number, message in answers)]

    # -- what the operator asks for -------------------------------------------------------------------------

    def invite(self, terms: Terms, by: str, now_s: int) -> Job[tuple[a.Invite, str, str]]:
        """A new invite, its string, and how it lets in: `auto` or `manual`. Raises LocalError.

        `by`: who makes it, as with all below.
        """
        name = terms.name
        check_uses(terms.uses)
        if name and (terms.uses != 1 or not NAME.match(name)):
            raise LocalError(
                "a name is for an invite with one use, and a host name: letters, digits, hyphens"
            )
        network = self.network(terms.network)
        if name and name in {*self.document.members, *(entry.name for entry in self.book.admissions)}:
            raise LocalError(f"the name '{name}' is taken")
        until = now_s + terms.life_s
        kept = yield from commit(NewInvite(network.id, network.name, terms.uses, now_s, until, name, by))
        made, token = kept.outcome
        full = [mediator for mediator in self.document.mediators if not mediator.relay_only]
        mine = sorted(full, key=lambda mediator: mediator is not self.mediator)
        return made, pack_invite(Invite(network.name, token, tuple(mine))), network.join.approve

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

    def revoke_invite(self, identifier: str, by: str, now_s: int) -> Job[str]:
        """Make an invite invalid; its identifier. Raises LocalError."""
        yield from commit(InviteRevocation(identifier, now_s, by))
        return identifier

    def approve(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Admit a member that waits for approval. Raises LocalError."""
        key, name = self.find(who)
        return (yield from self._show(Approval(key, now_s, by), name))

    def revoke(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Shut a member out. Raises LocalError."""
        key, name = self.find(who)
        return (yield from self._revoke(Revocation(key, name, now_s, by)))

    def reject(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Revoke a member that waits for approval. Raises LocalError."""
        key, name = self.find(who)
        if not any(entry.key == key and entry.pending for entry in self.book.admissions):
            raise LocalError(
                f"'{name}' does not wait for approval; `netctl members revoke` shuts a member out"
            )
        return (yield from self._revoke(Revocation(key, name, now_s, by)))

    def _show(self, change: Approval | Restoration, name: str) -> Job[Done]:
        """Once it is kept, the others are shown this member."""
        kept = yield from commit(change)
        self.book = kept.outcome
        return Done(name, self._rebuild(kept.unix_s))

    def _revoke(self, change: Revocation) -> Job[Done]:
        kept = yield from commit(change)
        self.book = kept.outcome
        self.hub.forget(change.key, kept.unix_s)
        return Done(change.name, self._rebuild(kept.unix_s))

    def restore(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Take a revocation back. Raises LocalError."""
        key, name = self.find(who)
        return (yield from self._show(Restoration(key, now_s, by), name))

    def rekey_by_operator(
        self, who: str, key: WireGuardKey, identity: IdentityKey, by: str, now_s: int
    ) -> Job[Done]:
        """A reinstalled machine: its name and leases go to a new key. Raises NetctlError."""
        old, _ = self.find(who)
        name, _, unix_s = yield from self._rekey(KeyChange(old, key, identity, now_s, by))
        return Done(name, self._rebuild(unix_s))


def _remote(error: NetctlError) -> RemoteError:
    if isinstance(error, RemoteError):
        return error
    return RemoteError(f"the mediator cannot let anybody in just now ({error})", "invite.store")
