"""The audit log's lines about documents: written when the store takes them, in the order of their coming into force."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from mediator.shell.memberstore import MemberStore
from netctl.model.errors import LocalError
from netctl.wire.origin import Origin

MAX_WAITING = 100
"""Documents that came while the store took nothing; of more the oldest are not told."""
BY_SYNC = "netctl sync"


@dataclass(frozen=True, slots=True)
class _Note:
    digest: str
    detail: str
    at_s: int
    by: str


class DocumentNotes:
    """What the store is still to be told."""

    def __init__(self, store: MemberStore, path: str) -> None:
        """`path`: of the document."""
        self._store = store
        self._path = path
        self._waiting: deque[_Note] = deque(maxlen=MAX_WAITING)
        self._writing = False

    @property
    def due(self) -> bool:
        """Whether `write` has something to do now."""
        return bool(self._waiting) and not self._writing and self._store.takes_nothing is None

    def accepted(self, digest: str, origin: Origin | None, now_s: int) -> None:
        """A document is in force from now on."""
        by = BY_SYNC if origin is not None else self._path
        detail = f"commit {origin.commit} of {origin.repository}" if origin is not None else ""
        self._waiting.append(_Note(digest, detail, now_s, by))

    async def write(self) -> None:
        """Tell the store; what it does not take is told later."""
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
