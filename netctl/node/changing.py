"""The requests that people make: plan, apply, down and up, prune, forget leases. Each is done whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.outcome import ApplyOutcome
from netctl.model.view import View
from netctl.node import confirming, leases, requests
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.carrying import carry
from netctl.node.commit import PendingCommit, Standing
from netctl.node.context import Context, Job, ask, store
from netctl.node.evaluate import Evaluation, member_name
from netctl.node.planreport import Planned, make_plan
from netctl.node.reconciling import evaluate_state, pin, reconcile
from netctl.node.state import NodeState
from netctl.node.transaction import Apply
from netctl.plan import Plan, prune


@dataclass(frozen=True, slots=True)
class ApplyResult:
    """The result of an apply. `waiting`: why the network is not complete yet although nothing failed."""

    outcome: ApplyOutcome
    warnings: tuple[str, ...] = ()
    waiting: str | None = None
    armed: PendingCommit | None = None
    """The pending commit, where the apply waits for its confirmation."""
    evaluation: Evaluation | None = None


def plan(context: Context, wish: requests.Plan) -> Job[Planned]:
    """Work out what an apply would change. Changes neither the host nor the node. Raises NetctlError."""
    loaded = wish.loaded
    view = yield from _view_for(context, loaded.document)
    state = replace(context.state, loaded=loaded, joined=None, view=view)
    evaluation, actual = yield from evaluate_state(context, state, actual=True)
    accepted = context.state.document
    return make_plan(
        evaluation.member,
        loaded,
        state.down.of(accepted) if accepted is not None else None,
        state.down.of(loaded.document),
        evaluation.desired,
        actual if actual is not None else HostState(),
        view=view,
        ssh_connection=wish.ssh_connection,
        everyone=wish.everyone,
        refusals=said(evaluation) if context.alone else evaluation.refusals,
    )


def said(evaluation: Evaluation | None) -> tuple[str, ...]:
    """Each condition of an evaluation as one line of text."""
    conditions = evaluation.conditions if evaluation is not None else ()
    return tuple(f"{condition.peer}: {condition.message}" for condition in conditions)


def apply(context: Context, wish: requests.Apply) -> Job[ApplyResult]:
    """Make this document the accepted one. Raises NetctlError, with nothing changed."""
    loaded = wish.loaded
    member_name(loaded.document, context.key)
    yield from confirming.admit(context, loaded.document.digest, wish.terms)
    standing = Standing(context.now, context.saved, context.connected or bool(context.live))
    change = Apply(loaded, context.state, context.key, terms=wish.terms, holds=wish.holds, standing=standing)
    end = yield from carry(context, change)
    context.saved = end.saved
    if end.committed and end.evaluation is not None:
        context.state = change.accepted(context.state)
        context.use_mediators(loaded.document)
        yield from pin(context, end.evaluation)
        context.departures = ()
    elif context.state.loaded is None and context.state.settled:
        context.state = context.state.emptied()  # no document is left that says what the host should have
    if end.unsettled:
        context.wanted = True
    if end.error is not None:
        raise end.error
    return ApplyResult(end.outcome, end.warnings, end.waiting, end.record, end.evaluation)


def prune_host(context: Context, wish: requests.Prune) -> Job[tuple[Plan, ApplyOutcome]]:
    """Remove what netctl made on the host and no document names; with `at_most` None only report it.

    Raises LocalError while the desired state of the host is unknown.
    """
    if context.state.loaded is not None and not context.state.settled:
        raise LocalError("it is not known yet what this host should have: the agent has not converged")
    desired = context.state.desired
    seen = yield from ask(do.ReadHost(None, actual=True), on.HostRead)
    removals = prune(desired, seen.actual if seen.actual is not None else HostState())
    if wish.at_most is None:
        return removals, ApplyOutcome(0)
    return removals, (yield from ask(do.PruneHost(desired, wish.at_most), on.Applied)).outcome


def set_down(context: Context, wish: requests.SetDown) -> Job[ApplyOutcome]:
    """Take networks down or bring them up again, and remember it."""
    before = context.state
    down = before.down.switched(before.document, wish.network, down=wish.down)
    yield from confirming.must_be_free(context)
    reason = yield from store(do.KeepDown(down))
    # this write comes first: if the disk is full, the host is unchanged and nothing has to be undone
    if reason is not None:
        return ApplyOutcome(0, True, f"cannot keep what is down: {reason}")
    context.state = replace(context.state, down=down)
    try:
        outcome = yield from reconcile(context)
    except Exception:
        yield from _stay_up(context, before)
        raise
    if outcome.error is not None:
        yield from _stay_up(context, before)
    return outcome


def _stay_up(context: Context, before: NodeState) -> Job[None]:
    """Networks could not be taken down on the host: record them as up again."""
    context.state = replace(context.state, down=before.down, conditions=before.conditions)
    yield from store(do.KeepDown(before.down))


def forget_leases(context: Context, wish: requests.ForgetLeases) -> Job[int]:
    """Accept new addresses from the mediator for a member; None: for all members, and an older view too. Raises
    LocalError.
    """
    before = context.state.pins
    kept = leases.without(context.state, wish.member)
    reason = yield from store(do.KeepPins(kept))
    if reason is not None:
        raise LocalError(f"cannot write down what is forgotten: {reason}")
    context.state = replace(context.state, pins=kept)
    if wish.member is None:
        context.kept = None
        context.emit(do.ForgetMediator())
    yield from reconcile(context)
    return len(before) - len(kept)


def _view_for(context: Context, document: Document) -> Job[View | None]:
    """The view that an apply of this document would use: the present one, or the stored one of its mediators."""
    if not document.mediators:
        return None
    view = context.view_for(document)
    if view is not None:
        return view
    kept = (yield from ask(do.RecallView(document), on.ViewKept)).kept
    return kept.view if kept is not None else None
