"""The roll-back of one armed apply: document and host as before it. Pure: events in, effects out.

The record of the apply stays on disk until the host is back, so after a crash at any place the next start finds the
record and rolls back from the beginning. Where the earlier document has mediators, their newest view counts, so that
members who were removed meanwhile do not come back; where that view is missing or cannot be applied, the host returns
to the checkpoint.
"""

from __future__ import annotations

from enum import Enum

from netctl.config import Loaded
from netctl.model.document import Document
from netctl.model.errors import NetctlError
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.choices import Joined
from netctl.node.commit import PendingCommit
from netctl.node.evaluate import Evaluation
from netctl.node.machine import Effects, Machine, Table
from netctl.node.state import NodeState


class State(Enum):
    """The state of a roll-back."""

    IDLE = "idle"
    RESTORING = "restoring the document"
    RECALLING = "recalling the view"
    READING = "reading"
    RECONCILING = "reconciling"
    RETURNING = "returning to the checkpoint"
    CLOSING = "closing"
    DONE = "done"


TABLE: Table = {
    (State.RESTORING, on.DocumentRead): "_restored",
    (State.RESTORING, on.Failed): "_broken_off",
    (State.RECALLING, on.ViewRecalled): "_recalled",
    (State.RECALLING, on.Failed): "_to_checkpoint",
    (State.READING, on.HostRead): "_host_read",
    (State.READING, on.Failed): "_to_checkpoint",
    (State.RECONCILING, on.Applied): "_reconciled",
    (State.RECONCILING, on.Failed): "_to_checkpoint",
    (State.RETURNING, on.Applied): "_returned",
    (State.RETURNING, on.Failed): "_broken_off",
    (State.CLOSING, on.Stored): "_closed",
    (State.CLOSING, on.StoreFailed): "_not_closed",
    (State.CLOSING, on.Failed): "_broken_off",
}
"""The method for each state and event."""


class RollBack(Machine[State]):
    """Rolls a pending commit back. If a step fails, the record stays and the next try begins anew."""

    table = TABLE

    def __init__(self, record: PendingCommit, before: NodeState, key: WireGuardKey | None = None) -> None:
        """`key` None: views are not available here, and the host returns to its checkpoint."""
        super().__init__(State.IDLE)
        self._record, self._before, self._key = record, before, key
        self._loaded: Loaded | None = None
        self._joined: Joined | None = None
        self._evaluation: Evaluation | None = None
        self._unstored: str | None = None
        self._outcome = ApplyOutcome(0)
        self._error: BaseException | None = None

    def begin(self) -> Effects:
        """The first effect."""
        assert self.state is State.IDLE
        return self._go(State.RESTORING, do.RestoreDocument(self._record))

    def _restored(self, event: on.DocumentRead) -> Effects:
        self._loaded, self._joined, self._unstored = event.loaded, event.joined, event.unstored
        return self._go(State.RECALLING, do.LiveBy(event.loaded, event.joined))

    def _recalled(self, event: on.ViewRecalled) -> Effects:
        mediated = self._loaded is not None and bool(self._loaded.document.mediators)
        if self._loaded is not None and mediated and event.view is not None and self._key is not None:
            return self._go(State.READING, do.ReadHost(self._loaded.document))
        return self._to_checkpoint(event)

    def _host_read(self, event: on.HostRead) -> Effects:
        assert self._loaded is not None
        assert self._key is not None
        document, before = self._loaded.document, self._before
        try:
            evaluation = before.evaluate(
                document, event, key=self._key, view=event.view, joined=self._joined, told=before.told
            )
        except NetctlError:
            return self._to_checkpoint(event)
        self._evaluation = evaluation
        return self._go(State.RECONCILING, do.ApplyHost(evaluation.desired, document, quiet=True))

    def _reconciled(self, event: on.Applied) -> Effects:
        if event.outcome.error is not None:
            return self._to_checkpoint(event)
        self._outcome = event.outcome
        return self._close()

    def _to_checkpoint(self, _: on.Event) -> Effects:
        self._evaluation = None
        document = self._loaded.document if self._loaded is not None else None
        return self._go(State.RETURNING, self._apply_checkpoint(document))

    def _apply_checkpoint(self, document: Document | None) -> do.ApplyHost:
        return do.ApplyHost(self._record.checkpoint, document, quiet=self._key is not None)

    def _returned(self, event: on.Applied) -> Effects:
        self._outcome = event.outcome
        if event.outcome.error is not None:
            return self._finish()
        return self._close()

    def _close(self) -> Effects:
        """The host is back. The record stays until its document is back on disk too, or the next start would use the
        new one.
        """
        if self._unstored is None:
            return self._go(State.CLOSING, do.CloseCommit(self._record))
        reason = f"the host is back, its document of before is not on disk: {self._unstored}"
        self._outcome = ApplyOutcome(self._outcome.changed, error=reason)
        return self._finish()

    def _closed(self, _: on.Stored) -> Effects:
        return self._finish()

    def _not_closed(self, event: on.StoreFailed) -> Effects:
        reason = f"cannot write in the state directory: {event.reason}"
        self._outcome = ApplyOutcome(self._outcome.changed, error=reason)
        return self._finish()

    def _broken_off(self, event: on.Failed) -> Effects:
        self._error = event.error
        return self._finish()

    def _finish(self) -> Effects:
        end = do.Finished(self._outcome, evaluation=self._evaluation, error=self._error)
        return self._go(State.DONE, end)
