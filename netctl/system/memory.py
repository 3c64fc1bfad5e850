"""Makes the C library give freed memory back to the system.

A long-running program with thousands of peers frees most of what it needs while it reads its document. By default glibc
keeps that: an arena for each thread, and room for all sizes up to the largest that was freed. musl gives back by
itself, and has no `mallopt`.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""
KEEP = 128 * 1024
"""Bytes: glibc's own first value of both thresholds, which it raises by itself unless they are set."""


def give_back() -> bool:
    """Give freed memory back from now on, in one arena for all threads. False: the C library has no such setting.

    Call it before threads are started. Python's small objects are not in these arenas, so threads do not wait for each
    other more than they do anyway.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_TRIM_THRESHOLD, KEEP), (_M_MMAP_THRESHOLD, KEEP))
    return all(mallopt(what, value) == 1 for what, value in settings)
