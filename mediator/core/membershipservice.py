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

If several mediators use the store (`shared`), its state has a number. Every change that members see raises the number
by one, and the number is the signed generation:

| event                                   | then                                                                  |
|-----------------------------------------|-----------------------------------------------------------------------|
| own transaction made state `number + 1` | that is the state: nobody else has changed anything since             |
| own transaction made a later one        | the store is read: others have changed something in between           |
| a poll or a message names a later one   | the store is read                                                     |
| the store was read                      | book, leases, ports and document are those of its state               |
| its document cannot be taken            | the last good one stays, with the number of the last state shown      |
| the store refused: outdated             | the store is read, and decided anew, at once, `QUICK_TRIES` times     |
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.acceptance import accept
from mediator.core.enrollment import Left, Redeem, Rekey
from mediator.core.kept import Kept, StoredDocument
from mediator.core.transactions import (
    Approval,
    Committed,
    Departure,
    Grant,
    InviteRevocation,
    Job,
    KeyChange,
    Look,
    NewInvite,
    Offer,
    Outdated,
    Raise,
    Reading,
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
QUICK_TRIES = 5
"""Immediate retries after another mediator was faster and the store was read; then as after a refusal of the store."""
FROM_STORE = "the document of the store"
STORE_AWAY = "invite.store"
"""The code that an enrolling host is told where the store takes nothing."""


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


@dataclass(frozen=True, slots=True)
class Offered:
    """The document of a mediator's file. `by`, `detail`: for the audit log."""

    content: str
    document: Document
    by: str
    detail: str = ""


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
    shared: bool = False
    """Whether several mediators use the store."""
    number: int = 0
    """The number of the store's state that this mediator has, if the store is shared."""
    stored: StoredDocument | None = None
    """The store's document without its text, in force here or not."""
    refusal: str | None = None
    """Why the store's document is not in force here; the last good one is."""
    _lost_races: int = 0
    _changes: int = 0
    """Count of own transactions."""
    _ahead: dict[WireGuardKey, int] = field(default_factory=dict)
    """Keys with an own change in `book` that is of a later state than `number`, with that state's number: they could
    not be read, as the store had gone away. An older change that finishes afterwards does not replace the later one.
    """
    _news: list[fx.Effect] = field(default_factory=list)
    _answers: list[tuple[int, w.Message]] = field(default_factory=list)
    _due: float | None = None

    def set_document(self, document: Document, mediator: Mediator, unix_s: int) -> list[fx.Effect]:
        """A new document that was accepted; `mediator`: the entry of it that is this server."""
        whole, waiting = a.effective(document, self.book)
        guests = frozenset(entry.key for entry in self.book.admissions)
        if self.shared:
            self.hub.follow(self.number if self.refusal is None else None)
        effects = self.hub.load(whole, mediator, unix_s, guests=guests)
        self.document, self.mediator, self.waiting = document, mediator, waiting
        return effects

    def _rebuild(self, unix_s: int) -> list[fx.Effect]:
        """Give the hub the present document and book."""
        assert self.mediator is not None
        return self.set_document(self.document, self.mediator, unix_s)

    # -- reading the store --------------------------------------------------------------------------------

    def read_again(self, kept: Kept, unix_s: int) -> list[fx.Effect]:
        """Take the store's content, read anew. Raises LocalError if there is no usable document."""
        if kept.generation < self.number:
            return []
        self.book = kept.book
        self._ahead = {key: number for key, number in self._ahead.items() if number > kept.generation}
        self.hub.read(kept.leases, kept.ports, kept.pairs, kept.resting)
        effects: list[fx.Effect] = []
        if self.shared:
            self.number = kept.generation
            effects += self._take_document(kept.document)
        return effects + self._rebuild(unix_s)

    def _take_document(self, found: StoredDocument | None) -> list[fx.Effect]:
        """Take the store's document if it has changed. If it is refused, the last good one stays."""
        if found is None:
            return []
        before, self.stored = self.stored, StoredDocument(found.number, found.digest)
        if before is not None and found.digest == before.digest:
            return []
        try:
            document, mediator = self._accepted(found)
            a.effective(document, self.book)
        except NetctlError as error:
            self.refusal = str(error)
            if self.mediator is None:
                raise LocalError(f"{FROM_STORE} is refused, and there is no other: {error}") from error
            return [fx.Say(f"{FROM_STORE} is refused, and the last good one stays:\n{error}")]
        self.document, self.mediator, self.refusal = document, mediator, None
        return [fx.TookDocument(found.content, document)]

    def _accepted(self, found: StoredDocument) -> tuple[Document, Mediator]:
        """Raises NetctlError."""
        if isinstance(found.accepted, NetctlError):
            raise found.accepted
        return found.accepted or accept(found.content, FROM_STORE, self.hub.identity)

    def enter(self, kept: Kept, own: Offered | None, now_s: int, *, changed: bool) -> Job[None]:
        """Begin to use a store that other mediators may use too.

        `own`: the file's document; it is offered if the store has none, or if `changed`: it is another one than when
        this mediator last worked. Raises LocalError where there is no document.
        """
        self.shared = True
        self.hub.follow(kept.generation)
        there = kept.document
        if own is not None and (there is None or (changed and there.digest != own.document.digest)):
            with contextlib.suppress(Outdated):  # another mediator was first: its document counts
                yield from commit(_offer(own, there, now_s))
        elif there is None:
            raise LocalError("the store has no document yet, and the file is refused")
        yield from self.look_again()

    def look_again(self) -> Job[int]:
        """Read the store: a commit without an answer may be kept, and other mediators may have made changes.

        `news` returns the effects. Returns the time by the relay's clock.
        """
        return (yield from self._read(0))

    def _read(self, number: int) -> Job[int]:
        for _ in range(QUICK_TRIES):
            before = self._changes
            kept = yield from commit(Reading(number))
            if self.shared or before == self._changes:  # a number tells which of two states is the later one
                break
        if kept.outcome is not None:
            self._news += self.read_again(kept.outcome, kept.unix_s)
        return kept.unix_s

    @property
    def known(self) -> str:
        """The digest of the store's document at the last reading, in force here or refused."""
        return self.stored.digest if self.stored is not None else ""

    def news(self) -> list[fx.Effect]:
        """Effects of readings since the last call: to be performed at once, whatever the result of a job."""
        found, self._news = self._news, []
        return found

    def catch_up(self, number: int) -> Job[None]:
        """Read the store's state if the reported number is new. Raises LocalError."""
        if number > self.number:
            yield from self._read(number)

    def poll(self) -> Job[None]:
        """Ask the store for its state's number, and read the state if it is new. Raises LocalError."""
        if not self.shared:
            return
        before = self.number
        looked = yield from commit(Look())
        if looked.outcome < before:
            yield from self._went_back(before)
        else:
            yield from self.catch_up(looked.outcome)

    def _went_back(self, before: int) -> Job[None]:
        """The store has lost states that this mediator has shown: an asynchronous standby was promoted, or a backup
        was put back. The store's next state gets a number above all that were shown, and is read. Raises LocalError.
        """
        self._news.append(
            fx.Say(
                f"the store has lost states up to {before}: a standby that lagged, or a backup, took its place"
            )
        )
        yield from commit(Raise(before + 1))
        yield from self.look_again()

    def offer(self, own: Offered, now_s: int) -> Job[None]:
        """The file's document has changed: put it in force for all mediators. Raises LocalError.

        Where another mediator has offered one at the same time, the first counts.
        """
        yield from self.poll()
        if self.stored is not None and self.stored.digest == own.document.digest:
            return
        try:
            kept = yield from commit(_offer(own, self.stored, now_s))
        except Outdated:
            yield from self.look_again()
        else:
            yield from self.catch_up(kept.outcome)

    def grant(self, wanted: fx.Store) -> Job[list[fx.Effect]]:
        """Commit the hub's request. Raises LocalError if it must be repeated later (`Hub.refused`)."""
        asked = Grant(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, wanted.basis)
        try:
            kept = yield from commit(asked)
        except Outdated:
            self._lost_races += 1
            if self._lost_races > QUICK_TRIES:
                self._lost_races = 0
                raise
            unix_s = yield from self.look_again()
            return self.hub.release(unix_s)
        self._lost_races = 0
        if not (yield from self._reached(kept.outcome)):
            return self.hub.release(kept.unix_s)
        if self.shared and self._due is None:  # else somebody is about to be shown with that number
            self.hub.follow(self.number if self.refusal is None else None)
        return self.hub.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, kept.unix_s)

    def _reached(self, number: int) -> Job[bool]:
        """An own transaction has made the state of this number. Whether memory still needs its change."""
        self._changes += 1
        if not self.shared:
            return True
        if number == self.number + 1:
            self.number = number
            return True
        with contextlib.suppress(LocalError):  # the store has gone away: the number stays until it is read
            if number > self.number:
                yield from self.catch_up(number)
            else:  # another reading came first, or the store has lost states
                yield from self.poll()
        return False

    def _took(self, records: a.Records) -> Job[a.Records]:
        """As `_reached`, for a change of the book: a revocation takes effect at once, even if the store is away.

        Returns what of it memory took now: nothing of keys that were read since or have a later change.
        """
        keys = yield from self._to_take(records.keys, records.number)
        if not keys:
            return a.Records(keys)
        taken = records.of(keys)
        self.book = self.book.changed(taken)
        return taken

    def _to_take(self, keys: frozenset[WireGuardKey], number: int) -> Job[frozenset[WireGuardKey]]:
        """An own transaction has made the state of this number. Those of its keys that memory takes from it now."""
        ahead = not (yield from self._reached(number))
        if ahead and number <= self.number:
            return frozenset()
        news = frozenset(key for key in keys if self._ahead.get(key, 0) <= number)
        if ahead:
            self._ahead.update(dict.fromkeys(news, number))
        return news

    # -- what hosts ask for ---------------------------------------------------------------------------------

    def redeem(self, request: Redeem, now_s: int) -> Job[list[fx.Effect]]:
        """Let a host in. It is answered when the others can see it."""
        try:
            kept = yield from self._redeemed(request, now_s)
        except NetctlError as error:
            return self.hub.refuse(request.connection, _remote(error))
        verdict, number = kept.outcome
        entry = verdict.admission
        answer = w.Enrolled(entry.name, verdict.network, admitted=not entry.pending)
        if not verdict.fresh:
            before = self.book
            try:
                yield from self._known_before(entry, number)
            except LocalError as error:
                return self.hub.refuse(request.connection, _remote(error))
            if self.book is before:
                return [fx.Send(request.connection, answer)]
            return self._answer(request.connection, answer, kept.now)
        if (yield from self._to_take(frozenset((entry.key,)), number)):
            self.book = self.book.admitted(verdict, number)
            self.hub.granted([verdict.lease] if verdict.lease is not None else [])
        waits = ", waits for approval" if entry.pending else ""
        said = fx.Say(f"'{entry.name}' joined '{verdict.network}' with invite {entry.invite}{waits}")
        return [said, *self._answer(request.connection, answer, kept.now)]

    def _redeemed(self, request: Redeem, now_s: int) -> Job[Committed[tuple[a.Verdict, int]]]:
        """Redeem with the document in force, which another mediator may have changed. Raises NetctlError."""
        tries = 0
        while True:
            if self.refusal is not None:
                raise LocalError(f"this mediator cannot take {FROM_STORE}")
            try:
                return (yield from commit(Redemption(self.document, request.applicant, now_s)))
            except Outdated:
                tries += 1
                if tries > QUICK_TRIES:
                    raise
            yield from self.look_again()

    def _known_before(self, entry: a.Admission, number: int) -> Job[None]:
        """A host was admitted before: by a commit without an answer, or by another mediator. Raises LocalError."""
        if self.shared:
            yield from self.catch_up(number)
        elif entry not in self.book.admissions:
            yield from self.look_again()

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
        taken = yield from self._took(kept.outcome)
        self.hub.forget(request.key, kept.unix_s, port=request.key in taken.keys)
        return self._rebuild(kept.unix_s)

    def _rekey(self, change: KeyChange) -> Job[tuple[str, float, int]]:
        """The member's name, and the two times of the commit (see `Committed`)."""
        if any(member.wireguard == change.key for member in self.document.members.values()):
            raise RemoteError("the document has the new key for a member", "rotate.taken")
        kept = yield from commit(change)
        records = kept.outcome
        taken = yield from self._took(records)
        for one in (change.old, change.key):
            self.hub.forget(one, kept.unix_s, port=one in taken.keys)
        if taken.leases is not None:
            self.hub.rekeyed(taken.keys, taken.leases)
        return records.admissions[0].name, kept.now, kept.unix_s

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
        yield from self.poll()
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
        mine = sorted(self.document.full_mediators(), key=lambda mediator: mediator is not self.mediator)
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
        yield from self.poll()
        key, name = self.find(who)
        return (yield from self._show(Approval(key, now_s, by), name))

    def revoke(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Shut a member out. Raises LocalError."""
        yield from self.poll()
        key, name = self.find(who)
        return (yield from self._revoke(Revocation(key, name, now_s, by)))

    def reject(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Revoke a member that waits for approval. Raises LocalError."""
        yield from self.poll()
        key, name = self.find(who)
        if not any(entry.key == key and entry.pending for entry in self.book.admissions):
            raise LocalError(
                f"'{name}' does not wait for approval; `netctl members revoke` shuts a member out"
            )
        return (yield from self._revoke(Revocation(key, name, now_s, by)))

    def _show(self, change: Approval | Restoration, name: str) -> Job[Done]:
        """Once it is kept, the others are shown this member."""
        kept = yield from commit(change)
        yield from self._took(kept.outcome)
        return Done(name, self._rebuild(kept.unix_s))

    def _revoke(self, change: Revocation) -> Job[Done]:
        kept = yield from commit(change)
        taken = yield from self._took(kept.outcome)
        self.hub.forget(change.key, kept.unix_s, port=change.key in taken.keys)
        return Done(change.name, self._rebuild(kept.unix_s))

    def restore(self, who: str, by: str, now_s: int) -> Job[Done]:
        """Take a revocation back. Raises LocalError."""
        yield from self.poll()
        key, name = self.find(who)
        return (yield from self._show(Restoration(key, now_s, by), name))

    def rekey_by_operator(
        self, who: str, key: WireGuardKey, identity: IdentityKey, by: str, now_s: int
    ) -> Job[Done]:
        """A reinstalled machine: its name and leases go to a new key. Raises NetctlError."""
        yield from self.poll()
        old, _ = self.find(who)
        name, _, unix_s = yield from self._rekey(KeyChange(old, key, identity, now_s, by))
        return Done(name, self._rebuild(unix_s))


def _offer(own: Offered, before: StoredDocument | None, now_s: int) -> Offer:
    based_on = before.number if before is not None else 0
    return Offer(own.content, own.document.digest, based_on, now_s, own.by, own.detail)


def _remote(error: NetctlError) -> RemoteError:
    if isinstance(error, RemoteError):
        return error
    return RemoteError(f"the mediator cannot let anybody in just now ({error})", STORE_AWAY)
