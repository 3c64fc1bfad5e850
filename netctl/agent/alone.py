"""Commit-confirm where no agent runs: whoever holds the host's lock does what the agent would."""

from __future__ import annotations

from collections.abc import Callable

from netctl.agent.armed import Armed, Armory, Terms, start_watchman
from netctl.agent.commit import confirm_time
from netctl.agent.places import Places
from netctl.config import Loaded
from netctl.engine import ApplyOutcome, Engine, apply_plan, open_engine
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState


def _quiet(line: str) -> None:
    """Tell nobody."""


def arm(
    armory: Armory, terms: Terms, loaded: Loaded, text: str, desired: HostState, engine: Engine
) -> Armed | None:
    """Arm an apply, if its terms say so. Call with the host's lock held. Raises NetctlError."""
    actual = engine.read()
    seconds = confirm_time(terms, loaded.document.confirm_s, desired, actual)
    if seconds is None:
        return None
    accepted = armory.places.accepted
    try:
        before = accepted.read_text() if accepted.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{accepted} cannot be read; nothing was changed") from error
    record = armory.arm(seconds, text, before, actual, engine.kind, terms)
    try:
        start_watchman(armory.places, record)
    except BaseException:
        armory.disarm()
        raise
    return record


def roll_back(places: Places, progress: Callable[[str], None] = _quiet) -> ApplyOutcome:
    """Take back what is armed, document and host. Call with the host's lock held. Raises NetctlError."""
    armory = Armory(places)
    record = armory.record()
    if record is None:
        raise LocalError("nothing is armed: there is nothing to roll back")
    try:
        armory.put_back(record)
        engine = open_engine(
            places.private_key, kind=record.engine, state_dir=places.state, hosts_file=places.hosts
        )
        try:
            outcome = apply_plan(engine, record.checkpoint, progress=progress)
        finally:
            engine.close()
        if outcome.error is None:
            armory.over(record)
    except OSError as error:
        raise LocalError(f"cannot write in {places.state}: {error.strerror}") from error
    return outcome
