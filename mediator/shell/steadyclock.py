"""Unix time without steps: for grants, which the mediator makes and the relay checks.

If the wall clock stepped by a day, members' grants would expire at once or last a day too long, and relayed pairs would
be silent until they ask for new grants. So the wall clock is read once per boot, by mediator or relay, whichever starts
first, and continues by CLOCK_BOOTTIME. A file that both can read holds the first reading.

A relay apart has another machine's clock than its mediators. It reads the wall clock again when their grants show that
its reading is wrong (`mediator.shell.relayapart`): the machine may have booted before its clock was set. The relay
beside one of several mediators takes the others' grants too; it keeps its reading, and its log says what they show.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from netctl.system.clock import boottime
from netctl.system.files import write_atomic

CLOCK_FILE = "clock.json"
SHARED = 0o640
"""Mode of the file, in a directory that mediator and relay share by its group."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SteadyClock:
    """Unix time without steps since this boot's first reading."""

    def __init__(
        self,
        directory: Path | None,
        *,
        boot: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        boot_id: Path = BOOT_ID,
    ) -> None:
        """Use the reading in `directory`, or make it; if it cannot be written, it holds for this process only.

        None: it is for this process only.
        """
        self._boot, self._wall = boot, wall
        self._path = directory / CLOCK_FILE if directory is not None else None
        try:
            this_boot = boot_id.read_text().strip()
        except OSError:
            this_boot = ""
        self._offset = wall() - boot()
        if self._path is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plain = json.loads(self._path.read_text())
            if this_boot and plain["boot"] == this_boot:
                self._offset = float(plain["offset"])
                return
        with contextlib.suppress(OSError):
            write_atomic(self._path, json.dumps({"boot": this_boot, "offset": self._offset}), SHARED)

    def unix(self) -> float:
        """Seconds since 1970, by the wall clock at the first reading of this boot plus the time since."""
        return self._offset + self._boot()

    def read_again(self) -> float:
        """Take the wall clock as it is now; returns by how many seconds the time has changed.

        The file goes, so that the next process reads the wall clock too. It is not written: that may take seconds on
        a slow disk, and the caller moves packets.
        """
        before, self._offset = self._offset, self._wall() - self._boot()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        return self._offset - before
