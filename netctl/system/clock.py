"""The clock for the times of protocols."""

from __future__ import annotations

import time


def boottime() -> float:
    """Seconds since the boot (CLOCK_BOOTTIME): no program can set this clock, and it runs on during suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
