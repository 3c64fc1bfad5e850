"""The clock that protocols count by."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since the boot: nobody sets it, and it goes on while the machine sleeps (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
