"""The content of a store, as one transaction reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from mediator.core.admissions import Book
from mediator.core.leasegrants import LeaseKey
from mediator.core.pairs import PairGrant
from netctl.model.document import Document, Mediator
from netctl.model.errors import NetctlError
from netctl.model.keys import WireGuardKey


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """The document in force in a store that several mediators use."""

    number: int
    """The number of the store's state in which the document took effect."""
    digest: str
    content: str = ""
    """The text; empty if the reader has it already."""
    accepted: tuple[Document, Mediator] | NetctlError | None = field(default=None, compare=False, repr=False)
    """What `mediator.core.acceptance.accept` returns or raises for the text; None: it was not asked yet."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The whole content of a store at one moment."""

    book: Book = field(default_factory=Book)
    ports: Mapping[WireGuardKey, int] = field(default_factory=dict)
    """Relay ports by key."""
    pairs: tuple[PairGrant, ...] = ()
    resting: Mapping[int, int] = field(default_factory=dict)
    """Relay ports of former members, with the Unix time until which nobody else may have them."""
    generation: int = 0
    """With one mediator: the lowest generation of the next run. With several: the number of this state."""
    name: str = ""
    """The store's random name. It stays the same when the store is moved or restored from a backup."""
    document: StoredDocument | None = None
    """None: the store has none, or only one mediator uses it."""

    @property
    def leases(self) -> Mapping[LeaseKey, IPv4Address]:
        """Every lease ever granted and not moved since."""
        return self.book.leases
