"""What a transaction wants to be done. Each but `UseMediators` is answered by one event, or by `Failed`."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.config import Loaded
from netctl.model.document import Document
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.node.choices import Joined
from netctl.node.commit import Back, PendingCommit, Terms
from netctl.node.evaluate import Evaluation


@dataclass(frozen=True, slots=True)
class AwaitView:
    """Have a view of this document's mediators, for a bounded time. → ViewKnown"""

    document: Document


@dataclass(frozen=True, slots=True)
class UseMediators:
    """Be at the mediators of the accepted document again, as before this one was tried. No answer."""

    tried: Document


@dataclass(frozen=True, slots=True)
class ReadHost:
    """What an evaluation of this document needs. `actual`: the state of the host, too. → HostRead"""

    document: Document
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
    """The document of before a pending commit is the accepted one again, on disk. → DocumentRead or StoreFailed"""

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


Effect = (
    AwaitView
    | UseMediators
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
    | Finished
)
