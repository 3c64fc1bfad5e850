"""The state of one node while it lives, and the helper steps that its jobs share.

A job is a generator: it yields one step (`netctl.node.effects`), continues with the event that answers the step, and
returns its result. It changes the node's state only through `Context`; an exception in it ends that job alone.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from netctl.model.document import Document
from netctl.model.errors import NetctlError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.commit import Back, PendingCommit, Proof
from netctl.node.drift import Counters, Departure
from netctl.node.linkstate import LinkState
from netctl.node.state import NodeState
from netctl.session import Kept

T = TypeVar("T")
E = TypeVar("E", bound=on.Event)
Job = Generator[do.Effect, on.Event, T]

HANDSHAKE_WAIT_S = 5.0
"""Seconds to wait for a handshake: it takes a round trip, over the relay two; a lost first packet is sent again after
5 s.
"""


@dataclass(slots=True)
class Revival:
    """How often and how long a WireGuard link was missing."""

    restarts: int = 0
    """How often the link was brought back."""
    lasted_s: float = 0.0
    """Seconds that the link was missing the last time."""
    took_along: tuple[str, ...] = ()
    """Links of other programs that vanished with it the last time: only those programs can bring them back."""
    since_s: float | None = None
    """Since when the link is missing; None: it is there, or not wanted."""


@dataclass(slots=True)
class Context:
    """The state of one life of a node. Jobs write it, one at a time; views of the mediator arrive in between.

    The agent around it writes two fields: the number of tables loaded again, and the view when the agent ends.
    """

    key: WireGuardKey
    boot_id: str
    state: NodeState = field(default_factory=NodeState)
    alone: bool = False
    """There is no agent: nobody observes the tunnels, and there is no connection to a mediator."""
    handshake_wait_s: float = HANDSHAKE_WAIT_S
    now: float = 0.0
    """Seconds of CLOCK_BOOTTIME: they go on while the host sleeps, and no clock step moves them."""
    link: LinkState = LinkState("none", 0.0)  # noqa: RUF009 - frozen
    kept: Kept | None = None
    """The newest view with its seal: the mediator sends only what has changed since."""
    unkept: Kept | None = None
    """A view that is not on disk yet."""
    live: frozenset[WireGuardKey] = frozenset()
    """Peers with a session."""
    unmet: str | None = None
    """Why the last try to bring the host to its accepted document failed; each drift check tries again."""
    trouble: str | None = None
    """Why paths do not follow the host's present state; tried again while the tunnels are observed."""
    departures: tuple[Departure, ...] = ()
    """The departures from the document that the last drift check found."""
    blocked: frozenset[str] = frozenset()
    """What the document allows and the host's own firewall drops, as last logged."""
    counters: Counters = field(default_factory=Counters)
    revival: Revival = field(default_factory=Revival)
    excerpt_refused: str = ""
    """The last excerpt that was refused: it is logged once."""
    armed: PendingCommit | None = None
    """The pending commit as last read; the record on disk decides."""
    not_back: str | None = None
    """Why the last roll-back of an unconfirmed apply failed; it is tried again until it succeeds."""
    retry_s: float = 0.0
    """When a failed roll-back is tried again."""
    saved: Back | None = None
    """The state before the last save of the watched file."""
    proof: Proof | None = None
    wanted: bool = False
    """Whether the host is to be reconciled."""
    request: int | None = None
    """The request that the present job answers."""
    notices: list[do.Perform | do.Notice] = field(default_factory=list)

    def emit(self, notice: do.Perform | do.Notice) -> None:
        """Emit a notice: an effect that has no answer."""
        self.notices.append(notice)

    def say(self, text: str) -> None:
        """Log one line at the level info."""
        self.emit(do.Log(text))

    def warn(self, text: str) -> None:
        """Log one line as a warning."""
        self.emit(do.Log(text, warning=True))

    def tell(self, line: str) -> None:
        """Send one line of progress to the request that the present job answers."""
        if self.request is not None:
            self.emit(do.Progress(self.request, line))

    @property
    def wanted_peers(self) -> frozenset[WireGuardKey]:
        """The peers that the host should have."""
        link = self.state.desired.wireguard
        return frozenset(link.peers) if link is not None else frozenset()

    @property
    def lazy_peers(self) -> frozenset[WireGuardKey]:
        """Those of them whose tunnels are opened with the first packet."""
        link = self.state.desired.wireguard
        peers = link.peers.values() if link is not None else ()
        return frozenset({peer.key for peer in peers if peer.lazy})  # made of a set, it takes half the memory

    @property
    def connected(self) -> bool:
        """Whether the mediator is connected."""
        return self.link.state == "connected"

    def view_for(self, document: Document) -> View | None:
        """The present view, if it comes from one of this document's mediators."""
        return self.state.view if share_mediator(self.state.document, document) else None

    def use(self, kept: Kept | None) -> None:
        """Use a stored view; the mediator is asked only for what has changed since."""
        self.kept = kept
        self.state = replace(self.state, view=kept.view if kept is not None else None)

    def use_mediators(self, document: Document | None) -> None:
        """Connect to the mediators of a document."""
        self.emit(do.UseMediators(document.mediators if document is not None else (), self.kept))

    def fail(self, reason: str | None) -> None:
        """Keep for `status` why the host is not as its document says, and log it once."""
        if reason is not None and reason != self.unmet:
            self.warn(f"could not bring the host to its document: {reason}")
        self.unmet = reason


def ask(step: do.Effect, kind: type[E]) -> Job[E]:
    """Yield one step and return its answer. Raises what the step raised."""
    event = yield step
    if isinstance(event, on.Failed):
        raise event.error
    if not isinstance(event, kind):
        raise RuntimeError(f"{type(event).__name__} is no answer to {type(step).__name__}")
    return event


def store(step: do.Effect) -> Job[str | None]:
    """Yield one step that writes to disk. Returns None, or why the write failed. Raises what the step raised."""
    event = yield step
    if isinstance(event, on.Failed):
        raise event.error
    return event.reason if isinstance(event, on.StoreFailed) else None


def identities(document: Document) -> tuple[IdentityKey, ...]:
    """The identities of all mediators that a document pins; a relay apart vouches for nothing."""
    return tuple(pin for mediator in document.full_mediators() for pin in mediator.identity)


def share_mediator(one: Document | None, other: Document) -> bool:
    """Whether a view for one document is valid for the other: they have a mediator in common."""
    return one is not None and bool(set(identities(one)) & set(identities(other)))


def reason_of(error: BaseException) -> str:
    """One line of text for any exception."""
    if isinstance(error, NetctlError):
        return str(error)
    return f"netctl itself failed ({type(error).__name__}: {error}); it goes on"
