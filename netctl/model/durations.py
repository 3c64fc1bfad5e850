"""Durations as the document writes them: a number and a unit, ``90s``, ``5m``, ``1h``."""

from __future__ import annotations

import re

UNITS_S = {"s": 1, "m": 60, "h": 3600}
_FORM = re.compile(r"[1-9][0-9]{0,5}[smh]", re.ASCII)


def seconds(text: str) -> float:
    """The seconds of a duration. Raises a ValueError that says what is allowed."""
    if _FORM.fullmatch(text) is None:
        raise ValueError(f"'{text}' is not a duration: a number and s, m or h, for example 90s")
    return float(int(text[:-1]) * UNITS_S[text[-1]])
