"""Effects of the core: the shell performs them in order."""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.busmessages import Message as BusMessage
from mediator.core.enrollment import Challenge, EnrollmentEffect, Left, Redeem, Rekey
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from mediator.core.transactions import Basis
from netctl.model.document import Document
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message on a connection."""

    connection: int
    message: w.Message


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the same messages, already encoded and in this order, on each of these connections."""

    connections: tuple[int, ...]
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class News(Deliver):
    """Members came or went: it may wait for more of it, so that one write carries all."""

    elsewhere: bool = False
    """Whether they are at other mediators, which have gathered their news already."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Send the error and close the connection."""

    connection: int
    error: w.Error


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The connection is logged in: raise its frame limit."""

    connection: int
    member: str


@dataclass(frozen=True, slots=True)
class Store:
    """Commit these allocations (`MembershipService.grant`), or call `refused`. Other work continues meanwhile.

    There is no second one before the first is answered. Effects after it in the same list wait for the answer, or for
    `store_is_slow`.
    """

    leases: tuple[GrantLease, ...]
    ports: tuple[tuple[WireGuardKey, int], ...]
    pairs: tuple[PairGrant, ...] = ()
    resting: tuple[tuple[int, int], ...] = ()
    """Relay ports given up by this commit, with the Unix time until which nobody else may have them."""
    basis: Basis | None = None
    """The state on which the choice is based; None: no other mediator chooses."""


@dataclass(frozen=True, slots=True)
class TookDocument:
    """Another document, from the store, is in force: save a copy."""

    content: str
    document: Document


@dataclass(frozen=True, slots=True)
class LookFirst:
    """A member has seen a newer state than this mediator: read the store, then call `login_again`."""

    connection: int
    login: w.Login


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the operator's log."""

    text: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Tell the other mediators of the store: put it on the bus, which may lose it."""

    message: BusMessage


@dataclass(frozen=True, slots=True)
class StoreMoved:
    """Another mediator shows this state of the store, and it is newer than ours: look at the store."""

    state: int


Effect = (
    Send
    | Deliver
    | Drop
    | LoggedIn
    | Store
    | Say
    | Publish
    | StoreMoved
    | TookDocument
    | LookFirst
    | EnrollmentEffect
)
__all__ = [
    "Challenge",
    "Deliver",
    "Drop",
    "Effect",
    "Left",
    "LoggedIn",
    "LookFirst",
    "News",
    "Publish",
    "Redeem",
    "Rekey",
    "Say",
    "Send",
    "Store",
    "StoreMoved",
    "TookDocument",
]
