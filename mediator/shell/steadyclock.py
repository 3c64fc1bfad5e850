"""Unix time that nobody sets: for grants, which one process makes and another one judges.

Where the wall clock steps by a day, grants that members have would be over, or good for a day too long, and relayed
pairs silent until they ask for new ones. So the wall clock is read once a boot, by whichever of mediator and relay
comes first, and goes on by CLOCK_BOOTTIME. What was read is in a file that both have.
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
"""In a directory that mediator and relay share by its group."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SteadyClock:
    """Unix time of this boot."""

    def __init__(
        self,
        directory: Path,
        *,
        boot: Callable[[], float] = boottime,
        wall: Callable[[], float] = time.time,
        boot_id: Path = BOOT_ID,
    ) -> None:
        """Take up what is in `directory`, or begin. Where nothing can be kept, this process has its own beginning."""
        self._boot = boot
        try:
            this_boot = boot_id.read_text().strip()
        except OSError:
            this_boot = ""
        self._offset = wall() - boot()
        path = directory / CLOCK_FILE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plain = json.loads(path.read_text())
            if this_boot and plain["boot"] == this_boot:
                self._offset = float(plain["offset"])
                return
        with contextlib.suppress(OSError):
            write_atomic(path, json.dumps({"boot": this_boot, "offset": self._offset}), SHARED)

    def unix(self) -> float:
        """Seconds since 1970, as the wall clock had them when this boot's first process began."""
        return self._offset + self._boot()
