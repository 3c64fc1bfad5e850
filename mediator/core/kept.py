"""What a store holds, as one transaction reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from mediator.core.admissions import Book
from mediator.core.leasegrants import LeaseKey
from mediator.core.pairs import PairGrant
from netctl.model.keys import WireGuardKey


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """The document in force of a store that several mediators work with."""

    number: int
    """The store's state that it came into force with."""
    digest: str
    content: str = ""
    """Its text; empty where the reader has it already."""


@dataclass(frozen=True, slots=True)
class Kept:
    """All that a store holds, at one moment."""

    book: Book = field(default_factory=Book)
    ports: Mapping[WireGuardKey, int] = field(default_factory=dict)
    """Relay ports by key."""
    pairs: tuple[PairGrant, ...] = ()
    resting: Mapping[int, int] = field(default_factory=dict)
    """Relay ports of members that are gone, and until when (Unix time) nobody else may have them."""
    generation: int = 0
    """A lone mediator's: what the next run's generations must not be below. With several: the number of this state."""
    name: str = ""
    """Of the store, made at random with it: it goes along when the store is moved or put back from a backup."""
    document: StoredDocument | None = None
    """None: the store has none, or one mediator alone works with it."""

    @property
    def leases(self) -> Mapping[LeaseKey, IPv4Address]:
        """Every lease ever granted and not moved since."""
        return self.book.leases
