"""The life of an armed apply: it is admitted, then confirmed, proven to work or rolled back.

| state   | event            | then                                                                    |
|---------|------------------|-------------------------------------------------------------------------|
| free    | apply, armed     | record on disk, process started, then the changes: armed                |
| armed   | apply failed     | it went back by itself: free; it could not: armed, tried again below    |
| armed   | confirm          | record gone: free                                                       |
| armed   | rollback         | document and host as before, digest refused: free                       |
| armed   | deadline         | as rollback; where that fails it is tried again                         |
| armed   | proven           | nobody was asked (`watch`) and what worked before works again: free     |
| armed   | agent starts     | same boot and time left: armed; else as rollback, before it reconciles  |
"""

from __future__ import annotations

import contextlib

from netctl.model.errors import LocalError, NetctlError
from netctl.model.forpeople import counted
from netctl.model.outcome import ApplyOutcome
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.carrying import carry
from netctl.node.commit import PendingCommit, Proof, Terms
from netctl.node.context import Context, Job, ask, reason_of, store
from netctl.node.reconciling import evaluate_state, observe, pin
from netctl.node.rollback import RollBack

RETRY_S = 2.0
"""Seconds between two tries of a roll-back that fails."""
TICK_S = 1.0
"""Seconds between two looks at the deadline: CLOCK_BOOTTIME goes on in sleep, and timers may not."""
PROVE_S = 0.5
MAX_KNOCKS = 16
"""Peers that a check sends a packet to: one answer is enough, and a host may have thousands of peers."""
NOTHING_WORKED = Proof(connected=False, live=frozenset())
"""The proof of a save that an earlier life of the agent applied: what worked then is unknown."""


def read(context: Context) -> Job[on.CommitRead]:
    """Read the pending commit from disk. Raises LocalError when the record is damaged."""
    context.armed = None
    found = yield from ask(do.ReadCommit(), on.CommitRead)
    context.armed = found.record
    return found


def left_s(context: Context, record: PendingCommit) -> float:
    """Seconds until the roll-back; 0 or less: it is due."""
    return record.remaining_s(context.now, context.boot_id)


def disarm(context: Context) -> Job[None]:
    """Delete the record of the pending commit. Raises LocalError."""
    reason = yield from store(do.Disarm())
    if reason is not None:
        raise LocalError(reason)
    context.armed = context.proof = None


def admit(context: Context, digest: str, terms: Terms) -> Job[None]:
    """Let an apply begin. Raises LocalError when an apply is pending or the document was rolled back before."""
    if terms.unattended:
        yield from _decide_unproven(context)
    found = yield from must_be_free(context)
    if digest not in found.refused:
        return
    if not terms.force:
        raise LocalError(
            "this document was rolled back on this host, because nobody confirmed it: change it, or "
            "`netctl apply --force`; nothing was changed"
        )
    reason = yield from store(do.AdmitAgain(digest))
    if reason is not None:
        raise LocalError(f"cannot write in the state directory: {reason}; nothing was changed")


def must_be_free(context: Context) -> Job[on.CommitRead]:
    """Raises LocalError while an apply waits for its confirmation.

    An unattended apply is confirmed when somebody starts another change: that person sees the host.
    """
    found = yield from read(context)
    record = found.record
    if record is not None and record.unattended and left_s(context, record) > 0:
        yield from disarm(context)
    elif record is not None:
        raise LocalError(
            f"an apply waits for its confirmation ({max(left_s(context, record), 0):.0f} s left): "
            "`netctl confirm` keeps it, `netctl rollback` takes it back; nothing was changed"
        )
    return found


def confirmable(context: Context) -> Job[PendingCommit]:
    """The commit that can be confirmed now. Raises LocalError that says why there is none."""
    record = (yield from read(context)).record
    if record is None:
        raise LocalError("nothing is armed: there is nothing to confirm")
    if left_s(context, record) <= 0:
        raise LocalError("too late: the time to confirm is over and this host goes back")
    if not record.finished:
        raise LocalError("the armed apply was never finished: it cannot be confirmed; `netctl rollback`")
    return record


def confirm(context: Context) -> Job[PendingCommit]:
    """Confirm the pending commit. Raises LocalError."""
    record = yield from confirmable(context)
    context.saved = None
    yield from disarm(context)
    return record


