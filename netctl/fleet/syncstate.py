"""The saved state of a sync: the last applied commit and the last verdicts, the newest commit's first.

The outcomes of one commit, and when the sync tries it again:

==============  ==========================================================  =========================
outcome         meaning                                                     tried again
==============  ==========================================================  =========================
``applied``     applied and confirmed (a mediator: the file is written)     when the host's text differs
``refused``     not signed, not valid, a test fails, history was rewritten  looked at in every round
``failed``      the host could not apply it; nothing was changed            in every round
``rolled-back`` applied and rolled back, e.g. as the repository was lost    when asked (``sync now``)
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
"""Verdicts that are kept: one or two screens; Git has older commits."""


class Outcome(StrEnum):
    """The outcome of one commit."""

    APPLIED = "applied"
    REFUSED = "refused"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one commit, and why."""

    commit: str
    subject: str
    outcome: Outcome
    why: str
    at_s: float
    """Unix time."""
    author: str = ""
    """The author in the commit; not verified."""
    signer: str = ""
    """The allowed signer, as the file names it, or the signed tag; empty: none, or none is required."""


@dataclass(frozen=True, slots=True)
class SyncState:
    """The whole state of a sync."""

    repository: str = ""
    branch: str = ""
    path: str = ""
    writes: str = ""
    """The file that a mediator watches; empty: this host applies the document."""
    last_good: str | None = None
    """The last applied commit."""
    problem: str = ""
    """Why the last round could not read the repository; empty: it could."""
    looked_at_s: float = 0.0
    """Unix time of the last round."""
    history: tuple[Verdict, ...] = field(default=())
    """Newest first; equal verdicts in a row are one entry."""

    def judged(self, verdict: Verdict) -> SyncState:
        """The state with this verdict. A verdict equal to the newest one adds no entry."""
        last = self.history[0] if self.history else None
        good = verdict.commit if verdict.outcome is Outcome.APPLIED else self.last_good
        if last is not None and replace(last, at_s=verdict.at_s) == verdict:
            return replace(self, last_good=good)
        return replace(self, last_good=good, history=(verdict, *self.history)[:MAX_HISTORY])


class StateFile:
    """The state on disk, written completely or not at all."""

    def __init__(self, path: Path, write: Callable[[Path, str], None]) -> None:
        self.path = path
        self._write = write

    def load(self) -> SyncState:
        """The saved state; an empty one if there is none or it is damaged, as the repository holds everything."""
        try:
            plain = json.loads(self.path.read_text())
            history = tuple(
                Verdict(**{**row, "outcome": Outcome(row["outcome"])}) for row in plain.pop("history")
            )
            return SyncState(**plain, history=history)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return SyncState()

    def save(self, state: SyncState) -> None:
        """Save the state. Raises OSError."""
        self._write(self.path, json.dumps(to_json(state), indent=1) + "\n")


def to_json(state: SyncState) -> dict[str, Any]:
    """The state as plain values for JSON."""
    return asdict(state)
