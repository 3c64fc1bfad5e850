"""Relay ports of pairs with a stock WireGuard app: one a pair, for it alone, kept like a lease.

An app knows an address for each peer and nothing of allocations, so a pair of it needs a port that no other pair
has. A pair that is wanted no longer keeps its port for its return, until there is no other and no grant for it lives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mediator.core.membership import Membership
from mediator.core.relay_pairs import PairMember, PairPort
from netctl.model.document import Document, Member, MemberState
from netctl.model.keys import WireGuardKey

PairKey = tuple[WireGuardKey, WireGuardKey]
"""The lower key first."""
LOW, HIGH = 1, 2
"""Bits of `PairGrant.apps`."""


@dataclass(frozen=True, slots=True)
class PairGrant:
    """A port to be stored for a pair."""

    pair: PairKey
    port: int
    apps: int
    """Which side has no agent: `LOW`, `HIGH`, or both. 0: the pair is not wanted now, and the port is kept for it."""
    taken_from: PairKey | None = None
    """Whose it was, and is no more: in the same transaction."""


def pair_of(one: WireGuardKey, other: WireGuardKey) -> PairKey:
    """The two keys in order."""
    return (one, other) if one < other else (other, one)


def is_app(member: Member) -> bool:
    """Whether it never logs in: a stock app, known by its WireGuard key alone."""
    return member.stock and member.state is MemberState.PRESENT


def wanted_pairs(membership: Membership) -> dict[PairKey, int]:
    """The pairs with an app that some network joins, in the document's order."""
    document = membership.document
    apps = [member for member in document.members.values() if is_app(member)]
    found: dict[PairKey, int] = {}
    for app in apps:
        seen = membership.visible.get(app.name, frozenset())
        for name in _neighbours(document, app.name):
            other = document.members[name]
            if name not in seen or app.wireguard is None or other.wireguard is None:
                continue
            pair = pair_of(app.wireguard, other.wireguard)
            mine = LOW if pair[0] == app.wireguard else HIGH
            found[pair] = mine | (LOW + HIGH - mine if is_app(other) else 0)
    return found


def _neighbours(document: Document, name: str) -> Iterator[str]:
    """Whom it has a tunnel to: everybody of its networks, but where a hub stands between."""
    for network in document.networks_of(name):
        for other in network.member_names:
            if other != name and network.hub in (None, name, other):
                yield other


def pair_ports(pairs: Iterable[PairGrant], ports: Mapping[WireGuardKey, int]) -> list[PairPort]:
    """What the relay is to know of pairs that are wanted; `ports`: of members."""
    return [
        PairPort(
            grant.port,
            (
                PairMember(grant.pair[0], ports.get(grant.pair[0], 0), bool(grant.apps & LOW)),
                PairMember(grant.pair[1], ports.get(grant.pair[1], 0), bool(grant.apps & HIGH)),
            ),
        )
        for grant in pairs
        if grant.apps
    ]


class PairBook:
    """Every pair that has a port, as the store has it."""

    def __init__(self) -> None:
        self._held: dict[PairKey, PairGrant] = {}
        self.without_port = 0
        """Pairs for which no port is left."""

    def restore(self, pairs: Iterable[PairGrant]) -> None:
        """What the store holds at the start."""
        self._held = {grant.pair: grant for grant in pairs}

    def held(self) -> list[PairGrant]:
        """Every pair that has a port, by port."""
        return sorted(self._held.values(), key=lambda grant: grant.port)

    def ports(self) -> set[int]:
        """All ports that belong to a pair."""
        return {grant.port for grant in self._held.values()}

    def port(self, one: WireGuardKey, other: WireGuardKey) -> int | None:
        """The port of a pair that is wanted."""
        found = self._held.get(pair_of(one, other))
        return found.port if found is not None and found.apps else None

    def missing(
        self,
        membership: Membership,
        relay_ports: tuple[int, int],
        taken: Collection[int],
        resting: Collection[int] = (),
    ) -> Iterator[PairGrant]:
        """What the store has to learn; `taken`: ports of members, and those about to be.

        `resting`: ports for which there may be a grant of whoever gave them up.
        """
        wanted = wanted_pairs(membership)
        self.without_port = 0
        for grant in self._held.values():
            if grant.apps and grant.pair not in wanted:
                yield PairGrant(grant.pair, grant.port, 0)
        if not wanted:
            return
        first, last = relay_ports
        used = {*taken, *resting, *self.ports()}
        free = (port for port in range(first, last + 1) if port not in used)
        left = [
            grant
            for grant in self._held.values()
            if not grant.apps and grant.port not in resting and first <= grant.port <= last
            if grant.pair not in wanted
        ]
        for pair, apps in wanted.items():
            held = self._held.get(pair)
            if held is not None and first <= held.port <= last:
                if held.apps != apps:
                    yield PairGrant(pair, held.port, apps)
                continue
            port = next(free, None)
            if port is not None:
                yield PairGrant(pair, port, apps)
            elif left:
                given = left.pop(0)
                yield PairGrant(pair, given.port, apps, given.pair)
            else:
                self.without_port += 1
                if held is not None and held.apps:
                    yield PairGrant(pair, held.port, 0)  # outside the range nobody listens

    def given_up(self, pairs: Iterable[PairGrant]) -> Iterator[int]:
        """Ports that somebody may have a grant for and that no pair is to use, once these are stored."""
        for grant in pairs:
            held = self._held.get(grant.pair)
            if held is not None and held.apps and (held.port != grant.port or not grant.apps):
                yield held.port

    def stored(self, pairs: Iterable[PairGrant]) -> None:
        """These are committed."""
        for grant in pairs:
            if grant.taken_from is not None:
                self._held.pop(grant.taken_from, None)
            self._held[grant.pair] = PairGrant(grant.pair, grant.port, grant.apps)
