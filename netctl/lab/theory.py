"""Which direct path two NATs allow between the hosts behind them, in terms of RFC 4787; pure.

Plain hole punching: the mediator tells each host the external port that it sees of the other, and both send at the
same time. Other pairs must guess a port, or cannot connect directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from netctl.lab.nat import NatKind


class Verdict(StrEnum):
    """How a pair can get a direct path."""

    DIRECT = "direct"  # plain hole punching
    PREDICTED = "predicted"  # tries the next ports of one side
    BIRTHDAY = "birthday"  # many ports on one side, many guesses on the other
    RELAYED = "relayed"  # no way in theory


ENDPOINT_INDEPENDENT_FILTER = frozenset(
    kind for kind in NatKind if kind in ("open", "full-cone", "symmetric-full-cone")
)
"""Admit packets from any source to the port that the mediator sees (RFC 4787 §5)."""
ADDRESS_DEPENDENT_FILTER = frozenset({NatKind.ADDRESS_RESTRICTED})
COUNTED = frozenset({NatKind.SYMMETRIC_SEQUENTIAL, NatKind.PORT_BLOCK})
"""The next port lies in a window that is small enough to try completely."""
SCATTERED = frozenset({NatKind.SYMMETRIC_RANDOM, NatKind.ADDRESS_DEPENDENT})
"""The port towards a peer may be any; the port that the mediator sees holds only towards the mediator (§4.1)."""
HARD = COUNTED | SCATTERED


def theory(one: NatKind, other: NatKind) -> Verdict:
    """The best path between hosts behind these kinds, each behind its own box."""
    if NatKind.UDP_BLOCKED in (one, other):
        return Verdict.RELAYED
    if one in ENDPOINT_INDEPENDENT_FILTER or other in ENDPOINT_INDEPENDENT_FILTER:
        return Verdict.DIRECT  # that side's port is known and admits any source; replies leave by it
    hard = [kind for kind in (one, other) if kind in HARD]
    if not hard:
        return Verdict.DIRECT
    if len(hard) == 2:
        return Verdict.RELAYED
    easy = other if hard[0] is one else one
    if easy in ADDRESS_DEPENDENT_FILTER:
        return Verdict.DIRECT  # the filter admits any port of the other side
    return Verdict.PREDICTED if hard[0] in COUNTED else Verdict.BIRTHDAY


SHARES: Mapping[str, tuple[float, tuple[str, ...]]] = {
    "open": (8, ("open",)),
    "firewall only": (3, ("firewall",)),
    "full cone or port-mapped": (15, ("full-cone",)),
    "address-restricted": (4, ("address-restricted",)),
    "port-restricted, port kept": (40, ("port-restricted",)),
    "port changed, and CGN": (12, ("port-changed", "cgn")),
    "symmetric, random ports": (9, ("symmetric-random",)),
    "symmetric, sequential or block": (4, ("symmetric-sequential", "port-block")),
    "address-dependent mapping": (1, ("address-dependent",)),
    "symmetric, full-cone filter": (1, ("symmetric-full-cone",)),
    "UDP blocked": (3, ("udp-blocked",)),
}
"""Groups of users: share in per cent, and the kinds that represent the group in equal parts."""
BLOCKED = "UDP blocked"


def shares_of_kinds(present: frozenset[str], blocked_percent: float | None = None) -> dict[str, float]:
    """Share of users of each present kind, 0 to 1; the sum is 1.

    `blocked_percent`: another share for users with blocked UDP; the other shares scale in proportion. A group without
    a present kind is left out, and the other shares grow.
    """
    groups = {name: share for name, (share, kinds) in SHARES.items() if present & set(kinds)}
    if blocked_percent is not None and BLOCKED in groups:
        others = sum(groups.values()) - groups[BLOCKED]
        scale = (100 - blocked_percent) / others
        groups = {
            name: blocked_percent if name == BLOCKED else share * scale for name, share in groups.items()
        }
    total = sum(groups.values())
    found: dict[str, float] = {}
    for name, share in groups.items():
        kinds = [kind for kind in SHARES[name][1] if kind in present]
        for kind in kinds:
            found[kind] = share / total / len(kinds)
    return found
