"""Formats durations, sizes and counts for people."""

from __future__ import annotations


def age(seconds: float | None) -> str:
    """A duration for people: ``12 s``, ``3 min``, ``2 h``, ``5 d``; ``-`` for None."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int) -> str:
    """Bytes for people: ``512 B``, ``1.2 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(number: int, what: str) -> str:
    """A number of things for people: ``1 member``, ``0 members``. `what`: one of them; its plural ends in s."""
    return f"{number} {what}{'' if number == 1 else 's'}"
