"""The life of an armed apply: admitted, confirmed, proven or taken back.

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
from netctl.model.outcome import ApplyOutcome
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.carrying import carry
from netctl.node.commit import PendingCommit, Proof, Terms
from netctl.node.context import Context, Job, ask, reason_of, store
from netctl.node.reconciling import evaluate_state, observe, pin
from netctl.node.rollback import RollBack

RETRY_S = 2.0
"""A roll-back that failed is tried again so often."""
TICK_S = 1.0
"""CLOCK_BOOTTIME goes on in sleep and timers may not: while something is armed it is looked at this often."""
PROVE_S = 0.5
MAX_KNOCKS = 16
"""One answer is enough; a host with thousands of peers need not call them all."""
NOTHING_WORKED = Proof(connected=False, live=frozenset())
"""What is known of a save that an earlier life has applied."""


def read(context: Context) -> Job[on.CommitRead]:
    """What is armed. Raises LocalError when the record is damaged."""
    context.armed = None
    found = yield from ask(do.ReadCommit(), on.CommitRead)
    context.armed = found.record
    return found


def left_s(context: Context, record: PendingCommit) -> float:
    """Seconds until the roll-back; 0 or less: now."""
    return record.remaining_s(context.now, context.boot_id)


def disarm(context: Context) -> Job[None]:
    """Nothing is armed any more. Raises LocalError."""
    reason = yield from store(do.Disarm())
    if reason is not None:
        raise LocalError(reason)
    context.armed = context.proof = None


def admit(context: Context, digest: str, terms: Terms) -> Job[None]:
    """Raises LocalError for an apply that may not be now."""
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

    An unattended apply is confirmed when somebody starts another change: whoever does that is there to see it.
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
    """What may be confirmed now. Raises LocalError that says why nothing may."""
    record = (yield from read(context)).record
    if record is None:
        raise LocalError("nothing is armed: there is nothing to confirm")
    if left_s(context, record) <= 0:
        raise LocalError("too late: the time to confirm is over and this host goes back")
    if not record.finished:
        raise LocalError("the armed apply was never finished: it cannot be confirmed; `netctl rollback`")
    return record


def confirm(context: Context) -> Job[PendingCommit]:
    """Keep what is armed. Raises LocalError."""
    record = yield from confirmable(context)
    context.saved = None
    yield from disarm(context)
    return record


def roll_back(context: Context, nonce: str | None = None) -> Job[ApplyOutcome]:
    """Take back what is armed; with a nonce only that one. Raises LocalError when nothing (of it) is armed."""
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
    """At the start of a life, before anything is reconciled: a record that is over is rolled back."""
    context.retry_s = context.now + RETRY_S
    try:
        record = (yield from read(context)).record
        if record is not None and left_s(context, record) <= 0:
            context.warn("an apply was not confirmed before its time was over: going back")
            _report(context, (yield from roll_back(context)))
    except Exception as error:  # whatever it is, this life goes on
        context.warn(reason_of(error))


def expire(context: Context) -> Job[None]:
    """At the deadline."""
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
        context.say(f"went back: {outcome.changed} changes")
    elif outcome.error != context.not_back:  # it is tried every other second, on a disk that may be full
        context.warn(f"not gone back yet, trying again: {outcome.error}")
    context.not_back = outcome.error


# -- nobody is asked: a save of the watched file -----------------------------------------------------------------


def prove(context: Context) -> Job[None]:
    """Confirm what nobody confirms, once what worked before has worked for a while."""
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
        )  # each makes a peer answer, at the latest with WireGuard's keepalive
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
    """Another save comes: what has not proved itself yet is kept if it works just now, or taken back."""
    record = (yield from read(context)).record
    if record is None or not record.unattended:
        return
    if _works(context, context.proof):
        yield from disarm(context)
    else:
        _report(context, (yield from roll_back(context, record.nonce)))
