"""Brings a host to its desired state: evaluate, apply, pin leases, and adapt the paths."""

from __future__ import annotations

from dataclasses import replace

from netctl.model.document import Document, Drift
from netctl.model.hoststate import WIREGUARD_LINK, HostState
from netctl.model.keys import WireGuardKey
from netctl.model.outcome import ApplyOutcome
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.context import Context, Job, ask, store
from netctl.node.evaluate import Evaluation, member_name
from netctl.node.ownport import with_port
from netctl.node.state import NodeState

LOOK_S = 0.2
"""Seconds between two looks whether a tunnel has a handshake."""


def evaluate_state(
    context: Context, state: NodeState, *, actual: bool = False
) -> Job[tuple[Evaluation, HostState | None]]:
    """The desired and the actual state of this host for a node state. Raises LocalError, EngineError."""
    assert state.loaded is not None
    document = state.loaded.document
    member_name(document, context.key)  # fails before any name is looked up
    seen = yield from ask(do.ReadHost(document, actual), on.HostRead)
    evaluation = state.evaluate(
        document, seen, key=context.key, view=state.view, joined=state.joined, told=state.told
    )
    return evaluation, seen.actual


def reconcile(context: Context) -> Job[ApplyOutcome]:
    """Bring the host to the accepted document and the newest view. Raises LocalError, EngineError."""
    if not context.state.knows:
        return ApplyOutcome(0)  # the desired state is unknown yet: what the host has stays
    evaluation, _ = yield from evaluate_state(context, context.state)
    context.state = context.state.evaluated(evaluation)
    outcome = yield from bring(context, do.ApplyHost(evaluation.desired, evaluation.document))
    if outcome.error is None:
        yield from pin(context, evaluation)
    return outcome


def pin(context: Context, evaluation: Evaluation) -> Job[None]:
    """Pin the leases of an applied evaluation: from now on only the document can move them."""
    if evaluation.pins is None or evaluation.pins == context.state.pins or context.alone:
        return
    context.state = replace(context.state, pins=evaluation.pins)
    reason = yield from store(do.KeepPins(evaluation.pins))
    if reason is not None:  # a full disk does not stop a network
        context.warn(f"cannot keep the leases for the next start: {reason}")


def bring(context: Context, wanted: do.ApplyHost) -> Job[ApplyOutcome]:
    """Bring the host to a state and adapt the paths. Raises EngineError, and whatever a faulty engine raises.

    After an engine has ended, the first job that comes starts the next one, logs that and counts it.
    """
    ended = yield from engine_has_ended(context)
    if ended:
        _say_that_it_ended(context)
    outcome = (yield from ask(wanted, on.Applied)).outcome
    if ended and outcome.error is not None:
        context.warn(f"{WIREGUARD_LINK} could not be brought back: {outcome.error}")
    if outcome.error is None:
        context.state = context.state.brought(wanted.desired, wanted.document)
        context.unmet = None
        if wanted.desired.wireguard is None:
            context.live = frozenset()
        if ended and wanted.desired.wireguard is not None:
            _count_restart(context)
            context.emit(do.EngineGone())  # the new engine is told its endpoints once it runs, not before
        trouble = (yield from ask(do.FollowHost(wanted.document), on.Followed)).trouble
        if (
            trouble is not None and trouble != context.trouble
        ):  # the host's state stands; the paths are tried again
            context.warn(trouble)
        context.trouble = trouble
    return outcome


def engine_has_ended(context: Context) -> Job[bool]:
    """Whether a link is missing that this node has made."""
    state = context.state
    if not state.settled or state.desired.wireguard is None:
        return False
    seen = yield from ask(do.LookForLink(), on.LinkSeen)
    correct = state.document is None or state.document.drift is Drift.CORRECT
    # The kernel's engine does not die: another program removed the link, and `drift: report` only reports that.
    return not seen.there and (seen.engine != "kernel" or correct)


