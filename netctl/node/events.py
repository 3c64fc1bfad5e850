"""What can happen to a node: answers to its steps (`netctl.node.effects`), and what comes by itself."""

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
"""So many peers are named in a warning."""


@dataclass(frozen=True, slots=True)
class ViewKnown:
    """There is a view to build a network from. `waiting`: why its mediator is not connected just now, or None."""

    waiting: str | None = None


@dataclass(frozen=True, slots=True)
class HostRead:
    """What the host and the mediator say at one moment. `actual` None: it was not asked for."""

    foreign: Foreign
    live: frozenset[WireGuardKey]
    resolved: Mapping[str, SocketAddress]
    view: View | None = None
    actual: HostState | None = None


@dataclass(frozen=True, slots=True)
class WatchdogReady:
    """The way back is on disk, and a process waits for the deadline."""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Applied:
    """The engine has come to an end."""

    outcome: ApplyOutcome


@dataclass(frozen=True, slots=True)
class Verified:
    """`cut_off`: why the apply must not stand, or None. `silent`: peers that are there and have not answered yet."""

    cut_off: str | None = None
    silent: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """For people."""
        if not self.silent:
            return ()
        named = ", ".join(self.silent[:MAX_NAMED])
        more = f" and {len(self.silent) - MAX_NAMED} more" if len(self.silent) > MAX_NAMED else ""
        return (f"no handshake yet with {named}{more}: online, but not heard",)


@dataclass(frozen=True, slots=True)
class Stored:
    """It is done; what was to be written is on disk, also after a crash."""


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """It is not. `reason`: in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class DocumentRead:
    """What the host lives by again. `loaded` None: there was no document, or it was damaged before."""

    loaded: Loaded | None = None
    joined: Joined | None = None
    unstored: str | None = None
    """Why this is not on disk, where it should be: the host lives by it all the same."""


@dataclass(frozen=True, slots=True)
class ViewRecalled:
    """The present view where it is for this document, or what is kept of its mediators; None: there is neither."""

    view: View | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Doing it raised this."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Followed:
    """Paths, port and addresses are as the host is. `trouble`: why not, or None."""

    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class ViewKept:
    """What the disk has; None: nothing that can be used."""

    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class CommitRead:
    """What is armed, and the digests of documents that were rolled back."""

    record: PendingCommit | None = None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """`live`: peers with a session. `received`: bytes so far."""

    live: frozenset[WireGuardKey] = frozenset()
    received: Mapping[WireGuardKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restored:
    """So many things were set again."""

    count: int


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """`there`: the WireGuard link is. `engine`: what moves its packets, if that is known."""

    there: bool
    engine: str = ""
    port: int = 0
    """UDP port that it listens on; 0: not known."""


@dataclass(frozen=True, slots=True)
class Woken:
    """The time is over, or the mediator has said something."""


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
    """A life begins: what is on disk is what it begins from."""


@dataclass(frozen=True, slots=True)
class Requested:
    """Somebody asks for something (`netctl.node.requests`). The answer is one `Reply`."""

    request: int
    body: Request


@dataclass(frozen=True, slots=True)
class Answered:
    """A step is done."""

    token: int
    event: Event


@dataclass(frozen=True, slots=True)
class ViewReceived:
    """The mediator's newest word."""

    view: View
    kept: Kept


@dataclass(frozen=True, slots=True)
class PresenceReceived:
    """A member of the view came or went."""

    key: WireGuardKey
    online: bool


@dataclass(frozen=True, slots=True)
class PortUnfit:
    """Another port of this host would do better. `why`: a verdict of `netctl.paths.portjudge`."""

    why: str


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The control connection has another state."""

    state: LinkState


@dataclass(frozen=True, slots=True)
class SessionsChanged:
    """Other peers have a session now."""

    live: frozenset[WireGuardKey]


@dataclass(frozen=True, slots=True)
class LinkVanished:
    """The kernel says that the WireGuard link may be gone."""


@dataclass(frozen=True, slots=True)
class ReconcileWanted:
    """Something has changed that the host should follow."""


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A timer is due."""


Happening = (
    Started
    | Requested
    | Answered
    | ViewReceived
    | PresenceReceived
    | LinkChanged
    | PortUnfit
    | SessionsChanged
    | LinkVanished
    | ReconcileWanted
    | TimePassed
)
"""What a node is told."""
