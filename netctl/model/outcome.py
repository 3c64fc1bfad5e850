"""How a change of the host ended."""

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
