"""One relay a state directory, found again by the next mediator: relayed tunnels outlive a mediator that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netctl.model.errors import LocalError
from netctl.system.files import open_lock, say_holder

RELAY_LOCK = "relay.lock"
KEPT = "NETCTL_RELAY_KEPT"
"""Set by `serve` for the relay that it starts, and ends when it is itself ended in order."""


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """Who holds the lock. `kept`: a mediator has started it, no unit of its own."""

    pid: int
    kept: bool


@contextlib.contextmanager
def only_relay(state: Path) -> Iterator[None]:
    """Be this state's relay. Raises LocalError when there is one."""
    try:
        file = open_lock(state / RELAY_LOCK)
    except OSError as error:
        raise LocalError(f"cannot write to {state}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = running_relay(state)
            who = f" (process {found.pid})" if found is not None else ""
            raise LocalError(f"a relay runs on {state} already{who}; stop it first") from None
        say_holder(file, f"{os.getpid()} {'kept' if os.environ.get(KEPT) else 'alone'}")
        yield


def running_relay(state: Path) -> RunningRelay | None:
    """The relay that runs on this state."""
    try:
        with (state / RELAY_LOCK).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, how = file.read().partition(" ")
                return RunningRelay(int(pid), how == "kept") if pid.isdecimal() else None
    except OSError:
        return None
    return None
