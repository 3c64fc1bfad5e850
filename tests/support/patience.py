"""Waiting for a condition, as long as a busy machine needs: how fast the product is, its own records say."""

from __future__ import annotations

import time
from collections.abc import Callable

BUSY_S = 240.0
"""What takes a second on a quiet machine has taken 40 where nine others used both cores: what takes longer than this
will not come."""
LOOK_EVERY_S = 0.2


def wait_for(what: str, true: Callable[[], object], *, every_s: float = LOOK_EVERY_S) -> float:
    """Look again and again until it is true; the seconds that it took. Fails with `what` after `BUSY_S`."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < BUSY_S, f"not within {BUSY_S:.0f} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - began
