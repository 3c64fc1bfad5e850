"""The member's side of presence by interest: whose presence it asks for, and what it knows of it.

A mediator tells a member with a small view of everybody, by the presence in each `Sealed`. In a large view the `Sealed`
says nothing: the member declares whom it is interested in, and of all others it knows nothing.

| view  | event                                | then                                                              |
|-------|--------------------------------------|-------------------------------------------------------------------|
| any   | a new view without presence          | LARGE: the wanted members of the view are declared                |
| any   | a new view with presence             | SMALL: everybody is known                                         |
| LARGE | other members are wanted             | the difference is declared; whoever is dropped is not known       |
| LARGE | more than `MAX_INTEREST` are wanted  | all are asked for, and again every `RENEW_S`                      |
| LARGE | `REPEAT_S` after the last declaration| all wanted members are declared again, and answered again         |
| LARGE | somebody looks at all                | all are asked for, unless within the last `RENEW_S`               |
| LARGE | `INTEREST_ALL_S` after asking for all| only the declared members are known                               |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from netctl.model.keys import WireGuardKey
from netctl.wire.control import INTEREST_ALL_S, MAX_INTEREST, Interest

RENEW_S = INTEREST_ALL_S / 2
REPEAT_S = 120.0
"""What both sides have of each other is made the same again, whatever went wrong."""


class Interests:
    """The interest of one connection. Times are monotonic seconds."""

    def __init__(self, key: WireGuardKey, wanted: Collection[WireGuardKey]) -> None:
        """`key`: this member's own."""
        self._key = key
        self._wanted = frozenset(wanted)
        self._large = False
        self._members: Collection[WireGuardKey] = ()
        self._declared: frozenset[WireGuardKey] = frozenset()
        self._asked_all: float | None = None
        """When all were asked for last, while the mediator tells of all."""
        self._awaits_all = False
        self._repeat_due = float("inf")
        self._known: dict[WireGuardKey, bool] = {}

    def known(self, members: Collection[WireGuardKey]) -> Mapping[WireGuardKey, bool | None]:
        """The presence of members in a large view; None: not known. This member itself is online."""
        return {key: True if key == self._key else self._known.get(key) for key in members}

    @property
    def awaits_all(self) -> bool:
        """Whether all were asked for, and the answer has not come."""
        return self._awaits_all

    def want(self, keys: Collection[WireGuardKey], now: float) -> tuple[list[Interest], list[WireGuardKey]]:
        """Set the members whose presence this host needs. Returns what to send, and who is not known any more."""
        self._wanted = frozenset(keys)
        return self._declare(now)

    def large_view(self, members: Collection[WireGuardKey], now: float) -> list[Interest]:
        """A view without presence has come."""
        kept = self._known if self._large else {}
        self._large, self._members = True, members
        self._known = {key: online for key, online in kept.items() if key in members}
        return self._declare(now)[0]

    def small_view(self, online: Mapping[WireGuardKey, bool]) -> None:
        """A view with presence has come: the mediator tells of everybody in it, and forgets what was declared."""
        self._large, self._declared, self._asked_all, self._awaits_all = False, frozenset(), None, False
        self._repeat_due = float("inf")
        self._known = {key: state for key, state in online.items() if key != self._key}

    def _declare(self, now: float) -> tuple[list[Interest], list[WireGuardKey]]:
        if not self._large:
            return [], []
        wanted = frozenset(key for key in self._wanted if key in self._members and key != self._key)
        if len(wanted) > MAX_INTEREST:
            return self.look_at_all(now), []
        added, dropped = sorted(wanted - self._declared), sorted(self._declared - wanted)
        self._declared = wanted
        if not wanted:
            self._repeat_due = float("inf")
        elif self._repeat_due == float("inf"):
            self._repeat_due = now + REPEAT_S
        if not added and not dropped:
            return [], []
        unknown = [] if self._asked_all is not None else [key for key in dropped if key in self._known]
        for key in unknown:
            del self._known[key]
        return [Interest([*map(str, added)], [*map(str, dropped)])], unknown

    def look_at_all(self, now: float) -> list[Interest]:
        """Somebody looks at all members."""
        if not self._large or (self._asked_all is not None and now < self._asked_all + RENEW_S):
            return []
        self._asked_all, self._awaits_all = now, True
        return [Interest(all=True)]

    def told(self, online: Mapping[WireGuardKey, bool]) -> dict[WireGuardKey, bool | None]:
        """The mediator has told who is online. Returns what is to be known of it, repetitions included, without this
        member itself: it is online as long as it can be told.
        """
        heard = {
            key: state
            for key, state in online.items()
            if key != self._key
            and (
                not self._large
                or (key in self._members and (self._asked_all is not None or key in self._declared))
            )
        }
        self._known.update(heard)
        return dict(heard)

    def answered(self, online: Mapping[WireGuardKey, bool]) -> dict[WireGuardKey, bool | None]:
        """The mediator has answered a question. Returns what is new: an answer that repeats the last one is no reason
        to check a path.
        """
        before = {key: self._known.get(key) for key in online}
        return {key: state for key, state in self.told(online).items() if before[key] is not state}

    def answered_all(self, online: Mapping[WireGuardKey, bool]) -> dict[WireGuardKey, bool | None]:
        """The same for the question for all."""
        self._awaits_all = False
        return self.answered(online)

    def next_timer(self) -> float:
        """When `handle_timer` is due."""
        return min(self._all_due(), self._repeat_due)

    def _all_due(self) -> float:
        if self._asked_all is None:
            return float("inf")
        return self._asked_all + (RENEW_S if self._needs_all() else INTEREST_ALL_S)

    def _needs_all(self) -> bool:
        return len(self._wanted) > MAX_INTEREST

    def handle_timer(self, now: float) -> tuple[list[Interest], list[WireGuardKey]]:
        """Ask for all again, if that many are wanted. Returns what to send, and who is not known any more."""
        again: list[Interest] = []
        if now >= self._repeat_due:
            self._repeat_due = now + REPEAT_S
            again.append(Interest([*map(str, sorted(self._declared))]))
        if now < self._all_due():
            return again, []
        if self._needs_all():
            return [*again, *self.look_at_all(now)], []
        self._asked_all = None
        unknown = sorted(self._known.keys() - self._declared)
        for key in unknown:
            del self._known[key]
        return again, unknown
