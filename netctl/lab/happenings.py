"""What a lab has to say, as values. The command line turns them into text; tests read them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """What is being done just now."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A result to look at."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was to be shown, and whether it was."""

    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last word."""

    ok: bool
    text: str


Event = Progress | Table | Check | Verdict
