"""Events of a lab as values. The command line prints them; tests read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """The step that runs now."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One statement to show, and whether it was shown."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The final result."""

    ok: bool
    text: str


Event = Progress | Table | Check | Verdict
