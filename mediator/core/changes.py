"""What membership wants of the store: each value is one transaction, and says what a committed one answers.

The shell carries them out; nothing here reads a clock. `by`: who asked for it, for the audit log. Times are Unix time.
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
    """One transaction that answers with a `T`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Committed(Generic[T]):
    """A transaction was kept."""

    outcome: T
    now: float
    """Monotonic seconds."""
    unix_s: int
    """Seconds since 1970 by the clock that the relay shares."""


Job = Generator[Change[Any], Committed[Any], T]
"""Yields a transaction and goes on with its `Committed`; of one that was refused the error is raised where it waits."""


def commit(change: Change[T]) -> Job[Committed[T]]:
    """Have this kept. Raises what the store refuses it with."""
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
    """Let in who waits."""

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
    """An invite is good for nothing any more; who came with it stays."""

    identifier: str
    now_s: int
    by: str
