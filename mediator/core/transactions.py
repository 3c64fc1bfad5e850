"""Transactions that membership asks of the store: one value each, with the type of its result.

The shell carries them out; nothing here reads a clock. `by`: the person or member who asked, for the audit log. Times
are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mediator.core.admissions import Applicant, Invite, Records, Verdict
from mediator.core.kept import Kept
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey

T = TypeVar("T")


class Outdated(LocalError):
    """The store has changed since this was decided: read the store and decide again. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Basis:
    """The state on which a choice is based, if several mediators choose."""

    number: int
    """The number of the store's state."""
    document: str
    """The digest of the document in force."""


class Change(Generic[T]):
    """One transaction with a result of type `T`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """A committed transaction."""

    outcome: T
    now: float
    """Monotonic seconds."""
    unix_s: int
    """Seconds since 1970 by the clock that the relay shares."""


Job = Generator[Change[Any], Committed[Any], T]
"""Yields a transaction and receives its `Committed`. If the store refuses it, the error is raised at the yield."""


def commit(change: Change[T]) -> Job[Committed[T]]:
    """Commit a transaction. Raises the store's error if it is refused."""
    committed: Committed[T] = yield change
    return committed


@dataclass(frozen=True, slots=True)
class Redemption(Change[tuple[Verdict, int]]):
    """Admit a host: invite use, membership and lease in one transaction. Raises RemoteError if the host is refused.

    Its result: the verdict, and the number of the state in which the host is a member (`MemberStore.redeem`).
    """

    document: Document
    who: Applicant
    now_s: int


@dataclass(frozen=True, slots=True)
class Approval(Change[Records]):
    """Admit a member that waits for approval."""

    key: WireGuardKey
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Revocation(Change[Records]):
    """Revoke a key for good; its addresses stay bound to the key, its relay port rests."""

    key: WireGuardKey
    name: str
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Restoration(Change[Records]):
    """Take a revocation back."""

    key: WireGuardKey
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Departure(Change[Records]):
    """Remove a member that joined; its addresses stay bound to its key, its relay port rests."""

    key: WireGuardKey
    now_s: int


@dataclass(frozen=True, slots=True)
class KeyChange(Change[Records]):
    """Move name, memberships and leases to a new key; `by` None: the member itself asks."""

    old: WireGuardKey
    key: WireGuardKey
    identity: IdentityKey
    now_s: int
    by: str | None


@dataclass(frozen=True, slots=True)
class NewInvite(Change[tuple[Invite, bytes]]):
    """An invite to the network with this id; `called`: its name. Returns the token too, which is not stored."""

    network: str
    called: str
    uses: int
    made_s: int
    expires_s: int
    name: str
    by: str


@dataclass(frozen=True, slots=True)
class InviteRevocation(Change[None]):
    """Make an invite invalid; members that joined with it stay."""

    identifier: str
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Grant(Change[int]):
    """Grant all these leases and relay ports, or none (`MemberStore.add`). Returns the state's number."""

    leases: tuple[GrantLease, ...]
    ports: tuple[tuple[WireGuardKey, int], ...]
    pairs: tuple[PairGrant, ...]
    resting: tuple[tuple[int, int], ...]
    basis: Basis | None


@dataclass(frozen=True, slots=True)
class Offer(Change[int]):
    """Put a document in force for all mediators. Returns the state's number."""

    content: str
    digest: str
    based_on: int
    """The number of the preceding document; 0: there is none."""
    now_s: int
    by: str
    detail: str


@dataclass(frozen=True, slots=True)
class Raise(Change[None]):
    """Give the store's state at least this number."""

    number: int


@dataclass(frozen=True, slots=True)
class Look(Change[int]):
    """Ask for the number of the store's state."""


@dataclass(frozen=True, slots=True)
class Reading(Change[Kept | None]):
    """Read the whole store. None: the service has this state already, from another reading."""

    number: int
    """0: read in any case."""
    known: str = ""
    """Digest of a document whose text is not needed again: `MembershipService.known` when it is carried out."""
