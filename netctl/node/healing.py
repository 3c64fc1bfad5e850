"""Corrects a host that departs from its document (drift, removed routes, a dead engine), where the document says so."""

from __future__ import annotations

from netctl.model.document import Drift
from netctl.model.foreign import Foreign
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.context import Context, Job, ask
from netctl.node.drift import inspect
from netctl.node.evaluate import member_name
from netctl.node.firewall.obstacles import obstacles
from netctl.node.reconciling import bring, engine_has_ended

RETRY_S = 1.0
"""Seconds until the next try, after the engine failed to start."""


def check(context: Context) -> Job[None]:
    """Compare the host with its desired state, and correct it if the document says so. Raises EngineError."""
    if not context.state.settled:  # nothing is read and nothing removed, but a failed try is repeated
        context.wanted = context.wanted or context.state.loaded is not None
        return
    yield from ask(do.RetryHost(), on.Stored)
    seen = yield from ask(do.ReadHost(None, actual=True), on.HostRead)
    assert seen.actual is not None, "it was asked for"
    _tell_blocked(context, seen.foreign)
    found = inspect(context.state, context.key, seen.foreign, seen.actual, context.departures)
    if found.evaluate_again:
        context.wanted = True
    context.counters.found += found.fresh
    context.departures = found.departures
    if not found.heal:
        return
    for departure in found.departures:
        context.warn(f"drift: {departure}")
    outcome = yield from bring(context, do.ApplyHost(context.state.desired, context.state.told, quiet=True))
    if outcome.error is None:
        context.counters.healed += outcome.changed
        context.departures = ()
    else:
        context.counters.failed += 1
        context.warn(f"drift could not be put right: {outcome.error}")


def _tell_blocked(context: Context, foreign: Foreign) -> None:
    """Log one line about what the host's own firewall drops now and did not drop before."""
    document = context.state.document
    if document is None:
        return
    found = obstacles(context.state.desired, document, member_name(document, context.key), foreign)
    lines = frozenset(map(str, found))
    for line in sorted(lines - context.blocked):
        context.warn(f"firewall: {line}")
    context.blocked = lines


def restore_routes(context: Context) -> Job[int]:
    """Set our missing routes and addresses again. Returns how many. Raises EngineError."""
    document, desired = context.state.document, context.state.desired
    if document is None or document.drift is not Drift.CORRECT:
        return 0  # drift is reported by the drift check, all of it together
    if not context.state.settled or desired.wireguard is None:
        return 0
    count = (yield from ask(do.RestoreRoutes(desired), on.Restored)).count
    context.counters.found += count
    context.counters.healed += count
    return count


def revive(context: Context) -> Job[None]:
    """Bring a wanted WireGuard link back that is gone because its engine has ended. Tries until the link is there."""
    if (yield from engine_has_ended(context)):
        yield from bring(context, do.ApplyHost(context.state.desired, context.state.told, quiet=True))
    else:
        context.revival.since_s = None
