"""Joining and leaving: a host that joined by invite uses the mediator's excerpt as its document until it leaves."""

from __future__ import annotations

from dataclasses import replace

from netctl.model.errors import LocalError, NetctlError, RemoteError
from netctl.model.hoststate import HostState
from netctl.model.outcome import ApplyOutcome
from netctl.node import confirming
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.context import Context, Job, ask, store
from netctl.node.evaluate import member_name
from netctl.node.state import NodeState
from netctl.wire import control as w

LEAVE_WAIT_S = 2.0
"""Seconds that a leaving host waits for its mediator to record the leave."""
EXCERPT = "the mediator's excerpt"


def join(context: Context) -> Job[None]:
    """Use the document that `netctl join` has just written for this host. Raises LocalError."""
    found = yield from ask(do.ReadDocument(), on.DocumentRead)
    if found.loaded is None or found.joined is None:
        raise LocalError("this host has not joined any network: `netctl join`")
    context.state = replace(context.state, loaded=found.loaded, joined=found.joined)
    context.use_mediators(found.loaded.document)
    context.wanted = True  # what this host accepts may have changed
    context.emit(do.ConnectNow())


def leave(context: Context) -> Job[ApplyOutcome]:
    """Leave all networks that this host joined by invite. Raises LocalError."""
    if context.state.joined is None:
        raise LocalError("this host has a document: take it out of `members:` there, or use `netctl down`")
    yield from confirming.must_be_free(context)
    outcome = (yield from ask(do.ApplyHost(HostState(), None), on.Applied)).outcome
    if outcome.error is not None:
        return outcome
    context.emit(do.TellMediator(w.Leave()))
    deadline = context.now + LEAVE_WAIT_S
    while context.connected and context.now < deadline:
        yield do.Wait(deadline)  # the mediator closes the connection when it has deleted this host
    reason = yield from store(do.ForgetAll())
    if reason is not None:
        raise LocalError(f"cannot forget what this host lived by: {reason}")
    context.state, context.kept, context.unkept, context.live = NodeState(), None, None, frozenset()
    context.use_mediators(None)
    context.emit(do.HostLeft())
    return outcome


def take_excerpt(context: Context) -> Job[None]:
    """Use the newest view's excerpt of this host's networks as the document."""
    state = context.state
    text = state.view.document if state.view is not None else ""
    known = state.loaded.source.text if state.loaded is not None else None
    if state.joined is None or not text or text in (known, context.excerpt_refused):
        return
    try:
        loaded = (yield from ask(do.LoadDocument(text, EXCERPT), on.DocumentRead)).loaded
        assert loaded is not None, "a text that is read is a document"
        member_name(loaded.document, context.key)
        if not loaded.document.mediators:
            raise RemoteError("it names no mediator, and nobody could change it any more", "view.document")
        reason = yield from store(do.KeepExcerpt(text))
    except (NetctlError, OSError) as error:
        reason = str(error).splitlines()[0]
    if reason is not None:
        context.excerpt_refused = text
        context.warn(f"what the mediator says about this host's networks is refused: {reason}")
        return
    context.state = replace(context.state, loaded=loaded)
    context.use_mediators(context.state.document)