def _say_that_it_ended(context: Context) -> None:
    revival = context.revival
    revival.since_s = revival.since_s if revival.since_s is not None else context.now
    context.warn(
        f"{WIREGUARD_LINK} is gone: its engine ended; it is started again, "
        "and the networks are unreachable meanwhile"
    )
    if stacked := context.state.foreign.stacked:
        revival.took_along = stacked
        context.say(
            f"links of others that were made on it are gone too: {', '.join(stacked)}; make them again"
        )


def _count_restart(context: Context) -> None:
    revival = context.revival
    assert revival.since_s is not None
    revival.restarts += 1
    revival.lasted_s = context.now - revival.since_s
    revival.since_s = None
    context.say(f"{WIREGUARD_LINK} is back after {revival.lasted_s:.1f} s")


def observe(context: Context) -> Job[on.Observed]:
    """Read the state of the tunnels."""
    seen = yield from ask(do.Observe(), on.Observed)
    context.live = seen.live
    return seen


def verify(context: Context, document: Document, live_before: frozenset[WireGuardKey]) -> Job[on.Verified]:
    """Wait for handshakes with the peers that are online at the mediator or had a session before.

    In a large view the mediator says whether a peer is online only after it was asked, which follows from the open
    tunnel: until then the peer is waited for, as if it were online.

    A peer that does not answer is only a warning: the fault may be its own. The apply counts as cutting the host off,
    and is rolled back, only where tunnels were up before, are still wanted, and none of them answers any more.

    A first apply waits for nobody once the port turns out to be unfit: pairs begin on the next port, which the
    reconciliation after this apply sets.
    """
    if context.alone:
        return on.Verified()  # without an agent nothing observes the tunnels
    stock = document.stock_keys()
    expected, unknown = _awaited(context, live_before, stock)
    if not expected and not unknown:
        return on.Verified()
    deadline = context.now + context.handshake_wait_s
    knocked: frozenset[WireGuardKey] = frozenset()
    live = (yield from observe(context)).live
    while True:
        expected, unknown = _awaited(context, live_before, stock)
        if knocks := expected - live - knocked:
            context.emit(do.Knock(tuple(sorted(knocks))))
            knocked |= knocks
        if expected | unknown <= live or context.now >= deadline:
            break
        if not live_before and not live and _leaves_port(context, document):
            return on.Verified()
        yield do.Wait(context.now + LOOK_S)
        live = (yield from observe(context)).live
    silent = expected - live
    lost = live_before & silent
    cut_off = None
    if lost and not live_before & live & context.wanted_peers:
        gone = ", ".join(sorted(_name(document, key) for key in lost)[: on.MAX_NAMED])
        cut_off = f"no tunnel that was up before answers ({gone})"
    names, perhaps = (
        tuple(sorted(_name(document, key) for key in keys)) for keys in (silent, unknown - live)
    )
    return on.Verified(cut_off, names, perhaps)


def _leaves_port(context: Context, document: Document) -> bool:
    """Whether another port is wanted than the one that this host was brought to."""
    desired, member = context.state.desired, document.member_by_key(context.key)
    if member is None:
        return False
    return with_port(desired, document, member.name, context.state.port_turn).wireguard != desired.wireguard


def _awaited(
    context: Context, live_before: frozenset[WireGuardKey], stock: frozenset[WireGuardKey]
) -> tuple[frozenset[WireGuardKey], frozenset[WireGuardKey]]:
    """The peers that should answer: those that had a session or are online, and those that may be online. `stock`: the
    peers without an agent, which are at no mediator.
    """
    view = context.state.view
    wanted = context.wanted_peers
    members = view.members if view is not None else {}
    open_peers = wanted - context.lazy_peers
    online = {key for key in open_peers if key in members and members[key].online}
    unknown = {key for key in open_peers - stock if key in members and members[key].online is None}
    return wanted & (live_before | online), frozenset(unknown - live_before)


def _name(document: Document, key: WireGuardKey) -> str:
    member = document.member_by_key(key)
    return member.name if member is not None else key.short
