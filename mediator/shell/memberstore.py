"""The mediator's interface to its store, implemented for SQLite and PostgreSQL.

Every method is a transaction: its change is kept if it returns, and not if it raises LocalError. Changes take effect in
the order of the calls. No method blocks the event loop. Each ends, with a result or an error, within `PATIENCE_S`, or
as soon as a commit that has begun by then has ended.
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
"""Half of the time that an enrolling host (`netctl.agent.mediators.enrolclient`) and an operator wait for an answer."""


class MemberStore(Protocol):
    """The store of leases, relay ports, invites and joined members, with the audit log as part of every change.

    `by`: the person responsible, for the audit log. `now_s`: Unix time by the mediator's own clock, for invites;
    `unix_s`: Unix time by the clock that the relay shares, for the rest of given-up ports.
    """

    took: Callable[[float, bool], None] | None
    """Called after each transaction with its seconds since the request, and whether it was carried out."""

    @property
    def takes_nothing(self) -> str | None:
        """Why nothing can be written now (known members are still served); None: writes are possible."""

    @property
    def in_doubt(self) -> bool:
        """Whether a change that was reported as failed may be kept after all; a call of `kept` resolves that."""

    @property
    def replaced(self) -> str | None:
        """The other mediator that uses the store now, so that this one must end; None: there is none."""

    @property
    def shared(self) -> bool:
        """Whether several mediators may use the store at once. Then each change that members see has a number."""

    async def open(self) -> None:
        """Open the store, before any other call. Raises LocalError if it cannot be used.

        A standby waits here while another mediator uses the store; `takes_nothing` says so meanwhile.
        """

    async def kept(self, known: str = "") -> Kept:
        """The whole content; waits for no writer. `known`: digest of a document whose text the caller has already."""

    async def state(self) -> int:
        """The number of the store's state; later calls of `kept` include it."""

    async def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
        basis: Basis | None = None,
    ) -> int:
        """Grant all these or none; a member's older lease in the network is removed. The store ensures uniqueness.

        `resting`: given-up relay ports with the Unix time until which nobody else may have them. `basis`: the state on
        which the choice is based, needed if several mediators choose. Returns the number of the new state, or 0 if
        states have no numbers. Raises Outdated if something is taken: read the store and choose again.
        """

    async def offer(
        self, content: str, digest: str, based_on: int, now_s: int, *, by: str, detail: str
    ) -> int:
        """Put a document in force for all mediators. Returns the number of the new state.

        `based_on`: the number of the preceding document, 0 for the first one. Raises Outdated if another document is
        in force by now, so that of several concurrent offers the first counts.
        """

    async def reserve_generation(self, reserved: int) -> None:
        """Record that generations up to this one may be in use from now on."""

    async def invite(
        self, network: str, *, called: str, uses: int, made_s: int, expires_s: int, name: str, by: str
    ) -> tuple[a.Invite, bytes]:
        """A new invite to the network with this id, and its token, which is not stored; `called`: network name."""

    async def invites(self) -> list[a.Invite]:
        """All invites, newest last."""

    async def revoke_invite(self, identifier: str, now_s: int, *, by: str) -> None:
        """Make an invite invalid; members that joined with it stay."""

    async def redeem(self, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, int]:
        """Admit a host: use, membership and lease in one transaction. Raises RemoteError if the host is refused.

        Returns the number of the state in which it is a member, or 0 if states have no numbers: the caller changes the
        book that it has (`Book.admitted`). What is read and written does not grow with the members.
        """

    async def approve(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Records:
        """Admit a pending member.

        Returns all that the store has of the member now, as do the methods below: the caller changes the book that it
        has (`Book.changed`). What is read and written does not grow with the members.
        """

    async def revoke(self, key: WireGuardKey, name: str, now_s: int, *, unix_s: int, by: str) -> a.Records:
        """Revoke a key for good; its addresses stay bound to the key, its relay port rests."""

    async def leave(self, key: WireGuardKey, now_s: int, *, unix_s: int) -> a.Records:
        """Remove a member that joined; its addresses stay bound to its key, its relay port rests."""

    async def restore(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Records:
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
    ) -> a.Records:
        """Move name, memberships and leases to a new key. Raises RemoteError if the new key is not allowed.

        `by` None: the member itself asks.
        """

    async def note_document(self, digest: str, detail: str, now_s: int, *, by: str) -> None:
        """Write the audit log's line about a document in force, unless the last such line says the same."""

    async def audit(self, since_s: int = 0, after: int = 0) -> list[Entry]:
        """The first `PAGE` lines of the audit log with numbers above `after`, not older than `since_s`."""

    async def close(self) -> None:
        """Complete running transactions, refuse waiting ones, and close the store."""
