"""Runs the state machine of an apply or a roll-back: each effect changes the node's state or becomes a step of the
shell.
"""

from __future__ import annotations

from dataclasses import replace

from netctl.config import Loaded
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.choices import Joined
from netctl.node.commit import Proof
from netctl.node.context import Context, Job, ask, share_mediator, store
from netctl.node.reconciling import bring, verify
from netctl.node.rollback import RollBack
from netctl.node.state import NodeState
from netctl.node.transaction import Apply
from netctl.session import Kept

VIEW_WAIT_S = 10.0
"""Seconds that an apply waits for the first view of a mediator that this host has never reached."""


def carry(context: Context, change: Apply | RollBack) -> Job[do.Finished]:
    """Carry out each effect of a transaction until the transaction ends."""
    before, kept = context.state, context.kept
    effects = change.begin()
    while True:
        event: on.Event | None = None
        for effect in effects:
            match effect:
                case do.Finished():
                    return effect
                case do.ReturnToMediators(tried):
                    _go_back(context, before, kept, tried)
                case _:
                    try:
                        event = yield from _perform(context, effect)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        event = on.Failed(error)
        assert event is not None, "an effect that is answered"
        effects = change.handle(event)


def _perform(context: Context, effect: do.Effect) -> Job[on.Event]:
    match effect:
        case do.AwaitView(document):
            return on.ViewKnown((yield from _meet(context, document)))
        case do.ApplyHost():
            return on.Applied((yield from bring(context, effect)))
        case do.Verify(document, live):
            return (yield from verify(context, document, live))
        case do.LiveBy(loaded, joined):
            yield from live_by(context, loaded, joined)
            return on.ViewRecalled(context.state.view)
    event = yield effect
    match effect, event:
        case do.Arm(_, _, _, terms), on.WatchdogReady(record):
            context.armed = record
            if terms.unattended:
                context.proof = Proof(context.connected, context.live)
        case ((do.Disarm() | do.CloseCommit()), on.Stored()):
            context.armed = context.proof = None
    return event


def live_by(context: Context, loaded: Loaded | None, joined: Joined | None) -> Job[None]:
    """Use this document from now on, with the present view, or with the view that was stored for its mediators.

    The host itself is not touched.
    """
    if loaded is None:
        context.use(None)
    elif context.view_for(loaded.document) is None:
        yield from recall(context, loaded.document)
    context.state = replace(context.state, loaded=loaded, joined=joined)
    context.use_mediators(loaded.document if loaded is not None else None)


def recall(context: Context, document: Document) -> Job[None]:
    """Use the view that is on disk for one of the document's mediators."""
    if context.alone:
        return
    yield from keep_view(context)  # a later generation may not be on disk yet
    context.use((yield from ask(do.RecallView(document), on.ViewKept)).kept)


def keep_view(context: Context) -> Job[None]:
    """Write down the newest view, unless that was done."""
    kept, context.unkept = context.unkept, None
    if kept is not None:
        reason = yield from store(do.KeepView(kept))
        if reason is not None:  # a full disk does not stop a network
            context.warn(f"cannot keep the view for the next start: {reason}")


def _go_back(context: Context, before: NodeState, kept: Kept | None, tried: Document) -> None:
    """Connect to the earlier mediators again. The newest view stays if it comes from one of them."""
    if tried.mediators and not share_mediator(before.document, tried):
        context.kept, context.unkept = kept, None
        context.state = replace(context.state, view=before.view)
        context.use_mediators(before.document)


def _meet(context: Context, document: Document) -> Job[str | None]:
    """Get a view before anything is changed: without a view no network can be built.

    Returns why the mediator is unreachable just now, or None. Raises LocalError where no view comes in time.
    """
    if not document.mediators:
        return None
    if context.view_for(document) is None:
        yield from recall(context, document)
    context.use_mediators(document)
    if not context.connected:
        context.emit(do.ConnectNow())
    if context.state.view is None:
        context.tell("waiting for the mediator")
    deadline = context.now + VIEW_WAIT_S
    while context.state.view is None and context.now < deadline and not context.link.final:
        yield do.Wait(deadline)
    if context.state.view is not None:
        return None if context.connected else context.link.error
    raise LocalError(f"{context.link.error or 'it has not answered yet'}; nothing was changed")
