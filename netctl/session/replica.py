"""The member's copy of its view: it applies whole views and differences, and only those whose seal fits.

| has        | message            | then                                                                 |
|------------|--------------------|----------------------------------------------------------------------|
| anything   | next part          | gathered; the last one makes a whole candidate                       |
| anything   | another part       | doubt                                                                |
| a view     | ViewDelta on it    | a candidate                                                          |
| anything   | ViewDelta on other | doubt                                                                |
| candidate  | Sealed for it      | it is the view, unless it is older than what was seen: then refused  |
| a view     | Sealed for it      | confirmed: a new generation, and who is online                       |
| anything   | Sealed for other   | doubt; after a whole view: refused                                   |

Doubt asks for the whole view, once until it begins to come. A bad signature, a seal of an unpinned key or an older
view is refused: it ends the connection, and the last good view stays. A part is a `ViewRows`, or from an older mediator
a `ViewChunk`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.session.rows import read_rows
from netctl.session.views import (
    check_seal,
    read_chunks,
    read_leases,
    read_members,
    view_digest,
    with_presence,
)
from netctl.wire.control import Sealed, ViewChunk, ViewDelta, ViewRows

MAX_STORES = 8
"""A host changes its store when somebody begins a new one on purpose: once in years."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a member stores on disk: its last view, the seal of that view, and the newest generations."""

    view: View
    seal: Sealed
    newest: Mapping[IdentityKey, int] = field(default_factory=dict)
    """By identity. The generations of a mediator never go back: an older view is a replayed one."""
    stores: Mapping[str, int] = field(default_factory=dict)
    """By the store's name, the one heard of last at the end. Mediators of one store count together, and a view may come
    from each of them: none may show an older one than another."""


class Replica:
    """One member's view over one connection."""

    def __init__(self, pins: Sequence[IdentityKey], key: WireGuardKey, kept: Kept | None) -> None:
        self._pins, self._key = tuple(pins), key
        self._view: View | None = kept.view if kept is not None else None
        self._newest = {pin: kept.newest[pin] for pin in pins if pin in kept.newest} if kept else {}
        self._stores = dict(kept.stores) if kept else {}
        self._store = ""
        self.digest = kept.seal.digest if kept is not None else ""
        self._chunks: list[ViewChunk | ViewRows] = []
        self._candidate: View | None = None
        self._whole = False
        self._asked = False

    @property
    def newest(self) -> int:
        """The highest generation that this member has seen of these mediators."""
        return max((*self._newest.values(), *self._stores.values()), default=0)

    def set_store(self, store: str) -> None:
        """The mediator has named its store. Empty: an older mediator, for which its identity alone counts."""
        self._store = store
        if store and not self._stores:
            # Kept by an older agent, by identity alone: all mediators of a document have one store.
            self._stores[store] = max(self._newest.values(), default=0)

    def _doubt(self) -> bool:
        """Mark the view as doubted. True: ask for the whole view, once until it begins to arrive."""
        self._chunks, self._candidate = [], None
        ask, self._asked = not self._asked, True
        return ask

    def chunk(self, chunk: ViewChunk | ViewRows) -> bool:
        """Take a part of a view. True: ask for the whole view. Raises RemoteError."""
        if chunk.part == 0:
            self._chunks, self._candidate, self._asked = [], None, False
        elif chunk.part != len(self._chunks) or chunk.parts != self._chunks[0].parts:
            return self._doubt()
        self._chunks.append(chunk)
        if len(self._chunks) == chunk.parts:
            chunks, self._chunks = self._chunks, []
            rows = [part for part in chunks if isinstance(part, ViewRows)]
            older = [part for part in chunks if isinstance(part, ViewChunk)]
            if rows and older:
                return self._doubt()
            self._candidate = read_rows(rows) if rows else read_chunks(older)
            self._whole = True
        return False

    def delta(self, delta: ViewDelta) -> bool:
        """Take a difference. True: ask for the whole view. Raises RemoteError."""
        if self._chunks or self._view is None or delta.base != self.digest:
            return self._doubt()
        gone = {WireGuardKey.parse(text) for text in delta.gone}
        released = {(lease.network, WireGuardKey.parse(lease.key)) for lease in delta.released}
        members = {key: member for key, member in self._view.members.items() if key not in gone}
        leases = {name: lease for name, lease in self._view.leases.items() if name not in released}
        members.update(read_members(delta.members))
        leases.update(read_leases(delta.leases))
        document = self._view.document if delta.document is None else delta.document
        self._candidate = View(0, members, leases, document)
        self._whole = False
        return False

    def sealed(self, sealed: Sealed) -> Kept | None:
        """Take a seal, and return the view to store. None: the seal fits no view; ask for the whole one if `doubted`.
        Raises RemoteError.
        """
        fresh, self._candidate = self._candidate, None
        if fresh is not None:
            digest = view_digest(fresh)
            view = fresh
        elif self._view is not None and not self._chunks:
            digest, view = self.digest, self._view
        else:
            return None
        if digest != sealed.digest:
            if (
                fresh is not None and self._whole
            ):  # the whole view did not fit either: asking again would never end
                raise RemoteError("a whole view that is not the sealed one", "view.mismatch")
            return None
        identity = check_seal(sealed, self._pins)
        if self._key not in view.members:
            raise RemoteError("a view made for another member", "view.recipient")
        newest = max(self._newest.get(identity, 0), self._stores.get(self._store, 0))
        if sealed.generation < newest:
            raise RemoteError(
                f"the mediator shows an older view (generation {sealed.generation}) than the one this host has "
                f"({newest}): it was set back or is not to be trusted; what this host has stays. If you have "
                "reinstalled the mediator, say so with `netctl leases forget --all`",
                "view.rollback",
            )
        view = with_presence(view, sealed)
        self._view, self.digest = view, digest
        self._newest[identity] = sealed.generation
        if self._store:
            self._stores.pop(self._store, None)
            self._stores[self._store] = sealed.generation
            for name in list(self._stores)[:-MAX_STORES]:
                del self._stores[name]
        return Kept(view, sealed, dict(self._newest), dict(self._stores))

    @property
    def is_changing(self) -> bool:
        """Whether parts or a difference have come since the last seal."""
        return self._candidate is not None or bool(self._chunks)

    def doubted(self) -> bool:
        """Whether to ask for the whole view, because a seal was for another one."""
        return self._doubt()
