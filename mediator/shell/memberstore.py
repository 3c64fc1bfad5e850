"""What the mediator wants of its store, whatever that is: the one seam that SQLite and PostgreSQL stand behind.

Every method is a transaction: what it returned is kept, what it raised LocalError for is not. Changes take effect in
the order in which they were asked for. None of them holds the event loop, and each ends, with an answer or with an
error, within `PATIENCE_S` of being asked, or as soon as a commit that has begun by then is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from mediator.core import admissions as a
from mediator.core.audit import Entry
from mediator.core.kept import Kept
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from mediator.core.transactions import Basis
from netctl.model.document import Document
from netctl.model.keys import IdentityKey, WireGuardKey

PATIENCE_S = 5.0
"""Half of what a host that enrols (`netctl.agent.mediators.enrolclient`) waits for its answer, and an operator for
his."""


class MemberStore(Protocol):
    """Leases, relay ports, invites and who came with them; and the audit log, a line of which is part of the change.

    `by`: who asked for it, for that line. `now_s`: Unix time by the mediator's own clock, by which invites expire;
    `unix_s`: by the clock that the relay shares, by which a port rests that was given up.
    """

    took: Callable[[float, bool], None] | None
    """Told of each transaction how many seconds it took from being asked, and whether it was carried out."""

    @property
    def takes_nothing(self) -> str | None:
        """Why nothing can be written just now: everybody who is known is served, and nobody else comes."""

    @property
    def in_doubt(self) -> bool:
        """Whether a change whose asker was told an error may be kept all the same: `kept` tells, and ends it."""

    @property
    def replaced(self) -> str | None:
        """Which other mediator works with the store by now: this one is to end, for its members go there."""

    @property
    def shared(self) -> bool:
        """Whether several mediators may work with it at once. Then each change that members see has a number."""

    async def open(self) -> None:
        """Before anything else. Raises LocalError for a store that cannot be used.

        A standby waits in here for as long as another mediator works with it; `takes_nothing` says so meanwhile.
        """

    async def kept(self, known: str = "") -> Kept:
        """All of it. It waits for no writer. `known`: digest of a document whose text the caller has already."""

    async def state(self) -> int:
        """The number of its state: everything up to it is in what `kept` returns from now on."""

    async def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
        basis: Basis | None = None,
    ) -> int:
        """Grant these, or none; a member's older lease in the network is given up. Uniqueness is the store's own.

        `resting`: relay ports that are given up, and until when (Unix time) nobody else may have them. `basis`: the
        state that the choice was made on; needed where several mediators choose. Returns the number of the state with
        it, 0 where states have none. Raises Outdated where something is taken: read the store and choose again.
        """

    async def offer(
        self, content: str, digest: str, based_on: int, now_s: int, *, by: str, detail: str
    ) -> int:
        """Bring a document into force, for all mediators. Returns the number of the state with it.

        `based_on`: number of the document that it follows, 0 for the first one. Raises Outdated where another one is
        in force by now, so that of several that are offered at once the first counts.
        """

    async def reserve_generation(self, reserved: int) -> None:
        """From here on generations up to this one may be in use."""

    async def invite(
        self, network: str, *, called: str, uses: int, made_s: int, expires_s: int, name: str, by: str
    ) -> tuple[a.Invite, bytes]:
        """A new invite to the network with this id, and its token, which is nowhere else; `called`: its name."""

    async def invites(self) -> list[a.Invite]:
        """All of them, the newest last."""

    async def revoke_invite(self, identifier: str, now_s: int, *, by: str) -> None:
        """It is good for nothing any more; who came with it stays."""

    async def redeem(self, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, a.Book]:
        """Let a host in: the use, the membership and the lease are one. Raises RemoteError when it may not come in.

        The book is as it is afterwards, as with everything below.
        """

    async def approve(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Book:
        """Let in who waits."""

    async def revoke(self, key: WireGuardKey, name: str, now_s: int, *, unix_s: int, by: str) -> a.Book:
        """Shut a key out for good; its addresses stay bound to it, its relay port rests."""

    async def leave(self, key: WireGuardKey, now_s: int, *, unix_s: int) -> a.Book:
        """Forget a member that joined; its addresses stay bound to its key, its relay port rests."""

    async def restore(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Book:
        """Take a revocation back."""

    async def rekey(
        self,
        old: WireGuardKey,
        key: WireGuardKey,
        identity: IdentityKey,
        now_s: int,
        *,
        unix_s: int,
        by: str | None,
    ) -> a.Book:
        """Move name, memberships and leases to a new key. Raises RemoteError when the new one may not be taken.

        `by` None: the member itself.
        """

    async def note_document(self, digest: str, detail: str, now_s: int, *, by: str) -> None:
        """Tell the audit log of a document in force; nothing where its last line about documents says the same."""

    async def audit(self, since_s: int = 0, after: int = 0) -> list[Entry]:
        """The first `PAGE` lines of the audit log with a higher number than `after`, not older than `since_s`."""

    async def close(self) -> None:
        """What has begun is ended, what has not is refused."""
