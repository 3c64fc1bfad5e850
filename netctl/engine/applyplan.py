"""Apply as a transaction: checkpoint, change, read again, verify, roll back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from netctl.engine.api import Engine
from netctl.model.errors import EngineError, NetctlError
from netctl.model.hoststate import HostState, insisting
from netctl.model.outcome import ApplyOutcome
from netctl.plan import Change, Plan, describe, diff, prune
from netctl.plan.changes import SetPeer, SetRoute

Progress = Callable[[str], None]

MAX_TOGETHER = 500
"""Steps passed to the engine together: enough to amortise the request, few enough to find the one that failed."""


def _quiet(line: str) -> None:
    """Ignore progress."""


def apply_plan(
    engine: Engine, desired: HostState, *, progress: Progress = _quiet, seen: HostState | None = None
) -> ApplyOutcome:
    """Bring the host to `desired`, or back to its former state. `seen`: do nothing when the host's state differs.

    Raises no exception of an engine: the outcome contains the error. An interruption (Ctrl-C) restores the former
    state, too. `progress` gets one line a change, before the change is made.
    """
    try:
        checkpoint = engine.read()
    except Exception as error:
        return ApplyOutcome(0, True, _reason(error))  # nothing has been changed
    if seen is not None and checkpoint != seen:
        return ApplyOutcome(0, True, "the host has changed since the plan was checked: make it anew")
    plan = diff(desired, checkpoint)
    if not plan:
        return ApplyOutcome(0)
    try:
        done = _run(engine, plan, progress)
        left = _left(desired, engine)
        if left:
            raise EngineError("after the apply this still differs: " + "; ".join(left))
    except Exception as error:
        return _roll_back(engine, checkpoint, plan, _reason(error), progress)
    except BaseException:
        _roll_back(engine, checkpoint, plan, "interrupted", progress)
        raise
    return ApplyOutcome(done)


def apply_prune(
    engine: Engine, desired: HostState, at_most: int, *, progress: Progress = _quiet
) -> ApplyOutcome:
    """Remove our objects that are not in `desired`, or bring the host back to its former state.

    `at_most`: the number of removals that a person has agreed to; if there are more by now, nothing is done.
    """
    try:
        checkpoint = engine.read()
    except Exception as error:
        return ApplyOutcome(0, True, _reason(error))
    plan = prune(desired, checkpoint)
    if len(plan.changes) > at_most:
        return ApplyOutcome(0, True, f"there are {len(plan.changes)} removals by now; look at them again")
    try:
        done = _run(engine, plan, progress)
        left = prune(desired, engine.read())
        if left:
            raise EngineError("after the prune this is still there: " + "; ".join(describe(left)))
    except Exception as error:
        return _roll_back(engine, checkpoint, plan, _reason(error), progress)
    except BaseException:
        _roll_back(engine, checkpoint, plan, "interrupted", progress)
        raise
    return ApplyOutcome(done)


def _reason(error: Exception) -> str:
    """An error in words for people: our errors as they are, the system's text, anything else as an internal error."""
    if isinstance(error, NetctlError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"internal error: {type(error).__name__}: {error}"


def _left(desired: HostState, engine: Engine) -> list[str]:
    """The remaining differences, without mere endpoints, since a peer may have answered from another one meanwhile."""
    left = diff(desired, engine.read())
    return [
        line
        for change, line in zip(left.changes, describe(left), strict=True)
        if not (isinstance(change, SetPeer) and change.changed == ("endpoint",))
    ]


def _run(engine: Engine, plan: Plan, progress: Progress) -> int:
    lines = describe(plan)
    start = 0
    while start < len(lines):
        end = start + _together(plan.changes, start)
        for line in lines[start:end]:
            progress(line)
        _apply(engine, plan.changes, start, end, lines)
        start = end
    return len(lines)


def _apply(engine: Engine, changes: Sequence[Change], start: int, end: int, lines: Sequence[str]) -> None:
    """Do some steps together; if that fails, one by one, to find the failing step."""
    if end > start + 1:
        try:
            engine.apply_all(changes[start:end])
        except EngineError:
            pass  # repeating a step does no harm
        else:
            return
    for number in range(start, end):
        try:
            engine.apply(changes[number])
        except Exception as error:
            which = f"step {number + 1} of {len(lines)} ({lines[number]})"
            raise EngineError(f"{which} failed: {_reason(error)}") from error


def _together(changes: Sequence[Change], start: int) -> int:
    """How many steps from `start` on go to the engine together: consecutive peers, or consecutive routes."""
    kind = type(changes[start])
    if kind not in (SetPeer, SetRoute):
        return 1
    row = takewhile(lambda change: type(change) is kind, changes[start : start + MAX_TOGETHER])
    return sum(1 for _ in row)


def _roll_back(
    engine: Engine, checkpoint: HostState, plan: Plan, why: str, progress: Progress
) -> ApplyOutcome:
    progress("rolling back")
    between = len(plan.changes)  # an upper bound: so many steps may be in place
    try:
        back = diff(insisting(checkpoint), engine.read())
        _run(engine, back, progress)
        if _left(checkpoint, engine):
            return ApplyOutcome(between, False, f"{why}; and the roll-back did not bring everything back")
    except Exception as error:
        return ApplyOutcome(between, False, f"{why}; and the roll-back failed too: {_reason(error)}")
    return ApplyOutcome(len(back.changes), True, why)
