"""The lock of the only relay of a state directory. A new mediator finds a running relay by it, so that relayed tunnels
outlive a killed mediator.
"""

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
"""Environment variable that `serve` sets for the relay that it starts, and stops at its own regular end."""


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """The holder of the lock. `kept`: a mediator has started it, not its own unit."""

    pid: int
    kept: bool


@contextlib.contextmanager
def only_relay(state: Path) -> Iterator[None]:
    """Hold the lock. Raises LocalError if another relay holds it."""
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
    """The running relay of this state; None: none runs."""
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
