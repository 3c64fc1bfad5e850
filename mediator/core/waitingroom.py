"""Connections that wait for a place before login (`mediator.core.admissionlimiter`), by region and neighbourhood.

Whose turn it is, is decided by chance: of the neighbourhoods with a free place one, and of its connections one. So
nobody gains by coming first, and one neighbourhood that fills the room takes no turns from the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from netctl.model.addresses import SocketAddress

T = TypeVar("T", bound=Hashable)


class _Bag(Generic[T]):
    """Different things, one of which is picked by chance. Each operation takes constant time."""

    __slots__ = ("_at", "_things")

    def __init__(self) -> None:
        self._things: list[T] = []
        self._at: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._things)

    def add(self, thing: T) -> None:
        self._at[thing] = len(self._things)
        self._things.append(thing)

    def remove(self, thing: T) -> None:
        at, last = self._at.pop(thing), self._things.pop()
        if last != thing:
            self._things[at], self._at[last] = last, at

    def pick(self, fraction: float, unfit: Callable[[T], bool] = lambda _: False) -> T | None:
        """The first fit thing from a place on that `fraction`, in [0, 1), names; None: there is none."""
        start = int(fraction * len(self._things))
        found = (self._things[at - len(self._things)] for at in range(start, start + len(self._things)))
        return next((thing for thing in found if not unfit(thing)), None)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A connection that waits."""

    address: SocketAddress
    prefix: str
    region: str
    since: float
    """Monotonic seconds."""


@dataclass(slots=True)
class _Region:
    prefixes: _Bag[str] = field(default_factory=_Bag)
    tickets: dict[str, _Bag[int]] = field(default_factory=dict)
    """By prefix."""
    count: int = 0


class WaitingRoom:
    """The connections that wait, by ticket. `chance`: random numbers in [0, 1)."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()
        """Oldest first."""
        self._regions: dict[str, _Region] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def in_region(self, region: str) -> int:
        """Count of connections of a region that wait."""
        found = self._regions.get(region)
        return found.count if found is not None else 0

    def in_prefix(self, region: str, prefix: str) -> int:
        """Count of connections of a neighbourhood of this region that wait."""
        found = self._regions.get(region)
        return len(found.tickets.get(prefix, ())) if found is not None else 0

    def enter(self, ticket: int, waiting: Waiting) -> None:
        """A connection begins to wait."""
        self._waiting[ticket] = waiting
        region = self._regions.setdefault(waiting.region, _Region())
        tickets = region.tickets.get(waiting.prefix)
        if tickets is None:
            tickets = region.tickets[waiting.prefix] = _Bag()
            region.prefixes.add(waiting.prefix)
        tickets.add(ticket)
        region.count += 1

    def leave(self, ticket: int) -> Waiting | None:
        """A connection waits no longer; None: it did not wait."""
        waiting = self._waiting.pop(ticket, None)
        if waiting is None:
            return None
        region = self._regions[waiting.region]
        tickets = region.tickets[waiting.prefix]
        tickets.remove(ticket)
        region.count -= 1
        if not tickets:
            del region.tickets[waiting.prefix]
            region.prefixes.remove(waiting.prefix)
        if not region.count:
            del self._regions[waiting.region]
        return waiting

    def pick(self, region: str, is_full: Callable[[str], bool]) -> int | None:
        """The ticket of the region whose turn it is; `is_full`: whether a neighbourhood has no place."""
        found = self._regions.get(region)
        prefix = found.prefixes.pick(self._chance(), is_full) if found is not None else None
        return (
            found.tickets[prefix].pick(self._chance()) if found is not None and prefix is not None else None
        )

    def first_since(self, before: float) -> int | None:
        """The ticket of the connection that waits longest, if it came at or before this time."""
        ticket, waiting = next(iter(self._waiting.items()), (0, None))
        return ticket if waiting is not None and waiting.since <= before else None
