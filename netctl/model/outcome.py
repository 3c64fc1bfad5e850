"""The result of a change of the host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ApplyOutcome:
    """How an apply ended. `error` None: converged.

    With an error, `rolled_back` True means that everything is as it was (also when nothing was begun), False that
    the roll-back failed and the host is between two states. `changed` then counts the changes that had to be taken
    back (0: nothing had been changed).
    """

    changed: int
    rolled_back: bool = False
    error: str | None = None


def in_words(outcome: ApplyOutcome) -> str:
    """For a line of a log: ``3 changes``, or why it failed and in what state the host is."""
    if outcome.error is not None:
        after = "everything is as it was" if outcome.rolled_back else "the host is between two states"
        return f"{outcome.error}; {after}"
    return f"{outcome.changed} change{'s' if outcome.changed != 1 else ''}"
