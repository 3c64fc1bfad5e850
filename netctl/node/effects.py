"""What a node wants to be done: steps, each of which is answered by one event or by `Failed`, and notices."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.config import Loaded, Pins
from netctl.model.document import Document, Mediator
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.node.choices import Down, Joined
from netctl.node.commit import Back, PendingCommit, Terms
from netctl.node.evaluate import Evaluation
from netctl.session import Kept
from netctl.wire.control import Message


@dataclass(frozen=True, slots=True)
class AwaitView:
    """Have a view of this document's mediators, for a bounded time. → ViewKnown"""

    document: Document


@dataclass(frozen=True, slots=True)
class ReturnToMediators:
    """Be at the mediators of the accepted document again, as before this one was tried. No answer."""

    tried: Document


@dataclass(frozen=True, slots=True)
class ReadHost:
    """What an evaluation of this document needs. `actual`: the state of the host, too. → HostRead

    `document` None: nothing is looked up.
    """

    document: Document | None
    actual: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """Put the way back on disk, and start the process that waits for the deadline. → WatchdogReady"""

    seconds: float
    text: str
    back: Back
    terms: Terms


@dataclass(frozen=True, slots=True)
class ApplyHost:
    """Bring the host to a state, or leave it as it was. `document`: what it was made from. → Applied

    `seen`: do nothing when the host is not as it was seen.
    """

    desired: HostState
    document: Document | None
    seen: HostState | None = None
    quiet: bool = False
    """Nobody is told what is being done."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Wait for handshakes with the peers that should answer, for a bounded time. → Verified"""

    document: Document
    live_before: frozenset[WireGuardKey]


@dataclass(frozen=True, slots=True)
class Persist:
    """This is the accepted document, of this host's own. → Stored or StoreFailed"""

    text: str


@dataclass(frozen=True, slots=True)
class FinishCommit:
    """The armed apply waits for its confirmation from now on. → Stored or StoreFailed"""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Disarm:
    """Nothing is armed any more. → Stored or StoreFailed"""


@dataclass(frozen=True, slots=True)
class RestoreDocument:
    """The document of before a pending commit is the accepted one again, on disk. → DocumentRead

    A disk that is full keeps nothing from being live again: `DocumentRead.unstored` says it.
    """

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class LiveBy:
    """Live by this document from now on; the host itself is not touched. → ViewRecalled"""

    loaded: Loaded | None
    joined: Joined | None


@dataclass(frozen=True, slots=True)
class CloseCommit:
    """The roll-back is done: refuse the document that was tried, forget the record. → Stored or StoreFailed"""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Finished:
    """The transaction is over. `error`: raised for whoever asked; then `outcome` says nothing."""

    outcome: ApplyOutcome
    evaluation: Evaluation | None = None
    """Of the document that was tried."""
    committed: bool = False
    """The document is the accepted one now."""
    record: PendingCommit | None = None
    """What waits for its confirmation."""
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    """Why the network is not whole yet though nothing failed."""
    saved: Back | None = None
    unsettled: bool = False
    """The host may not be as the accepted document says: reconcile it."""
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FollowHost:
    """The host has another state: paths, port and addresses follow it. → Followed"""

    document: Document | None


@dataclass(frozen=True, slots=True)
class RecallView:
    """The view of one of this document's mediators that is on disk. → ViewKept"""

    document: Document


@dataclass(frozen=True, slots=True)
class ReadCommit:
    """What is armed, and what was rolled back. → CommitRead"""


@dataclass(frozen=True, slots=True)
class AdmitAgain:
    """A document that was rolled back is refused no more. → Stored or StoreFailed"""

    digest: str


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """What the disk says that this host lives by. → DocumentRead"""


@dataclass(frozen=True, slots=True)
class LoadDocument:
    """The document of this text. → DocumentRead"""

    text: str
    file: str


@dataclass(frozen=True, slots=True)
class KeepExcerpt:
    """This excerpt of the mediator's is the accepted document. → Stored or StoreFailed"""

    text: str


@dataclass(frozen=True, slots=True)
class KeepView:
    """For the next life. → Stored or StoreFailed"""

    kept: Kept


@dataclass(frozen=True, slots=True)
class KeepPins:
    """For the next life. → Stored or StoreFailed"""

    pins: Pins


@dataclass(frozen=True, slots=True)
class KeepDown:
    """For the next life. → Stored or StoreFailed"""

    down: Down


@dataclass(frozen=True, slots=True)
class ForgetAll:
    """Have nothing on disk but the keys, as before the first apply. → Stored or StoreFailed"""


@dataclass(frozen=True, slots=True)
class Observe:
    """What the tunnels do just now. → Observed"""


@dataclass(frozen=True, slots=True)
class RetryHost:
    """Try once more what of the last apply could not be done and nothing else waits for. → Stored"""


@dataclass(frozen=True, slots=True)
class PruneHost:
    """Remove what is ours and not wanted, at most so many changes. → Applied"""

    desired: HostState
    at_most: int


@dataclass(frozen=True, slots=True)
class RestoreRoutes:
    """Set routes and addresses again that somebody has taken away. → Restored"""

    desired: HostState


@dataclass(frozen=True, slots=True)
class LookForLink:
    """Whether the WireGuard link is there. → LinkSeen"""


@dataclass(frozen=True, slots=True)
class Wait:
    """Until then (seconds, as `now`), or until the mediator says something. → Woken, by the node itself"""

    until_s: float


Effect = (
    AwaitView
    | ReturnToMediators
    | ReadHost
    | Arm
    | ApplyHost
    | Verify
    | Persist
    | FinishCommit
    | Disarm
    | RestoreDocument
    | LiveBy
    | CloseCommit
    | FollowHost
    | RecallView
    | ReadCommit
    | AdmitAgain
    | ReadDocument
    | LoadDocument
    | KeepExcerpt
    | KeepView
    | KeepPins
    | KeepDown
    | ForgetAll
    | Observe
    | RetryHost
    | PruneHost
    | RestoreRoutes
    | LookForLink
    | Wait
    | Finished
)
"""One step of a job."""


@dataclass(frozen=True, slots=True)
class Perform:
    """Do one step, and answer with this token. `request`: who is told about it, or None."""

    token: int
    step: Effect
    request: int | None


@dataclass(frozen=True, slots=True)
class UseMediators:
    """Whom to be connected to; `kept`: the view that this host has of them."""

    mediators: tuple[Mediator, ...]
    kept: Kept | None


@dataclass(frozen=True, slots=True)
class ConnectNow:
    """Try the mediator again at once."""


@dataclass(frozen=True, slots=True)
class ForgetMediator:
    """Have no view: the mediator's next one is believed whatever its generation."""


@dataclass(frozen=True, slots=True)
class TellMediator:
    """Send this, or drop it while not logged in."""

    message: Message


@dataclass(frozen=True, slots=True)
class Knock:
    """Make a packet want to go to each of these peers, so that its tunnel opens now."""

    keys: tuple[WireGuardKey, ...]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The engine has ended: what belongs to it is opened again with the next one."""


@dataclass(frozen=True, slots=True)
class HostLeft:
    """This host has left its networks: nothing is left to have paths to."""


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the log. `warning`: somebody should look at it."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One line for whoever waits for a request."""

    request: int
    line: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a request. `error`: raised for whoever asked; then `result` says nothing."""

    request: int
    result: object = None
    error: Exception | None = None


Notice = (
    UseMediators
    | ConnectNow
    | ForgetMediator
    | TellMediator
    | Knock
    | EngineGone
    | HostLeft
    | Log
    | Progress
    | Reply
)
"""What is not answered."""
