"""The effects of a node: steps, which are answered by one event or by `Failed`, and notices, which have no answer."""

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
    """Wait for a view of this document's mediators, for a bounded time. → ViewKnown"""

    document: Document


@dataclass(frozen=True, slots=True)
class ReturnToMediators:
    """Connect to the mediators of the accepted document again. No answer."""

    tried: Document


@dataclass(frozen=True, slots=True)
class ReadHost:
    """Read what the evaluation of this document needs; with `actual` also the state of the host. → HostRead

    `document` None: no name is looked up.
    """

    document: Document | None
    actual: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """Write the checkpoint to disk, and start the process that waits for the deadline. → WatchdogReady"""

    seconds: float
    text: str
    back: Back
    terms: Terms


@dataclass(frozen=True, slots=True)
class ApplyHost:
    """Bring the host to a state, or leave it as it was. `document`: the document of that state. → Applied

    `seen`: change nothing if the host differs from this state.
    """

    desired: HostState
    document: Document | None
    seen: HostState | None = None
    quiet: bool = False
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Wait for handshakes with the peers that should answer, for a bounded time. → Verified"""

    document: Document
    live_before: frozenset[WireGuardKey]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write the accepted document to disk. → Stored or StoreFailed"""

    text: str


@dataclass(frozen=True, slots=True)
class FinishCommit:
    """Mark the armed apply as ended, so that it can be confirmed. → Stored or StoreFailed"""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Disarm:
    """Delete the record of the pending commit. → Stored or StoreFailed"""


@dataclass(frozen=True, slots=True)
class RestoreDocument:
    """Write the document from before a pending commit to disk as the accepted one. → DocumentRead

    If the disk is full, the document is used all the same, and `DocumentRead.unstored` says why it is not on disk.
    """

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class LiveBy:
    """Use this document from now on; the host itself is not touched. → ViewRecalled"""

    loaded: Loaded | None
    joined: Joined | None


@dataclass(frozen=True, slots=True)
class CloseCommit:
    """The roll-back is done: refuse the tried document from now on, delete the record. → Stored or StoreFailed"""

    record: PendingCommit


@dataclass(frozen=True, slots=True)
class Finished:
    """The transaction is over. `error`: raised in the request that asked for it; `outcome` then has no meaning."""

    outcome: ApplyOutcome
    evaluation: Evaluation | None = None
    """The evaluation of the document that was tried."""
    committed: bool = False
    """Whether the document is the accepted one now."""
    record: PendingCommit | None = None
    """The pending commit, where the apply waits for its confirmation."""
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    """Why the network is not complete yet although nothing failed."""
    saved: Back | None = None
    unsettled: bool = False
    """Whether the host may differ from the accepted document, so that it is reconciled."""
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class FollowHost:
    """Adapt paths, port and addresses to the host's new state. → Followed"""

    document: Document | None


@dataclass(frozen=True, slots=True)
class RecallView:
    """Read the view that is on disk for one of this document's mediators. → ViewKept"""

    document: Document


@dataclass(frozen=True, slots=True)
class ReadCommit:
    """Read the pending commit and the digests of documents that were rolled back. → CommitRead"""


@dataclass(frozen=True, slots=True)
class AdmitAgain:
    """Stop refusing a document that was rolled back. → Stored or StoreFailed"""

    digest: str


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """Read the accepted document, or the excerpt of an invite, from disk. → DocumentRead"""


@dataclass(frozen=True, slots=True)
class LoadDocument:
    """Load the document from this text. → DocumentRead"""

    text: str
    file: str


@dataclass(frozen=True, slots=True)
class KeepExcerpt:
    """Write the mediator's excerpt to disk as the accepted document. → Stored or StoreFailed"""

    text: str


@dataclass(frozen=True, slots=True)
class KeepView:
    """Write the view to disk for the next start. → Stored or StoreFailed"""

    kept: Kept


@dataclass(frozen=True, slots=True)
class KeepPins:
    """Write the lease pins to disk for the next start. → Stored or StoreFailed"""

    pins: Pins


@dataclass(frozen=True, slots=True)
class KeepDown:
    """Write which networks are down to disk for the next start. → Stored or StoreFailed"""

    down: Down


@dataclass(frozen=True, slots=True)
class ForgetAll:
    """Delete everything on disk except the keys. → Stored or StoreFailed"""


@dataclass(frozen=True, slots=True)
class Observe:
    """Read the state of the tunnels. → Observed"""


@dataclass(frozen=True, slots=True)
class RetryHost:
    """Try again the changes of the last apply that failed and that no other change depends on. → Stored"""


@dataclass(frozen=True, slots=True)
class PruneHost:
    """Remove what is ours and not desired, at most so many changes. → Applied"""

    desired: HostState
    at_most: int


@dataclass(frozen=True, slots=True)
class RestoreRoutes:
    """Set our routes and addresses again that another program removed. → Restored"""

    desired: HostState


@dataclass(frozen=True, slots=True)
class LookForLink:
    """Look whether the WireGuard link exists. → LinkSeen"""


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until this time (seconds, as `now`), or until a message of the mediator. → Woken, by the node itself"""

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
    """Do one step, and answer with this token. `request`: receives its progress, or None."""

    token: int
    step: Effect
    request: int | None


@dataclass(frozen=True, slots=True)
class UseMediators:
    """Connect to these mediators. `kept`: the newest view that this host has of them."""

    mediators: tuple[Mediator, ...]
    kept: Kept | None


@dataclass(frozen=True, slots=True)
class ConnectNow:
    """Try to connect to the mediator at once."""


@dataclass(frozen=True, slots=True)
class ForgetMediator:
    """Delete the view: the mediator's next one is accepted whatever its generation."""


@dataclass(frozen=True, slots=True)
class TellMediator:
    """Send this message to the mediator; drop it while not logged in."""

    message: Message


@dataclass(frozen=True, slots=True)
class Knock:
    """Send a packet towards each of these peers, so that its tunnel opens now."""

    keys: tuple[WireGuardKey, ...]


@dataclass(frozen=True, slots=True)
class EngineGone:
    """The engine has ended: open again with the next engine what belonged to it."""


@dataclass(frozen=True, slots=True)
class HostLeft:
    """This host has left its networks: no paths are needed any more."""


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the log. `warning`: somebody should look at it."""

    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of progress for the client of a request."""

    request: int
    line: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The end of a request. `error`: raised at the client; `result` then has no meaning."""

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
"""An effect that has no answer."""