def roll_back(context: Context, nonce: str | None = None) -> Job[ApplyOutcome]:
    """Roll the pending commit back; with a nonce only that commit. Raises LocalError when there is none."""
    context.retry_s = context.now + RETRY_S  # one try at a time
    record = (yield from read(context)).record
    if record is None or (nonce is not None and record.nonce != nonce):
        raise LocalError("nothing is armed: there is nothing to roll back")
    context.saved = None
    end = yield from carry(context, RollBack(record, context.state, None if context.alone else context.key))
    if end.error is None and end.outcome.error is None:
        context.armed = context.proof = context.not_back = None
    else:
        context.retry_s = context.now + RETRY_S
    if end.error is not None:
        raise end.error
    if end.evaluation is not None:
        context.state = context.state.evaluated(end.evaluation)
        yield from pin(context, end.evaluation)
    elif context.state.knows and not context.alone:
        with contextlib.suppress(NetctlError):
            evaluation, _ = yield from evaluate_state(context, context.state)
            context.state = context.state.evaluated(evaluation)
    if end.outcome.error is None:
        context.departures = ()
    return end.outcome


def recover(context: Context) -> Job[None]:
    """At the start of the agent, before it reconciles: roll back a record whose time is over."""
    context.retry_s = context.now + RETRY_S
    try:
        record = (yield from read(context)).record
        if record is not None and left_s(context, record) <= 0:
            context.warn("an apply was not confirmed before its time was over: going back")
            _report(context, (yield from roll_back(context)))
    except Exception as error:  # whatever the error is, the agent goes on
        context.warn(reason_of(error))


def expire(context: Context) -> Job[None]:
    """The deadline of a pending commit has come: roll it back."""
    context.retry_s = context.now + RETRY_S
    try:
        record = (yield from read(context)).record
        if record is None or left_s(context, record) > 0:
            return
        if context.not_back is None:
            context.warn("nobody confirmed the apply: going back")
        _report(context, (yield from roll_back(context, record.nonce)))
    except Exception as error:
        if context.not_back != reason_of(error):
            context.not_back = reason_of(error)
            context.warn(context.not_back)


def _report(context: Context, outcome: ApplyOutcome) -> None:
    if outcome.error is None:
        context.say(f"went back: {counted(outcome.changed, 'change')}")
    # log each error once: the roll-back is tried every RETRY_S, and a full disk may fail it each time
    elif outcome.error != context.not_back:
        context.warn(f"not gone back yet, trying again: {outcome.error}")
    context.not_back = outcome.error


# -- an unattended apply: a save of the watched file -------------------------------------------------------------


def prove(context: Context) -> Job[None]:
    """Confirm an unattended apply once everything that worked before has worked for a while."""
    proof, record = context.proof, context.armed
    if proof is None or record is None:
        context.proof = None
        return
    if left_s(context, record) <= TICK_S:
        return
    if not proof.heard:
        keys = sorted(proof.live & context.wanted_peers)[:MAX_KNOCKS]
        context.emit(
            do.Knock(tuple(keys))
        )  # a packet makes a peer answer, at the latest with WireGuard's keepalive
        proof.listen((yield from observe(context)).received)
    if proof.settled(works=_works(context, proof), now_s=context.now, left_s=left_s(context, record)):
        context.proof = None
        with contextlib.suppress(LocalError):
            found = (yield from read(context)).record
            if found is not None and found.nonce == record.nonce:
                yield from confirm(context)
                context.say("what worked before works: the save stays")


def _works(context: Context, proof: Proof | None) -> bool:
    document = context.state.document
    mediated = document is not None and bool(document.mediators)
    return (proof or NOTHING_WORKED).works(
        connected=context.connected, mediated=mediated, wanted=context.wanted_peers
    )


def _decide_unproven(context: Context) -> Job[None]:
    """Another save comes while one is unproven: keep the unproven one if it works just now, else roll it back."""
    record = (yield from read(context)).record
    if record is None or not record.unattended:
        return
    if _works(context, context.proof):
        yield from disarm(context)
    else:
        _report(context, (yield from roll_back(context, record.nonce)))
