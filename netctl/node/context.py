"""What one node knows while it lives, and the steps that its jobs are made of.

A job is a generator: it yields one step (`netctl.node.effects`), goes on with the event that answers it, and returns
its result. It changes what the node knows only through `Context`, and what it raises ends it alone.
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
"""A handshake takes a round trip, through the relay two; the first knock may be lost, the next comes after 5 s."""


@dataclass(slots=True)
class Revival:
    """What became of a WireGuard link that was gone."""

    restarts: int = 0
    """How often it was brought back."""
    lasted_s: float = 0.0
    """How long it was away the last time."""
    took_along: tuple[str, ...] = ()
    """Links of others that went with it the last time: nobody but who made them can bring them back."""
    since_s: float | None = None
    """Since when it is away; None: it is there, or nobody wants it."""


@dataclass(slots=True)
class Context:
    """One life of one node. Its jobs write here, one at a time; what the mediator says comes in between.

    The agent around it writes two things alone: it counts tables that it loaded again, and keeps the view at its end.
    """

    key: WireGuardKey
    boot_id: str
    state: NodeState = field(default_factory=NodeState)
    alone: bool = False
    """No daemon: nobody observes the tunnels, and there is no mediator."""
    handshake_wait_s: float = HANDSHAKE_WAIT_S
    now: float = 0.0
    """Seconds that go on while the host sleeps, and that no clock step moves (CLOCK_BOOTTIME)."""
    link: LinkState = LinkState("none", 0.0)  # noqa: RUF009 - frozen
    kept: Kept | None = None
    """The newest view with its seal: what the mediator need not send again."""
    unkept: Kept | None = None
    """The view that is not on disk yet."""
    live: frozenset[WireGuardKey] = frozenset()
    """Peers with a session."""
    unmet: str | None = None
    """Why the last try to bring the host to its accepted document failed; tried again with each look for drift."""
    trouble: str | None = None
    """Why paths do not follow the host's present state; tried again while the tunnels are observed."""
    departures: tuple[Departure, ...] = ()
    """Where the host departs from the document, as it was seen last."""
    blocked: frozenset[str] = frozenset()
    """What the host's own firewall drops of what the document allows, as it was said last."""
    counters: Counters = field(default_factory=Counters)
    revival: Revival = field(default_factory=Revival)
    excerpt_refused: str = ""
    """An excerpt that is not taken: it is said once."""
    armed: PendingCommit | None = None
    """What waits for its confirmation, as far as it was read: the disk has the last word."""
    not_back: str | None = None
    """Why the last try to go back from what nobody confirmed is not at its end; tried again until it is."""
    retry_s: float = 0.0
    """When a roll-back that failed is tried again."""
    saved: Back | None = None
    """What the last save of the watched file started from."""
    proof: Proof | None = None
    wanted: bool = False
    """The host is to be reconciled."""
    request: int | None = None
    """Who waits for the present job."""
    notices: list[do.Perform | do.Notice] = field(default_factory=list)

    def emit(self, notice: do.Perform | do.Notice) -> None:
        """Have something done that is not waited for."""
        self.notices.append(notice)

    def say(self, text: str) -> None:
        """One line for the log, about what is as it should be."""
        self.emit(do.Log(text))

    def warn(self, text: str) -> None:
        """One line for the log, about what somebody should look at."""
        self.emit(do.Log(text, warning=True))

    def tell(self, line: str) -> None:
        """One line for whoever waits for the present job."""
        if self.request is not None:
            self.emit(do.Progress(self.request, line))

    @property
    def wanted_peers(self) -> frozenset[WireGuardKey]:
        """The peers that the host should have."""
        link = self.state.desired.wireguard
        return frozenset(link.peers) if link is not None else frozenset()

    @property
    def connected(self) -> bool:
        """Whether the mediator is there."""
        return self.link.state == "connected"

    def view_for(self, document: Document) -> View | None:
        """The present view, where it comes from one of this document's mediators."""
        return self.state.view if share_mediator(self.state.document, document) else None

    def use(self, kept: Kept | None) -> None:
        """Live by a view that was kept; the mediator is asked for what has changed since."""
        self.kept = kept
        self.state = replace(self.state, view=kept.view if kept is not None else None)

    def use_mediators(self, document: Document | None) -> None:
        """Be connected to those of a document."""
        self.emit(do.UseMediators(document.mediators if document is not None else (), self.kept))

    def fail(self, reason: str | None) -> None:
        """Keep why the host is not as its document says, for `status`; say it once."""
        if reason is not None and reason != self.unmet:
            self.warn(f"could not bring the host to its document: {reason}")
        self.unmet = reason


def ask(step: do.Effect, kind: type[E]) -> Job[E]:
    """One step, and its answer. Raises what it raised."""
    event = yield step
    if isinstance(event, on.Failed):
        raise event.error
    if not isinstance(event, kind):
        raise RuntimeError(f"{type(event).__name__} is no answer to {type(step).__name__}")
    return event


def store(step: do.Effect) -> Job[str | None]:
    """Have something on disk. None: it is; else why it is not. Raises what it raised."""
    event = yield step
    if isinstance(event, on.Failed):
        raise event.error
    return event.reason if isinstance(event, on.StoreFailed) else None


def identities(document: Document) -> tuple[IdentityKey, ...]:
    """The identities of all mediators that a document pins."""
    return tuple(pin for mediator in document.mediators for pin in mediator.identity)


def share_mediator(one: Document | None, other: Document) -> bool:
    """Whether a view for one document is a view for the other."""
    return one is not None and bool(set(identities(one)) & set(identities(other)))


def reason_of(error: BaseException) -> str:
    """One line for what went wrong, whatever it was."""
    if isinstance(error, NetctlError):
        return str(error)
    return f"netctl itself failed ({type(error).__name__}: {error}); it goes on"
