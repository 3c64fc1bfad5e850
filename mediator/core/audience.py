"""Presence by interest: which connections are told that a member came or went.

| who                                                                       | is told of                       |
|---------------------------------------------------------------------------|----------------------------------|
| a member whose view has at most `INTEREST_ABOVE` members                  | every member of its view         |
| a member with a larger view                                               | those that it declared           |
| … which asked for all in the last `INTEREST_ALL_S` seconds                | every member of its view         |
| a member of minor version 0 (the release before), whatever its view       | every member of its view         |

So in a network of thousands a change costs its audience, and a login is told of nobody. Nobody is told of a member that
its view does not have, and no answer shows whether such a member exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mediator.core.controlconnections import Connections, key_of
from mediator.core.membership import Membership
from mediator.core.viewcache import ViewCache, ViewClass
from netctl.model.errors import RemoteError
from netctl.model.keys import WireGuardKey
from netctl.wire import control as w

INTEREST_ABOVE = 256
"""Members of a view that are told of each other as a matter of course: a change then costs at most 256 messages."""
KEYS_PER_QUESTION = 8
"""Members of one `Interest` that count as one request (`pace.Questions`)."""


class Audience:
    """Who is interested in whom. Times are monotonic seconds."""

    def __init__(
        self, connections: Connections, views: ViewCache, *, interest_above: int = INTEREST_ABOVE
    ) -> None:
        self._connections = connections
        self._views = views
        self._above = interest_above
        self.membership = Membership()
        self._declared: dict[int, set[WireGuardKey]] = {}
        """By connection."""
        self._watchers: dict[WireGuardKey, set[int]] = {}
        """The connections that have declared interest in a key."""
        self._all: dict[int, float] = {}
        """When a connection's interest in all members ends."""
        self._older: set[int] = set()
        """Connections of members of minor version 0."""

    def __len__(self) -> int:
        """Count of declared interests."""
        return sum(map(len, self._declared.values()))

    def logged_in(self, number: int) -> None:
        """A connection is a member's now."""
        if self._connections[number].minor < 1:
            self._older.add(number)

    def gone(self, number: int) -> None:
        """A connection has ended."""
        self._older.discard(number)
        self.shown_all(number)

    def shown_all(self, number: int) -> None:
        """A connection is sent a seal that says who is online in its view: its member forgets what it declared."""
        self._all.pop(number, None)
        for key in self._declared.pop(number, ()):
            self._forget(key, number)

    def _forget(self, key: WireGuardKey, number: int) -> None:
        watchers = self._watchers[key]
        watchers.discard(number)
        if not watchers:
            del self._watchers[key]

    # -- what a member is told unasked ----------------------------------------------------------------------

    def _is_large(self, key: WireGuardKey) -> bool:
        """Whether the member with this key sees more than `interest_above` members."""
        return len(self._seen_by(key)) > self._above

    def told_at_login(self, number: int) -> bool:
        """Whether the seals of this connection's views say who is online."""
        connection = self._connections[number]
        assert connection.member is not None
        return connection.minor < 1 or not self._is_large(connection.member)

    def of_all(self, keys: Iterable[WireGuardKey]) -> Iterator[tuple[list[int], list[WireGuardKey]]]:
        """Members that are not here, with the connections that are told that they came or went.

        Those of one view class are together: each network is looked at once, however many of its members came.
        """
        classes: dict[ViewClass, list[WireGuardKey]] = {}
        for key in keys:
            if key in self._watchers:
                yield self.of(key), [key]
            else:
                classes.setdefault(self._views.of(key), []).append(key)
        for found in classes.values():
            yield self.of(found[0]), found

    def of(self, key: WireGuardKey) -> list[int]:
        """The connections that are told that this member came or went, except its own."""
        view_class, online = self._views.of(key), self._connections.online
        if view_class.attentive is None:
            view_class.attentive = tuple(other for other in view_class.keys if not self._is_large(other))
        found = {number for other in view_class.attentive if (number := online.get(other)) is not None}
        found.update(number for number in self._watchers.get(key, ()) if self._sees(number, key))
        for everything in (self._all, self._older):
            if len(everything) <= len(view_class.keys):
                found.update(number for number in everything if self._sees(number, key))
            else:
                here = {online[other] for other in view_class.keys if other in online}
                found.update(here.intersection(everything))
        found.discard(online.get(key, 0))
        return sorted(found)

    def _seen_by(self, key: WireGuardKey) -> frozenset[str]:
        member = self.membership.by_key.get(key)
        return self.membership.visible.get(member.name, frozenset()) if member is not None else frozenset()

    def _sees(self, number: int, key: WireGuardKey) -> bool:
        """Whether the member of this connection may see this member, by the membership of now."""
        viewer, seen = self._connections[number].member, self.membership.by_key.get(key)
        return viewer is not None and seen is not None and seen.name in self._seen_by(viewer)

    # -- what a member asks for -----------------------------------------------------------------------------

    def declare(self, number: int, message: w.Interest, now: float) -> list[WireGuardKey]:
        """A member declares interest. Returns the added members, as far as it sees them. Raises RemoteError."""
        viewer = self._connections[number].member
        seen = self._seen_by(viewer) if viewer is not None else frozenset[str]()
        members = (self.membership.by_key.get(key_of(text)) for text in message.add)
        found = (one.wireguard for one in members if one is not None and one.name in seen)
        added = [key for key in found if key is not None]
        dropped = [key_of(text) for text in message.drop]
        declared = self._declared.setdefault(number, set())
        for key in dropped:
            if key in declared:
                declared.discard(key)
                self._forget(key, number)
        if len(declared) + len(added) > w.MAX_INTEREST and len(declared.union(added)) > w.MAX_INTEREST:
            raise RemoteError("interest in more members than any agent declares", "session.flood")
        for key in added:
            declared.add(key)
            self._watchers.setdefault(key, set()).add(number)
        if message.all:
            self._all[number] = now + w.INTEREST_ALL_S
        return added

    def next_timer(self) -> float | None:
        """When the first interest in all members ends."""
        return min(self._all.values(), default=None)

    def handle_timer(self, now: float) -> None:
        """End interest in all members that nobody has renewed."""
        for number in [number for number, until in self._all.items() if now >= until]:
            del self._all[number]


def questions(message: w.Message) -> int:
    """The requests that a message counts for."""
    if isinstance(message, w.Interest):
        return 1 + (len(message.add) + len(message.drop)) // KEYS_PER_QUESTION
    return 1


def presences(keys: Iterable[WireGuardKey], online: Iterable[bool]) -> w.Presences:
    """The answer to declared interest."""
    answer = w.Presences([], [])
    for key, is_online in zip(keys, online, strict=True):
        (answer.online if is_online else answer.offline).append(str(key))
    return answer
