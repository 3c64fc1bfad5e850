"""The state machine of one apply of a document, from waiting for a view to its end. Pure: events in, effects out.

One `Evaluation` is made, in `reading`, and carried through to the end: what is checked against a plan is what is
applied and what is committed. A crash at any place is healed by what is on disk: before `persisting` has ended, the
earlier document is the accepted one, and an armed change has its checkpoint on disk before the first step.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from netctl.config import Loaded
from netctl.model.errors import LocalError, NetctlError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.commit import Back, PendingCommit, Standing, Terms, arming
from netctl.node.evaluate import Evaluation, member_name
from netctl.node.machine import Effects, Machine, Table
from netctl.node.planreport import binding, refuse_stale
from netctl.node.state import NodeState
from netctl.plan import Binding


class State(Enum):
    """The state of an apply."""

    IDLE = "idle"
    AWAIT_VIEW = "await view"
    READING = "reading"
    ARMING = "arming"
    APPLYING = "applying"
    VERIFYING = "verifying"
    PERSISTING = "persisting"
    UNDO_READING = "reading to undo"
    UNDOING = "undoing"
    SETTLING = "settling"
    DONE = "done"


TABLE: Table = {
    (State.AWAIT_VIEW, on.ViewKnown): "_view_known",
    (State.AWAIT_VIEW, on.Failed): "_nothing_changed",
    (State.READING, on.HostRead): "_host_read",
    (State.READING, on.Failed): "_nothing_changed",
    (State.ARMING, on.WatchdogReady): "_watchdog_ready",
    (State.ARMING, on.Failed): "_nothing_changed",
    (State.APPLYING, on.Applied): "_applied",
    (State.APPLYING, on.Failed): "_broken_off",
    (State.VERIFYING, on.Verified): "_answers_came",
    (State.VERIFYING, on.Failed): "_broken_off",
    (State.PERSISTING, on.Stored): "_persisted",
    (State.PERSISTING, on.StoreFailed): "_not_persisted",
    (State.PERSISTING, on.Failed): "_broken_off",
    (State.UNDO_READING, on.HostRead): "_read_to_undo",
    (State.UNDO_READING, on.Failed): "_not_undone",
    (State.UNDOING, on.Applied): "_undone",
    (State.UNDOING, on.Failed): "_not_undone",
    (State.SETTLING, on.Stored): "_settled",
    (State.SETTLING, on.StoreFailed): "_not_settled",
    (State.SETTLING, on.Failed): "_settled_badly",
}
"""The method for each state and event."""


class Apply(Machine[State]):
    """Makes a document the accepted one, or leaves everything as it was."""

    table = TABLE

    def __init__(
        self,
        loaded: Loaded,
        before: NodeState,
        key: WireGuardKey,
        *,
        terms: Terms,
        holds: Binding | None = None,
        standing: Standing,
    ) -> None:
        """`holds`: the binding of a plan; if it does not hold any more, nothing is changed."""
        super().__init__(State.IDLE)
        self._loaded, self._before, self._key = loaded, before, key
        self._terms, self._holds, self._standing = terms, holds, standing
        self._saved = standing.saved
        self._evaluation: Evaluation | None = None
        self._live: frozenset[WireGuardKey] = frozenset()
        self._seen: HostState | None = None
        self._record: PendingCommit | None = None
        self._waiting: str | None = None
        self._verified = on.Verified()
        self._outcome = ApplyOutcome(0)
        self._why = ""
        self._committed = False
        self._error: BaseException | None = None

    def begin(self) -> Effects:
        """The first effects. Raises LocalError when this host is no member of the document."""
        assert self.state is State.IDLE
        member_name(self._loaded.document, self._key)
        if self._loaded.document.mediators:
            return self._go(State.AWAIT_VIEW, do.AwaitView(self._loaded.document))
        return self._read()

    def accepted(self, state: NodeState) -> NodeState:
        """The state of the node once this document is the accepted one. Views that came meanwhile stay in it."""
        assert self._evaluation is not None
        view = state.view if self._loaded.document.mediators else None
        # A document of this host replaces the mediator's excerpt.
        return replace(state, loaded=self._loaded, joined=None, view=view).evaluated(self._evaluation)

    # -- until the host is changed -----------------------------------------------------------------------------

    def _read(self) -> Effects:
        actual = self._holds is not None or self._terms.may_arm
        return self._go(State.READING, do.ReadHost(self._loaded.document, actual))

    def _view_known(self, event: on.ViewKnown) -> Effects:
        self._waiting = event.waiting
        return self._read()

    def _host_read(self, event: on.HostRead) -> Effects:
        document, before = self._loaded.document, self._before
        try:
            self._evaluation = evaluation = before.evaluate(
                document,
                event,
                key=self._key,
                view=event.view if document.mediators else None,
                told=before.told,
            )
            if self._holds is not None and event.actual is not None:
                refuse_stale(self._holds, binding(self._loaded, evaluation.desired, event.actual))
        except NetctlError as error:
            return self._nothing_changed(on.Failed(error))
        self._live = event.live
        self._seen = event.actual if self._holds is not None else None
        if self._terms.may_arm and event.actual is not None:
            accepted = before.loaded.source.text if before.loaded is not None else None
            back = Back(document.digest, accepted, event.actual, self._standing.now_s)
            how = arming(self._terms, document.confirm_s, back, evaluation.desired, self._standing)
            self._saved = how.saved
            if how.seconds is not None:
                text = self._loaded.source.text
                return self._go(State.ARMING, do.Arm(how.seconds, text, how.back, self._terms))
        return self._apply(evaluation)

    def _watchdog_ready(self, event: on.WatchdogReady) -> Effects:
        self._record = event.record
        assert self._evaluation is not None
        return self._apply(self._evaluation)

    def _nothing_changed(self, event: on.Failed) -> Effects:
        self._error = event.error
        return [do.ReturnToMediators(self._loaded.document), *self._finish()]

    # -- the host is changed -----------------------------------------------------------------------------------

    def _apply(self, evaluation: Evaluation) -> Effects:
        return self._go(State.APPLYING, do.ApplyHost(evaluation.desired, evaluation.document, self._seen))

    def _applied(self, event: on.Applied) -> Effects:
        self._outcome = event.outcome
        if event.outcome.error is not None:
            return [do.ReturnToMediators(self._loaded.document), *self._settle()]
        if event.outcome.changed:
            return self._go(State.VERIFYING, do.Verify(self._loaded.document, self._live))
        return self._persist()

    def _answers_came(self, event: on.Verified) -> Effects:
        self._verified = event
        return self._undo(event.cut_off) if event.cut_off is not None else self._persist()

    def _persist(self) -> Effects:
        return self._go(State.PERSISTING, do.Persist(self._loaded.source.text))

    def _persisted(self, _: on.Stored) -> Effects:
        self._committed = True
        return self._settle()

    def _not_persisted(self, event: on.StoreFailed) -> Effects:
        return self._undo(f"cannot keep the document: {event.reason}")

    def _broken_off(self, event: on.Failed) -> Effects:
        """An exception that no step should raise: the earlier document stays the accepted one."""
        self._error = event.error
        return [do.ReturnToMediators(self._loaded.document), *self._finish(unsettled=True)]

    # -- back --------------------------------------------------------------------------------------------------

    def _undo(self, why: str) -> Effects:
        """Bring the host back to the accepted document, which is all that the next start would know."""
        self._why, before = why, self._before
        back = do.ReturnToMediators(self._loaded.document)
        if before.loaded is None:
            return [back, *self._go(State.UNDOING, do.ApplyHost(HostState(), None, quiet=True))]
        if before.knows:
            return [back, *self._go(State.UNDO_READING, do.ReadHost(before.loaded.document))]
        if before.settled:
            return [back, *self._go(State.UNDOING, do.ApplyHost(before.desired, before.told, quiet=True))]
        reason = "there is no view of the accepted document's mediator"
        return [back, *self._not_undone(on.Failed(LocalError(reason)))]

    def _read_to_undo(self, event: on.HostRead) -> Effects:
        before = self._before
        assert before.loaded is not None
        document = before.loaded.document
        try:
            evaluation = before.evaluate(
                document,
                event,
                key=self._key,
                view=event.view if document.mediators else None,
                joined=before.joined,
                told=self._loaded.document,
            )
        except NetctlError as error:
            return self._not_undone(on.Failed(error))
        return self._go(State.UNDOING, do.ApplyHost(evaluation.desired, document, quiet=True))

    def _undone(self, event: on.Applied) -> Effects:
        if event.outcome.error is not None:
            return self._not_undone(on.Failed(LocalError(event.outcome.error)))
        self._outcome = ApplyOutcome(event.outcome.changed, rolled_back=True, error=self._why)
        return self._settle()

    def _not_undone(self, event: on.Failed) -> Effects:
        self._outcome = ApplyOutcome(0, error=f"{self._why}; going back failed too: {event.error}")
        return self._settle()

    # -- the end -----------------------------------------------------------------------------------------------

    def _settle(self) -> Effects:
        """An armed apply that failed and is undone needs no record. One that could not be undone keeps its record."""
        if self._record is not None and self._outcome.error is None:
            return self._go(State.SETTLING, do.FinishCommit(self._record))
        if self._record is not None and self._outcome.rolled_back:
            return self._go(State.SETTLING, do.Disarm())
        return self._finish()

    def _settled(self, _: on.Stored) -> Effects:
        return self._finish()

    def _not_settled(self, event: on.StoreFailed) -> Effects:
        self._error = LocalError(event.reason)
        return self._finish()

    def _settled_badly(self, event: on.Failed) -> Effects:
        self._error = event.error
        return self._finish()

    def _finish(self, *, unsettled: bool = False) -> Effects:
        refusals = self._evaluation.refusals if self._evaluation is not None else ()
        warnings = tuple(str(finding) for finding in self._loaded.warnings)
        end = do.Finished(
            self._outcome,
            evaluation=self._evaluation,
            committed=self._committed,
            record=self._record,
            warnings=(*warnings, *refusals, *self._verified.warnings),
            waiting=self._waiting,
            saved=self._saved,
            unsettled=unsettled,
            error=self._error,
        )
        return self._go(State.DONE, end)
