"""The result of a change of the host."""

from __future__ import annotations

from dataclasses import dataclass

from netctl.model.forpeople import counted


@dataclass(frozen=True, slots=True)
class ApplyOutcome:
    """The result of an apply. `error` None: the host is as desired.

    With an error, `rolled_back` True means that the host is as before (also when the apply never began), False that
    the roll-back failed and the host is between two states. `changed` then counts the changes that had to be undone
    (0: nothing had been changed).
    """

    changed: int
    rolled_back: bool = False
    error: str | None = None


def in_words(outcome: ApplyOutcome) -> str:
    """An outcome for a line of a log: ``3 changes``, or why the apply failed and in which state the host is."""
    if outcome.error is not None:
        after = "everything is as it was" if outcome.rolled_back else "the host is between two states"
        return f"{outcome.error}; {after}"
    return counted(outcome.changed, "change")
