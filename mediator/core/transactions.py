"""Transactions that membership asks of the store: one value each, with the type of its result.

The shell carries them out; nothing here reads a clock. `by`: the person or member who asked, for the audit log. Times
are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mediator.core.admissions import Applicant, Book, Invite, Verdict
from netctl.model.document import Document
from netctl.model.keys import IdentityKey, WireGuardKey

T = TypeVar("T")


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
class Redemption(Change[tuple[Verdict, Book]]):
    """Let a host in: the use of its invite, the membership and the lease are one. RemoteError: it may not come in."""

    document: Document
    who: Applicant
    now_s: int


@dataclass(frozen=True, slots=True)
class Approval(Change[Book]):
    """Admit a member that waits for approval."""

    key: WireGuardKey
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Revocation(Change[Book]):
    """Shut a key out for good; its addresses stay bound to it, its relay port rests."""

    key: WireGuardKey
    name: str
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Restoration(Change[Book]):
    """Take a revocation back."""

    key: WireGuardKey
    now_s: int
    by: str


@dataclass(frozen=True, slots=True)
class Departure(Change[Book]):
    """Forget a member that joined; its addresses stay bound to its key, its relay port rests."""

    key: WireGuardKey
    now_s: int


@dataclass(frozen=True, slots=True)
class KeyChange(Change[Book]):
    """Move name, memberships and leases to a new key; `by` None: the member itself asks."""

    old: WireGuardKey
    key: WireGuardKey
    identity: IdentityKey
    now_s: int
    by: str | None


@dataclass(frozen=True, slots=True)
class NewInvite(Change[tuple[Invite, bytes]]):
    """An invite to the network with this id; `called`: its name. Answers with its token too, which is nowhere else."""

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
