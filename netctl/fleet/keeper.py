"""The process that runs a Sync: one process per host, rounds with jitter, an extra round on a signal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from netctl.fleet.sync import Sync
from netctl.fleet.syncstate import Outcome, SyncState, Verdict
from netctl.model.errors import LocalError
from netctl.system.files import make_directory, open_lock, say_holder

JITTER = 0.1
"""Share of the interval. It spreads the requests of 200 hosts that boot at the same time."""
POKE = signal.SIGUSR1
"""The signal that makes a running sync look at the repository at once."""


@contextlib.contextmanager
def only_keeper(lock: Path) -> Iterator[None]:
    """Hold the lock of the only sync in this directory. Raises LocalError if another sync holds it."""
    try:
        make_directory(lock.parent)
        file = open_lock(lock)
    except OSError as error:
        raise LocalError(f"cannot write to {lock.parent}: {error.strerror}; run this as root") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LocalError("a netctl sync runs here already; `netctl sync now` pokes it") from None
        say_holder(file, str(os.getpid()))
        yield


def is_kept(lock: Path) -> bool:
    """Whether a sync holds the lock now."""
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def poke(lock: Path) -> int:
    """Signal the running sync to start a round now. Returns its process id. Raises LocalError if none runs."""
    try:
        with lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                holder = int(file.read())
                os.kill(holder, POKE)
                return holder
    except PermissionError:
        raise LocalError(f"{lock} may not be read by this user: run this as root") from None
    except (OSError, ValueError):
        pass
    raise LocalError("no netctl sync runs here: `netctl sync run --repository URL`, or its systemd unit")


def keep(sync: Sync, interval_s: float, say: Callable[[str], None]) -> None:
    """Run rounds until SIGTERM or SIGINT; a started round is completed first."""
    wake, asked, end = threading.Event(), threading.Event(), threading.Event()

    def on_poke(*_: object) -> None:
        asked.set()
        wake.set()

    def on_end(*_: object) -> None:
        end.set()
        wake.set()

    signal.signal(POKE, on_poke)
    signal.signal(signal.SIGTERM, on_end)
    signal.signal(signal.SIGINT, on_end)
    said = ""
    while not end.is_set():
        wake.clear()
        wanted = asked.is_set()
        asked.clear()
        said = one_round(sync, wanted, said, say)
        if not end.is_set():
            wake.wait(interval_s * random.uniform(1 - JITTER, 1 + JITTER))


def one_round(sync: Sync, asked: bool, said: str, say: Callable[[str], None]) -> str:
    """Run one round. Prints the result unless it equals `said`, the previous result; returns the result."""
    try:
        verdict = sync.look(time.time(), asked=asked)
    except OSError as error:
        line = f"cannot keep the state: {error.strerror}"
    else:
        line = sentence(verdict) if verdict is not None else sync.state.problem
    if line != said:
        say(line)
    return line


def sentence(verdict: Verdict) -> str:
    """A verdict as a line for the log."""
    why = f": {verdict.why}" if verdict.why else ""
    return f"{verdict.commit[:10]} {verdict.outcome}{why}"


def is_well(state: SyncState) -> bool:
    """Whether the newest known commit is applied."""
    return not state.problem and bool(state.history) and state.history[0].outcome is Outcome.APPLIED
