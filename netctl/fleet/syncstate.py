"""What a sync remembers: the last good commit, what it thinks of the newest one, and the last verdicts.

The outcomes of one commit, and what may come after each:

==============  ==========================================================  =========================
outcome         meaning                                                     tried again
==============  ==========================================================  =========================
``applied``     the host lives by it (a mediator: the file is written)      when the host departs
``refused``     not signed, not valid, a test fails, history was rewritten  looked at in every round
``failed``      the host could not take it; nothing was changed             in every round
``rolled-back`` it was taken and given back, for the host lost its way      when asked (``sync now``)
==============  ==========================================================  =========================
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

MAX_HISTORY = 50
"""Verdicts that are kept: a screen or two; Git has the rest."""


class Outcome(StrEnum):
    """What became of a commit."""

    APPLIED = "applied"
    REFUSED = "refused"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one commit, and why."""

    commit: str
    subject: str
    outcome: Outcome
    why: str
    at_s: float
    """Unix time."""
    author: str = ""
    """Who wrote the commit, as it says itself."""
    signer: str = ""
    """Which of the allowed signers stands for it, as their file names them; empty: nobody was asked for, or nobody."""


@dataclass(frozen=True, slots=True)
class SyncState:
    """All of it."""

    repository: str = ""
    branch: str = ""
    path: str = ""
    writes: str = ""
    """The file that a mediator watches; empty: the host of this sync lives by the document."""
    last_good: str | None = None
    """The commit that the host lives by."""
    problem: str = ""
    """Why the repository could not be looked at just now; empty when it could."""
    looked_at_s: float = 0.0
    """Unix time of the last look."""
    history: tuple[Verdict, ...] = field(default=())
    """The newest first; the same verdict in a row stands once."""

    def judged(self, verdict: Verdict) -> SyncState:
        """With this verdict. The same one again only moves nothing."""
        last = self.history[0] if self.history else None
        good = verdict.commit if verdict.outcome is Outcome.APPLIED else self.last_good
        if last is not None and replace(last, at_s=verdict.at_s) == verdict:
            return replace(self, last_good=good)
        return replace(self, last_good=good, history=(verdict, *self.history)[:MAX_HISTORY])


class StateFile:
    """The state on disk, written whole or not at all."""

    def __init__(self, path: Path, write: Callable[[Path, str], None]) -> None:
        self.path = path
        self._write = write

    def load(self) -> SyncState:
        """What was kept; a fresh state when there is none, or it is damaged (the repository has it all)."""
        try:
            plain = json.loads(self.path.read_text())
            history = tuple(
                Verdict(**{**row, "outcome": Outcome(row["outcome"])}) for row in plain.pop("history")
            )
            return SyncState(**plain, history=history)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return SyncState()

    def save(self, state: SyncState) -> None:
        """Keep it. Raises OSError."""
        self._write(self.path, json.dumps(to_json(state), indent=1) + "\n")


def to_json(state: SyncState) -> dict[str, Any]:
    """Plain values."""
    return asdict(state)
