"""Writes the audit log's lines about documents, in the order in which they took effect, once the store accepts them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mediator.shell.memberstore import MemberStore
from netctl.model.errors import LocalError
from netctl.wire.origin import Origin

MAX_WAITING = 100
"""Documents remembered while the store accepts nothing; above it the oldest get no line."""
BY_SYNC = "netctl sync"


def brought(origin: Origin | None, path: str) -> tuple[str, str]:
    """(who brought a document, further details) for the audit log; `path`: the document's file."""
    if origin is None:
        return path, ""
    return BY_SYNC, f"commit {origin.commit} of {origin.repository}"


@dataclass(frozen=True, slots=True)
class _Note:
    digest: str
    detail: str
    at_s: int
    by: str


class DocumentNotes:
    """The lines that the store does not have yet."""

    def __init__(self, store: MemberStore, path: str) -> None:
        """`path`: the document's file."""
        self._store = store
        self._path = path
        self._waiting: deque[_Note] = deque(maxlen=MAX_WAITING)
        self._writing = False

    @property
    def due(self) -> bool:
        """Whether `write` has lines to write now."""
        return bool(self._waiting) and not self._writing and self._store.takes_nothing is None

    def accepted(self, digest: str, origin: Origin | None, now_s: int) -> None:
        """Add a line: a document takes effect now."""
        by, detail = brought(origin, self._path)
        self._waiting.append(_Note(digest, detail, now_s, by))

    async def write(self) -> None:
        """Write the lines; refused lines are kept for later."""
        if not self.due:
            return
        self._writing = True
        try:
            while self._waiting:
                note = self._waiting[0]
                await self._store.note_document(note.digest, note.detail, note.at_s, by=note.by)
                if self._waiting and self._waiting[0] is note:
                    self._waiting.popleft()
        except LocalError:
            return
        finally:
            self._writing = False
