"""The events of a node: answers to its steps (`netctl.node.effects`), and what happens by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netctl.config import Loaded
from netctl.model.addresses import SocketAddress
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.model.view import View
from netctl.node.choices import Joined
from netctl.node.commit import PendingCommit
from netctl.node.linkstate import LinkState
from netctl.node.requests import Request
from netctl.session import Kept

MAX_NAMED = 5
"""Peers named in one warning."""


@dataclass(frozen=True, slots=True)
class ViewKnown:
    """There is a view to build networks from. `waiting`: why its mediator is not connected just now, or None."""

    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class HostRead:
    """The state of the host and the mediator's view at one moment. `actual` None: it was not asked for."""

    foreign: Foreign
    live: frozenset[WireGuardKey]
    resolved: Mapping[str, SocketAddress]
    view: View | None = None
    actual: HostState | None = None


@dataclass(frozen=True, slots=True)
class WatchdogReady:
    """The checkpoint is on disk, and a process waits for the deadline."""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Applied:
    """The engine has ended its apply."""

    outcome: ApplyOutcome


def _named(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}"


@dataclass(frozen=True, slots=True)
class Verified:
    """`cut_off`: why the apply must be rolled back, or None. `silent`: online peers that have not answered yet.
    `unknown`: peers that have not answered, and of which the mediator has not said whether they are online.
    """

    cut_off: str | None = None
    silent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings for people."""
        said = ((self.silent, "online, but not heard"), (self.unknown, "perhaps offline"))
        return tuple(f"no handshake yet with {_named(names)}: {why}" for names, why in said if names)


@dataclass(frozen=True, slots=True)
class Stored:
    """The step is done; what it had to write is on disk, also after a crash."""


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The write failed. `reason`: in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """The document that the host uses again. `loaded` None: there was none, or it was damaged before."""

    loaded: Loaded | None = None
    joined: Joined | None = None
    unstored: str | None = None
    """Why this document is not on disk, where it should be: the host uses it all the same."""


@dataclass(frozen=True, slots=True)
class ViewRecalled:
    """The present view if it is for this document, else the stored one of its mediators; None: there is neither."""

    view: View | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The step raised this exception."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Followed:
    """Paths, port and addresses follow the host's state. `trouble`: why they do not, or None."""

    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class ViewKept:
    """The view on disk; None: there is none that can be used."""

    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class CommitRead:
    """The pending commit, and the digests of documents that were rolled back."""

    record: PendingCommit | None = None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """`live`: peers with a session. `received`: bytes so far."""

    live: frozenset[WireGuardKey] = frozenset()
    received: Mapping[WireGuardKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """So many routes and addresses were set again."""

    count: int


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """`there`: the WireGuard link exists. `engine`: the engine that moves its packets, if known."""

    there: bool
    engine: str = ""
    port: int = 0
    """UDP port that it listens on; 0: not known."""


@dataclass(frozen=True, slots=True)
class Woken:
    """The time is over, or a message of the mediator came."""


Event = (
    ViewKnown
    | HostRead
    | WatchdogReady
    | Applied
    | Verified
    | Stored
    | StoreFailed
    | DocumentRead
    | ViewRecalled
    | Followed
    | ViewKept
    | CommitRead
    | Observed
    | Restored
    | LinkSeen
    | Woken
    | Failed
)
"""The answer to one step."""


@dataclass(frozen=True, slots=True)
class Started:
    """The agent starts: what it read from disk."""


@dataclass(frozen=True, slots=True)
class Requested:
    """A client asks for something (`netctl.node.requests`). The answer is one `Reply`."""

    request: int
    body: Request


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a step that was performed."""

    token: int
    event: Event


@dataclass(frozen=True, slots=True)
class ViewReceived:
    """The mediator sent a newer view."""

    view: View
    kept: Kept


@dataclass(frozen=True, slots=True)
class ViewConfirmed:
    """The mediator's view is the same at a later generation."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class PresenceReceived:
    """The mediator said of these members of the view whether they are online; None: not known any more."""

    online: Mapping[WireGuardKey, bool | None]


@dataclass(frozen=True, slots=True)
class PortUnfit:
    """Another port would suit this host better. `why`: a verdict of `netctl.paths.portjudge`."""

    why: str


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The control connection has a new state."""

    state: LinkState


@dataclass(frozen=True, slots=True)
class SessionsChanged:
    """The set of peers with a session has changed."""

    live: frozenset[WireGuardKey]


@dataclass(frozen=True, slots=True)
class LinkVanished:
    """The kernel reports that the WireGuard link may be gone."""


@dataclass(frozen=True, slots=True)
class ReconcileWanted:
    """Something has changed that the host should follow: reconcile."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A timer is due."""


Happening = (
    Started
    | Requested
    | Answered
    | ViewReceived
    | ViewConfirmed
    | PresenceReceived
    | LinkChanged
    | PortUnfit
    | SessionsChanged
    | LinkVanished
    | ReconcileWanted
    | TimePassed
)
"""An event that a node can be given."""
