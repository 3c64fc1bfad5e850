"""Parses times on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_DURATION = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d)\Z")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration_s(text: str) -> int | None:
    """Seconds of ``30m``, ``24h`` or ``7d``; None for anything else."""
    found = _DURATION.match(text)
    return int(found.group(1)) * _UNITS_S[found.group(2)] if found else None


def moment_s(text: str, now_s: int) -> int | None:
    """Unix time from ``24h`` (so long before now) or from an ISO 8601 date, in UTC unless it names a zone."""
    ago = duration_s(text)
    if ago is not None:
        return max(0, now_s - ago)
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return max(0, int(seconds))
