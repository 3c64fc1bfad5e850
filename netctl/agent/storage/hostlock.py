"""The host's lock, for one writer per host: an agent holds it while it runs, a command while it changes something."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from typing import IO

from netctl.agent.storage.locations import Locations
from netctl.model.errors import LocalError
from netctl.system.files import make_directory, open_lock, say_holder

LOCK_WAIT_S = 30.0
"""Longest wait of a command for another command that changes this host."""
LOCK_POLL_S = 0.1


def _quiet(line: str) -> None:
    """Discard the line."""


@contextlib.contextmanager
def host_lock(
    locations: Locations, *, wait_s: float = 0.0, progress: Callable[[str], None] = _quiet
) -> Iterator[IO[str]]:
    """Hold the host's lock, after a wait of at most `wait_s`. Raises LocalError if another process holds it."""
    try:
        make_directory(locations.state)
        file = open_lock(locations.lock)
    except OSError as error:
        raise LocalError(f"cannot write to {locations.state}: {error.strerror}; run this as root") from error
    with file:
        deadline, said = time.monotonic() + wait_s, False
        while not _locked(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            if time.monotonic() >= deadline:
                waited = f"; waited {wait_s:.0f} s" if wait_s else ""
                message = f"another netctl (process {holder}) is changing this host{waited}"
                raise LocalError(f"{message}; wait for it, or stop it")
            if not said:
                progress(f"waiting for another netctl (process {holder}) that is changing this host")
                said = True
            time.sleep(LOCK_POLL_S)
        say_holder(file, str(os.getpid()))
        yield file


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
