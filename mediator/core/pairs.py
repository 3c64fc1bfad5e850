"""Relay ports of pairs with a stock WireGuard app: one exclusive port per pair, kept like a lease.

An app knows only an address per peer, and no allocations, so each of its pairs needs its own port. A pair that is no
longer wanted keeps its port for its return, until no other port is left and no grant for it is valid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from mediator.core.membership import Membership
from mediator.core.relay_pairs import PairMember, PairPort
from netctl.model.document import Document, Member, MemberState
from netctl.model.keys import WireGuardKey

PairKey = tuple[WireGuardKey, WireGuardKey]
"""The two keys, lower one first."""
LOW, HIGH = 1, 2
"""Bits of `PairGrant.apps`."""


@dataclass(frozen=True, slots=True)
class PairGrant:
    """A port to be stored for a pair."""

    pair: PairKey
    port: int
    apps: int
    """The sides without an agent: `LOW`, `HIGH`, or both. 0: the pair is not wanted now but keeps the port."""
    taken_from: PairKey | None = None
    """The pair that loses the port in the same transaction."""


def pair_of(one: WireGuardKey, other: WireGuardKey) -> PairKey:
    """The two keys in order."""
    return (one, other) if one < other else (other, one)


def is_app(member: Member) -> bool:
    """Whether a member is a stock app: it has only a WireGuard key and never logs in."""
    return member.stock and member.state is MemberState.PRESENT


def wanted_pairs(membership: Membership) -> dict[PairKey, int]:
    """The pairs with an app that share a network, in the document's order; values as `PairGrant.apps`."""
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
    """The members to which a member has a tunnel: all of its networks, but only the hub where one stands between."""
    for network in document.networks_of(name):
        for other in network.member_names:
            if other != name and network.hub in (None, name, other):
                yield other


def pair_ports(pairs: Iterable[PairGrant], ports: Mapping[WireGuardKey, int]) -> list[PairPort]:
    """The ports of wanted pairs for the relay; `ports`: members' relay ports."""
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
    """Every pair with a port, as stored."""

    def __init__(self) -> None:
        self._held: dict[PairKey, PairGrant] = {}
        self.without_port = 0
        """Count of wanted pairs without a port."""

    def restore(self, pairs: Iterable[PairGrant]) -> None:
        """Take the store's content at the start."""
        self._held = {grant.pair: grant for grant in pairs}

    def held(self) -> list[PairGrant]:
        """Every pair with a port, sorted by port."""
        return sorted(self._held.values(), key=lambda grant: grant.port)

    def ports(self) -> set[int]:
        """All ports that belong to a pair."""
        return {grant.port for grant in self._held.values()}

    def port(self, one: WireGuardKey, other: WireGuardKey) -> int | None:
        """The port of a wanted pair; None: it has none."""
        found = self._held.get(pair_of(one, other))
        return found.port if found is not None and found.apps else None

    def missing(
        self,
        membership: Membership,
        relay_ports: tuple[int, int],
        taken: Collection[int],
        resting: Collection[int] = (),
    ) -> Iterator[PairGrant]:
        """The grants to store; `taken`: present and coming ports of members.

        `resting`: ports for which a former holder may have a valid grant.
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
                    yield PairGrant(pair, held.port, 0)  # the relay does not listen outside the range

    def given_up(self, pairs: Iterable[PairGrant]) -> Iterator[int]:
        """Ports that no pair uses once these are stored, but for which grants may be valid."""
        for grant in pairs:
            held = self._held.get(grant.pair)
            if held is not None and held.apps and (held.port != grant.port or not grant.apps):
                yield held.port

    def stored(self, pairs: Iterable[PairGrant]) -> None:
        """The store has committed these."""
        for grant in pairs:
            if grant.taken_from is not None:
                self._held.pop(grant.taken_from, None)
            self._held[grant.pair] = PairGrant(grant.pair, grant.port, grant.apps)
